//! Which requests a thread has open, and whether the thread rule holds in its process.

use std::collections::HashMap;

use super::NodeId;
use crate::{
    process::Runtime,
    trace::{SpanId, TraceId},
};

/// For so long after a process broke the thread rule it is not believed in it again.
const DISTRUST_NS: u64 = 60_000_000_000;

/// What a process has shown.
#[derive(Debug, Default)]
pub struct Process {
    runtime: Option<Runtime>,
    threads: HashMap<u32, Thread>,
    distrusted_until_ns: u64,
    broke_the_rule: bool,
    kept_the_rule: bool,
    /// Open requests by the `traceparent` that they came with.
    received: HashMap<(TraceId, SpanId), Vec<NodeId>>,
}

/// A thread.
#[derive(Debug, Default)]
struct Thread {
    /// Requests that it read and that are not answered.
    open: Vec<NodeId>,
    /// The request whose head it read last.
    last: Option<NodeId>,
    /// Calls that it made since it wrote a response last, where that decides.
    calls: Vec<NodeId>,
}

/// Most calls of a thread that are remembered. One that makes more without a response serves nobody.
const CALLS: usize = 4096;

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

    /// A thread made a call. Returns one that is forgotten for it.
    pub fn remember_call(&mut self, thread: u32, call: NodeId) -> Option<NodeId> {
        let calls = &mut self.threads.entry(thread).or_default().calls;
        let forgotten = (calls.len() >= CALLS).then(|| calls.remove(0));
        calls.push(call);
        forgotten
    }

    /// The calls that a thread made since it wrote a response last.
    pub fn take_calls(&mut self, thread: u32) -> Vec<NodeId> {
        self.threads
            .get_mut(&thread)
            .map(|thread| std::mem::take(&mut thread.calls))
            .unwrap_or_default()
    }

    /// Whether a thread may stand for a request. Not where the runtime is known to run many requests on one thread.
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
        self.distrusted_until_ns = now_ns.saturating_add(DISTRUST_NS);
    }

    /// A thread has a request from now on. Returns the others that it has.
    pub fn begin(&mut self, thread: u32, request: NodeId) -> Vec<NodeId> {
        let thread = self.threads.entry(thread).or_default();
        let others = thread.open.clone();
        thread.open.push(request);
        thread.last = Some(request);
        others
    }

    /// A request is answered, or lost.
    pub fn end(&mut self, thread: u32, request: NodeId) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.open.retain(|&open| open != request);
        }
    }

    /// The one request that a thread has open.
    pub fn only_open(&self, thread: u32) -> Option<NodeId> {
        match self.threads.get(&thread)?.open.as_slice() {
            &[request] => Some(request),
            _ => None,
        }
    }

    /// The request whose head a thread read last, answered or not.
    pub fn last_read(&self, thread: u32) -> Option<NodeId> {
        self.threads.get(&thread)?.last
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
