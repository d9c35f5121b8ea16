//! The rule of threads: one thread serves one request at a time.
//!
//! A call's candidate is the only request that its thread has open. The gate is at the response: the thread that read the
//! request writes it, held no other request meanwhile, and in this process no response was lately written by another thread
//! than its reader (`process`).

use super::{Asked, Verdict};
use crate::engine::exchange::Exchange;

/// A call's candidate waits for its request's response.
pub(super) fn verdict(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    let (request, method) = asked.candidate()?;
    Some(Verdict::Candidate(request, method))
}
