//! Exchanges that are over and must wait: how long, how many, and how they leave.

use super::Causality;
use crate::engine::{
    context::ParentMethod,
    exchange::{
        Exchange, ExchangeId, Parent,
        state::{State, Times},
    },
    execution::ProcessId,
};

impl Causality {
    /// Holds an exchange that is over and cannot leave yet. Beyond `hold_most` the oldest leave undecided.
    pub(super) fn hold(&mut self, id: ExchangeId, since_ns: u64) {
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
        // Exchanges leave in any order and stay in the queue: the front alone is swept, so that the next deadline is a
        // real one.
        while let Some(&(_, oldest)) = self.waiting.front()
            && !self.is_held(oldest)
        {
            self.waiting.pop_front();
        }
    }

    fn is_held(&self, id: ExchangeId) -> bool {
        self.get(id).is_some_and(|exchange| exchange.state.is_held())
    }

    /// Drops an exchange that cannot be followed any more: it gives no span.
    pub fn lose(&mut self, id: ExchangeId) {
        self.answered(id, true);
        if let Some(exchange) = self.exchanges.remove(id) {
            self.depart(id, &exchange, false);
            self.held -= usize::from(exchange.state.is_held());
            self.orphan(&exchange, id);
            self.part(&exchange);
        }
    }

    /// Lets a held exchange leave, if nothing is missing.
    pub(super) fn offer(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        if let State::Answered {
            end_ns,
            times: Times::Settled,
        } = exchange.state
            && exchange.lineage.trace.is_some()
        {
            exchange.state = State::Decided { end_ns };
            self.held -= 1;
            self.ready.push(id);
        }
    }

    /// Decides a held exchange with the facts known by now, and lets it leave.
    fn release(&mut self, id: ExchangeId) {
        self.force(id);
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        exchange.state.set_times(Times::Settled);
        // The exchange above may be held itself, with its trace open, or wait in a cycle. This one must leave now: as a
        // root.
        if exchange.lineage.trace.is_none() {
            self.decide(id, Parent::Root);
        }
        self.offer(id);
    }

    /// Releases exchanges that were held for too long.
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

    /// Returns the time at which [`Causality::tick`] has to be called next.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting.front().map(|&(until, _)| until)
    }

    /// Returns whether an exchange is ready to leave and was not taken.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the ids of the exchanges that are ready to leave: for each, [`Causality::leave`] or, in the end,
    /// [`Causality::keep_ready`].
    pub fn take_ready(&mut self) -> Vec<ExchangeId> {
        std::mem::take(&mut self.ready)
    }

    /// Returns an exchange that is ready to leave, and the process of the call that is its parent, unless that call has left.
    pub fn ready(&self, id: ExchangeId) -> Option<(&Exchange, Option<ProcessId>)> {
        let exchange = self.get(id)?;
        let caller = match exchange.lineage.parent {
            Parent::Span(_, ParentMethod::SameHost) => exchange.partner.and_then(|partner| self.get(partner)),
            _ => None,
        };
        Some((exchange, caller.map(|caller| caller.execution.process)))
    }

    /// Lets an exchange leave as a span.
    pub fn leave(&mut self, id: ExchangeId) -> Option<Exchange> {
        // Not taken out of its `Some` and put into another one: it is large.
        let exchange = self.exchanges.remove(id);
        if let Some(exchange) = &exchange {
            self.depart(id, exchange, true);
            self.part(exchange);
        }
        exchange
    }

    /// Takes back those that may not leave yet. They count as held: beyond `hold_most` the oldest are lost.
    pub fn keep_ready(&mut self, mut kept: Vec<ExchangeId>) {
        let too_many = (self.held + kept.len()).saturating_sub(self.hold_most).min(kept.len());
        for id in kept.drain(..too_many) {
            self.counters.unknown_too_many += 1;
            self.lose(id);
        }
        // Losing an exchange settles its partner and its heirs, which then become ready.
        kept.append(&mut self.ready);
        self.ready = kept;
    }

    /// Parts an exchange that has left from its other end, which waits for it no more.
    fn part(&mut self, exchange: &Exchange) {
        if let Some(partner) = exchange.partner
            && let Some(other) = self.exchanges.get_mut(partner)
        {
            other.partner = None;
            other.state.set_times(Times::Settled);
            self.offer(partner);
        }
    }
}
