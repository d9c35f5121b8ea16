//! Finds the request that each call was made for: a span's parent and its trace.
//!
//! Nothing here guesses. A call is a request's child in one of three cases. First, the thread that read the request
//! made the call, held no other request, and wrote the response itself, in a process where lately no response came from
//! another thread. Second, nginx made the call in the turn of its loop that read a request of the same method and
//! target. Third, the call carries the `traceparent` of exactly one open request. A call with a `traceparent` that its
//! process did not receive is the child of the span that the header names. A request is the child of the call at the
//! other end of its own connection, or of the span that its `traceparent` names. Everything else is a root.
//! docs/parents.md has the rules for users.

mod decide;
mod departed;
mod hold;
mod process;
mod rules;
mod threads;

pub use rules::{Circumstances, Sight};

use std::collections::VecDeque;

use slotmap::SlotMap;

use super::{
    context::{Ids, ParentMethod},
    exchange::{
        Caller, Candidates, Exchange, ExchangeId, Parent, ReadAt, Recognised, Serving, Thread, Turn, Writer,
        state::{State, Times},
    },
    execution::{Author, ByProcess, Execution, ExecutionId, Executions, ProcessId},
};
use crate::{
    counters::counters,
    runtimes::{Rule, Runtime},
};
use departed::Departed;
use process::{Deferred, Process};
use rules::Verdict;
use threads::{Open, Threads};

counters! {
    /// Counters of decisions that were not made well.
    pub struct Counters {
        /// Calls whose candidate did not pass the gate at its response: roots.
        calls_not_certain,
        /// Calls of worker threads that made more calls than are remembered, without a response between: roots.
        calls_forgotten,
        /// Spans that left undecided because they were held for the longest time allowed.
        held_too_long,
        /// Spans that left undecided because too many were held.
        held_too_many,
        /// Exchanges that gave no span because too many waited for the facts of their process.
        unknown_too_many,
        /// Calls given up by their clients that a server can join no more, because there were too many.
        given_up_too_many,
    }
}

/// The exchanges under way and what decides about them.
#[derive(Debug)]
pub struct Causality {
    exchanges: SlotMap<ExchangeId, Exchange>,
    processes: ByProcess<Process>,
    threads: Threads,
    /// Number of the last program seen: the source of [`Process::life`].
    lives: u32,
    ids: Ids,
    /// Exchanges that are over and have not left, by the time at which they must.
    waiting: VecDeque<(u64, ExchangeId)>,
    /// Number of exchanges that are over and undecided.
    held: usize,
    ready: Vec<ExchangeId>,
    departed: Departed,
    hold_ns: u64,
    hold_most: usize,
    /// Decisions that were not made well.
    pub counters: Counters,
}

impl Causality {
    /// Creates a store that holds exchanges for at most `hold_ns` after their end, and at most `hold_most` of them.
    pub fn new(seed: u128, hold_ns: u64, hold_most: usize) -> Self {
        Self {
            exchanges: SlotMap::with_key(),
            processes: ByProcess::default(),
            threads: Threads::default(),
            lives: 0,
            ids: Ids::new(seed),
            waiting: VecDeque::new(),
            held: 0,
            ready: Vec::new(),
            departed: Departed::default(),
            hold_ns,
            hold_most,
            counters: Counters::default(),
        }
    }

