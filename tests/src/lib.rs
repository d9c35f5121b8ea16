//! End-to-end tests of Spoor, and the tools that they share with the demo.
//!
//! Real, uninstrumented services and clients ([`services`], [`clients`]; their sources are in `tests/services`) log
//! each request that they serve and each call that they make ([`truth`]), while an [`agent`] watches them. Then all
//! spans ([`otlp`]) are compared with all log entries ([`compare`]).

pub mod agent;
pub mod clients;
#[cfg(feature = "whole")]
pub mod collector;
pub mod compare;
pub mod http;
pub mod instructions;
pub mod line_process;
pub mod metrics;
pub mod net;
pub mod otlp;
pub mod process;
#[cfg(feature = "agent")]
pub mod raw;
pub mod render;
pub mod services;
pub mod truth;
