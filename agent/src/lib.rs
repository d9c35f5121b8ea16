//! Spoor, a zero-code distributed tracing agent: from system calls to OpenTelemetry spans.
//!
//! The data's way: [`probe`] reads the ring buffer, [`core`] turns events into spans ([`flow`] → [`proto`] →
//! [`causality`] → [`trace`]), [`export`] sends them. [`process`] says which processes are traced and what they are.

pub mod config;
pub mod event;
pub mod launch;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod proto;
pub mod tape;
pub mod export;
pub mod metrics;
pub mod process;
pub mod proto;
pub mod serve;
pub mod trace;
