//! From finished exchanges to spans.

use std::{borrow::Cow, sync::Arc};

use super::{
    Choice, Core,
    causality::{Node, Parent},
    trace::{
        Attribute, ParentMethod, Span, SpanKind, conventions::Finished, sampling::Decision, traceparent::FLAG_SAMPLED,
    },
};
use crate::record::Endpoint;

/// Where the first time of a span is the exit of a call that may have blocked.
const START: &str = "spoor.start";

impl Core {
    pub(super) fn finished_spans(&mut self) -> Vec<Span> {
        let Self {
            processes,
            wanted,
            causality,
            hold_ns,
            now_ns,
            ..
        } = self;
        let nodes = causality.take_ready(|node, caller| {
            // If its caller is not selected, it has no parent.
            let undecided = caller
                .and_then(|caller| processes.get(&caller))
                .is_some_and(|caller| caller.choice == Choice::Undecided);
            let process = processes.entry(node.tgid).or_default();
            if !std::mem::replace(&mut process.asked, true) {
                wanted.push(node.tgid);
            }
            let known = process.facts.is_some() && process.choice != Choice::Undecided && !undecided;
            known
                || node
                    .end_ns
                    .is_some_and(|end_ns| end_ns.saturating_add(*hold_ns) <= *now_ns)
        });
        let mut spans = std::mem::take(&mut self.done);
        spans.reserve(nodes.len());
        let before = spans.len();
        for node in nodes {
            spans.extend(self.span(node));
        }
        self.counters.spans += (spans.len() - before) as u64;
        spans
    }

    fn span(&mut self, node: Node) -> Option<Span> {
        let trace = node.trace?;
        if node.ignored {
            self.counters.ignored += 1;
            self.unseen_in(node.tgid, "ignored by --ignore");
            return None;
        }
        let process = self
            .processes
            .get_mut(&node.tgid)
            .filter(|process| process.choice == Choice::Selected);
        let Some((facts, names)) = process.and_then(|process| {
            process.seen.count(node.kind);
            Some((process.facts.as_ref()?, &mut process.names))
        }) else {
            self.counters.unknown_process += 1;
            return None;
        };
        match self.sampler.decide(trace.id, trace.caller_flags) {
            Decision::Sampled => {}
            Decision::NotSampledByCaller => {
                self.counters.not_sampled += 1;
                return None;
            }
            Decision::LeftOut => {
                self.counters.left_out += 1;
                return None;
            }
        }
        let resource = Arc::clone(&facts.resource);
        let (local, remote): &(Endpoint, Endpoint) = &node.ends;
        let overflowed = names.overflowed();
        let exchange = Finished {
            kind: node.kind,
            call: node.call.as_ref(),
            reply: node.reply.as_ref(),
            request_body_bytes: node.request_body_bytes,
            response_body_bytes: node.response_body_bytes,
            failure: node.failure,
            local,
            remote,
        };
        let text = self.conventions.describe(&exchange, names);
        self.counters.names_overflowed += names.overflowed() - overflowed;
        let mut attributes = text.attributes;
        if node.start_is_write_exit && node.kind == SpanKind::Client {
            attributes.push(Attribute::str(START, Cow::Borrowed("write_exit")));
        }
        let (parent, is_remote) = match node.parent {
            Parent::Span(span, method) => (
                Some((span, method)),
                method == ParentMethod::SameHost && node.caller_is_remote,
            ),
            // A call whose `traceparent` its process did not receive names a span of its own process.
            Parent::Remote(context) => (
                Some((context.parent_id, ParentMethod::Header)),
                node.kind == SpanKind::Server || node.forwarded,
            ),
            _ => (None, false),
        };
        let unix = |monotonic_ns: u64| monotonic_ns.saturating_add_signed(node.unix_offset_ns);
        Some(Span {
            trace_id: trace.id,
            span_id: node.span_id,
            parent,
            parent_is_remote: is_remote,
            trace_state: trace.state,
            trace_flags: trace.caller_flags.unwrap_or_default() | FLAG_SAMPLED,
            kind: node.kind,
            name: text.name,
            start_unix_ns: unix(node.start_ns),
            end_unix_ns: unix(node.end_ns?),
            attributes,
            status: text.status,
            links: Vec::new(),
            resource,
        })
    }
}
