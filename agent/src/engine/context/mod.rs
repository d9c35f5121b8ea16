//! Trace context: the ids of traces and spans, and the way in which a span's parent was found.

mod ids;
mod method;
mod random;
pub mod traceparent;

pub use ids::{SpanId, TraceId};
pub use method::ParentMethod;
pub use random::Ids;
pub use traceparent::TraceContext;
