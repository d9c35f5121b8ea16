//! The rule of threads: one thread serves one request at a time.
//!
//! A call's candidate is the only request that its thread has open. The gate is at the response: the thread that read
//! the request wrote the response and held no other request meanwhile, and in this process no response was lately
//! written by another thread than its reader (`process`).

use super::{Asked, Verdict};
use crate::engine::exchange::Exchange;

/// Makes the thread's only open request the candidate, to be decided at its response.
pub(super) fn verdict(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    let (request, method) = asked.candidate()?;
    Some(Verdict::Candidate(request, method))
}
