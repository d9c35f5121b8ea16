//! Spoor, a zero-code distributed tracing agent: from system calls to OpenTelemetry spans.
//!
//! The data's way: [`probe`] reads the ring buffer, [`core`] turns events into spans ([`flow`] → [`proto`] →
//! [`causality`] → [`trace`]), [`export`] sends them. [`process`] says which processes are traced and what they are.

pub mod app;
pub mod causality;
pub mod config;
pub mod control;
pub mod core;
pub mod doctor;
mod episode;
pub mod event;
pub mod export;
pub mod flow;
mod hash;
pub mod launch;
pub mod metrics;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod proto;
pub mod ps;
pub mod replay;
pub mod screen;
pub mod serve;
pub mod tape;
pub mod trace;
