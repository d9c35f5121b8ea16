//! Spans: ids, attributes, and how an exchange becomes one.

mod attributes;
pub mod conventions;
mod ids;
mod random;
pub mod redact;
pub mod route;
pub mod sampling;
mod span;
pub mod span_name;
mod text;
pub mod traceparent;

pub use ids::{SpanId, TraceId};
pub use random::Ids;
pub use span::{Attribute, Link, ParentMethod, Resource, Span, SpanKind, Status, Value};
