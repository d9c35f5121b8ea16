//! Features that do not work on this kernel, and a way to test their absence, because no test machine has all kernels
//! that lack something.

/// Program or field that this kernel lacks or refuses, and its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The program's name, or `struct.member` of a field.
    pub what: String,
    /// The feature that does not work without it.
    pub feature: &'static str,
    /// The kernel's reason.
    pub reason: String,
}

impl Lost {
    pub(super) fn field(name: String, feature: &'static str) -> Self {
        Self {
            what: name,
            feature,
            reason: NO_FIELD.to_owned(),
        }
    }

    /// Logs the loss.
    pub(super) fn tell(&self) {
        let Self { what, feature, reason } = self;
        tracing::warn!(what, reason, "not available on this kernel: {feature}");
    }
}

/// Reason of a field.
pub(super) const NO_FIELD: &str = "this kernel's BTF has no such field";

/// Reason of a program that a test withholds.
pub(super) const WITHHELD: &str = "withheld by a test";

/// Programs and fields to do without, as if this kernel lacked them. For tests only: users cannot set it.
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
