//! Spoor, a zero-code distributed tracing agent: from system calls to OpenTelemetry spans.
//!
//! [`probe`] reads the ring buffer, [`engine`] turns its records into spans, [`sink`] takes them to the [`console`] or to the
//! [`export`]. [`targets`] decides which processes are traced, [`process`] describes them, [`runtimes`] tells their runtimes
//! apart. [`session`] is the loop that drives all of it, [`cmd`] holds the commands. ARCHITECTURE.md has the map.

// Bytes come from outside: nothing of them may panic.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]
// Standard output may carry spans, and a terminal has a status line: all text goes through `screen`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
#![deny(unsafe_code)]

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe by its trait, and mimalloc's functions are C's"
)]
pub mod allocator;
pub mod cmd;
pub mod config;
pub mod console;
pub mod control;
mod counters;
pub mod engine;
mod episode;
pub mod export;
mod hash;
#[expect(unsafe_code, reason = "fork, signal handlers and their system calls")]
pub mod launch;
pub mod metrics;
pub mod preflight;
#[expect(
    unsafe_code,
    reason = "memory that the kernel shares, and system calls without a safe wrapper"
)]
pub mod probe;
pub mod process;
pub mod record;
pub mod runtimes;
pub mod screen;
pub mod serve;
pub mod session;
pub mod sink;
pub mod tape;
pub mod targets;
pub mod traces;
