//! An exchange: a request with its response, or with what ended it, seen at one end of its connection.
//!
//! [`state`] has the states of an exchange, [`Lineage`] its parent and trace, [`Side`] the facts of the end that saw it. An
//! exchange carries the messages of its protocol, and no code here looks into them.

mod failure;
mod lineage;
mod side;
pub mod state;

use std::sync::Arc;

pub use failure::Failure;
pub use lineage::{Carried, Lineage, Parent, Trace};
pub use side::{
    Caller, Calling, Candidates, NamedBy, Opening, Recognised, Serving, Side, Thread, Turn, Upstream, Writer,
};
use state::State;

use super::{
    context::SpanId,
    execution::Execution,
    proto::{Call, Reply},
};
use crate::record::{ConnectionId, Endpoint};

slotmap::new_key_type! {
    /// Id of an exchange at one end; never used twice.
    pub struct ExchangeId;
}

/// One end of an exchange: from its request's start until its span has left.
#[derive(Debug)]
pub struct Exchange {
    /// The end that saw it.
    pub side: Side,
    /// Execution that read the last byte of the request's start (server), or sent its first (client).
    pub execution: Execution,
    /// The connection.
    pub connection: ConnectionId,
    /// The connection's own end and the other.
    pub ends: Arc<(Endpoint, Endpoint)>,
    /// The messages.
    pub messages: Messages,
    /// Start of the exchange.
    pub start: Start,
    /// Offset from `CLOCK_MONOTONIC` to the Unix epoch; the same at both ends of an exchange, even if the clock is set
    /// meanwhile.
    pub unix_offset_ns: i64,
    /// Whether the exchange becomes a span.
    pub shown: Shown,
    /// The span's id.
    pub span_id: SpanId,
    /// Parent and trace of the exchange, once they are known.
    pub lineage: Lineage,
    /// The same exchange at the other end of the connection.
    pub partner: Option<ExchangeId>,
    /// State of the exchange.
    pub state: State,
}

/// The messages of an exchange.
#[derive(Debug, Default)]
pub struct Messages {
    /// The request; `None`: a connect that failed, there was none.
    pub call: Option<Call>,
    /// The response.
    pub reply: Option<Reply>,
    /// Size of the request's body, once it was seen to its end.
    pub request_body_bytes: Option<u64>,
    /// Size of the response's body, once it was seen to its end.
    pub response_body_bytes: Option<u64>,
    /// The way in which the exchange ended, if not by a whole response.
    pub failure: Option<Failure>,
}

/// Start of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// `CLOCK_MONOTONIC`.
    pub ns: u64,
    /// Moment of the reading.
    pub read_at: ReadAt,
}

/// Moment at which the clock was read for the start of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// The system call that began it, or the other end's time.
    Begin,
    /// The exit of a write that may have blocked, while no other end has a better time.
    WriteExit,
}

/// Fate of an exchange as a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The exchange becomes a span.
    Span,
    /// A rule of the user's ignores the exchange: it takes part in all decisions, but is no span's parent.
    Ignored,
}

impl Exchange {
    /// Creates an exchange: `execution` read its request's start, or sends it.
    pub fn new(
        side: Side,
        span_id: SpanId,
        (connection, ends): (ConnectionId, &Arc<(Endpoint, Endpoint)>),
        execution: Execution,
        start_ns: u64,
    ) -> Self {
        Self {
            side,
            execution,
            connection,
            ends: Arc::clone(ends),
            messages: Messages::default(),
            start: Start {
                ns: start_ns,
                read_at: ReadAt::Begin,
            },
            unix_offset_ns: 0,
            shown: Shown::Span,
            span_id,
            lineage: Lineage::default(),
            partner: None,
            state: State::Open,
        }
    }

    /// Returns the facts of a client's end.
    pub fn calling(&self) -> Option<&Calling> {
        match &self.side {
            Side::Client(calling) => Some(calling),
            Side::Server(_) => None,
        }
    }

    /// Returns the facts of a server's end.
    pub fn serving(&self) -> Option<&Serving> {
        match &self.side {
            Side::Server(serving) => Some(serving),
            Side::Client(_) => None,
        }
    }

    /// Returns the facts of a client's end, to be changed.
    pub fn calling_mut(&mut self) -> Option<&mut Calling> {
        match &mut self.side {
            Side::Client(calling) => Some(calling),
            Side::Server(_) => None,
        }
    }

    /// Returns the facts of a server's end, to be changed.
    pub fn serving_mut(&mut self) -> Option<&mut Serving> {
        match &mut self.side {
            Side::Server(serving) => Some(serving),
            Side::Client(_) => None,
        }
    }

    /// Returns whether this is a request that waits for its call at the other end to be found.
    pub fn waits_for_partner(&self) -> bool {
        self.serving().is_some() && self.partner.is_none() && self.lineage.parent == Parent::Open
    }

    /// Returns whether this call repeats a request, as a proxy passes it on.
    pub fn passes_on(&self, request: &Self) -> bool {
        let Some(request) = &request.messages.call else {
            return false;
        };
        // A connect that failed has no request yet.
        self.messages.call.as_ref().is_none_or(|call| call.passes_on(request))
    }
}
