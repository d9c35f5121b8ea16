//! Decides parents, and spreads the traces that follow from them.

use std::collections::VecDeque;

use super::{
    Causality,
    process::{Deferred, Process},
    rules,
    threads::LivingThread,
};
use crate::{
    engine::{
        context::ParentMethod,
        exchange::{Candidates, Exchange, ExchangeId, Parent, Shown, Thread, Trace, Turn, Writer},
        execution::ExecutionId,
    },
    runtimes::Rule,
};

/// A request that is answered, as the gate of the thread rule judges it.
struct Served {
    /// The thread that read it.
    reader: ExecutionId,
    thread: Thread,
    turn: Turn,
    writer: Writer,
}

impl Served {
    /// Returns whether the request's thread served it alone, in a process that keeps the thread rule. Notes whether the process
    /// kept it now.
    fn passes_gate(self, process: &mut Process) -> bool {
        let (Writer::One(first) | Writer::Several(first)) = self.writer else {
            // Without a response no thread has proved that it works for the request: the process's record alone counts.
            return process.always_kept_the_rule() && self.thread == Thread::Alone;
        };
        let same = first.execution.thread == self.reader && self.writer == Writer::One(first);
        if !same {
            process.breaks_the_rule(first.time_ns);
        }
        let alone = same && self.thread == Thread::Alone && self.turn != Turn::Queued;
        if alone {
            process.keeps_the_rule();
        }
        alone && process.is_trusted(first.time_ns)
    }
}

