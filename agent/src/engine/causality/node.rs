//! An exchange under way, as causality sees it.

use std::sync::Arc;

use super::{Named, NodeId};
use crate::{
    engine::{
        failure::Failure,
        flow::Connection,
        proto::{Call, Reply},
        trace::{ParentMethod, SpanId, SpanKind, TraceId, traceparent::TraceContext},
    },
    record::{ConnectionId, Endpoint, Execution, Stamp, Tgid, Tid},
};

/// One end of an exchange: from its request's head until its span has left.
#[derive(Debug)]
pub struct Node {
    /// Which end.
    pub kind: SpanKind,
    /// The process.
    pub tgid: Tgid,
    /// The thread that read the head's last byte (server), or sent its first (client).
    pub thread: Tid,
    /// The connection.
    pub connection: ConnectionId,
    /// The connection's own end and the other.
    pub ends: Arc<(Endpoint, Endpoint)>,
    /// The request; `None`: a connect that failed, there was none.
    pub call: Option<Call>,
    /// The response.
    pub reply: Option<Reply>,
    /// Size of the request's body, once it was seen to its end.
    pub request_body_bytes: Option<u64>,
    /// Size of the response's body, once it was seen to its end.
    pub response_body_bytes: Option<u64>,
    /// What ended it, if not a whole response.
    pub failure: Option<Failure>,
    /// `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// `CLOCK_MONOTONIC`; `None`: it is not over.
    pub end_ns: Option<u64>,
    /// From `CLOCK_MONOTONIC` to the Unix epoch; the same at both ends of an exchange, whatever is done to the clock.
    pub unix_offset_ns: i64,
    /// The start is the exit of a call that may have blocked, and no far end tells better.
    pub start_is_write_exit: bool,
    /// The request's `traceparent`.
    pub context: Option<TraceContext>,
    /// The request's `tracestate`.
    pub trace_state: Option<Arc<str>>,
    /// It was recognised only when more had come, on a connection that is older than the agent: what its thread did last
    /// is something else by now.
    pub late: bool,
    /// The process may be busy with requests that nobody saw.
    pub busy: bool,
    /// Client: the request that it is made for, as the rules have it that may hold in its process.
    pub named: Named,
    /// The `traceparent` is one that the process itself received.
    pub forwarded: bool,
    /// A rule of the user's says that it gives no span: it takes part in all decisions, but is nobody's parent.
    pub ignored: bool,
    /// The span's id.
    pub span_id: SpanId,
    /// What is known of the parent.
    pub parent: Parent,
    /// The trace, once it is known.
    pub trace: Option<Trace>,
    /// Those whose trace is this one's.
    pub heirs: Vec<NodeId>,
    /// The same exchange at the other end.
    pub partner: Option<NodeId>,
    /// Server: the call at the other end was made by another process.
    pub caller_is_remote: bool,
    /// Both ends of the exchange are over, and their times in order.
    pub settled: bool,
    /// It is over and waits for what is above it, or for its other end.
    pub held: bool,
    /// Server: what is needed to decide whose its thread's calls are.
    pub serving: Serving,
}

/// A server request's thread rule.
#[derive(Debug, Default)]
pub struct Serving {
    /// Calls that may be this request's.
    pub calls: Vec<NodeId>,
    /// Its thread held another open request meanwhile.
    pub shared_thread: bool,
    /// It waits for earlier responses on its connection.
    pub queued: bool,
    /// Who wrote the first byte of the response.
    pub writer: Option<Stamp>,
    /// Another thread wrote a part of the response.
    pub several_writers: bool,
    /// Decided: no call is added any more.
    pub closed: bool,
    /// Which life of its process it began in; 0: it did not begin.
    pub life: u32,
    /// Which life of its process its head came in.
    pub received_by: u32,
    /// nginx: a call or a connection was made for it.
    pub passed_on: bool,
}

/// A span's trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Its id.
    pub id: TraceId,
    /// W3C flags as the caller's `traceparent` has them; `None`: the trace begins here.
    pub caller_flags: Option<u8>,
    /// W3C `tracestate`.
    pub state: Option<Arc<str>>,
}

/// What is known of a parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parent {
    /// Nothing yet.
    Open,
    /// This request, if it passes the gate at its response.
    Candidate(NodeId, ParentMethod),
    /// This exchange, whose trace may not be known yet.
    Local(NodeId, ParentMethod),
    /// This span.
    Span(SpanId, ParentMethod),
    /// The span that a header named.
    Remote(TraceContext),
    /// None.
    Root,
}

impl Node {
    /// An exchange that begins on a connection: `who` read its request's head, or sends it.
    pub fn new(kind: SpanKind, span_id: SpanId, connection: &Connection, who: Execution, start_ns: u64) -> Self {
        Self {
            kind,
            tgid: who.tgid,
            thread: who.tid,
            connection: connection.id,
            ends: Arc::clone(&connection.ends),
            call: None,
            reply: None,
            request_body_bytes: None,
            response_body_bytes: None,
            failure: None,
            start_ns,
            end_ns: None,
            unix_offset_ns: 0,
            start_is_write_exit: false,
            context: None,
            trace_state: None,
            late: false,
            busy: false,
            named: Named::default(),
            forwarded: false,
            ignored: false,
            span_id,
            parent: Parent::Open,
            trace: None,
            heirs: Vec::new(),
            partner: None,
            caller_is_remote: false,
            settled: false,
            held: false,
            serving: Serving::default(),
        }
    }

    /// A request whose call at the other end is not known yet.
    pub fn waits_for_partner(&self) -> bool {
        self.kind == SpanKind::Server && self.partner.is_none() && self.parent == Parent::Open
    }

    /// Whether its parent is decided.
    pub fn is_decided(&self) -> bool {
        !matches!(self.parent, Parent::Open | Parent::Candidate(..))
    }
}
