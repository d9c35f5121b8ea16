//! The rule of the `traceparent` that a call carries.
//!
//! A header that the process received itself names the request that carried it, as long as exactly one open request
//! did. Any other was written by the sender, and names a span nearer than any request.

use super::{Asked, Verdict};
use crate::engine::{
    causality::{process::Process, threads::Open},
    context::ParentMethod,
    exchange::{Carried, Exchange, Parent},
};

/// Finds the open requests that carried the same header as a call. Marks the call's header as only forwarded.
pub(super) fn received(process: &Process, call: &mut Exchange) -> Option<Open> {
    let context = call.lineage.carried.context()?;
    let received = process.received((context.trace_id, context.parent_id))?;
    call.lineage.carried = Carried::Forwarded(context);
    Some(received)
}

/// Claims the header's span as the parent if the sender wrote the header itself.
pub(super) fn written(_: &Asked, call: &Exchange) -> Option<Verdict> {
    match call.lineage.carried {
        Carried::Written(context) => Some(Verdict::Parent(Parent::Remote(context))),
        Carried::Nothing | Carried::Forwarded(_) => None,
    }
}

/// Claims the request whose header the call passes on, if exactly one open request carried it.
pub(super) fn forwarded(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    match asked.received {
        Some(Open::One(request)) => Some(Verdict::Parent(Parent::Local(request, ParentMethod::Content))),
        Some(Open::Several) | None => None,
    }
}

/// Returns the parent of a call without a candidate: none, with one exception.
///
/// A call may carry a header that several open requests came with. The request is then open, while the trace and the
/// caller are known from the header.
pub(super) fn without_candidate(call: &Exchange) -> Parent {
    match call.lineage.carried {
        Carried::Forwarded(context) => Parent::Remote(context),
        Carried::Nothing | Carried::Written(_) => Parent::Root,
    }
}
