//! Parent and trace of an exchange, once they are known.

use std::sync::Arc;

use super::ExchangeId;
use crate::engine::context::{ParentMethod, SpanId, TraceContext, TraceId};

/// Parent and trace of an exchange, once they are known.
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
    /// Exchanges that take their trace from this one, and wait for it.
    pub heirs: Vec<ExchangeId>,
}

/// The `traceparent` that a request carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Carried {
    /// None.
    #[default]
    Nothing,
    /// A header that its sender wrote.
    Written(TraceContext),
    /// A header that its sender had received itself, and only passed on.
    Forwarded(TraceContext),
}

impl Carried {
    /// Returns the context, no matter which process wrote it.
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

    /// Returns whether the sender only passed the header on.
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
    /// This request is the parent, if it passes the gate at its response.
    Candidate(ExchangeId, ParentMethod),
    /// This exchange is the parent; its trace may not be known yet.
    Local(ExchangeId, ParentMethod),
    /// This span is the parent.
    Span(SpanId, ParentMethod),
    /// The span that a header named is the parent.
    Remote(TraceContext),
    /// None.
    Root,
}

impl Parent {
    /// Returns whether the parent is decided.
    pub fn is_decided(self) -> bool {
        !matches!(self, Self::Open | Self::Candidate(..))
    }
}
