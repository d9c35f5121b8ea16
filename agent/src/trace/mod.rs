//! Spans: ids, attributes, and how an exchange becomes one.

pub mod http;
mod ids;
pub mod redact;
pub mod route;
mod span;
pub mod span_name;
mod text;
pub mod traceparent;

pub use ids::{SpanId, TraceId};
pub use span::{Attribute, Link, ParentMethod, Resource, Span, SpanKind, Status, Value};
