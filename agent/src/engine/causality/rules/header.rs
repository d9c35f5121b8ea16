//! The rule of the `traceparent` that a call carries.
//!
//! One that the process received itself names the request that it came with, as long as one open request alone came with it.
//! Any other was written by the sender, and names a caller nearer than any request.

use super::{Asked, Verdict};
use crate::engine::{
    causality::process::{Open, Process},
    context::ParentMethod,
    exchange::{Carried, Exchange, Parent},
};

/// Finds the open requests that came with the header which a call carries. Notes that the call only passes it on.
pub(super) fn received(process: &Process, call: &mut Exchange) -> Option<Open> {
    let context = call.lineage.carried.context()?;
    let received = process.received((context.trace_id, context.parent_id))?;
    call.lineage.carried = Carried::Forwarded(context);
    Some(received)
}

/// The sender wrote the header itself.
pub(super) fn written(_: &Asked, call: &Exchange) -> Option<Verdict> {
    match call.lineage.carried {
        Carried::Written(context) => Some(Verdict::Parent(Parent::Remote(context))),
        Carried::Nothing | Carried::Forwarded(_) => None,
    }
}

/// One open request alone came with the header.
pub(super) fn forwarded(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    match asked.received {
        Some(Open::One(request)) => Some(Verdict::Parent(Parent::Local(request, ParentMethod::Content))),
        Some(Open::Several) | None => None,
    }
}

/// A call without a candidate is a root, but for one: it carries a header that several open requests came with. Which of
/// them it belongs to is open, the trace and the caller are not.
pub(super) fn without_candidate(call: &Exchange) -> Parent {
    match call.lineage.carried {
        Carried::Forwarded(context) => Parent::Remote(context),
        Carried::Nothing | Carried::Written(_) => Parent::Root,
    }
}
