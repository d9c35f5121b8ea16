//! The span as it leaves Core: what OpenTelemetry's data model asks for, and nothing of how it was found.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::engine::context::{ParentMethod, SpanId, TraceId};

/// Text of a span. Up to 23 bytes need no memory of their own, and copies of a longer one share it.
pub type Text = SmolStr;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Text.
    Str(Text),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A list of texts (captured headers, command lines).
    Strs(Vec<String>),
}

/// Key of an attribute: a name of the semantic conventions, or `spoor.*`. A borrowed one is a constant, without a character that
/// JSON escapes.
pub type Key = Cow<'static, str>;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attribute {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Value,
}

impl Attribute {
    /// Creates a text attribute.
    pub fn str(key: &'static str, value: impl Into<Text>) -> Self {
        Self {
            key: Cow::Borrowed(key),
            value: Value::Str(value.into()),
        }
    }

    /// Creates a number attribute.
    pub fn int(key: &'static str, value: i64) -> Self {
        Self {
            key: Cow::Borrowed(key),
            value: Value::Int(value),
        }
    }
}

/// Resource of a span's process, by the resource semantic conventions. One for each process, shared by its spans.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// `service.name`, also among the attributes.
    pub service_name: String,
    /// All attributes.
    pub attributes: Vec<Attribute>,
}

/// OpenTelemetry's span kinds that Spoor makes, with OTLP's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// The serving end of an exchange.
    Server = 2,
    /// The calling end of an exchange.
    Client = 3,
}

/// OpenTelemetry's span status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing to say.
    Unset,
    /// The exchange failed; with a description only where no attribute has one already.
    Error(Cow<'static, str>),
}

/// Reference to a span that may be the parent, without certainty.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The other span's trace.
    pub trace_id: TraceId,
    /// The other span.
    pub span_id: SpanId,
    /// True if the other span is of another process (OpenTelemetry's `IsRemote`).
    pub is_remote: bool,
    /// Attributes of the link.
    pub attributes: Vec<Attribute>,
}

/// A finished exchange as OpenTelemetry sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// Id of the span.
    pub span_id: SpanId,
    /// The parent, and how it was found; `None` for a root.
    pub parent: Option<(SpanId, ParentMethod)>,
    /// True if the parent is a span of another process (OpenTelemetry's `IsRemote`).
    pub parent_is_remote: bool,
    /// W3C `tracestate`, as received.
    pub trace_state: Option<Arc<str>>,
    /// W3C trace flags (bit 0: sampled).
    pub trace_flags: u8,
    /// Which end of the exchange.
    pub kind: SpanKind,
    /// The name, of low cardinality.
    pub name: Text,
    /// Begin, nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// End, nanoseconds since the Unix epoch, never before the start.
    pub end_unix_ns: u64,
    /// Attributes by the semantic conventions, then `spoor.*`.
    pub attributes: Vec<Attribute>,
    /// Status by the semantic conventions.
    pub status: Status,
    /// References to other spans.
    pub links: Vec<Link>,
    /// The process it happened in.
    pub resource: Arc<Resource>,
}

impl Span {
    /// Returns whether Spoor saw nothing above this span: it has no parent, or one that only a header names.
    pub fn is_topmost(&self) -> bool {
        self.parent.is_none_or(|(_, method)| method == ParentMethod::Header)
    }
}
