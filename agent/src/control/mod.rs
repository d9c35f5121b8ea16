//! How other commands, and other Spoors, ask a running agent what it does: a Unix socket that takes one line and gives one
//! line of JSON.
//!
//! | line | answer |
//! |---|---|
//! | `status` | [`Status`] |
//! | `workloads` | [`Workloads`] |
//!
//! Core's thread makes the list of workloads, and only when somebody asks; all else is done by a thread of its own.

mod client;
mod neighbours;
mod server;

pub use client::{AskError, ask};
pub use neighbours::{Neighbours, Registration};
pub use server::{Control, ControlError, Desk};

use serde::{Deserialize, Serialize};

/// Where it is unless told otherwise.
pub const DEFAULT_PATH: &str = "/run/spoor/control.sock";

/// Most bytes of a question, its line's end included.
const MAX_QUESTION_BYTES: u64 = 256;
/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// Most workloads in an answer.
const MAX_WORKLOADS: usize = 16_384;

/// Who an agent is, and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// What it does, for people: `traces --port 8080`.
    pub doing: String,
    /// Its rules of selection; empty if every process is selected.
    pub rules: Vec<String>,
    /// When it began, in seconds since the Unix epoch.
    pub since_unix_s: u64,
    /// Its control socket, if it has one.
    pub control: Option<String>,
}

/// What an agent traces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    /// The agent.
    pub agent: Status,
    /// Those that it traces, or has not decided about.
    pub workloads: Vec<Workload>,
    /// How many more there are.
    pub left_off: usize,
}

/// A process, as an agent knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its id.
    pub pid: u32,
    /// Its service's name, if it is known.
    pub service: Option<String>,
    /// What kind of program it is, if it is known.
    pub runtime: Option<String>,
    /// Whether it is selected; `None`: not decided yet.
    pub selected: Option<bool>,
    /// Why, or why not.
    pub why: String,
    /// Connections that are open.
    pub connections: u64,
    /// Requests that it answered.
    pub requests: u64,
    /// Requests that it sent.
    pub calls: u64,
    /// Exchanges that gave no span because they could not be followed.
    pub missed: u64,
    /// What is not visible.
    pub unseen: Vec<Unseen>,
}

/// Something that is not visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// What, or why.
    pub what: String,
    /// How often it was met; `None` where it is not counted.
    pub count: Option<u64>,
}

impl Workload {
    /// Whether it did anything that an agent noticed.
    pub fn is_active(&self) -> bool {
        self.connections > 0 || self.requests > 0 || self.calls > 0 || self.missed > 0 || !self.unseen.is_empty()
    }
}
