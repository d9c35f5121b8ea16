//! Spans: ids, attributes, and how an exchange becomes one.

mod attributes;
pub mod conventions;
mod recent;
pub mod redact;
pub mod route;
pub mod sampling;
mod span;
pub mod span_name;
mod text;

pub use crate::engine::context::{ParentMethod, SpanId, TraceId};
pub use span::{Attribute, Key, Link, Resource, Span, SpanKind, Status, Text, Value};
