//! Spans: ids, attributes, and how an exchange becomes one.

mod ids;
mod span;

pub use ids::{SpanId, TraceId};
pub use span::{Attribute, Link, ParentMethod, Resource, Span, SpanKind, Status, Value};
