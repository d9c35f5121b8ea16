//! Which call was made for which request: who is a span's parent, and in which trace it is.
//!
//! Nothing here guesses. A call is a request's child when the thread that read the request made it, held no other
//! request, and wrote the response itself, in a process where lately no response came from another thread; when nginx
//! made it in the turn that read a request of the same method and target; or when it carries the `traceparent` that one
//! open request alone came with. A request is the child of the call at the other end of its own connection, or of the
//! span that its `traceparent` names. Everything else is a root. Identities of runtimes, hand-overs between threads and
//! inference have their place beside [`threads`].

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod node;
#[cfg(test)]
mod tests;
mod threads;

pub use node::{Node, Parent, Serving, Trace};

use std::collections::{HashMap, VecDeque};

use slotmap::SlotMap;

use crate::{
    event::Stamp,
    process::Runtime,
    trace::{Ids, ParentMethod, SpanKind, traceparent::TraceContext},
};
use threads::Process;

slotmap::new_key_type! {
    /// Names an exchange at one end; never used twice.
    pub struct NodeId;
}

/// What could not be decided well, as counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that may have been made for a request whose process did not pass the gate: roots.
    pub calls_not_certain: u64,
    /// Spans that left undecided because they were held for as long as is allowed.
    pub held_too_long: u64,
    /// Spans that left undecided because too many were held.
    pub held_too_many: u64,
    /// Exchanges of traces that the caller did not sample.
    pub not_sampled: u64,
}

/// The exchanges under way and what decides about them.
#[derive(Debug)]
pub struct Causality {
    nodes: SlotMap<NodeId, Node>,
    processes: HashMap<u32, Process>,
    ids: Ids,
    /// Those that are over and have not left, by when they must.
    waiting: VecDeque<(u64, NodeId)>,
    ready: Vec<NodeId>,
    hold_ns: u64,
    hold_most: usize,
    /// What could not be decided well.
    pub counters: Counters,
}

impl Causality {
    /// Holds what is over for at most `hold_ns`, and at most `hold_most` exchanges.
    pub fn new(seed: u64, hold_ns: u64, hold_most: usize) -> Self {
        Self {
            nodes: SlotMap::with_key(),
            processes: HashMap::new(),
            ids: Ids::new(seed),
            waiting: VecDeque::new(),
            ready: Vec::new(),
            hold_ns,
            hold_most,
            counters: Counters::default(),
        }
    }

    /// An exchange.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// An exchange, to be changed in what decides nothing.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// How many exchanges have not left.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether all have left.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A process is of this kind.
    pub fn set_runtime(&mut self, tgid: u32, runtime: Runtime) {
        self.processes.entry(tgid).or_default().set_runtime(runtime);
    }

    /// A process has ended.
    pub fn forget_process(&mut self, tgid: u32) {
        self.processes.remove(&tgid);
    }

