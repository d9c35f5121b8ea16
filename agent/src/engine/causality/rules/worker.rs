//! The rule of workers: a worker serves one request at a time, which another thread may have read.
//!
//! Calls that a worker made since its last response, and since a request was read, are that request's, once the worker
//! writes its response.

use super::{Asked, Verdict};
use crate::{engine::exchange::Exchange, runtimes::Rule};

/// Keeps a worker's call until that worker writes a response.
pub(super) fn verdict(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    asked.rules.has(Rule::Worker).then_some(Verdict::Worker)
}
