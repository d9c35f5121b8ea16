//! The rule of the opener: the first call on a fresh connection belongs to the request that the connect was made for.
//!
//! Later calls do not: pools give a connection to the waiter that came first, and child processes inherit it.

use crate::engine::{
    causality::Causality,
    exchange::{Candidates, Exchange, Opening},
};

/// Returns the requests that a connection was opened for, if its first call is made for them too.
///
/// The thread that sends must be the one that opened it.
pub(super) fn candidates(causality: &Causality, opening: Opening, call: &Exchange) -> Option<Candidates> {
    let Opening::For(opener, by) = opening else {
        return None;
    };
    let request = causality.get(opener)?;
    let sender_opened_it = request.execution.thread == call.execution.thread
        // A failed connect has no sender.
        || call.messages.call.is_none();
    let is_opener =
        Causality::is_open(request) && request.execution.process == call.execution.process && sender_opened_it;
    is_opener.then(|| by.candidates(opener))
}