    /// Returns an exchange.
    pub fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges.get(id)
    }

    /// Returns an exchange, for changes that bear on no decision.
    pub fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.exchanges.get_mut(id)
    }

    fn serving_mut(&mut self, id: ExchangeId) -> Option<&mut Serving> {
        self.exchanges.get_mut(id).and_then(Exchange::serving_mut)
    }

    /// Returns how many exchanges have not left.
    pub fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Returns whether all have left.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// Takes the runtime of a process. Calls that waited for it are decided.
    pub fn set_runtime(&mut self, process: ProcessId, runtime: Runtime) {
        let process = self.processes.get_or_default(process);
        process.set_rules(runtime.rules());
        let threads = process.certain().has(Rule::Thread);
        for Deferred { request, calls, passes } in process.take_deferred() {
            for call in calls {
                self.settle_call(call, request, passes && threads);
            }
        }
    }

    /// Forgets a process that has ended. Calls that waited for its runtime become roots.
    pub fn forget_process(&mut self, process: ProcessId) {
        let Some(mut process) = self.processes.remove(process) else {
            return;
        };
        for Deferred { request, calls, .. } in process.take_deferred() {
            for call in calls {
                self.settle_call(call, request, false);
            }
        }
    }

    /// Drops the exchanges of a process that is not selected. Returns how many those were.
    pub fn lose_process(&mut self, process: ProcessId) -> usize {
        let before = self.exchanges.len();
        // The scan below visits every exchange. Most refused processes (compilers, shells) never had one and skip it.
        if self.processes.get(process).is_some_and(|process| process.active) {
            let mut lost: Vec<ExchangeId> = self
                .exchanges
                .iter()
                .filter(|(_, exchange)| exchange.execution.process == process)
                .map(|(id, _)| id)
                .collect();
            lost.sort_unstable();
            for id in lost {
                self.lose(id);
            }
        }
        self.forget_process(process);
        before - self.exchanges.len()
    }

    /// Returns a process that has an exchange: its life has begun.
    fn process(&mut self, process: ProcessId) -> &mut Process {
        let process = self.processes.get_or_default(process);
        if !process.active {
            process.active = true;
            // 0 means that no life is given yet.
            self.lives = self.lives.wrapping_add(1).max(1);
            process.life = self.lives;
        }
        process
    }

    /// Registers a request whose first bytes were read. `queued`: earlier ones on its connection are not answered.
    pub fn request(&mut self, mut exchange: Exchange, queued: bool, now_ns: u64) -> ExchangeId {
        let (process, carried) = (exchange.execution.process, exchange.lineage.carried);
        let life = self.process(process).life;
        if let Some(serving) = exchange.serving_mut() {
            serving.life = life;
        }
        let id = self.exchanges.insert(exchange);
        if let Some(context) = carried.context() {
            self.process(process).receive((context.trace_id, context.parent_id), id);
        }
        if !queued {
            self.begin(id, now_ns);
        }
        id
    }

    /// Begins to serve a request: the earlier ones on its connection are answered.
    pub fn begin(&mut self, id: ExchangeId, now_ns: u64) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let execution = exchange.execution;
        let Some(serving) = exchange.serving().filter(|serving| serving.turn == Turn::Queued) else {
            return;
        };
        let recognised = serving.recognised;
        let process = self.process(execution.process);
        let (life, thread) = (process.life, process.thread(execution.thread));
        let others = self.threads.begin(thread, id);
        // Since the request's head passed, the thread may have read other requests: its last read is not this one.
        if recognised == Recognised::Late {
            self.threads.reads_unknown(thread);
        }
        if others.is_some() {
            // A thread that holds two open requests does not serve one at a time.
            self.process(execution.process).breaks_the_rule(now_ns);
        }
        if let Some(serving) = self.serving_mut(id) {
            serving.turn = Turn::Served { life };
            if others.is_some() {
                serving.thread = Thread::Shared;
            }
        }
        if let Some(Open::One(other)) = others {
            self.share_thread(other);
        }
    }

    /// Notes that a request's thread does not serve it alone.
    fn share_thread(&mut self, id: ExchangeId) {
        if let Some(serving) = self.serving_mut(id) {
            serving.thread = Thread::Shared;
        }
    }

    /// Returns whether a request is not answered.
    fn is_open(request: &Exchange) -> bool {
        request.serving().is_some_and(|serving| serving.turn != Turn::Over)
    }

    /// Notes that a thread has read more of a request than its start.
    pub fn read_on(&mut self, id: ExchangeId, reader: Execution) {
        if let Some(exchange) = self.exchanges.get(id)
            && exchange.serving().is_some()
            && let Some(process) = self.processes.get(exchange.execution.process)
        {
            self.threads.reads(process.thread(reader.thread), id);
        }
    }

    /// Notes that a thread has read from a connection whose request boundaries are not known.
    pub fn read_unknown(&mut self, reader: Execution) {
        if let Some(process) = self.processes.get(reader.process) {
            self.threads.reads_unknown(process.thread(reader.thread));
        }
    }

    /// Returns the requests that a thread's connect(2) may be made for, as far as is known now.
    pub fn opener(&mut self, of: Execution, sight: Sight) -> Candidates {
        let Some(process) = self.processes.get(of.process) else {
            return Candidates::default();
        };
        let Candidates { by_thread, by_turn } =
            self.threads.names(process.possible(), process.thread(of.thread), sight);
        let by_turn = by_turn.filter(|&request| rules::passes_on(self, request, of.thread, sight));
        Candidates { by_thread, by_turn }
    }

    /// Returns the one request that a thread of a process has open.
    fn only_open(&self, process: ProcessId, thread: ExecutionId) -> Option<ExchangeId> {
        let thread = self.processes.get(process)?.thread(thread);
        self.threads.only_open(thread)
    }

    /// Registers a call that was sent, or a connect that failed, and shows it to the rules.
    pub fn call(&mut self, mut exchange: Exchange, circumstances: Circumstances) -> ExchangeId {
        let asked = self.ask(&mut exchange, circumstances);
        let verdict = rules::judge(&asked, &exchange);
        let execution = exchange.execution;
        let id = self.exchanges.insert(exchange);
        match verdict {
            Verdict::Parent(parent) => self.decide(id, parent),
            Verdict::Candidate(request, method) => {
                self.set_parent(id, Parent::Candidate(request, method));
                self.add_candidate(request, id);
            }
            Verdict::Worker => self.remember_call(execution, id),
        }
        id
    }

    /// Adds a call to those that wait for a request's response.
    ///
    /// Calls that have left are dropped whenever the list is full, so that a request that lasts for hours keeps only
    /// the calls that wait.
    fn add_candidate(&mut self, request: ExchangeId, call: ExchangeId) {
        let Some(serving) = self.serving_mut(request) else {
            return;
        };
        let mut calls = std::mem::take(&mut serving.calls);
        if calls.len() == calls.capacity() {
            calls.retain(|&call| self.exchanges.contains_key(call));
            // Half of the list stays free, so that each call is looked at once or twice.
            calls.reserve(calls.len().max(1));
        }
        calls.push(call);
        if let Some(serving) = self.serving_mut(request) {
            serving.calls = calls;
        }
    }

    /// Remembers a worker's call, which is decided when the worker writes a response.
    fn remember_call(&mut self, worker: Execution, call: ExchangeId) {
        let Some(process) = self.processes.get_mut(worker.process) else {
            return;
        };
        let waits = |call| self.exchanges.contains_key(call);
        if let Some(forgotten) = process.remember_call(worker.thread, call, waits) {
            self.counters.calls_forgotten += 1;
            self.force(forgotten);
        }
    }

    /// Notes that a thread has perhaps waited for events since its last record: a turn of its loop is over.
    pub fn turned(&mut self, of: Execution) {
        if let Some(process) = self.processes.get(of.process)
            && process.possible().has(Rule::Turn)
        {
            self.threads.waits(process.thread(of.thread));
        }
    }

    /// Notes that a thread does what a loop does: it has waited in epoll, or makes a call on a connection that epoll
    /// watches.
    ///
    /// A thread that does so with a request open works for more than that one. A thread that serves one request at a
    /// time waits for its call in another way.
    pub fn looped(&mut self, author: &Author) {
        let Some(process) = self.processes.get_mut(author.execution.process) else {
            return;
        };
        let (possible, thread) = (process.possible(), process.thread(author.execution.thread));
        if let Some(request) = self.threads.only_open(thread)
            && possible.has(Rule::Thread)
        {
            process.breaks_the_rule(author.time_ns);
            self.share_thread(request);
        }
    }

    /// Notes that a thread of a process waits for the connections of others.
    pub fn polled(&mut self, process: ProcessId) {
        if let Some(process) = self.processes.get_mut(process) {
            process.polls();
        }
    }

    /// Notes that a thread has read a request from a connection that epoll watches.
    pub fn reads_watched(&mut self, of: Execution) {
        if let Some(process) = self.processes.get(of.process) {
            self.threads.reads_watched(process.thread(of.thread));
        }
    }

    /// Notes that a thread that sends has perhaps slept since its last call on a socket: in that call or, as a loop does, between
    /// both. A receive that makes no record is not told from a sleep.
    pub fn slept(&mut self, of: Execution) {
        if let Some(process) = self.processes.get(of.process) {
            self.threads.sleeps(process.thread(of.thread));
        }
    }

    /// Notes that a thread writes to a client whose connection epoll watches.
    ///
    /// Where no program sees epoll_wait(2), a thread that slept in between, while epoll watched the connection all the time, may
    /// have waited for epoll, as a loop does.
    pub fn writes_watched(&mut self, author: &Author) {
        if let Some(process) = self.processes.get_mut(author.execution.process)
            && self.threads.slept_watched(process.thread(author.execution.thread))
        {
            process.may_loop(author.time_ns);
        }
    }

    /// Notes that a record of a thread was lost.
    ///
    /// The thread may have read a request that is not known, and answered the one that it has open. The request of its
    /// calls, before and after, is not known.
    pub fn lost(&mut self, of: Execution) {
        let Some(process) = self.processes.get_mut(of.process) else {
            return;
        };
        let thread = process.thread(of.thread);
        self.threads.reads_unknown(thread);
        let open = self.threads.only_open(thread);
        let calls = process.take_calls(of.thread);
        if let Some(request) = open {
            self.share_thread(request);
        }
        for call in calls {
            self.force(call);
        }
    }

    /// Notes which execution wrote a byte of a response.
    pub fn response(&mut self, id: ExchangeId, writer: Author) {
        if let Some(serving) = self.serving_mut(id) {
            match serving.writer {
                Writer::Nobody => serving.writer = Writer::One(writer),
                Writer::One(ref first) if first.execution != writer.execution => {
                    serving.writer = Writer::Several(*first);
                }
                Writer::One(_) | Writer::Several(_) => {}
            }
        }
    }

    /// Joins the two ends of one exchange.
    pub fn join(&mut self, client: ExchangeId, server: ExchangeId) {
        if !self.exchanges.contains_key(client) {
            return self.join_departed(client, server);
        }
        let Some([call, request]) = self.exchanges.get_disjoint_mut([client, server]) else {
            return;
        };
        if call.partner.is_some() || request.partner.is_some() || call.calling().is_none() {
            return;
        }
        let of_other_process = request.execution.process != call.execution.process;
        let Some(serving) = request.serving_mut() else { return };
        serving.caller = Caller::of_other_process(of_other_process);
        call.partner = Some(server);
        request.partner = Some(client);
        request.unix_offset_ns = call.unix_offset_ns;
        let both_over = call.state != State::Open && request.state != State::Open;
        if call.state == State::Open {
            // Records of two processors may arrive in either order: the server's end may be over already.
            request.state.set_times(Times::Unsettled);
        } else {
            call.start.ns = call.start.ns.min(request.start.ns);
        }
        let parent = match request.lineage.carried.context() {
            // Spans may have left in the trace of that parent already.
            _ if request.lineage.parent.is_decided() => None,
            Some(context) if !call.lineage.carried.is_forwarded() => Some(Parent::Remote(context)),
            _ => Some(Parent::Local(client, ParentMethod::SameHost)),
        };
        if let Some(parent) = parent {
            self.decide(server, parent);
        }
        if both_over {
            self.settle(server);
            self.offer(server);
        }
    }

    /// Decides a request whose far end is not traced: its parent is the one that its header names, or none.
    pub fn no_partner(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.serving().is_some() && exchange.lineage.parent == Parent::Open {
            self.decide(id, exchange.lineage.carried.parent());
        }
    }

    /// Ends an exchange.
    pub fn finish(&mut self, id: ExchangeId, end_ns: u64) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        if exchange.state != State::Open {
            return;
        }
        exchange.state = State::Answered {
            end_ns: end_ns.max(exchange.start.ns),
            times: Times::Unsettled,
        };
        self.held += 1;
        self.answered(id, false);
        self.settle(id);
        self.offer(id);
        if self.get(id).is_some_and(|exchange| exchange.state.is_held()) {
            self.hold(id, end_ns);
        }
    }

    /// Puts the four times of an exchange in order, once both of its ends are over: client start ≤ server start ≤
    /// server end ≤ client end. Each is the exit of a system call; the bytes moved before it.
    fn settle(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        let Some(partner) = exchange.partner else {
            exchange.state.set_times(Times::Settled);
            return;
        };
        let (client, server) = match exchange.serving() {
            None => (id, partner),
            Some(_) => (partner, id),
        };
        let Some([call, request]) = self.exchanges.get_disjoint_mut([client, server]) else {
            return;
        };
        let (Some(client_end), Some(server_end)) = (call.state.end_ns(), request.state.end_ns()) else {
            return;
        };
        // A server cannot read a request before it was sent: its time bounds a start that was read at the exit of a
        // blocked write.
        call.start.read_at = ReadAt::Begin;
        call.start.ns = call.start.ns.min(request.start.ns);
        // A client that gave up ended before its server did: both times are right.
        if call.messages.failure.is_none() {
            let end = server_end.min(client_end);
            request.state.set_end(end.max(request.start.ns));
            call.state.set_end(client_end.max(request.start.ns));
        }
        call.state.set_times(Times::Settled);
        request.state.set_times(Times::Settled);
        self.offer(partner);
    }

    /// Returns how many calls requests keep until their response.
    #[cfg(test)]
    pub fn candidates(&self) -> usize {
        self.exchanges
            .values()
            .filter_map(Exchange::serving)
            .map(|serving| serving.calls.len())
            .sum()
    }

    /// Returns how many exchanges wait for the traces of others.
    #[cfg(test)]
    pub fn heirs(&self) -> usize {
        self.exchanges
            .values()
            .map(|exchange| exchange.lineage.heirs.len())
            .sum()
    }

    /// Returns how many threads have open requests.
    #[cfg(test)]
    pub fn threads(&self) -> usize {
        self.threads.busy()
    }

    /// Keeps the handles that exchanges and threads hold.
    pub fn keep(&mut self, executions: &mut Executions) {
        for exchange in self.exchanges.values() {
            executions.keep(exchange.execution.id);
            if let Some(Writer::One(writer) | Writer::Several(writer)) =
                exchange.serving().map(|serving| serving.writer)
            {
                executions.keep(writer.execution.id);
            }
        }
        for (id, process) in self.processes.iter() {
            executions.keep_process(id);
            process.workers().for_each(|worker| executions.keep(worker));
        }
        let processes = &self.processes;
        let life = |process| Some(processes.get(process)?.life);
        self.threads.keep(executions, life);
        self.departed.keep(executions);
    }

    /// Returns the id generator.
    pub fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }
}
