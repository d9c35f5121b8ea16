//! Calls that were given up before their servers read them, and that have left: a server that reads one later is still
//! its child.

use std::collections::VecDeque;

use super::{Causality, Node, NodeId, Parent, Trace};
use crate::{
    engine::trace::{ParentMethod, SpanId, SpanKind},
    hash::{FastMap, FastSet},
    record::Tgid,
};

/// Most calls that are remembered.
const MOST: usize = 4096;

/// The parts of a call that its server's span needs.
#[derive(Debug)]
struct Call {
    tgid: Tgid,
    span_id: SpanId,
    trace: Trace,
    unix_offset_ns: i64,
    forwarded: bool,
}

/// Calls that were given up.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// Given up, and not left yet.
    awaited: FastSet<NodeId>,
    calls: FastMap<NodeId, Call>,
    /// When each ended, oldest first.
    order: VecDeque<(u64, NodeId)>,
}

impl Causality {
    /// A client gave a call up, and its server was not seen to read it: it may do so after the call has left.
    pub fn give_up(&mut self, id: NodeId) {
        let node = self.nodes.get(id);
        if node.is_some_and(|node| node.kind == SpanKind::Client && node.partner.is_none()) {
            self.departed.awaited.insert(id);
        }
    }

    /// Whether a server that reads this request can be its child, or its other end its parent.
    pub fn can_join(&self, id: NodeId) -> bool {
        self.nodes.contains_key(id) || self.departed.calls.contains_key(&id)
    }

    /// Whether a call was given up.
    pub fn is_given_up(&self, id: NodeId) -> bool {
        self.departed.awaited.contains(&id) || self.departed.calls.contains_key(&id)
    }

    /// A node is no more: as a span, or lost.
    pub(super) fn depart(&mut self, id: NodeId, node: &Node, as_span: bool) {
        let Departed { awaited, calls, order } = &mut self.departed;
        if awaited.is_empty() || !awaited.remove(&id) || !as_span || node.ignored {
            return;
        }
        let Some((trace, end_ns)) = node.trace.clone().zip(node.end_ns) else {
            return;
        };
        calls.insert(
            id,
            Call {
                tgid: node.tgid,
                span_id: node.span_id,
                trace,
                unix_offset_ns: node.unix_offset_ns,
                forwarded: node.forwarded,
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

    /// How many calls are remembered.
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

    /// A server has read the request of a call that has left.
    pub(super) fn join_departed(&mut self, client: NodeId, server: NodeId) {
        let Some(node) = self.nodes.get_mut(server) else { return };
        if !node.waits_for_partner() {
            return;
        }
        let Some(call) = self.departed.calls.remove(&client) else {
            return;
        };
        node.caller_is_remote = node.tgid != call.tgid;
        node.unix_offset_ns = call.unix_offset_ns;
        match node.context {
            Some(context) if !call.forwarded => self.decide(server, Parent::Remote(context)),
            _ => {
                self.set_parent(server, Parent::Span(call.span_id, ParentMethod::SameHost));
                self.spread(server, call.trace);
            }
        }
    }
}