    /// A process is not selected: what it did gives no span.
    pub fn lose_process(&mut self, tgid: u32) {
        let mut lost: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.tgid == tgid)
            .map(|(id, _)| id)
            .collect();
        lost.sort_unstable();
        for id in lost {
            self.lose(id);
        }
        self.forget_process(tgid);
    }

    /// A request was read whole up to its head's end. `queued`: earlier ones on its connection are not answered.
    pub fn request(&mut self, node: Node, queued: bool, now_ns: u64) -> NodeId {
        let (tgid, context) = (node.tgid, node.context);
        let id = self.nodes.insert(node);
        if let Some(context) = context {
            self.processes
                .entry(tgid)
                .or_default()
                .receive((context.trace_id, context.parent_id), id);
        }
        if queued {
            if let Some(node) = self.nodes.get_mut(id) {
                node.serving.queued = true;
            }
        } else {
            self.begin(id, now_ns);
        }
        id
    }

    /// A request is open from now on: the earlier ones on its connection are answered.
    pub fn begin(&mut self, id: NodeId, now_ns: u64) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.serving.queued = false;
        let (tgid, thread) = (node.tgid, node.thread);
        let process = self.processes.entry(tgid).or_default();
        let others = process.begin(thread, id);
        if others.is_empty() {
            return;
        }
        process.breaks_the_rule(now_ns);
        for shared in others.into_iter().chain([id]) {
            if let Some(node) = self.nodes.get_mut(shared) {
                node.serving.shared_thread = true;
            }
        }
    }

    /// The request that a thread's connect is made for, as far as it can be told now.
    pub fn opener(&self, tgid: u32, thread: u32) -> Option<NodeId> {
        let process = self.processes.get(&tgid)?;
        if process.is_nginx() {
            process.last_read(thread)
        } else {
            process.only_open(thread)
        }
    }

    /// A call was sent, or a connect failed. `opener`: the request that its connection was opened for, if this is the
    /// first on it.
    pub fn call(&mut self, mut node: Node, opener: Option<NodeId>) -> NodeId {
        let (tgid, thread) = (node.tgid, node.thread);
        let process = self.processes.entry(tgid).or_default();
        let received = node.context.map_or(&[][..], |context| {
            process.received((context.trace_id, context.parent_id))
        });
        node.forwarded = !received.is_empty();
        let only = match received {
            &[request] => Some(request),
            _ => None,
        };
        let workers = process.has_workers();
        let candidate = match opener {
            Some(request) => Some((request, ParentMethod::Opener)),
            None if process.is_nginx() => process.last_read(thread).map(|request| (request, ParentMethod::Thread)),
            None => process.only_open(thread).map(|request| (request, ParentMethod::Thread)),
        };
        let nginx = process.is_nginx();
        let candidate = candidate.filter(|&(request, _)| {
            self.nodes
                .get(request)
                .is_some_and(|request| !request.serving.closed && (!nginx || is_passed_on(request, &node)))
        });
        let context = node.context;
        let forwarded = node.forwarded;
        let id = self.nodes.insert(node);
        match (candidate, only) {
            // Rules that are certain at once.
            (Some((request, method)), _) if nginx => self.decide(id, Parent::Local(request, method)),
            (_, Some(request)) => self.decide(id, Parent::Local(request, ParentMethod::Content)),
            // Decided when its thread writes a response.
            _ if workers => {
                let forgotten = self.processes.entry(tgid).or_default().remember_call(thread, id);
                if let Some(forgotten) = forgotten {
                    self.force(forgotten);
                }
            }
            (Some((request, method)), None) => {
                self.set_parent(id, Parent::Candidate(request, method));
                if let Some(request) = self.nodes.get_mut(request) {
                    request.serving.calls.push(id);
                }
            }
            (None, None) => self.decide(id, without_candidate(context, forwarded)),
        }
        id
    }

    /// A byte of a response was written.
    pub fn response(&mut self, id: NodeId, writer: Stamp) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        match node.serving.writer {
            None => node.serving.writer = Some(writer),
            Some(first) if first.execution != writer.execution => node.serving.several_writers = true,
            Some(_) => {}
        }
    }

    /// The two ends of one exchange are found.
    pub fn join(&mut self, client: NodeId, server: NodeId) {
        let Some(call) = self.nodes.get_mut(client) else { return };
        call.partner = Some(server);
        let forwarded = call.forwarded;
        let Some(node) = self.nodes.get_mut(server) else { return };
        node.partner = Some(client);
        if node.is_decided() {
            return;
        }
        match node.context {
            Some(context) if !forwarded => self.decide(server, Parent::Remote(context)),
            _ => self.decide(server, Parent::Local(client, ParentMethod::SameHost)),
        }
    }

    /// Nobody at the other end of a request's connection is traced: its parent is what its header says, or none.
    pub fn no_partner(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.kind == SpanKind::Server && node.parent == Parent::Open {
            self.decide(id, node.context.map_or(Parent::Root, Parent::Remote));
        }
    }

    /// An exchange is over.
    pub fn finish(&mut self, id: NodeId, end_ns: u64) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.end_ns.is_some() {
            return;
        }
        node.end_ns = Some(end_ns.max(node.start_ns));
        if node.kind == SpanKind::Server {
            self.answered(id, end_ns);
        }
        self.settle(id);
        self.offer(id);
        if !self.is_ready(id) {
            self.hold(id, end_ns);
        }
    }

    fn hold(&mut self, id: NodeId, since_ns: u64) {
        self.waiting.push_back((since_ns.saturating_add(self.hold_ns), id));
        while let Some(&(_, oldest)) = self.waiting.front() {
            let left = self
                .nodes
                .get(oldest)
                .is_none_or(|node| node.settled && node.trace.is_some());
            if !left && self.waiting.len() <= self.hold_most {
                break;
            }
            self.waiting.pop_front();
            if !left {
                self.counters.held_too_many += 1;
                self.release(oldest);
            }
        }
    }

    /// An exchange cannot be followed any more: it gives no span.
    pub fn lose(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.kind == SpanKind::Server {
            self.answered(id, u64::MAX);
        }
        self.force(id);
        if let Some(node) = self.nodes.remove(id) {
            self.part(&node);
        }
    }

    /// The request is answered, or will not be: whose are its thread's calls?
    fn answered(&mut self, id: NodeId, now_ns: u64) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.serving.closed {
            return;
        }
        node.serving.closed = true;
        let Serving {
            shared_thread,
            queued,
            writer,
            several_writers,
            ..
        } = node.serving;
        let calls = std::mem::take(&mut node.serving.calls);
        let (tgid, thread, context, start_ns) = (node.tgid, node.thread, node.context, node.start_ns);
        let process = self.processes.entry(tgid).or_default();
        process.end(thread, id);
        if let Some(context) = context {
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
                alone && process.is_trusted(now_ns.min(writer.time_ns))
            }
        };
        let worked = match writer {
            Some(writer) if process.has_workers() && !several_writers => process.take_calls(writer.execution.tid),
            _ => Vec::new(),
        };
        for call in calls {
            self.settle_call(call, id, passes);
        }
        for call in worked {
            let since = self.nodes.get(call).is_some_and(|call| call.start_ns >= start_ns);
            let parent = if since {
                Parent::Local(id, ParentMethod::Family)
            } else {
                Parent::Root
            };
            self.decide(call, parent);
        }
    }

    /// Decides a call whose candidate is decided.
    fn settle_call(&mut self, call: NodeId, request: NodeId, passes: bool) {
        let Some(node) = self.nodes.get(call) else { return };
        let Parent::Candidate(candidate, method) = node.parent else {
            return;
        };
        if candidate != request {
            return;
        }
        let parent = if passes {
            Parent::Local(request, method)
        } else {
            self.counters.calls_not_certain += 1;
            without_candidate(node.context, node.forwarded)
        };
        self.decide(call, parent);
    }

    fn set_parent(&mut self, id: NodeId, parent: Parent) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.parent = parent;
        }
    }

    /// The parent is this.
    fn decide(&mut self, id: NodeId, parent: Parent) {
        let trace = match parent {
            Parent::Local(above, method) => match self.nodes.get_mut(above) {
                Some(above_node) => match above_node.trace.clone() {
                    Some(trace) => {
                        let span = above_node.span_id;
                        self.set_parent(id, Parent::Span(span, method));
                        Some(trace)
                    }
                    None => {
                        above_node.heirs.push(id);
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
                    flags: context.flags,
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

    fn new_trace(&mut self) -> Trace {
        Trace {
            id: self.ids.trace(),
            flags: 1,
            state: None,
        }
    }

    /// The trace of an exchange is known, and so is that of all that wait for it.
    fn spread(&mut self, id: NodeId, trace: Trace) {
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

    /// Puts the four times of an exchange in order, once both of its ends are over: client start ≤ server start ≤
    /// server end ≤ client end. Each is the exit of a system call; the bytes moved before it.
    fn settle(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        let Some(partner_id) = node.partner else {
            if let Some(node) = self.nodes.get_mut(id) {
                node.settled = true;
            }
            return;
        };
        let (client, server) = if node.kind == SpanKind::Client {
            (id, partner_id)
        } else {
            (partner_id, id)
        };
        let Some([client_node, server_node]) = self.nodes.get_disjoint_mut([client, server]) else {
            return;
        };
        let (Some(client_end), Some(server_end)) = (client_node.end_ns, server_node.end_ns) else {
            return;
        };
        client_node.start_is_write_exit = false;
        client_node.start_ns = client_node.start_ns.min(server_node.start_ns);
        // A client that gave up ended before its server did: both are right.
        if client_node.failure.is_none() {
            let end = server_end.min(client_end);
            server_node.end_ns = Some(end.max(server_node.start_ns));
            client_node.end_ns = Some(client_end.max(server_node.start_ns));
        }
        client_node.settled = true;
        server_node.settled = true;
        self.offer(partner_id);
    }

    fn is_ready(&self, id: NodeId) -> bool {
        self.nodes
            .get(id)
            .is_some_and(|node| node.end_ns.is_some() && node.trace.is_some() && node.settled)
    }

    fn offer(&mut self, id: NodeId) {
        if self.is_ready(id) {
            self.ready.push(id);
        }
    }

    /// Decides with what is known now.
    fn force(&mut self, mut id: NodeId) {
        loop {
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
                    if !passes {
                        return;
                    }
                }
                _ => {
                    let parent = node.context.map_or(Parent::Root, Parent::Remote);
                    return self.decide(id, parent);
                }
            }
        }
    }

    /// Lets an exchange go whatever is open.
    fn release(&mut self, id: NodeId) {
        self.force(id);
        let Some(node) = self.nodes.get_mut(id) else { return };
        // What waits above may itself be undecided for a cycle of waits: a root, then.
        node.settled = true;
        if node.trace.is_none() {
            self.decide(id, Parent::Root);
        }
        self.offer(id);
    }

    /// Time passes: what was held for too long leaves.
    pub fn tick(&mut self, now_ns: u64) {
        while let Some(&(until, id)) = self.waiting.front() {
            let left = self
                .nodes
                .get(id)
                .is_none_or(|node| node.settled && node.trace.is_some());
            if !left && until > now_ns {
                break;
            }
            self.waiting.pop_front();
            if !left {
                self.counters.held_too_long += 1;
                self.release(id);
            }
        }
    }

    /// When [`Causality::tick`] has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting.front().map(|&(until, _)| until)
    }

    /// Whether some are ready to leave and were not taken.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes those that are ready to leave, as long as `may_leave` lets them.
    pub fn take_ready(&mut self, mut may_leave: impl FnMut(&Node) -> bool) -> Vec<Node> {
        let mut kept = Vec::new();
        let mut taken = Vec::new();
        for id in std::mem::take(&mut self.ready) {
            let Some(node) = self.nodes.get(id) else { continue };
            if !may_leave(node) {
                kept.push(id);
                continue;
            }
            if let Some(node) = self.nodes.remove(id) {
                self.part(&node);
                taken.push(node);
            }
        }
        self.ready = kept;
        taken
    }

    /// An exchange has left: its other end waits for it no more.
    fn part(&mut self, node: &Node) {
        if let Some(partner) = node.partner
            && let Some(other) = self.nodes.get_mut(partner)
        {
            other.partner = None;
            if other.end_ns.is_some() && !other.settled {
                other.settled = true;
                self.offer(partner);
            }
        }
    }

    /// The id generator.
    pub fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }
}

/// A call without a candidate is a root, but for one: it carries a `traceparent` that several open requests came with.
/// Which of them it belongs to is open, the trace and the caller are not.
fn without_candidate(context: Option<TraceContext>, forwarded: bool) -> Parent {
    match context {
        Some(context) if forwarded => Parent::Remote(context),
        _ => Parent::Root,
    }
}

/// Whether a call's method and target are a request's, passed on by a proxy: the same, or without a prefix.
fn is_passed_on(request: &Node, call: &Node) -> bool {
    let Some(request) = &request.request else { return false };
    // A connect that failed has no request yet.
    let Some(call) = &call.request else { return true };
    let shortest = 2;
    request.method == call.method
        && (request.target == call.target
            || call.target.len() >= shortest
                && (request.target.ends_with(&call.target) || call.target.ends_with(&request.target)))
}
