//! The causality rules that hold in each runtime.

use super::Runtime;

/// A causality rule that holds in some runtimes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A thread serves one request at a time: the calls that it makes meanwhile are that request's.
    Thread,
    /// A loop makes the call in the turn in which it reads the request.
    Turn,
    /// A worker serves one request at a time, which another thread may have read: the thread that writes the response
    /// made the calls.
    Worker,
}

/// A set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u8);

impl Rules {
    /// The rules that may turn out to hold in a process whose runtime is not known yet. Each of them keeps its answer until it
    /// is known. [`Rule::Worker`] is not among them: it has no answer before the response, which waits for the runtime.
    pub const POSSIBLE: Self = Self::of(&[Rule::Thread, Rule::Turn]);

    /// No rule.
    pub const NONE: Self = Self::of(&[]);

    const fn of(mut rules: &[Rule]) -> Self {
        let mut set = 0;
        while let [rule, rest @ ..] = rules {
            set |= 1 << *rule as u8;
            rules = rest;
        }
        Self(set)
    }

    /// Returns whether a rule is among them.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u8 != 0
    }
}

impl Runtime {
    /// Returns the rules that hold in this runtime. None hold where many requests share a thread and no outside fact
    /// tells them apart.
    pub fn rules(self) -> Rules {
        match self {
            Self::Unknown | Self::Python | Self::Jvm | Self::Ruby | Self::Php => Rules::of(&[Rule::Thread]),
            Self::Nginx => Rules::of(&[Rule::Turn]),
            Self::Puma => Rules::of(&[Rule::Worker]),
            Self::Go | Self::Node | Self::Beam | Self::Dotnet | Self::Loop => Rules::of(&[]),
        }
    }
}
