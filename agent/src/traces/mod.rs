//! Traces assembled from spans.
//!
//! Core hands over each span when its exchange has ended, children usually before their parents. [`Assembler`] groups
//! spans by trace id and decides when a trace is given out. A [`Trace`] is the tree of its spans; the console renders it.
//! Nothing here does IO or reads a clock.

mod assembler;
mod footprint;
mod tree;

pub use assembler::{Assembler, Full, MAX_BYTES, MAX_TRACES, PATIENCE, QUIET};
pub use tree::{Node, Trace};

#[cfg(test)]
pub(crate) mod tests;
