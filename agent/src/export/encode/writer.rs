//! The boundary between spans and the encodings of OTLP.

use crate::engine::trace::{Attribute, Key, Span, SpanId, Status, TraceId, Value};

/// The attribute that says how a span's parent was found.
pub const PARENT_METHOD: Key = Key::Borrowed("spoor.parent.method");

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: it is known whether the parent is remote.
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const FLAG_IS_REMOTE: u32 = 0x200;

/// Number of `STATUS_CODE_ERROR`.
pub const STATUS_CODE_ERROR: u8 = 2;

/// Fields of a span that come before its attributes, with OTLP's names and values.
pub struct Head<'a> {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub trace_state: &'a str,
    pub parent_span_id: Option<SpanId>,
    pub flags: u32,
    pub name: &'a str,
    pub kind: u8,
    pub start_unix_ns: u64,
    pub end_unix_ns: u64,
}

/// Encoding of OTLP that takes a span field by field, and appends it to a chunk.
///
/// The order of the calls is that of the methods: [`write_span`] makes them.
pub trait SpanWriter {
    /// Begins the span.
    fn begin(&mut self, head: &Head<'_>);
    /// Writes a text attribute of the span or of the link that was begun last.
    fn str(&mut self, key: &Key, text: &str);
    /// Writes a number attribute.
    fn int(&mut self, key: &Key, number: i64);
    /// Writes a truth attribute.
    fn bool(&mut self, key: &Key, truth: bool);
    /// Writes a list attribute.
    fn strs(&mut self, key: &Key, texts: &[String]);
    /// Ends the attributes of the span: links follow.
    fn begin_links(&mut self);
    /// Begins a link.
    fn begin_link(&mut self, trace_id: TraceId, span_id: SpanId);
    /// Ends the link.
    fn end_link(&mut self, flags: u32);
    /// Ends the span. `error`: the description of its error, if it has one.
    fn end(&mut self, error: Option<&str>);

    /// Writes attributes.
    fn attributes(&mut self, attributes: &[Attribute]) {
        for Attribute { key, value } in attributes {
            match value {
                Value::Str(text) => self.str(key, text),
                Value::Int(number) => self.int(key, *number),
                Value::Bool(truth) => self.bool(key, *truth),
                Value::Strs(texts) => self.strs(key, texts),
            }
        }
    }
}

/// Writes a span.
pub fn write_span(span: &Span, writer: &mut impl SpanWriter) {
    writer.begin(&Head {
        trace_id: span.trace_id,
        span_id: span.span_id,
        trace_state: span.trace_state.as_deref().unwrap_or_default(),
        parent_span_id: span.parent.map(|(id, _)| id),
        flags: u32::from(span.trace_flags) | remote_flags(span.parent_is_remote),
        name: &span.name,
        kind: span.kind as u8,
        start_unix_ns: span.start_unix_ns,
        end_unix_ns: span.end_unix_ns,
    });
    writer.attributes(&span.attributes);
    if let Some((_, method)) = span.parent {
        writer.str(&PARENT_METHOD, method.name());
    }
    writer.begin_links();
    for link in &span.links {
        writer.begin_link(link.trace_id, link.span_id);
        writer.attributes(&link.attributes);
        writer.end_link(remote_flags(link.is_remote));
    }
    writer.end(match &span.status {
        Status::Unset => None,
        Status::Error(description) => Some(description),
    });
}

/// Returns the bits 8 and 9 of `Span.flags` and `Span.Link.flags`.
fn remote_flags(is_remote: bool) -> u32 {
    FLAG_HAS_IS_REMOTE | if is_remote { FLAG_IS_REMOTE } else { 0 }
}
