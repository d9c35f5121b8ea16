//! Calls that their clients gave up before the servers read them, and that have left. A server that reads such a
//! request later is still the call's child.

use std::collections::VecDeque;

use super::Causality;
use crate::{
    engine::{
        context::{ParentMethod, SpanId},
        exchange::{Caller, Carried, Exchange, ExchangeId, Parent, Shown, Trace},
        execution::{Executions, ProcessId},
    },
    hash::{FastMap, FastSet},
};

/// Upper bound on remembered calls.
const MOST: usize = 4096;

/// The parts of a call that its server's span needs.
#[derive(Debug)]
struct Call {
    process: ProcessId,
    span_id: SpanId,
    trace: Trace,
    unix_offset_ns: i64,
    carried: Carried,
}

/// Calls that their clients gave up, before and after they leave.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// Calls given up that have not left yet.
    awaited: FastSet<ExchangeId>,
    calls: FastMap<ExchangeId, Call>,
    /// End of each call, oldest first.
    order: VecDeque<(u64, ExchangeId)>,
}

impl Departed {
    /// Keeps the processes of the calls.
    pub fn keep(&self, executions: &mut Executions) {
        for call in self.calls.values() {
            executions.keep_process(call.process);
        }
    }
}

impl Causality {
    /// Notes that a client gave a call up. If the server was not seen to read it, it may still do so after the call has
    /// left.
    pub fn give_up(&mut self, id: ExchangeId) {
        let call = self.get(id);
        if call.is_some_and(|call| call.calling().is_some() && call.partner.is_none()) {
            self.departed.awaited.insert(id);
        }
    }

    /// Returns whether a server that reads this request can become its child. As seen from the other end: whether this
    /// can be the parent.
    pub fn can_join(&self, id: ExchangeId) -> bool {
        self.exchanges.contains_key(id) || self.departed.calls.contains_key(&id)
    }

    /// Returns whether the client gave this call up.
    pub fn is_given_up(&self, id: ExchangeId) -> bool {
        self.departed.awaited.contains(&id) || self.departed.calls.contains_key(&id)
    }

    /// Takes the departure of an exchange: as a span, or lost. Keeps the parts of a given-up call that its server may
    /// need.
    pub(super) fn depart(&mut self, id: ExchangeId, exchange: &Exchange, as_span: bool) {
        let Departed { awaited, calls, order } = &mut self.departed;
        // A lost or ignored call has no span: nothing may become its child.
        if awaited.is_empty() || !awaited.remove(&id) || !as_span || exchange.shown == Shown::Ignored {
            return;
        }
        let Some((trace, end_ns)) = exchange.lineage.trace.clone().zip(exchange.state.end_ns()) else {
            return;
        };
        calls.insert(
            id,
            Call {
                process: exchange.execution.process,
                span_id: exchange.span_id,
                trace,
                unix_offset_ns: exchange.unix_offset_ns,
                carried: exchange.lineage.carried,
            },
        );
        order.push_back((end_ns, id));
        if order.len() > MOST
            && let Some((_, oldest)) = order.pop_front()
            && calls.remove(&oldest).is_some()
        {
            self.counters.given_up_too_many += 1;
        }
    }

    /// Returns how many calls are remembered.
    #[cfg(test)]
    pub fn given_up(&self) -> usize {
        let Departed { awaited, calls, order } = &self.departed;
        awaited.len() + calls.len() + order.len()
    }

    /// Forgets calls that ended before a time.
    pub(super) fn forget_departed(&mut self, before_ns: u64) {
        let Departed { calls, order, .. } = &mut self.departed;
        while let Some(&(_, oldest)) = order.front().filter(|&&(end_ns, _)| end_ns < before_ns) {
            order.pop_front();
            calls.remove(&oldest);
        }
    }

    /// Joins a server's exchange to a call that has left already.
    pub(super) fn join_departed(&mut self, client: ExchangeId, server: ExchangeId) {
        let Some(request) = self.exchanges.get_mut(server) else {
            return;
        };
        if !request.waits_for_partner() {
            return;
        }
        let Some(call) = self.departed.calls.remove(&client) else {
            return;
        };
        let of_other_process = request.execution.process != call.process;
        if let Some(serving) = request.serving_mut() {
            serving.caller = Caller::of_other_process(of_other_process);
        }
        request.unix_offset_ns = call.unix_offset_ns;
        match request.lineage.carried.context() {
            // A header that the sender wrote itself names the library's own span: nearer than the call.
            Some(context) if !call.carried.is_forwarded() => self.decide(server, Parent::Remote(context)),
            _ => {
                self.set_parent(server, Parent::Span(call.span_id, ParentMethod::SameHost));
                self.spread(server, call.trace);
            }
        }
    }
}
