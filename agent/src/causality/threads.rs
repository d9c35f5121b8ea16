//! Which requests a thread has open, and whether the thread rule holds in its process.

use std::collections::HashMap;

use slotmap::{Key, KeyData};

use super::NodeId;
use crate::{
    hash::FastMap,
    process::Runtime,
    trace::{SpanId, TraceId},
};

/// For so long after a process broke the thread rule it is not believed in it again.
const DISTRUST_NS: u64 = 60_000_000_000;

/// What a process has shown.
#[derive(Debug, Default)]
pub struct Process {
    /// Tells two programs of one process id apart. 0: not given yet.
    pub life: u32,
    /// It had an exchange.
    pub active: bool,
    runtime: Option<Runtime>,
    threads: FastMap<u32, Thread>,
    distrusted_until_ns: u64,
    broke_the_rule: bool,
    kept_the_rule: bool,
    /// Decided but for the kind of program.
    deferred: Vec<Deferred>,
    /// Calls of each thread since it wrote a response last, where that decides.
    worker_calls: FastMap<u32, Vec<NodeId>>,
    /// Open requests by the `traceparent` that they came with. The keys come from outside: not for a fast hash.
    received: HashMap<(TraceId, SpanId), Vec<NodeId>>,
}

/// Most calls of a thread that are remembered. One that makes more without a response serves nobody.
const CALLS: usize = 1024;

/// The calls that may be a request's, which is answered.
#[derive(Debug)]
pub struct Deferred {
    /// The request.
    pub request: NodeId,
    /// Its thread's calls.
    pub calls: Vec<NodeId>,
    /// Whether it passed the gate.
    pub passes: bool,
}

/// A thread that has open requests.
#[derive(Debug, Default)]
struct Thread {
    /// How many requests it read that are not answered: thousands in an event loop.
    open: u32,
    /// All of these, added without carry: if there is one, this is it.
    together: u64,
    /// The request of which it read last.
    last: Option<NodeId>,
}

impl Thread {
    fn only_open(&self) -> Option<NodeId> {
        (self.open == 1).then(|| KeyData::from_ffi(self.together).into())
    }
}

/// Which requests a thread had open when one more came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// None.
    None,
    /// This one, which had the thread for itself until now.
    One(NodeId),
    /// Several, which shared it already.
    Several,
}

impl Process {
    /// Takes what kind of program it is.
    pub fn set_runtime(&mut self, runtime: Runtime) {
        self.runtime = Some(runtime);
    }

    /// Whether it is nginx, whose one loop is proved to make the call in the turn that read the request.
    pub fn is_nginx(&self) -> bool {
        self.runtime == Some(Runtime::Nginx)
    }

    /// Whether a worker thread is known to serve one request at a time, although another thread may have read it.
    pub fn has_workers(&self) -> bool {
        self.runtime == Some(Runtime::Puma)
    }

    /// A worker made a call. Returns one that is forgotten for it.
    pub fn remember_call(&mut self, thread: u32, call: NodeId) -> Option<NodeId> {
        let calls = self.worker_calls.entry(thread).or_default();
        let forgotten = (calls.len() >= CALLS).then(|| calls.remove(0));
        calls.push(call);
        forgotten
    }

    /// The calls that a worker made since it wrote a response last.
    pub fn take_calls(&mut self, thread: u32) -> Vec<NodeId> {
        self.worker_calls.remove(&thread).unwrap_or_default()
    }

    /// Whether it is known what kind of program it is.
    pub fn is_known(&self) -> bool {
        self.runtime.is_some()
    }

    /// Calls that wait for what kind of program it is.
    pub fn defer(&mut self, deferred: Deferred) {
        self.deferred.push(deferred);
    }

    /// Those that waited.
    pub fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }

    /// Whether a thread may stand for a request, as far as is known. Not where the runtime is known to run many requests on one thread.
    pub fn may_use_threads(&self) -> bool {
        !matches!(
            self.runtime,
            Some(Runtime::Go | Runtime::Node | Runtime::Beam | Runtime::Loop | Runtime::Nginx | Runtime::Puma)
        )
    }

    /// Whether the gate is open: the rule was not broken lately.
    pub fn is_trusted(&self, now_ns: u64) -> bool {
        self.may_use_threads() && now_ns >= self.distrusted_until_ns
    }

    /// Whether it has kept the rule ever since it was seen, and at least once.
    pub fn always_kept_the_rule(&self) -> bool {
        self.may_use_threads() && self.kept_the_rule && !self.broke_the_rule
    }

    /// A request was answered by the thread that read it, which held no other.
    pub fn keeps_the_rule(&mut self) {
        self.kept_the_rule = true;
    }

    /// A response came from another thread than the one that read the request, or a thread holds several.
    pub fn breaks_the_rule(&mut self, now_ns: u64) {
        self.broke_the_rule = true;
        self.distrusted_until_ns = self.distrusted_until_ns.max(now_ns.saturating_add(DISTRUST_NS));
    }

    /// A thread has a request from now on. [`Process::end`] is to be called for it once.
    pub fn begin(&mut self, thread: u32, request: NodeId) -> Others {
        let thread = self.threads.entry(thread).or_default();
        let others = match (thread.open, thread.only_open()) {
            (0, _) => Others::None,
            (_, Some(one)) => Others::One(one),
            _ => Others::Several,
        };
        thread.open += 1;
        thread.together ^= request.data().as_ffi();
        thread.last = Some(request);
        others
    }

    /// A request that began is answered, or lost. A thread without any is forgotten: threads come and go unseen.
    pub fn end(&mut self, thread: u32, request: NodeId) {
        if let Some(known) = self.threads.get_mut(&thread) {
            known.open = known.open.saturating_sub(1);
            known.together ^= request.data().as_ffi();
            if known.open == 0 {
                self.threads.remove(&thread);
            }
        }
    }

    /// A thread read more of a request.
    pub fn reads(&mut self, thread: u32, request: NodeId) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.last = Some(request);
        }
    }

    /// A thread read what may be a request, and which is not known: the one that it read last is none that is known.
    pub fn reads_unknown(&mut self, thread: u32) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.last = None;
        }
    }

    /// The one request that a thread has open.
    pub fn only_open(&self, thread: u32) -> Option<NodeId> {
        self.threads.get(&thread)?.only_open()
    }

    /// The request of which a thread read last, if it has any open.
    pub fn last_read(&self, thread: u32) -> Option<NodeId> {
        self.threads.get(&thread)?.last
    }

    /// Threads that have open requests.
    #[cfg(test)]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// A request came with this `traceparent`.
    pub fn receive(&mut self, context: (TraceId, SpanId), request: NodeId) {
        self.received.entry(context).or_default().push(request);
    }

    /// It is answered, or lost.
    pub fn forget_received(&mut self, context: (TraceId, SpanId), request: NodeId) {
        if let Some(requests) = self.received.get_mut(&context) {
            requests.retain(|&known| known != request);
            if requests.is_empty() {
                self.received.remove(&context);
            }
        }
    }

    /// The open requests that came with this `traceparent`.
    pub fn received(&self, context: (TraceId, SpanId)) -> &[NodeId] {
        self.received.get(&context).map_or(&[], Vec::as_slice)
    }
}
