//! Which call was made for which request: who is a span's parent, and in which trace it is.
//!
//! Nothing here guesses. A call is a request's child when the thread that read the request made it, held no other
//! request, and wrote the response itself, in a process where lately no response came from another thread; when nginx
//! made it in the turn that read a request of the same method and target; or when it carries the `traceparent` that one
//! open request alone came with. A call with a `traceparent` that its process did not receive is the child of the span
//! that this names. A request is the child of the call at the other end of its own connection, or of the
//! span that its `traceparent` names. Everything else is a root. Identities of runtimes, hand-overs between threads and
//! inference have their place beside the rules of threads.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod decide;
mod departed;
mod hold;
mod node;
mod threads;

pub use node::{Node, Parent, Serving, Trace};

use std::collections::VecDeque;

use slotmap::SlotMap;

use crate::{
    engine::trace::{Ids, ParentMethod, SpanKind},
    hash::FastMap,
    record::Stamp,
    runtimes::Runtime,
};
use departed::Departed;
pub use threads::Named;
use threads::{Deferred, Open, Process};

slotmap::new_key_type! {
    /// Names an exchange at one end; never used twice.
    pub struct NodeId;
}

/// What could not be decided well, as counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that may have been made for a request whose process did not pass the gate: roots.
    pub calls_not_certain: u64,
    /// Calls of worker threads that made more than are remembered, and served nobody meanwhile: roots.
    pub calls_forgotten: u64,
    /// Spans that left undecided because they were held for as long as is allowed.
    pub held_too_long: u64,
    /// Spans that left undecided because too many were held.
    pub held_too_many: u64,
    /// Exchanges that gave no span because too many waited for what their process is.
    pub unknown_too_many: u64,
    /// Calls that were given up, and whose servers find them no more because there were too many.
    pub given_up_too_many: u64,
}

/// The exchanges under way and what decides about them.
#[derive(Debug)]
pub struct Causality {
    nodes: SlotMap<NodeId, Node>,
    processes: FastMap<u32, Process>,
    /// Programs that were seen.
    lives: u32,
    ids: Ids,
    /// Those that are over and have not left, by when they must.
    waiting: VecDeque<(u64, NodeId)>,
    /// How many are over and undecided.
    held: usize,
    ready: Vec<NodeId>,
    departed: Departed,
    hold_ns: u64,
    hold_most: usize,
    /// What could not be decided well.
    pub counters: Counters,
}

impl Causality {
    /// Holds what is over for at most `hold_ns`, and at most `hold_most` exchanges.
    pub fn new(seed: u128, hold_ns: u64, hold_most: usize) -> Self {
        Self {
            nodes: SlotMap::with_key(),
            processes: FastMap::default(),
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
        let process = self.processes.entry(tgid).or_default();
        process.set_runtime(runtime);
        let threads = process.may_use_threads();
        for Deferred { request, calls, passes } in process.take_deferred() {
            for call in calls {
                self.settle_call(call, request, passes && threads);
            }
        }
    }

    /// A process has ended.
    pub fn forget_process(&mut self, tgid: u32) {
        let Some(mut process) = self.processes.remove(&tgid) else {
            return;
        };
        for Deferred { request, calls, .. } in process.take_deferred() {
            for call in calls {
                self.settle_call(call, request, false);
            }
        }
    }

    /// A process is not selected: what it did gives no span. Returns how many exchanges that were.
    pub fn lose_process(&mut self, tgid: u32) -> usize {
        let before = self.nodes.len();
        // Most are not: compilers and shells, which never said a word.
        if self.processes.get(&tgid).is_some_and(|process| process.active) {
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
        }
        self.forget_process(tgid);
        before - self.nodes.len()
    }

    fn process(&mut self, tgid: u32) -> &mut Process {
        let process = self.processes.entry(tgid).or_default();
        if !process.active {
            process.active = true;
            self.lives = self.lives.wrapping_add(1).max(1);
            process.life = self.lives;
        }
        process
    }

    /// A request was read whole up to its head's end. `queued`: earlier ones on its connection are not answered.
    pub fn request(&mut self, node: Node, queued: bool, now_ns: u64) -> NodeId {
        let (tgid, context) = (node.tgid, node.context);
        let id = self.nodes.insert(node);
        let process = self.process(tgid);
        let life = process.life;
        if let Some(context) = context {
            process.receive((context.trace_id, context.parent_id), id);
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.serving.received_by = life;
            node.serving.queued = queued;
        }
        if !queued {
            self.begin(id, now_ns);
        }
        id
    }

    /// A request is open from now on: the earlier ones on its connection are answered.
    pub fn begin(&mut self, id: NodeId, now_ns: u64) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.serving.queued = false;
        if node.serving.life != 0 || node.serving.closed {
            return;
        }
        let (tgid, thread, late) = (node.tgid, node.thread, node.late);
        let process = self.process(tgid);
        let (life, others) = (process.life, process.begin(thread, id));
        if late {
            process.reads_unknown(thread);
        }
        if others.is_some() {
            process.breaks_the_rule(now_ns);
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.serving.life = life;
            node.serving.shared_thread = others.is_some();
        }
        if let Some(Open::One(other)) = others
            && let Some(other) = self.nodes.get_mut(other)
        {
            other.serving.shared_thread = true;
        }
    }

