//! The state of a process: the requests that its threads have open, and whether it keeps the thread rule.

use std::collections::{HashMap, VecDeque};

use slotmap::{Key, KeyData};

use super::rules::Sight;
use crate::{
    engine::{
        context::{SpanId, TraceId},
        exchange::{Candidates, ExchangeId},
    },
    hash::FastMap,
    record::Tid,
    runtimes::{Rule, Rules},
};

/// Time for which a process is distrusted after it broke the thread rule.
const DISTRUST_NS: u64 = 60_000_000_000;

/// Evidence that a process has given of how it serves requests.
#[derive(Debug, Default)]
pub struct Process {
    /// Number that tells two programs of one process id apart. 0: not given yet.
    pub life: u32,
    /// Set once the process has had an exchange.
    pub active: bool,
    /// Rules that hold in the process; `None`: its runtime is not known yet.
    rules: Option<Rules>,
    threads: FastMap<Tid, Thread>,
    distrusted_until_ns: u64,
    broke_the_rule: bool,
    kept_the_rule: bool,
    /// Calls whose request is answered and that wait only for the runtime.
    deferred: Vec<Deferred>,
    /// Calls of each thread since its last response, in a runtime with the worker rule.
    worker_calls: FastMap<Tid, VecDeque<ExchangeId>>,
    /// Size of `worker_calls` at which threads are dropped whose calls have all left.
    sweep_workers_at: usize,
    /// Open requests by the `traceparent` that they carried. The keys come from outside: not for a fast hash.
    received: HashMap<(TraceId, SpanId), Requests>,
}

/// Upper bound on the remembered calls of a thread. A thread that makes more without a response serves nobody.
const CALLS: usize = 1024;

/// Smallest number of worker threads at which the map is swept for threads that serve nobody.
const WORKERS_BEFORE_SWEEP: usize = 64;

/// Calls that may belong to a request that is answered.
#[derive(Debug)]
pub struct Deferred {
    /// The request.
    pub request: ExchangeId,
    /// Calls of the thread that read the request.
    pub calls: Vec<ExchangeId>,
    /// Whether the request passed the gate of the thread rule.
    pub passes: bool,
}

/// A thread that has open requests.
#[derive(Debug, Default)]
struct Thread {
    /// Requests that it read and that are not answered: thousands in an event loop.
    open: Requests,
    /// Request from which the thread read last; `None`: one that is not known.
    last: Option<ExchangeId>,
    /// Whether the thread has waited for events since that read.
    turn_over: bool,
}

impl Thread {
    fn read(&mut self, request: Option<ExchangeId>) {
        self.last = request;
        self.turn_over = false;
    }
}

/// A set of open requests that can name its member while it has only one. Adding and removing cost the same however
/// many there are.
#[derive(Debug, Default)]
struct Requests {
    count: u32,
    /// XOR of the ids; with exactly one in the set, that id.
    together: u64,
}

impl Requests {
    fn add(&mut self, request: ExchangeId) {
        self.count += 1;
        self.together ^= request.data().as_ffi();
    }

    fn remove(&mut self, request: ExchangeId) {
        self.count = self.count.saturating_sub(1);
        self.together ^= request.data().as_ffi();
    }

    fn open(&self) -> Option<Open> {
        match self.count {
            0 => None,
            1 => Some(Open::One(KeyData::from_ffi(self.together).into())),
            _ => Some(Open::Several),
        }
    }
}

/// One or more open requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Only this one.
    One(ExchangeId),
    /// Several.
    Several,
}

impl Open {
    /// Returns whether this request is the one that is open, or may be among several.
    pub fn may_be(self, request: ExchangeId) -> bool {
        self == Self::One(request) || self == Self::Several
    }
}

