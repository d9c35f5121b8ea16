//! Control socket of a running agent: a Unix socket that takes a question in one line and answers in one line of JSON.
//! Other commands and other agents ask there about the agent's work.
//!
//! | line | answer |
//! |---|---|
//! | `status` | [`Status`] |
//! | `workloads` | [`Workloads`] |
//!
//! Core's thread makes the list of workloads, and only when a client asks; a thread of the socket does everything else.

mod client;
mod neighbours;
mod server;

pub use client::{AskError, ask};
pub use neighbours::{Neighbours, Registration};
pub use server::{Control, ControlError, Desk, file_identity};

use serde::{Deserialize, Serialize};

use crate::probe::Family;

/// Largest question in bytes, its line's end included.
const MAX_QUESTION_BYTES: u64 = 256;
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// Largest number of workloads in an answer.
const MAX_WORKLOADS: usize = 16_384;

/// Status of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Activity, for people: `traces --port 8080`.
    pub doing: String,
    /// Rules as options; empty if every process is selected.
    pub rules: Vec<String>,
    /// Start, in seconds since the Unix epoch.
    pub since_unix_s: u64,
    /// Path of the control socket, if there is one.
    pub control: Option<String>,
    /// Family of hooks; `None`: an older agent, which has one only, the system calls.
    pub hooks: Option<Family>,
}

/// Workloads of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    /// The agent.
    pub agent: Status,
    /// Processes that are targets, or may become some.
    pub workloads: Vec<Workload>,
    /// Workloads that are left off.
    pub left_off: usize,
}

/// Process, as an agent knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Process id.
    pub pid: u32,
    /// Name of the service, if it is known.
    pub service: Option<String>,
    /// Runtime of the program, if it is known.
    pub runtime: Option<String>,
    /// Selected or not; `None`: not decided yet.
    pub selected: Option<bool>,
    /// Reason why the process is selected, or is not.
    pub why: String,
    /// Connections that are open.
    pub connections: u64,
    /// Requests that the process answered.
    pub requests: u64,
    /// Requests that the process sent.
    pub calls: u64,
    /// Exchanges that gave no span because they could not be followed.
    pub missed: u64,
    /// Things that are not visible.
    pub unseen: Vec<Unseen>,
}

/// Thing that is not visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// Name: a protocol, or a cause.
    pub what: String,
    /// Count; `None` where it is not counted.
    pub count: Option<u64>,
}

impl Workload {
    /// Returns true if the process did anything that an agent noticed.
    pub fn is_active(&self) -> bool {
        self.connections > 0 || self.requests > 0 || self.calls > 0 || self.missed > 0 || !self.unseen.is_empty()
    }
}