    /// A thread has read more of a request than its head.
    pub fn read_on(&mut self, id: NodeId, reader: Stamp) {
        if let Some(node) = self.nodes.get(id)
            && node.kind == SpanKind::Server
            && let Some(process) = self.processes.get_mut(&node.tgid)
        {
            process.reads(reader.execution.tid, id);
        }
    }

    /// A thread has read of a connection on which it is not known where requests begin.
    pub fn read_unknown(&mut self, reader: Stamp) {
        if let Some(process) = self.processes.get_mut(&reader.execution.tgid) {
            process.reads_unknown(reader.execution.tid);
        }
    }

    /// The request that a thread's connect is made for, as far as it can be told now. `busy`: as of [`Node`].
    pub fn opener(&mut self, tgid: u32, thread: u32, busy: bool) -> Named {
        let Some(process) = self.processes.get(&tgid) else {
            return Named::default();
        };
        let Named { by_thread, by_turn } = process.names(thread, busy);
        let by_turn = by_turn.filter(|&request| self.passes_on(request, thread, busy));
        Named { by_thread, by_turn }
    }

    /// Whether what nginx begins now is for the request that it read last: it makes one call in that turn. What follows
    /// (another try, when the first has failed) is made in a later turn, and then the request that was read last may be
    /// another one, unless there is only one: of a process that may be `busy` with others, nobody knows that.
    fn passes_on(&mut self, request: NodeId, thread: u32, busy: bool) -> bool {
        let Some(node) = self.nodes.get_mut(request) else {
            return false;
        };
        let alone = || {
            let process = self.processes.get(&node.tgid);
            process.and_then(|process| process.only_open(thread)) == Some(request)
        };
        let passes = !node.serving.passed_on || !busy && alone();
        node.serving.passed_on = true;
        passes
    }

    /// A call was sent, or a connect failed. `opener`: what its connection was opened for, if this is the first on it.
    /// `hidden`: it was opened for a request that is not known.
    pub fn call(&mut self, mut node: Node, opener: Named, hidden: bool) -> NodeId {
        let (thread, busy) = (node.thread, node.busy);
        let is_opener = opener
            .request()
            .is_some_and(|request| self.is_opener_of(request, &node));
        let process = self.process(node.tgid);
        let received = node
            .context
            .and_then(|context| process.received((context.trace_id, context.parent_id)));
        node.forwarded = received.is_some();
        let nginx = process.is_nginx();
        let (named, method) = if is_opener {
            (opener.of(process), ParentMethod::Opener)
        } else {
            let mut named = process.names(thread, busy);
            // The turn that read the request is over: a connect took time, or the call is known only now.
            if opener.request().is_some() || hidden || node.late {
                named.by_turn = None;
            }
            (named, ParentMethod::Thread)
        };
        let is_open = |request: &NodeId| {
            let request = self.nodes.get(*request);
            request.is_some_and(|request| !request.serving.closed)
        };
        let is_passed_on = |request: &NodeId| {
            let request = self.nodes.get(*request);
            request.is_some_and(|request| decide::is_passed_on(request, &node))
        };
        let by_thread = named.by_thread.filter(is_open);
        let by_turn = named.by_turn.filter(is_open).filter(is_passed_on);
        // What it was opened for, the connect has told.
        let by_turn = by_turn.filter(|&request| is_opener || self.passes_on(request, thread, busy));
        node.named = Named { by_thread, by_turn };
        let candidate = node.named.request().map(|request| (request, method));
        let (tgid, context) = (node.tgid, node.context);
        let id = self.nodes.insert(node);
        // The sender wrote the `traceparent` itself: the span that it names is a caller nearer than any request.
        if let (Some(context), None) = (context, received) {
            self.decide(id, Parent::Remote(context));
            return id;
        }
        match (candidate, received) {
            // Rules that are certain at once. A header that was passed on overrules the turn.
            (Some((request, method)), received) if nginx && received.is_none_or(|open| open.may_be(request)) => {
                self.decide(id, Parent::Local(request, method));
            }
            (_, Some(Open::One(request))) => self.decide(id, Parent::Local(request, ParentMethod::Content)),
            // Decided when its thread writes a response.
            _ if self.process(tgid).has_workers() => self.remember_call(tgid, thread, id),
            (Some((request, method)), _) => {
                self.set_parent(id, Parent::Candidate(request, method));
                self.add_candidate(request, id);
            }
            (None, _) => self.decide(id, decide::without_candidate(context, received.is_some())),
        }
        id
    }

    /// Whether what a connection was opened for is what its first call is made for. The thread that sends must be the
    /// one that opened it: pools give a connection to whoever waited longest, and children inherit them.
    fn is_opener_of(&self, request: NodeId, call: &Node) -> bool {
        self.nodes.get(request).is_some_and(|request| {
            let sender_opened_it = request.thread == call.thread
                // A connect that failed: nobody sent anything.
                || call.request.is_none();
            !request.serving.closed && request.tgid == call.tgid && sender_opened_it
        })
    }

