//! What Core is told: the kernel's records, decoded, as borrowed values.

pub use agent_ebpf::abi::{Direction, Execution};

/// Who did something, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// `CLOCK_MONOTONIC`, at the exit of the system call.
    pub time_ns: u64,
    /// The execution that made the system call.
    pub execution: Execution,
}
