//! Decides parents, and spreads what is decided.

use std::collections::VecDeque;

use super::{
    Causality, Named, Node, NodeId, Parent, Serving, Trace,
    threads::{Deferred, Process},
};
use crate::engine::trace::{ParentMethod, traceparent::TraceContext};

impl Causality {
    /// The request is answered, or will not be: whose are its thread's calls? `lost`: it gives no span, so they are
    /// nobody's.
    pub(super) fn answered(&mut self, id: NodeId, lost: bool) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.serving.closed {
            return;
        }
        node.serving.closed = true;
        let Serving {
            shared_thread,
            queued,
            life,
            received_by,
            writer,
            several_writers,
            ..
        } = node.serving;
        let calls = std::mem::take(&mut node.serving.calls);
        let (tgid, thread, context, start_ns) = (node.tgid, node.thread, node.context, node.start_ns);
        let process = self.process(tgid);
        if process.life == life {
            process.end(thread, id);
        }
        if let Some(context) = context
            && process.life == received_by
        {
            process.forget_received((context.trace_id, context.parent_id), id);
        }
        let passes = match writer {
            // Without a response, nobody has shown who works for it.
            None => process.always_kept_the_rule() && !shared_thread,
            Some(writer) => {
                let same = writer.execution.tid == thread && !several_writers;
                if !same {
                    process.breaks_the_rule(writer.time_ns);
                }
                let alone = same && !shared_thread && !queued;
                if alone {
                    process.keeps_the_rule();
                }
                alone && process.is_trusted(writer.time_ns)
            }
        };
        let worked = match writer {
            Some(writer) if process.has_workers() && !several_writers => process.take_calls(writer.execution.tid),
            _ => VecDeque::new(),
        };
        let known = process.is_known();
        if lost {
            for &call in &calls {
                if let Some(call) = self.nodes.get_mut(call) {
                    call.named = Named::default();
                }
            }
        }
        // Its spans wait for what it is, and so do its calls.
        if !known && !calls.is_empty() {
            return self.process(tgid).defer(Deferred {
                request: id,
                calls,
                passes,
            });
        }
        for call in calls {
            self.settle_call(call, id, passes);
        }
        // A worker serves one request at a time: what it called since it wrote a response last, and since this request
        // was read, is this one's.
        for call in worked {
            let since = self.nodes.get(call).is_some_and(|call| call.start_ns >= start_ns);
            let parent = if since && !lost {
                Parent::Local(id, ParentMethod::Family)
            } else {
                Parent::Root
            };
            self.decide(call, parent);
        }
    }

    /// Decides a call whose candidate is decided. `passes`: its thread served that request alone.
    pub(super) fn settle_call(&mut self, call: NodeId, request: NodeId, passes: bool) {
        let Some(node) = self.nodes.get(call) else { return };
        let Parent::Candidate(candidate, method) = node.parent else {
            return;
        };
        if candidate != request {
            return;
        }
        let nginx = self.processes.get(&node.tgid).is_some_and(Process::is_nginx);
        let passes = if nginx {
            // It was not known to be nginx when the call was made.
            node.named.by_turn == Some(request)
        } else {
            passes && node.named.by_thread == Some(request)
        };
        let parent = if passes {
            Parent::Local(request, method)
        } else {
            self.counters.calls_not_certain += 1;
            without_candidate(node.context, node.forwarded)
        };
        self.decide(call, parent);
    }

    pub(super) fn set_parent(&mut self, id: NodeId, parent: Parent) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.parent = parent;
        }
    }

    /// The parent is this.
    pub(super) fn decide(&mut self, id: NodeId, parent: Parent) {
        let trace = match parent {
            Parent::Local(above, method) => match self.nodes.get_mut(above) {
                Some(above_node) if above_node.ignored => {
                    self.set_parent(id, Parent::Root);
                    Some(self.new_trace())
                }
                Some(above_node) => match above_node.trace.clone() {
                    Some(trace) => {
                        let span = above_node.span_id;
                        self.set_parent(id, Parent::Span(span, method));
                        Some(trace)
                    }
                    None => {
                        let heirs = std::mem::take(&mut above_node.heirs);
                        self.add_heir(above, heirs, id);
                        self.set_parent(id, parent);
                        None
                    }
                },
                // It has left, and nobody kept its id: as good as unknown.
                None => {
                    self.set_parent(id, Parent::Root);
                    Some(self.new_trace())
                }
            },
            Parent::Remote(context) => {
                self.set_parent(id, parent);
                let state = self.nodes.get(id).and_then(|node| node.trace_state.clone());
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

    /// Adds one to those whose trace is that of the exchange `above`. Those that have left are passed over whenever the
    /// list is full, so that a request that lasts for hours keeps only those that wait.
    fn add_heir(&mut self, above: NodeId, mut heirs: Vec<NodeId>, heir: NodeId) {
        if heirs.len() == heirs.capacity() {
            heirs.retain(|&heir| self.nodes.contains_key(heir));
            // Half of it stays free: each heir is looked at once or twice.
            heirs.reserve(heirs.len().max(1));
        }
        heirs.push(heir);
        if let Some(above) = self.nodes.get_mut(above) {
            above.heirs = heirs;
        }
    }

    fn new_trace(&mut self) -> Trace {
        Trace {
            id: self.ids.trace(),
            caller_flags: None,
            state: None,
        }
    }

    /// The trace of an exchange is known, and so is that of all that wait for it.
    pub(super) fn spread(&mut self, id: NodeId, trace: Trace) {
        let mut known = vec![id];
        while let Some(id) = known.pop() {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            if node.trace.is_some() {
                continue;
            }
            node.trace = Some(trace.clone());
            let span = node.span_id;
            let heirs = std::mem::take(&mut node.heirs);
            for &heir in &heirs {
                if let Some(heir) = self.nodes.get_mut(heir)
                    && let Parent::Local(above, method) = heir.parent
                    && above == id
                {
                    heir.parent = Parent::Span(span, method);
                }
            }
            known.extend(heirs);
            self.offer(id);
        }
    }

    /// Decides with what is known now.
    pub(super) fn force(&mut self, mut id: NodeId) {
        // Records that contradict each other can make a circle of waits: then the last one looked at is a root.
        for _ in 0..=self.nodes.len() {
            let Some(node) = self.nodes.get(id) else { return };
            if node.trace.is_some() {
                return;
            }
            match node.parent {
                Parent::Local(above, _) if self.nodes.contains_key(above) => id = above,
                Parent::Candidate(request, _) => {
                    let passes = self.nodes.get(request).is_some_and(|request| {
                        !request.serving.shared_thread
                            && self
                                .processes
                                .get(&request.tgid)
                                .is_some_and(Process::always_kept_the_rule)
                    });
                    self.settle_call(id, request, passes);
                }
                _ => {
                    let parent = node.context.map_or(Parent::Root, Parent::Remote);
                    return self.decide(id, parent);
                }
            }
        }
        self.decide(id, Parent::Root);
    }

    /// An exchange gave no span: what would have been its child has no parent.
    pub(super) fn orphan(&mut self, lost: &Node, lost_id: NodeId) {
        for &heir in &lost.heirs {
            let Some(node) = self.nodes.get(heir) else { continue };
            if matches!(node.parent, Parent::Local(above, _) if above == lost_id) {
                self.decide(heir, node.context.map_or(Parent::Root, Parent::Remote));
            }
        }
        // A request whose caller's end is lost keeps its trace: others may have left in it.
        if let Some(other) = lost.partner.and_then(|partner| self.nodes.get_mut(partner))
            && other.parent == Parent::Span(lost.span_id, ParentMethod::SameHost)
        {
            let trace = other.trace.as_ref().map(|trace| trace.id);
            let sender = other.context.filter(|context| Some(context.trace_id) == trace);
            other.parent = sender.map_or(Parent::Root, Parent::Remote);
        }
    }
}

/// A call without a candidate is a root, but for one: it carries a `traceparent` that several open requests came with.
/// Which of them it belongs to is open, the trace and the caller are not.
pub(super) fn without_candidate(context: Option<TraceContext>, forwarded: bool) -> Parent {
    match context {
        Some(context) if forwarded => Parent::Remote(context),
        _ => Parent::Root,
    }
}

/// Returns whether a call repeats a request, as a proxy passes it on.
pub(super) fn is_passed_on(request: &Node, call: &Node) -> bool {
    let Some(request) = &request.call else { return false };
    // A connect that failed has no request yet.
    call.call.as_ref().is_none_or(|call| call.passes_on(request))
}
