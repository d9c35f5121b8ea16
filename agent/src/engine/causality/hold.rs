//! What is over and must wait: until when, how much of it, and how it leaves.

use super::{Causality, Node, NodeId, Parent};
use crate::{
    engine::trace::{ParentMethod, SpanKind},
    record::Tgid,
};

impl Causality {
    /// An exchange is over and cannot leave yet.
    pub(super) fn hold(&mut self, id: NodeId, since_ns: u64) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.held = true;
        self.held += 1;
        self.waiting.push_back((since_ns.saturating_add(self.hold_ns), id));
        while self.held > self.hold_most
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            if self.is_held(oldest) {
                self.counters.held_too_many += 1;
                self.release(oldest);
            }
        }
        self.pass_over_those_that_left();
    }

    fn pass_over_those_that_left(&mut self) {
        while let Some(&(_, oldest)) = self.waiting.front()
            && !self.is_held(oldest)
        {
            self.waiting.pop_front();
        }
    }

    fn is_held(&self, id: NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.held)
    }

    /// An exchange cannot be followed any more: it gives no span.
    pub fn lose(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.kind == SpanKind::Server {
            self.answered(id, true);
        }
        if let Some(node) = self.nodes.remove(id) {
            self.depart(id, &node, false);
            self.held -= usize::from(node.held);
            self.orphan(&node, id);
            self.part(&node);
        }
    }

    /// Makes an exchange ready to leave, if nothing is missing.
    pub(super) fn offer(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.end_ns.is_some() && node.trace.is_some() && node.settled {
            if std::mem::take(&mut node.held) {
                self.held -= 1;
            }
            self.ready.push(id);
        }
    }

    pub(super) fn is_ready(&self, id: NodeId) -> bool {
        self.nodes
            .get(id)
            .is_some_and(|node| node.end_ns.is_some() && node.trace.is_some() && node.settled)
    }

    /// Lets an exchange go whatever is open.
    fn release(&mut self, id: NodeId) {
        self.force(id);
        let Some(node) = self.nodes.get_mut(id) else { return };
        // What waits above may itself be undecided for a cycle of waits: a root, then.
        node.settled = true;
        if node.trace.is_none() {
            self.decide(id, Parent::Root);
        }
        self.offer(id);
    }

    /// Time passes: what was held for too long leaves.
    pub fn tick(&mut self, now_ns: u64) {
        self.forget_departed(now_ns.saturating_sub(self.hold_ns));
        self.pass_over_those_that_left();
        while let Some(&(until, id)) = self.waiting.front()
            && until <= now_ns
        {
            self.waiting.pop_front();
            if self.is_held(id) {
                self.counters.held_too_long += 1;
                self.release(id);
            }
            self.pass_over_those_that_left();
        }
    }

    /// When [`Causality::tick`] has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting.front().map(|&(until, _)| until)
    }

    /// Whether some are ready to leave and were not taken.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes those that are ready to leave, as long as `may_leave` lets them. It is told, too, of which process the call is
    /// that is a request's parent, if that has not left. Those that may not leave count as held: if there are too many,
    /// the oldest are lost.
    pub fn take_ready(&mut self, mut may_leave: impl FnMut(&Node, Option<Tgid>) -> bool) -> Vec<Node> {
        let mut kept = Vec::new();
        let mut taken = Vec::new();
        for id in std::mem::take(&mut self.ready) {
            let Some(node) = self.nodes.get(id) else { continue };
            let caller = match node.parent {
                Parent::Span(_, ParentMethod::SameHost) => node.partner.and_then(|partner| self.nodes.get(partner)),
                _ => None,
            };
            if !may_leave(node, caller.map(|caller| caller.tgid)) {
                kept.push(id);
                continue;
            }
            if let Some(node) = self.nodes.remove(id) {
                self.depart(id, &node, true);
                self.part(&node);
                taken.push(node);
            }
        }
        let too_many = (self.held + kept.len()).saturating_sub(self.hold_most).min(kept.len());
        for id in kept.drain(..too_many) {
            self.counters.unknown_too_many += 1;
            self.lose(id);
        }
        // What is lost may have set others free.
        kept.append(&mut self.ready);
        self.ready = kept;
        taken
    }

    /// An exchange has left: its other end waits for it no more.
    fn part(&mut self, node: &Node) {
        if let Some(partner) = node.partner
            && let Some(other) = self.nodes.get_mut(partner)
        {
            other.partner = None;
            if other.end_ns.is_some() && !other.settled {
                other.settled = true;
                self.offer(partner);
            }
        }
    }
}
