//! The rule of workers: a worker serves one request at a time, which another thread may have read.
//!
//! The calls that a worker made since it wrote a response last, and since a request was read, are that request's, once the
//! worker writes its response.

use super::{Asked, Verdict};
use crate::{engine::exchange::Exchange, runtimes::Rule};

/// A worker's call waits for the response that it writes next.
pub(super) fn verdict(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    asked.rules.has(Rule::Worker).then_some(Verdict::Worker)
}
