//! The state of a process: the rules that hold in it, and whether it keeps the thread rule.

use std::collections::{HashMap, VecDeque};

use super::threads::{LivingThread, Open, Requests};
use crate::{
    engine::{
        context::{SpanId, TraceId},
        exchange::ExchangeId,
        execution::ExecutionId,
    },
    hash::FastMap,
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
    distrusted_until_ns: u64,
    broke_the_rule: bool,
    kept_the_rule: bool,
    /// Time until which the process is distrusted because a thread with a request open slept, perhaps as a loop does; 0:
    /// none did.
    loops_until_ns: u64,
    /// Whether a thread was seen to wait for the connections of others: they are workers, and no loops.
    polled: bool,
    /// Calls whose request is answered and that wait only for the runtime.
    deferred: Vec<Deferred>,
    /// Calls of each thread since its last response, in a runtime with the worker rule.
    worker_calls: FastMap<ExecutionId, VecDeque<ExchangeId>>,
    /// Size of `worker_calls` at which threads are dropped whose calls have all left.
    sweep_workers_at: usize,
    /// Open requests by the `traceparent` that they carried. The keys come from outside: not for a fast hash.
    received: HashMap<(TraceId, SpanId), Requests>,
}

/// Upper bound on the remembered calls of a thread. A thread that makes more without a response serves no request.
const CALLS: usize = 1024;

/// Smallest number of worker threads at which the map is swept for threads that serve no request.
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

    /// Returns a thread in this life of the process.
    pub fn thread(&self, id: ExecutionId) -> LivingThread {
        LivingThread { id, life: self.life }
    }

    /// Returns the workers whose calls are remembered.
    pub fn workers(&self) -> impl Iterator<Item = ExecutionId> {
        self.worker_calls.keys().copied()
    }

    /// Remembers a call of a worker. Returns a forgotten call that still waits, if there is no room.
    ///
    /// `waits` says whether a call has not left. A thread that never answers is forgotten once all its calls have left,
    /// as the end of a thread is not seen.
    pub fn remember_call(
        &mut self,
        thread: ExecutionId,
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
    pub fn take_calls(&mut self, thread: ExecutionId) -> VecDeque<ExchangeId> {
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
        let until_ns = self.distrusted_until_ns.max(self.loops_until_ns());
        self.possible().has(Rule::Thread) && now_ns >= until_ns
    }

    fn loops_until_ns(&self) -> u64 {
        if self.polled { 0 } else { self.loops_until_ns }
    }

    /// Returns whether the process has kept the rule at least once and never broken it.
    pub fn always_kept_the_rule(&self) -> bool {
        let never_broken = !self.broke_the_rule && self.loops_until_ns() == 0;
        self.possible().has(Rule::Thread) && self.kept_the_rule && never_broken
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

    /// Notes that a thread waits for the connections of others.
    pub fn polls(&mut self) {
        self.polled = true;
    }

    /// Notes that a thread with a request open slept, perhaps as a loop does.
    pub fn may_loop(&mut self, now_ns: u64) {
        self.loops_until_ns = self.loops_until_ns.max(now_ns.saturating_add(DISTRUST_NS));
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

    use slotmap::{Key, KeyData};

    use super::*;

    fn id(number: u64) -> ExchangeId {
        // The version of a slot that is taken is odd.
        KeyData::from_ffi(1 << 32 | number).into()
    }

    fn thread(number: u64) -> ExecutionId {
        id(number).data().into()
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
        for number in 0..100_000 {
            let waits = |call: ExchangeId| u64::from(call.data().as_ffi() as u32) + 10 >= number;
            process.remember_call(thread(number), id(number), waits);
        }
        assert!(process.worker_calls.len() <= 2 * WORKERS_BEFORE_SWEEP);
        assert_eq!(process.take_calls(thread(99_999)), [id(99_999)]);
    }

    #[test]
    fn a_thread_that_only_calls_has_a_bounded_number_of_calls() {
        let mut process = Process::default();
        let forgotten = (0..5_000)
            .filter_map(|number| {
                process.remember_call(thread(1), id(number), |call| {
                    (call.data().as_ffi() as u32).is_multiple_of(2)
                })
            })
            .count();
        // Half of those beyond the bound had left.
        assert_eq!(forgotten, (5_000 - CALLS) / 2);
        assert_eq!(process.take_calls(thread(1)).len(), CALLS);
    }
}
