//! Turns finished exchanges into spans.

use std::sync::Arc;

use super::{
    Choice, Core,
    context::{ParentMethod, SpanId, traceparent::FLAG_SAMPLED},
    exchange::{Caller, Exchange, ExchangeId, Messages, Parent, ReadAt, Shown, Side},
    trace::{Attribute, Span, SpanKind, conventions::Finished, sampling::Decision},
};
use crate::record::Endpoint;

/// Attribute that says how the start of a span was read: `write_exit`, at the exit of a call that may have blocked.
const START: &str = "spoor.start";

impl Core {
    pub(super) fn finished_spans(&mut self) -> Vec<Span> {
        let mut ready = self.causality.take_ready();
        let mut spans = std::mem::take(&mut self.done);
        spans.reserve(ready.len());
        let before = spans.len();
        ready.retain(|&id| {
            let may_leave = self.may_leave(id);
            if may_leave == Some(true) {
                let exchange = self.causality.leave(id);
                spans.extend(exchange.as_ref().and_then(|exchange| self.span(exchange)));
            }
            may_leave == Some(false)
        });
        self.causality.keep_ready(ready);
        self.counters.spans += (spans.len() - before) as u64;
        spans
    }

    /// Returns whether an exchange that is ready may leave: the facts of its process are known, or it has waited for them long
    /// enough. `None`: it has left.
    fn may_leave(&mut self, id: ExchangeId) -> Option<bool> {
        let (exchange, caller) = self.causality.ready(id)?;
        // A caller that turns out not to be selected gives no span: then this exchange has no parent.
        let undecided = caller
            .and_then(|caller| self.processes.get(caller))
            .is_some_and(|caller| caller.choice == Choice::Undecided);
        let process = self.processes.get_or_default(exchange.execution.process);
        if !std::mem::replace(&mut process.asked, true) {
            self.wanted.push(self.executions.tgid(exchange.execution.process));
        }
        let known = process.facts.is_some() && process.choice != Choice::Undecided && !undecided;
        let end_ns = exchange.state.end_ns();
        Some(known || end_ns.is_some_and(|end_ns| end_ns.saturating_add(self.hold_ns) <= self.now_ns))
    }

    fn span(&mut self, exchange: &Exchange) -> Option<Span> {
        let kind = kind(&exchange.side);
        let Exchange {
            execution,
            ends,
            messages,
            start,
            shown,
            span_id,
            lineage,
            ..
        } = exchange;
        let trace = lineage.trace.as_ref()?;
        if *shown == Shown::Ignored {
            self.counters.ignored += 1;
            self.unseen_in(execution.process, "ignored by --ignore");
            return None;
        }
        let process = self
            .processes
            .get_mut(execution.process)
            .filter(|process| process.choice == Choice::Selected);
        let Some((facts, names)) = process.and_then(|process| {
            process.seen.count(kind);
            Some((process.facts.as_ref()?, &mut process.names))
        }) else {
            self.counters.unknown_process += 1;
            return None;
        };
        let left_out = match self.sampler.decide(trace.id, trace.caller_flags) {
            Decision::Sampled => None,
            Decision::NotSampledByCaller => Some(&mut self.counters.not_sampled),
            Decision::LeftOut => Some(&mut self.counters.left_out),
        };
        if let Some(counter) = left_out {
            *counter += 1;
            return None;
        }
        let resource = Arc::clone(&facts.resource);
        let overflowed = names.overflowed();
        let mut description = self.conventions.describe(&finished(kind, messages, ends), names);
        self.counters.names_overflowed += names.overflowed() - overflowed;
        if start.read_at == ReadAt::WriteExit && kind == SpanKind::Client {
            description.attributes.push(Attribute::str(START, "write_exit"));
        }
        let (parent, parent_is_remote) = parent(exchange);
        let unix = |monotonic_ns: u64| monotonic_ns.saturating_add_signed(exchange.unix_offset_ns);
        Some(Span {
            trace_id: trace.id,
            span_id: *span_id,
            parent,
            parent_is_remote,
            trace_state: trace.state.clone(),
            trace_flags: trace.caller_flags.unwrap_or_default() | FLAG_SAMPLED,
            kind,
            name: description.name,
            start_unix_ns: unix(start.ns),
            end_unix_ns: unix(exchange.state.end_ns()?),
            attributes: description.attributes,
            status: description.status,
            links: Vec::new(),
            resource,
        })
    }
}

fn kind(side: &Side) -> SpanKind {
    match side {
        Side::Client(_) => SpanKind::Client,
        Side::Server(_) => SpanKind::Server,
    }
}

/// Returns an exchange as the conventions describe it.
fn finished<'a>(kind: SpanKind, messages: &'a Messages, (local, remote): &'a (Endpoint, Endpoint)) -> Finished<'a> {
    let Messages {
        call,
        reply,
        request_body_bytes,
        response_body_bytes,
        failure,
    } = messages;
    Finished {
        kind,
        call: call.as_ref(),
        reply: reply.as_ref(),
        request_body_bytes: *request_body_bytes,
        response_body_bytes: *response_body_bytes,
        failure: *failure,
        local,
        remote,
    }
}

/// Returns an exchange's parent, and whether that is a span of another process.
fn parent(exchange: &Exchange) -> (Option<(SpanId, ParentMethod)>, bool) {
    match exchange.lineage.parent {
        Parent::Span(span, method) => {
            let caller = exchange.serving().map(|serving| serving.caller);
            let is_remote = method == ParentMethod::SameHost && caller == Some(Caller::OtherProcess);
            (Some((span, method)), is_remote)
        }
        // A call's `traceparent` that its process did not receive names a span of its own process: a local parent.
        Parent::Remote(context) => {
            let is_remote = exchange.serving().is_some() || exchange.lineage.carried.is_forwarded();
            (Some((context.parent_id, ParentMethod::Header)), is_remote)
        }
        Parent::Open | Parent::Candidate(..) | Parent::Local(..) | Parent::Root => (None, false),
    }
}
