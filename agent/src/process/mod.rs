//! Processes: which are traced, and what they are.

mod facts;

pub use facts::{ProcessFacts, Runtime};