impl Process {
    /// Sets the rules that hold in the process's runtime.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = Some(rules);
    }

    /// Returns the rules that hold for certain. None do until the runtime is known.
    pub fn certain(&self) -> Rules {
        self.rules.unwrap_or(Rules::NONE)
    }

    /// Returns the rules that hold or, until the runtime is known, may turn out to hold.
    pub fn possible(&self) -> Rules {
        self.rules.unwrap_or(Rules::POSSIBLE)
    }

    /// Returns whether its runtime is known.
    pub fn is_known(&self) -> bool {
        self.rules.is_some()
    }

    /// Returns the requests that a thread may be working for now, by the rules that may hold.
    pub fn names(&self, thread: Tid, sight: Sight) -> Candidates {
        let rules = self.possible();
        Candidates {
            by_thread: rules.has(Rule::Thread).then(|| self.only_open(thread)).flatten(),
            by_turn: rules.has(Rule::Turn).then(|| self.in_turn(thread, sight)).flatten(),
        }
    }

    /// Remembers a call of a worker. Returns a forgotten call that still waits, if there is no room.
    ///
    /// `waits` says whether a call has not left. A thread that never answers is forgotten once all its calls have left,
    /// as the end of a thread is not seen.
    pub fn remember_call(
        &mut self,
        thread: Tid,
        call: ExchangeId,
        waits: impl Fn(ExchangeId) -> bool,
    ) -> Option<ExchangeId> {
        if self.worker_calls.len() >= self.sweep_workers_at.max(WORKERS_BEFORE_SWEEP) {
            self.worker_calls
                .retain(|_, calls| calls.iter().any(|&call| waits(call)));
            self.sweep_workers_at = 2 * self.worker_calls.len();
        }
        let calls = self.worker_calls.entry(thread).or_default();
        calls.push_back(call);
        let forgotten = if calls.len() > CALLS { calls.pop_front() } else { None };
        forgotten.filter(|&call| waits(call))
    }

    /// Takes the calls that a worker made since its last response.
    pub fn take_calls(&mut self, thread: Tid) -> VecDeque<ExchangeId> {
        self.worker_calls.remove(&thread).unwrap_or_default()
    }

    /// Keeps calls until the runtime of the process is known.
    pub fn defer(&mut self, deferred: Deferred) {
        self.deferred.push(deferred);
    }

    /// Takes the calls that waited for the runtime.
    pub fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }

    /// Returns whether the gate is open: the rule was not broken lately.
    pub fn is_trusted(&self, now_ns: u64) -> bool {
        self.possible().has(Rule::Thread) && now_ns >= self.distrusted_until_ns
    }

    /// Returns whether the process has kept the rule at least once and never broken it.
    pub fn always_kept_the_rule(&self) -> bool {
        self.possible().has(Rule::Thread) && self.kept_the_rule && !self.broke_the_rule
    }

    /// Notes that a request was answered by the thread that read it, which held no other.
    pub fn keeps_the_rule(&mut self) {
        self.kept_the_rule = true;
    }

    /// Notes that a response came from another thread than the request's reader, or that a thread holds several
    /// requests.
    pub fn breaks_the_rule(&mut self, now_ns: u64) {
        self.broke_the_rule = true;
        self.distrusted_until_ns = self.distrusted_until_ns.max(now_ns.saturating_add(DISTRUST_NS));
    }

    /// Adds a request to a thread's open ones. Returns those that the thread had open before.
    ///
    /// [`Process::end`] must be called once for it.
    pub fn begin(&mut self, thread: Tid, request: ExchangeId) -> Option<Open> {
        let thread = self.threads.entry(thread).or_default();
        let others = thread.open.open();
        thread.open.add(request);
        thread.read(Some(request));
        others
    }

    /// Removes an answered or lost request from its thread's.
    ///
    /// A thread without open requests is forgotten, as the end of a thread is not seen.
    pub fn end(&mut self, thread: Tid, request: ExchangeId) {
        if let Some(known) = self.threads.get_mut(&thread) {
            known.open.remove(request);
            if known.open.open().is_none() {
                self.threads.remove(&thread);
            }
        }
    }

    /// Notes that a thread read more of a request.
    pub fn reads(&mut self, thread: Tid, request: ExchangeId) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.read(Some(request));
        }
    }

    /// Notes that a thread read bytes that may be an unknown request: its last read names none from now on.
    pub fn reads_unknown(&mut self, thread: Tid) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.read(None);
        }
    }

    /// Returns the request that a thread has open, if it is the only one.
    pub fn only_open(&self, thread: Tid) -> Option<ExchangeId> {
        match self.threads.get(&thread)?.open.open()? {
            Open::One(request) => Some(request),
            Open::Several => None,
        }
    }

    /// Notes that a thread has waited for events: the turn of its loop in which it read last is over.
    pub fn waits(&mut self, thread: Tid) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.turn_over = true;
        }
    }

    /// Returns the request that a loop serves now: the one from which it read last in this turn.
    ///
    /// In a later turn that is the only one open. If the process may be busy with unseen requests, nothing is certain
    /// then.
    fn in_turn(&self, thread: Tid, sight: Sight) -> Option<ExchangeId> {
        let known = self.threads.get(&thread)?;
        let last = known.last?;
        match known.turn_over {
            false => Some(last),
            true if sight == Sight::Partial => None,
            true => self.only_open(thread),
        }
    }

    /// Returns how many threads have open requests.
    #[cfg(test)]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Adds an open request to those that carried this `traceparent`.
    pub fn receive(&mut self, context: (TraceId, SpanId), request: ExchangeId) {
        self.received.entry(context).or_default().add(request);
    }

    /// Forgets a request's `traceparent`: the request is answered, or lost.
    pub fn forget_received(&mut self, context: (TraceId, SpanId), request: ExchangeId) {
        if let Some(requests) = self.received.get_mut(&context) {
            requests.remove(request);
            if requests.open().is_none() {
                self.received.remove(&context);
            }
        }
    }

    /// Returns the open requests that carried this `traceparent`.
    pub fn received(&self, context: (TraceId, SpanId)) -> Option<Open> {
        self.received.get(&context)?.open()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn id(number: u64) -> ExchangeId {
        // The version of a slot that is taken is odd.
        KeyData::from_ffi(1 << 32 | number).into()
    }

    #[test]
    fn a_traceparent_names_a_request_while_only_one_has_it() {
        let mut process = Process::default();
        let context = (TraceId::new([1; 16]).unwrap(), SpanId::new([1; 8]).unwrap());
        assert_eq!(process.received(context), None);
        for (number, expected) in [(1, Open::One(id(1))), (2, Open::Several), (3, Open::Several)] {
            process.receive(context, id(number));
            assert_eq!(process.received(context), Some(expected));
        }
        for (number, expected) in [(2, Some(Open::Several)), (1, Some(Open::One(id(3)))), (3, None)] {
            process.forget_received(context, id(number));
            assert_eq!(process.received(context), expected);
        }
        assert!(process.received.is_empty());
    }

    #[test]
    fn a_request_with_a_constant_traceparent_costs_the_same_however_many_are_open() {
        const REQUESTS: u64 = 300_000;
        let context = (TraceId::new([1; 16]).unwrap(), SpanId::new([1; 8]).unwrap());
        let mut process = Process::default();
        let start = Instant::now();
        for number in 0..REQUESTS {
            process.receive(context, id(number));
        }
        for number in (0..REQUESTS).rev() {
            process.forget_received(context, id(number));
        }
        assert_eq!(process.received(context), None);
        // A second or so. To look for each among all that are open would take several minutes.
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn threads_that_never_answer_are_forgotten_with_their_calls() {
        let mut process = Process::default();
        // The last ten calls wait.
        for number in 0..100_000u32 {
            let waits = |call: ExchangeId| call.data().as_ffi() as u32 + 10 >= number;
            process.remember_call(Tid(number), id(number.into()), waits);
        }
        assert!(process.worker_calls.len() <= 2 * WORKERS_BEFORE_SWEEP);
        assert_eq!(process.take_calls(Tid(99_999)), [id(99_999)]);
    }

    #[test]
    fn a_thread_that_only_calls_has_a_bounded_number_of_calls() {
        let mut process = Process::default();
        let forgotten = (0..5_000)
            .filter_map(|number| {
                process.remember_call(Tid(1), id(number), |call| {
                    (call.data().as_ffi() as u32).is_multiple_of(2)
                })
            })
            .count();
        // Half of those beyond the bound had left.
        assert_eq!(forgotten, (5_000 - CALLS) / 2);
        assert_eq!(process.take_calls(Tid(1)).len(), CALLS);
    }
}
