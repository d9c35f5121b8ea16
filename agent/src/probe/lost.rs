//! What does not work on this kernel, and tests of that: nobody has all kernels that lack something.

/// Something that this kernel does not have or refuses, and what that costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The program's name, or `struct.member` of a field.
    pub what: String,
    /// What does not work without it.
    pub feature: &'static str,
    /// Why.
    pub reason: String,
}

impl Lost {
    pub(super) fn field(name: String, feature: &'static str) -> Self {
        Self {
            what: name,
            feature,
            reason: "this kernel's BTF has no such field".to_owned(),
        }
    }

    /// Logs it.
    pub(super) fn tell(&self) {
        let Self { what, feature, reason } = self;
        tracing::warn!(what, reason, "not available on this kernel: {feature}");
    }
}

/// The reason, where a test refuses.
pub(super) const WITHHELD: &str = "withheld by a test";

/// For tests: what is dealt with as if this kernel did not have it. Nothing that a user can set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Programs, by name: refused.
    pub programs: Vec<String>,
    /// Fields, as `struct.member`: not in the kernel's BTF.
    pub fields: Vec<String>,
}

impl Withheld {
    pub(super) fn has_program(&self, name: &str) -> bool {
        self.programs.iter().any(|withheld| withheld == name)
    }
}