impl Causality {
    /// Decides the calls of a request that is answered, or never will be.
    ///
    /// `lost`: the request gives no span, so none of the calls is its child.
    pub(super) fn answered(&mut self, id: ExchangeId, lost: bool) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        let (execution, start_ns) = (exchange.execution, exchange.start.ns);
        let carried = exchange.lineage.carried;
        let Some(serving) = exchange.serving_mut() else { return };
        let turn = std::mem::replace(&mut serving.turn, Turn::Over);
        if turn == Turn::Over {
            return;
        }
        let calls = std::mem::take(&mut serving.calls);
        let (thread, writer, life) = (serving.thread, serving.writer, serving.life);
        if let Turn::Served { life } = turn {
            let thread = LivingThread {
                id: execution.thread,
                life,
            };
            self.threads.end(thread, id);
        }
        let process = self.process(execution.process);
        if let Some(context) = carried.context()
            && process.life == life
        {
            process.forget_received((context.trace_id, context.parent_id), id);
        }
        // Only the response proves which thread worked for the request, so the gate is judged here and not at the call.
        let served = Served {
            reader: execution.thread,
            thread,
            turn,
            writer,
        };
        let passes = served.passes_gate(process);
        let worked = match writer {
            Writer::One(writer) if process.certain().has(Rule::Worker) => process.take_calls(writer.execution.thread),
            _ => VecDeque::new(),
        };
        let known = process.is_known();
        if lost {
            for &call in &calls {
                if let Some(call) = self.exchanges.get_mut(call).and_then(Exchange::calling_mut) {
                    call.candidates = Candidates::default();
                }
            }
        }
        // Until the runtime is known, the gate cannot be applied: a Go binary may look like a thread per request.
        if !known && !calls.is_empty() {
            return self.process(execution.process).defer(Deferred {
                request: id,
                calls,
                passes,
            });
        }
        for call in calls {
            self.settle_call(call, id, passes);
        }
        self.settle_worked(worked, id, start_ns, lost);
    }

    /// Decides the calls of a worker that wrote the response of a request, which was read at `start_ns`.
    fn settle_worked(&mut self, calls: VecDeque<ExchangeId>, request: ExchangeId, start_ns: u64, lost: bool) {
        // A worker serves one request at a time, so a call since its last response and since this request was read is
        // this request's. An older call is not.
        for call in calls {
            let since = self.get(call).is_some_and(|call| call.start.ns >= start_ns);
            let parent = if since && !lost {
                Parent::Local(request, ParentMethod::Family)
            } else {
                Parent::Root
            };
            self.decide(call, parent);
        }
    }

    /// Decides a call whose candidate is decided. `passes`: the thread served that request alone.
    pub(super) fn settle_call(&mut self, call: ExchangeId, request: ExchangeId, passes: bool) {
        let Some(exchange) = self.get(call) else { return };
        let (Parent::Candidate(candidate, method), Some(calling)) = (exchange.lineage.parent, exchange.calling())
        else {
            return;
        };
        if candidate != request {
            return;
        }
        let candidates = calling.candidates;
        let process = self.processes.get(exchange.execution.process);
        let passes = if process.is_some_and(|process| process.certain().has(Rule::Turn)) {
            // The call was made before the process was known to be nginx: the turn was noted then for this case.
            candidates.by_turn == Some(request)
        } else {
            passes && candidates.by_thread == Some(request)
        };
        let parent = if passes {
            Parent::Local(request, method)
        } else {
            let parent = rules::without_candidate(exchange);
            self.counters.calls_not_certain += 1;
            parent
        };
        self.decide(call, parent);
    }

    pub(super) fn set_parent(&mut self, id: ExchangeId, parent: Parent) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.lineage.parent = parent;
        }
    }

    /// Sets the parent of an exchange, and spreads its trace once that is known.
    pub(super) fn decide(&mut self, id: ExchangeId, parent: Parent) {
        let trace = match parent {
            Parent::Local(above, method) => match self.exchanges.get_mut(above) {
                // A span whose parent never arrives would look like a loss.
                Some(request) if request.shown == Shown::Ignored => {
                    self.set_parent(id, Parent::Root);
                    Some(self.new_trace())
                }
                Some(request) => match request.lineage.trace.clone() {
                    Some(trace) => {
                        let span = request.span_id;
                        self.set_parent(id, Parent::Span(span, method));
                        Some(trace)
                    }
                    None => {
                        let heirs = std::mem::take(&mut request.lineage.heirs);
                        self.add_heir(above, heirs, id);
                        self.set_parent(id, parent);
                        None
                    }
                },
                // The request has left and its ids are not kept: the parent is unknown.
                None => {
                    self.set_parent(id, Parent::Root);
                    Some(self.new_trace())
                }
            },
            Parent::Remote(context) => {
                self.set_parent(id, parent);
                let state = self.get(id).and_then(|exchange| exchange.lineage.trace_state.clone());
                Some(Trace {
                    id: context.trace_id,
                    caller_flags: Some(context.flags),
                    state,
                })
            }
            _ => {
                self.set_parent(id, Parent::Root);
                Some(self.new_trace())
            }
        };
        if let Some(trace) = trace {
            self.spread(id, trace);
        }
    }

    /// Adds an exchange to those that wait for the trace of the exchange `above`.
    ///
    /// Exchanges that have left are dropped whenever the list is full, so that a request that lasts for hours keeps
    /// only those that wait.
    fn add_heir(&mut self, above: ExchangeId, mut heirs: Vec<ExchangeId>, heir: ExchangeId) {
        if heirs.len() == heirs.capacity() {
            heirs.retain(|&heir| self.exchanges.contains_key(heir));
            // Half of the list stays free, so that each heir is looked at once or twice.
            heirs.reserve(heirs.len().max(1));
        }
        heirs.push(heir);
        if let Some(above) = self.exchanges.get_mut(above) {
            above.lineage.heirs = heirs;
        }
    }

    fn new_trace(&mut self) -> Trace {
        Trace {
            id: self.ids.trace(),
            caller_flags: None,
            state: None,
        }
    }

    /// Sets the trace of an exchange, and of all exchanges that wait for it.
    pub(super) fn spread(&mut self, id: ExchangeId, trace: Trace) {
        // A list instead of recursion: the exchanges that wait for one another may be a chain of thousands. For most, none
        // waits, and the list takes no memory.
        let mut known = self.set_trace(id, trace.clone());
        while let Some(heir) = known.pop() {
            known.append(&mut self.set_trace(heir, trace.clone()));
        }
    }

    /// Sets the trace of an exchange. Returns the exchanges that waited for it.
    fn set_trace(&mut self, id: ExchangeId, trace: Trace) -> Vec<ExchangeId> {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return Vec::new();
        };
        if exchange.lineage.trace.is_some() {
            return Vec::new();
        }
        exchange.lineage.trace = Some(trace);
        let span = exchange.span_id;
        let heirs = std::mem::take(&mut exchange.lineage.heirs);
        for &heir in &heirs {
            if let Some(heir) = self.exchanges.get_mut(heir)
                && let Parent::Local(above, method) = heir.lineage.parent
                && above == id
            {
                heir.lineage.parent = Parent::Span(span, method);
            }
        }
        self.offer(id);
        heirs
    }

    /// Decides an exchange with the facts known now, because it has to leave.
    pub(super) fn force(&mut self, mut id: ExchangeId) {
        // Records that contradict each other can make a cycle of waits. Then the exchange looked at last becomes a
        // root.
        for _ in 0..=self.exchanges.len() {
            let Some(exchange) = self.get(id) else { return };
            if exchange.lineage.trace.is_some() {
                return;
            }
            match exchange.lineage.parent {
                Parent::Local(above, _) if self.exchanges.contains_key(above) => id = above,
                Parent::Candidate(request, _) => {
                    let passes = self.get(request).is_some_and(|request| {
                        let process = self.processes.get(request.execution.process);
                        let alone = request.serving().is_some_and(|serving| serving.thread == Thread::Alone);
                        alone && process.is_some_and(Process::always_kept_the_rule)
                    });
                    self.settle_call(id, request, passes);
                }
                _ => return self.decide(id, exchange.lineage.carried.parent()),
            }
        }
        self.decide(id, Parent::Root);
    }

    /// Decides the exchanges that would have been children of one that gives no span.
    pub(super) fn orphan(&mut self, lost: &Exchange, lost_id: ExchangeId) {
        for &heir in &lost.lineage.heirs {
            let Some(exchange) = self.get(heir) else { continue };
            if matches!(exchange.lineage.parent, Parent::Local(above, _) if above == lost_id) {
                self.decide(heir, exchange.lineage.carried.parent());
            }
        }
        // A request whose caller's end is lost keeps its trace, because other spans may have left in it already.
        if let Some(other) = lost.partner.and_then(|partner| self.exchanges.get_mut(partner))
            && other.lineage.parent == Parent::Span(lost.span_id, ParentMethod::SameHost)
        {
            let trace = other.lineage.trace.as_ref().map(|trace| trace.id);
            let sender = other.lineage.carried.context();
            let sender = sender.filter(|context| Some(context.trace_id) == trace);
            other.lineage.parent = sender.map_or(Parent::Root, Parent::Remote);
        }
    }
}
