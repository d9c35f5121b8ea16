//! Reasons why nothing can be traced.

use std::io;

use aya::EbpfError;

use super::{btf::BtfError, family::Obstacle};

/// Reason why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The offsets of kernel fields are not known.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel refuses the maps.
    #[error("cannot create the eBPF maps: {0}. This needs root, or CAP_BPF with CAP_PERFMON")]
    Object(#[from] EbpfError),
    /// The kernel refuses a program that all tracing depends on.
    #[error("cannot load or attach the eBPF program {program}: {reason}")]
    Program {
        /// The program's name.
        program: &'static str,
        /// The kernel's reason.
        reason: String,
    },
    /// The user chose the socket events, and they cannot be used here.
    #[error(
        "cannot capture at the socket events, as --hooks=sock asks: {0}. Use --hooks=auto: it takes the system calls \
         where the socket events do not work"
    )]
    Events(Obstacle),
    /// A map cannot be shared as memory.
    #[error("cannot map the eBPF map {map} into memory: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The measurement at the start failed.
    #[error(
        "cannot find where this kernel keeps the arguments of system calls, although its BTF has all fields that are \
         needed: nothing can be traced on it; report it, with `uname -r`"
    )]
    Calibration,
    /// BTF lacks fields without which no socket is found.
    #[error("this kernel's BTF has no {}: nothing can be traced on it; report it, with `uname -r`", .missing.join(", "))]
    Fields {
        /// `struct.member` of each.
        missing: Vec<String>,
    },
}
