//! The rules by which a call finds its request: one file a rule.
//!
//! A call is shown to the rules in [`ORDER`], and the first [`Verdict`] wins. A rule that holds only in some runtimes
//! is named by the runtime's table ([`crate::runtimes::Rule`]). A new rule is a file here, a place in the order, and a
//! word in the table.

mod header;
mod opener;
mod thread;
mod turn;
mod worker;

pub(super) use turn::passes_on;

use super::{Causality, threads::Open};
use crate::{
    engine::{
        context::ParentMethod,
        exchange::{Candidates, Exchange, ExchangeId, Opening, Parent, Recognised},
    },
    runtimes::{Rule, Rules},
};

/// Facts about the moment in which a call was sent that the call itself does not hold.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Request that the call's connection was opened for.
    pub opening: Opening,
    /// Moment at which the call was recognised.
    pub recognised: Recognised,
    /// Whether all requests of the call's process were seen.
    pub sight: Sight,
}

/// View of the requests that a process is busy with: complete or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All of them were seen.
    Whole,
    /// The process may be busy with others: they came before it was found, or a record was lost.
    Partial,
}

/// Facts about a call that the rules look at.
pub(super) struct Asked {
    /// Rules that hold in the call's process for certain.
    rules: Rules,
    /// Open requests of the process that carried the call's `traceparent`.
    received: Option<Open>,
    /// Requests that the call may be made for.
    candidates: Candidates,
    /// Method that found the candidates.
    method: ParentMethod,
}

/// Decision of a rule on a call.
pub(super) enum Verdict {
    /// This is the parent.
    Parent(Parent),
    /// This request is the parent, if it passes the gate at its response.
    Candidate(ExchangeId, ParentMethod),
    /// The worker that made the call decides it, when it writes a response.
    Worker,
}

/// Rules, in the order in which they are asked.
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

/// Returns the parent of a call whose candidate has failed the gate.
pub(super) fn without_candidate(call: &Exchange) -> Parent {
    header::without_candidate(call)
}

impl Causality {
    /// Gathers the facts that the rules look at. Notes the call's evidence about its process, whatever the verdict.
    pub(super) fn ask(&mut self, call: &mut Exchange, circumstances: Circumstances) -> Asked {
        let thread = call.execution.thread;
        let opener = opener::candidates(self, circumstances.opening, call);
        let process = self.process(call.execution.process);
        let received = header::received(process, call);
        let (rules, possible, living) = (process.certain(), process.possible(), process.thread(thread));
        let (named, method) = match opener {
            Some(candidates) => (candidates.possible(possible), ParentMethod::Opener),
            None => {
                let named = self.threads.names(possible, living, circumstances.sight);
                (turn::in_time(named, circumstances), ParentMethod::Thread)
            }
        };
        let is_open = |request: &ExchangeId| self.get(*request).is_some_and(Causality::is_open);
        let is_passed_on = |request: &ExchangeId| self.get(*request).is_some_and(|request| call.passes_on(request));
        let by_thread = named.by_thread.filter(is_open);
        let by_turn = named.by_turn.filter(is_open).filter(is_passed_on);
        // connect(2) asked `passes_on` already for a call found by its opener: asking again would count as a second
        // call.
        let is_opener = opener.is_some();
        let by_turn = by_turn.filter(|&request| is_opener || passes_on(self, request, thread, circumstances.sight));
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
