//! Parent and trace of an exchange, as far as they are known.

use std::sync::Arc;

use super::ExchangeId;
use crate::engine::context::{ParentMethod, SpanId, TraceContext, TraceId};

/// Parent and trace of an exchange, as far as they are known.
#[derive(Debug, Default)]
pub struct Lineage {
    /// The `traceparent` of the request.
    pub carried: Carried,
    /// The `tracestate` of the request.
    pub trace_state: Option<Arc<str>>,
    /// The parent.
    pub parent: Parent,
    /// The trace, once it is known.
    pub trace: Option<Trace>,
    /// Exchanges whose trace is this one's, and which wait for it.
    pub heirs: Vec<ExchangeId>,
}

/// The `traceparent` that a request carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Carried {
    /// None.
    #[default]
    Nothing,
    /// One that its sender wrote.
    Written(TraceContext),
    /// One that its sender had received itself, and only passed on.
    Forwarded(TraceContext),
}

impl Carried {
    /// Returns the context, whoever wrote it.
    pub fn context(self) -> Option<TraceContext> {
        match self {
            Self::Nothing => None,
            Self::Written(context) | Self::Forwarded(context) => Some(context),
        }
    }

    /// Returns the parent that the header alone names.
    pub fn parent(self) -> Parent {
        self.context().map_or(Parent::Root, Parent::Remote)
    }

    /// Returns whether the sender only passed it on.
    pub fn is_forwarded(self) -> bool {
        matches!(self, Self::Forwarded(_))
    }
}

/// A trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Id of the trace.
    pub id: TraceId,
    /// W3C flags as the caller's `traceparent` has them; `None`: the trace begins here.
    pub caller_flags: Option<u8>,
    /// W3C `tracestate`.
    pub state: Option<Arc<str>>,
}

/// The parent of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Parent {
    /// Nothing is known yet.
    #[default]
    Open,
    /// This request, if it passes the gate at its response.
    Candidate(ExchangeId, ParentMethod),
    /// This exchange, whose trace may not be known yet.
    Local(ExchangeId, ParentMethod),
    /// This span.
    Span(SpanId, ParentMethod),
    /// The span that a header named.
    Remote(TraceContext),
    /// None.
    Root,
}

impl Parent {
    /// Returns whether it is decided.
    pub fn is_decided(self) -> bool {
        !matches!(self, Self::Open | Self::Candidate(..))
    }
}
