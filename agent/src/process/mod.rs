//! Processes: what one is, and what of it is not visible.
//!
//! [`Gatherer`] describes a process: its service, its runtime, its container. Everything is read from `/proc`, for
//! processes in any namespace. If a process ends meanwhile, the facts read so far count. [`crate::targets`] decides
//! which processes are traced.

mod command;
pub(crate) mod container;
mod elf;
mod environ;
mod executable;
mod facts;
mod gather;
mod host;
mod listeners;
mod peculiar;
mod proc_root;
pub mod reader;
mod unix_sockets;
mod unseen;

pub(crate) use command::script_of;
pub use facts::ProcessFacts;
pub use gather::{ExecHint, Gatherer};
pub use host::Host;
pub(crate) use listeners::Listeners;
pub use peculiar::{NamespaceError, Peculiarity, own_namespace_is_initial, peculiarities};
pub use proc_root::ProcRoot;
pub use unix_sockets::UnixSockets;
pub use unseen::{Unseen, unseen};
