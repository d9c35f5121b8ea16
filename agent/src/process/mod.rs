//! Processes: which are traced, and what they are.
//!
//! [`Selection`] says which processes are targets, [`Gatherer`] what one is. All is read from `/proc`, of processes in
//! any namespace; a process that ends meanwhile leaves what was read so far.

mod command;
mod container;
mod elf;
mod environ;
mod executable;
mod facts;
mod gather;
mod host;
mod listeners;
mod peculiar;
mod places;
mod proc_root;
pub mod reader;
mod select;
mod unix_sockets;
mod unseen;

pub use facts::ProcessFacts;
pub use gather::{ExecHint, Gatherer};
pub use host::Host;
pub use peculiar::{NamespaceError, Peculiarity, own_namespace_is_initial, peculiarities};
pub use proc_root::ProcRoot;
pub use select::{Candidate, Match, Reason, SelectError, Selection};
pub use unix_sockets::UnixSockets;
pub use unseen::{Unseen, unseen};
