//! Readers of what may never answer: the memory of a process, its executable, and files of its file systems.
//!
//! A file system of a process can hang (FUSE without its server, NFS without its network), and so can a page of its
//! memory (`cmdline`, `environ`). A thread in such a read cannot be killed: the kernel waits for the file system first,
//! and the agent could not exit before that. So another process makes these reads, the *reader*: this program again,
//! with pipes for questions and answers. A reader that does not answer is killed and left behind, and the next question
//! goes to a new one.
//!
//! ```text
//! Idle ── a question ──► Busy ── an answer ──► Idle
//!                          │── its end ──► the question goes to a new reader, once
//!                          └── no sign of life for [`Patience`] ──► Abandoned: killed; gone when the kernel lets it go
//! ```
//!
//! Files that the kernel fills without asking anybody (`stat`, `status`, `cgroup`, `mountinfo`, and the targets of
//! links) are read in place.

mod child;
mod question;
mod readers;
mod serve;
mod suspects;

pub(super) use question::{Identity, Question};
pub use readers::{CAUSES, Readers};
pub(super) use serve::NAME;
pub use serve::{is_reader, serve};
use suspects::Patience;
