//! The rules by which a call finds its request: one file a rule.
//!
//! A call is shown to the rules in [`ORDER`], and the first that has a [`Verdict`] wins. Rules that hold in some runtimes only
//! are named by the runtime's table ([`crate::runtimes::Rule`]): a new one is a file here, a place in the order, and a word
//! in the table.

mod header;
mod opener;
mod thread;
mod turn;
mod worker;

pub(super) use turn::passes_on;

use super::{Causality, process::Open};
use crate::{
    engine::{
        context::ParentMethod,
        exchange::{Candidates, Exchange, ExchangeId, Opening, Parent, Recognised},
    },
    runtimes::{Rule, Rules},
};

/// Facts of the moment in which a call was sent that the call itself does not have.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The request that its connection was opened for.
    pub opening: Opening,
    /// The moment at which it was recognised.
    pub recognised: Recognised,
    /// Whether all requests of its process were seen.
    pub sight: Sight,
}

/// Whether all requests that a process is busy with were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// They were.
    Whole,
    /// It may be busy with others: they came before it was found, or a record was lost.
    Partial,
}

/// A call, as the rules look at it.
pub(super) struct Asked {
    /// The rules that hold in its process, for certain.
    rules: Rules,
    /// Open requests of its process that came with the `traceparent` that the call carries.
    received: Option<Open>,
    /// The requests that it may be made for.
    candidates: Candidates,
    /// The method that found them.
    method: ParentMethod,
}

/// A rule's word on a call.
pub(super) enum Verdict {
    /// This is the parent.
    Parent(Parent),
    /// This request is the parent, if it passes the gate at its response.
    Candidate(ExchangeId, ParentMethod),
    /// The worker that made the call decides it, when it writes a response.
    Worker,
}

/// The rules, in the order in which they are asked.
const ORDER: [fn(&Asked, &Exchange) -> Option<Verdict>; 5] = [
    header::written,
    turn::verdict,
    header::forwarded,
    worker::verdict,
    thread::verdict,
];

/// Returns the verdict of the first rule that has one.
pub(super) fn judge(asked: &Asked, call: &Exchange) -> Verdict {
    let verdict = ORDER.iter().find_map(|rule| rule(asked, call));
    verdict.unwrap_or(Verdict::Parent(header::without_candidate(call)))
}

/// Parent of a call whose candidate has failed the gate.
pub(super) fn without_candidate(call: &Exchange) -> Parent {
    header::without_candidate(call)
}

impl Causality {
    /// Gathers what the rules look at. Notes what the call tells of its process, whatever the verdict.
    pub(super) fn ask(&mut self, call: &mut Exchange, circumstances: Circumstances) -> Asked {
        let (tgid, tid) = (call.execution.tgid, call.execution.tid);
        let opener = opener::candidates(self, circumstances.opening, call);
        let process = self.process(tgid);
        let received = header::received(process, call);
        let (named, method) = match opener {
            Some(candidates) => (candidates.possible(process.possible()), ParentMethod::Opener),
            None => {
                let named = process.names(tid, circumstances.sight);
                (turn::in_time(named, circumstances), ParentMethod::Thread)
            }
        };
        let rules = process.certain();
        let is_open = |request: &ExchangeId| self.get(*request).is_some_and(Causality::is_open);
        let is_passed_on = |request: &ExchangeId| self.get(*request).is_some_and(|request| call.passes_on(request));
        let by_thread = named.by_thread.filter(is_open);
        let by_turn = named.by_turn.filter(is_open).filter(is_passed_on);
        // What it was opened for, the connect has told.
        let is_opener = opener.is_some();
        let by_turn = by_turn.filter(|&request| is_opener || passes_on(self, request, tid, circumstances.sight));
        let candidates = Candidates { by_thread, by_turn };
        if let Some(calling) = call.calling_mut() {
            calling.candidates = candidates;
        }
        Asked {
            rules,
            received,
            candidates,
            method,
        }
    }
}

impl Asked {
    /// Returns the one request that the call may be made for, and the method that found it.
    fn candidate(&self) -> Option<(ExchangeId, ParentMethod)> {
        self.candidates.request().map(|request| (request, self.method))
    }
}

impl Candidates {
    /// Keeps the answers of rules that may hold in a process.
    fn possible(self, rules: Rules) -> Self {
        Self {
            by_thread: self.by_thread.filter(|_| rules.has(Rule::Thread)),
            by_turn: self.by_turn.filter(|_| rules.has(Rule::Turn)),
        }
    }
}
