//! The rule of a loop's turn: nginx makes the call in the turn in which it reads the request.
//!
//! The rule is certain at once, but only if method and target of the call repeat the request's. nginx makes one call in
//! that turn. A further call (another try, when the first has failed) is made in a later turn. By then the request that
//! was read last may be another one, unless the loop has only one open.

use super::{Asked, Circumstances, Sight, Verdict};
use crate::{
    engine::{
        causality::Causality,
        exchange::{Candidates, Exchange, ExchangeId, Opening, Parent, Recognised, Upstream},
        execution::ExecutionId,
    },
    runtimes::Rule,
};

/// Claims the request of the loop's turn. A header that was passed on overrules the turn.
pub(super) fn verdict(asked: &Asked, _: &Exchange) -> Option<Verdict> {
    let (request, method) = asked.candidate()?;
    let agrees = asked.received.is_none_or(|open| open.may_be(request));
    (asked.rules.has(Rule::Turn) && agrees).then_some(Verdict::Parent(Parent::Local(request, method)))
}

/// Drops the turn's request if the turn that read it is over: connect(2) took time, or the call was recognised late.
pub(super) fn in_time(named: Candidates, circumstances: Circumstances) -> Candidates {
    match (circumstances.opening, circumstances.recognised) {
        (Opening::Used, Recognised::AtOnce) => named,
        _ => Candidates { by_turn: None, ..named },
    }
}

/// Returns whether the call or connect that a loop begins now is for the request that it read last.
///
/// Notes that a call for that request is made.
pub(in crate::engine::causality) fn passes_on(
    causality: &mut Causality,
    request: ExchangeId,
    thread: ExecutionId,
    sight: Sight,
) -> bool {
    let Some(exchange) = causality.get(request) else {
        return false;
    };
    let process = exchange.execution.process;
    let Some(serving) = exchange.serving() else {
        return false;
    };
    let passes = serving.upstream == Upstream::Awaited
        || sight == Sight::Whole && causality.only_open(process, thread) == Some(request);
    if let Some(serving) = causality.serving_mut(request) {
        serving.upstream = Upstream::Made;
    }
    passes
}
