//! Spoor, a zero-code distributed tracing agent: from system calls to OpenTelemetry spans.
//!
//! [`probe`] reads the ring buffer, [`engine`] turns its records into spans, [`sink`] takes them to the [`console`] or to the
//! [`export`]. [`process`] tells which processes are traced and describes them; [`session`] drives all of it.

pub mod config;
pub mod console;
pub mod control;
pub mod doctor;
pub mod engine;
mod episode;
pub mod export;
mod hash;
pub mod launch;
pub mod metrics;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod ps;
pub mod record;
pub mod replay;
pub mod screen;
pub mod serve;
pub mod session;
pub mod sink;
pub mod tape;
pub mod traces;