    /// Adds a call to those that wait for a request's response. Calls that have left are passed over whenever the list
    /// is full, so that a request that lasts for hours keeps only those that wait.
    fn add_candidate(&mut self, request: NodeId, call: NodeId) {
        let Some(node) = self.nodes.get_mut(request) else {
            return;
        };
        let mut calls = std::mem::take(&mut node.serving.calls);
        if calls.len() == calls.capacity() {
            calls.retain(|&call| self.nodes.contains_key(call));
            // Half of it stays free: each call is looked at once or twice.
            calls.reserve(calls.len().max(1));
        }
        calls.push(call);
        if let Some(node) = self.nodes.get_mut(request) {
            node.serving.calls = calls;
        }
    }

    /// A worker made a call: it is decided when the worker writes a response.
    fn remember_call(&mut self, tgid: u32, thread: u32, call: NodeId) {
        let Some(process) = self.processes.get_mut(&tgid) else {
            return;
        };
        let waits = |call| self.nodes.contains_key(call);
        if let Some(forgotten) = process.remember_call(thread, call, waits) {
            self.counters.calls_forgotten += 1;
            self.force(forgotten);
        }
    }

    /// A thread has waited in epoll since its last record: what the record before it told, it did for another turn of a
    /// loop. If it has a request open, it works for more than that one, as no thread does that serves one at a time.
    pub fn waited(&mut self, waiter: Stamp) {
        let Some(process) = self.processes.get_mut(&waiter.execution.tgid) else {
            return;
        };
        if process.may_be_nginx() {
            process.waits(waiter.execution.tid);
        }
        if let Some(request) = process.only_open(waiter.execution.tid)
            && process.may_use_threads()
        {
            process.breaks_the_rule(waiter.time_ns);
            if let Some(request) = self.nodes.get_mut(request) {
                request.serving.shared_thread = true;
            }
        }
    }

    /// A record of a thread was lost: it may have read a request that is not known, and have answered the one that it
    /// has open. Whose calls it makes now, and whose it made, is not known.
    pub fn lost(&mut self, of: Stamp) {
        let thread = of.execution.tid;
        let Some(process) = self.processes.get_mut(&of.execution.tgid) else {
            return;
        };
        process.reads_unknown(thread);
        let open = process.only_open(thread);
        let calls = process.take_calls(thread);
        if let Some(request) = open.and_then(|request| self.nodes.get_mut(request)) {
            request.serving.shared_thread = true;
        }
        for call in calls {
            self.force(call);
        }
    }

    /// A byte of a response was written.
    pub fn response(&mut self, id: NodeId, writer: Stamp) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        // The end of a connection comes from an interrupt: nobody wrote it.
        if node.kind != SpanKind::Server || writer.execution.tid == 0 {
            return;
        }
        match node.serving.writer {
            None => node.serving.writer = Some(writer),
            Some(first) if first.execution != writer.execution => node.serving.several_writers = true,
            Some(_) => {}
        }
    }

    /// The two ends of one exchange are found.
    pub fn join(&mut self, client: NodeId, server: NodeId) {
        if !self.nodes.contains_key(client) {
            return self.join_departed(client, server);
        }
        let Some([call, node]) = self.nodes.get_disjoint_mut([client, server]) else {
            return;
        };
        if (call.kind, node.kind) != (SpanKind::Client, SpanKind::Server)
            || call.partner.is_some()
            || node.partner.is_some()
        {
            return;
        }
        call.partner = Some(server);
        node.partner = Some(client);
        node.caller_is_remote = node.tgid != call.tgid;
        node.unix_offset_ns = call.unix_offset_ns;
        let both_over = call.end_ns.is_some() && node.end_ns.is_some();
        if call.end_ns.is_some() {
            call.start_ns = call.start_ns.min(node.start_ns);
        } else {
            // The server's end may be over: its records came first.
            node.settled = false;
        }
        let forwarded = call.forwarded;
        let parent = match node.context {
            _ if node.is_decided() => None,
            Some(context) if !forwarded => Some(Parent::Remote(context)),
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
            self.answered(id, false);
        }
        self.settle(id);
        self.offer(id);
        if !self.is_ready(id) {
            self.hold(id, end_ns);
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

    /// Calls that requests keep until their response.
    #[cfg(test)]
    pub fn candidates(&self) -> usize {
        self.nodes.values().map(|node| node.serving.calls.len()).sum()
    }

    /// Exchanges that are kept for the traces of others.
    #[cfg(test)]
    pub fn heirs(&self) -> usize {
        self.nodes.values().map(|node| node.heirs.len()).sum()
    }

    /// Threads that have open requests.
    #[cfg(test)]
    pub fn threads(&self) -> usize {
        self.processes.values().map(Process::threads).sum()
    }

    /// The id generator.
    pub fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }
}
