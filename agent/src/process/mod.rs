//! Processes: which are traced, and what they are.

mod command;
mod container;
mod elf;
mod environ;
mod executable;
mod facts;
mod gather;
mod host;
mod proc_root;

pub use facts::{ProcessFacts, Runtime};
pub use gather::{ExecHint, Gatherer};
pub use host::Host;
pub use proc_root::ProcRoot;
