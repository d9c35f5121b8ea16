//! Spans to OTLP's bytes (opentelemetry-proto: `trace/v1/trace.proto`), without a tree of messages in between.
//!
//! A span is encoded once, when it is handed over; what waits in the queue are the bytes. They take about half of
//! the memory of the [`Span`], their number is exact, and a request is put together by copying:
//! ```text
//! ExportTraceServiceRequest { 1: ResourceSpans*  { 1: Resource, 2: ScopeSpans, 3: schema_url } }
//!                                  ScopeSpans    { 1: InstrumentationScope, 2: Span*, 3: schema_url }
//! ```
//! [`EncodedSpan`] holds field 2 of `ScopeSpans` and, shared, field 1 of `ResourceSpans`, both with key and length.

use std::{collections::HashMap, mem, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::engine::trace::{Attribute, Link, Resource, Span, Status, Value};

/// The instrumentation scope's name.
pub const SCOPE_NAME: &str = "spoor";
/// The instrumentation scope's version: that of the program.
pub const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The attribute that says how a span's parent was found.
pub const PARENT_METHOD: &str = "spoor.parent.method";

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: it is known whether the parent is remote.
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const FLAG_IS_REMOTE: u32 = 0x200;
/// `STATUS_CODE_ERROR`.
const STATUS_CODE_ERROR: u64 = 2;
/// The cache of encoded resources is first searched for dead ones when it has this many.
const RESOURCES_BEFORE_SWEEP: usize = 64;

/// A span as it stands in a `ScopeSpans`.
#[derive(Clone, Debug)]
pub struct EncodedSpan {
    resource: Arc<[u8]>,
    /// The first span of its resource, whose memory counts with it. Short-lived processes often have no other span.
    is_first: bool,
    bytes: Bytes,
}

impl EncodedSpan {
    /// Returns the memory that it takes while it waits, in bytes.
    pub fn footprint(&self) -> usize {
        let resource = if self.is_first { self.resource.len() } else { 0 };
        self.bytes.len() + resource + mem::size_of::<Self>()
    }

    /// Returns the length of a request of this span alone, in bytes.
    pub fn request_bytes(&self) -> usize {
        self.bytes.len() + group_overhead(&self.resource)
    }
}

/// Encodes spans. Each resource is encoded once for as long as another owner holds it.
#[derive(Debug)]
pub struct Encoder {
    /// Encoded resources by address. The `Arc` keeps the address from being used again.
    resources: HashMap<usize, (Arc<Resource>, Arc<[u8]>)>,
    sweep_at: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            resources: HashMap::new(),
            sweep_at: RESOURCES_BEFORE_SWEEP,
        }
    }
}

impl Encoder {
    /// Encodes the spans, in their order. They share one buffer.
    pub fn encode(&mut self, spans: &[Span]) -> Vec<EncodedSpan> {
        let lengths: Vec<usize> = spans.iter().map(span_len).collect();
        let mut buf = Vec::with_capacity(lengths.iter().map(|&len| field_len(len)).sum());
        let mut ends = Vec::with_capacity(spans.len());
        for (span, &len) in spans.iter().zip(&lengths) {
            put_message(2, len, &mut buf);
            put_span(span, &mut buf);
            ends.push(buf.len());
        }
        let buf = Bytes::from(buf);
        let mut begin = 0;
        spans
            .iter()
            .zip(ends)
            .map(|(span, end)| {
                let (resource, is_first) = self.resource(&span.resource);
                EncodedSpan {
                    resource,
                    is_first,
                    bytes: buf.slice(mem::replace(&mut begin, end)..end),
                }
            })
            .collect()
    }

    /// Encodes the resource, unless that was done before. Returns true with it if it was not.
    fn resource(&mut self, resource: &Arc<Resource>) -> (Arc<[u8]>, bool) {
        let address = Arc::as_ptr(resource).addr();
        if let Some((_, encoded)) = self.resources.get(&address) {
            return (encoded.clone(), false);
        }
        if self.resources.len() >= self.sweep_at {
            self.resources
                .retain(|_, (resource, _)| Arc::strong_count(resource) > 1);
            self.sweep_at = RESOURCES_BEFORE_SWEEP.max(2 * self.resources.len());
        }
        let len = attributes_len(&resource.attributes);
        let mut buf = Vec::with_capacity(field_len(len));
        put_message(1, len, &mut buf);
        put_attributes(1, &resource.attributes, &mut buf);
        let encoded: Arc<[u8]> = buf.into();
        self.resources.insert(address, (resource.clone(), encoded.clone()));
        (encoded, true)
    }
}

/// The spans of one request.
#[derive(Debug, Default)]
pub struct Batch {
    spans: Vec<EncodedSpan>,
    /// One for each resource, in the order in which they came.
    groups: Vec<Group>,
    /// Resource (address of its bytes) → index of its group.
    by_resource: HashMap<usize, usize>,
    /// The group of the span that came last.
    last_group: usize,
    /// Upper bound of the request's length.
    bytes: usize,
}

#[derive(Debug)]
struct Group {
    resource: Arc<[u8]>,
    spans: Vec<usize>,
    span_bytes: usize,
}

impl Batch {
    /// Returns the number of spans.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns whether there is no span.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Returns an upper bound of the request's length if `span` were added, in bytes.
    pub fn bytes_with(&self, span: &EncodedSpan) -> usize {
        match self.group_of(span) {
            Some(_) => self.bytes + span.bytes.len(),
            None => self.bytes + span.request_bytes(),
        }
    }

    fn group_of(&self, span: &EncodedSpan) -> Option<usize> {
        // Spans of one process often come one after the other.
        match self.groups.get(self.last_group) {
            Some(group) if Arc::ptr_eq(&group.resource, &span.resource) => Some(self.last_group),
            _ => self.by_resource.get(&span.resource.as_ptr().addr()).copied(),
        }
    }

    /// Adds a span.
    pub fn add(&mut self, span: EncodedSpan) {
        self.bytes = self.bytes_with(&span);
        let group = self.group_of(&span).unwrap_or_else(|| {
            self.by_resource
                .insert(span.resource.as_ptr().addr(), self.groups.len());
            self.groups.push(Group {
                resource: span.resource.clone(),
                spans: Vec::new(),
                span_bytes: 0,
            });
            self.groups.len() - 1
        });
        self.last_group = group;
        if let Some(group) = self.groups.get_mut(group) {
            group.spans.push(self.spans.len());
            group.span_bytes += span.bytes.len();
        }
        self.spans.push(span);
    }

    /// Writes the `ExportTraceServiceRequest`: grouped by resource, otherwise in the order of the spans. It is written
    /// to `buf`, whose memory is used again once the request before is gone.
    pub fn to_request(&self, buf: &mut BytesMut) -> Bytes {
        buf.reserve(self.bytes);
        for group in &self.groups {
            let scope_spans = scope_len() + group.span_bytes + str_len(SCHEMA_URL);
            let resource_spans = group.resource.len() + field_len(scope_spans) + str_len(SCHEMA_URL);
            put_message(1, resource_spans, buf);
            buf.put_slice(&group.resource);
            put_message(2, scope_spans, buf);
            put_message(1, scope_body_len(), buf);
            put_str(1, SCOPE_NAME, buf);
            put_str(2, SCOPE_VERSION, buf);
            for span in group.spans.iter().filter_map(|&index| self.spans.get(index)) {
                buf.put_slice(&span.bytes);
            }
            put_str(3, SCHEMA_URL, buf);
            put_str(3, SCHEMA_URL, buf);
        }
        buf.split().freeze()
    }

    /// Splits into two batches of about half of the bytes each, in order.
    ///
    /// # Errors
    /// If there is a single span, or none: the batch itself.
    pub fn split(self) -> Result<[Self; 2], Self> {
        if self.spans.len() < 2 {
            return Err(self);
        }
        let half = self.spans.iter().map(|span| span.bytes.len()).sum::<usize>() / 2;
        let last = self.spans.len() - 1;
        let mut halves = [Self::default(), Self::default()];
        let [first, second] = &mut halves;
        let mut bytes = 0;
        for (index, span) in self.spans.into_iter().enumerate() {
            bytes += span.bytes.len();
            if index == 0 || index < last && bytes <= half {
                first.add(span);
            } else {
                second.add(span);
            }
        }
        Ok(halves)
    }

    /// Returns the spans in the order in which they were added.
    pub fn into_spans(self) -> Vec<EncodedSpan> {
        self.spans
    }
}

/// Returns an upper bound of the bytes that a group adds to a request beside its spans.
fn group_overhead(resource: &[u8]) -> usize {
    const TWO_KEYS_AND_LENGTHS: usize = 2 * (1 + 5);
    TWO_KEYS_AND_LENGTHS + resource.len() + scope_len() + 2 * str_len(SCHEMA_URL)
}

fn scope_body_len() -> usize {
    str_len(SCOPE_NAME) + str_len(SCOPE_VERSION)
}

fn scope_len() -> usize {
    field_len(scope_body_len())
}

// === Span ===

const ID_FIELD: usize = 2;
const FIXED64_FIELD: usize = 9;
/// `flags` is field 16, the first whose key takes two bytes.
const FLAGS_FIELD: usize = 6;
const LINK_FLAGS_FIELD: usize = 5;
const KIND_FIELD: usize = 2;

fn span_len(span: &Span) -> usize {
    let parent = match span.parent {
        Some((_, method)) => ID_FIELD + 8 + field_len(attribute_len(PARENT_METHOD, str_len(method.name()))),
        None => 0,
    };
    let status = match &span.status {
        Status::Unset => 0,
        Status::Error(description) => field_len(status_len(description)),
    };
    let links: usize = span.links.iter().map(|link| field_len(link_len(link))).sum();
    ID_FIELD
        + 16
        + ID_FIELD
        + 8
        + span.trace_state.as_deref().map_or(0, str_len)
        + parent
        + str_len(&span.name)
        + KIND_FIELD
        + 2 * FIXED64_FIELD
        + attributes_len(&span.attributes)
        + links
        + status
        + FLAGS_FIELD
}

fn put_span(span: &Span, buf: &mut Vec<u8>) {
    put_bytes(1, &span.trace_id.to_bytes(), buf);
    put_bytes(2, &span.span_id.to_bytes(), buf);
    if let Some(state) = &span.trace_state {
        put_str(3, state, buf);
    }
    if let Some((parent, _)) = span.parent {
        put_bytes(4, &parent.to_bytes(), buf);
    }
    put_str(5, &span.name, buf);
    encode_key(6, WireType::Varint, buf);
    encode_varint(span.kind as u64, buf);
    encode_key(7, WireType::SixtyFourBit, buf);
    buf.put_u64_le(span.start_unix_ns);
    encode_key(8, WireType::SixtyFourBit, buf);
    buf.put_u64_le(span.end_unix_ns);
    put_attributes(9, &span.attributes, buf);
    if let Some((_, method)) = span.parent {
        let value = str_len(method.name());
        put_message(9, attribute_len(PARENT_METHOD, value), buf);
        put_str(1, PARENT_METHOD, buf);
        put_message(2, value, buf);
        put_str(1, method.name(), buf);
    }
    for link in &span.links {
        put_message(13, link_len(link), buf);
        put_bytes(1, &link.trace_id.to_bytes(), buf);
        put_bytes(2, &link.span_id.to_bytes(), buf);
        put_attributes(4, &link.attributes, buf);
        encode_key(6, WireType::ThirtyTwoBit, buf);
        buf.put_u32_le(remote_flags(link.is_remote));
    }
    if let Status::Error(description) = &span.status {
        put_message(15, status_len(description), buf);
        put_str(2, description, buf);
        encode_key(3, WireType::Varint, buf);
        encode_varint(STATUS_CODE_ERROR, buf);
    }
    encode_key(16, WireType::ThirtyTwoBit, buf);
    buf.put_u32_le(flags(span));
}

fn flags(span: &Span) -> u32 {
    u32::from(span.trace_flags) | remote_flags(span.parent_is_remote)
}

/// Bits 8 and 9 of `Span.flags` and `Span.Link.flags`.
fn remote_flags(is_remote: bool) -> u32 {
    FLAG_HAS_IS_REMOTE | if is_remote { FLAG_IS_REMOTE } else { 0 }
}

fn status_len(description: &str) -> usize {
    str_len(description) + 2
}

fn link_len(link: &Link) -> usize {
    ID_FIELD + 16 + ID_FIELD + 8 + attributes_len(&link.attributes) + LINK_FLAGS_FIELD
}

// === Attributes ===

fn attributes_len(attributes: &[Attribute]) -> usize {
    attributes
        .iter()
        .map(|attribute| field_len(attribute_len(&attribute.key, value_len(&attribute.value))))
        .sum()
}

fn put_attributes(tag: u32, attributes: &[Attribute], buf: &mut Vec<u8>) {
    for Attribute { key, value } in attributes {
        let value_len = value_len(value);
        put_message(tag, attribute_len(key, value_len), buf);
        put_str(1, key, buf);
        put_message(2, value_len, buf);
        put_value(value, buf);
    }
}

/// Returns the length of a `KeyValue` whose `AnyValue` has this length.
fn attribute_len(key: &str, value_len: usize) -> usize {
    str_len(key) + field_len(value_len)
}

/// Returns the length of an `AnyValue`.
fn value_len(value: &Value) -> usize {
    match value {
        Value::Str(text) => str_len(text),
        Value::Bool(_) => 2,
        Value::Int(number) => 1 + encoded_len_varint(number.cast_unsigned()),
        Value::Strs(texts) => field_len(array_len(texts)),
    }
}

fn put_value(value: &Value, buf: &mut Vec<u8>) {
    match value {
        Value::Str(text) => put_str(1, text, buf),
        Value::Bool(truth) => {
            encode_key(2, WireType::Varint, buf);
            encode_varint(u64::from(*truth), buf);
        }
        Value::Int(number) => {
            encode_key(3, WireType::Varint, buf);
            encode_varint(number.cast_unsigned(), buf);
        }
        Value::Strs(texts) => {
            put_message(5, array_len(texts), buf);
            for text in texts {
                put_message(1, str_len(text), buf);
                put_str(1, text, buf);
            }
        }
    }
}

/// Returns the length of an `ArrayValue` of texts.
fn array_len(texts: &[String]) -> usize {
    texts.iter().map(|text| field_len(str_len(text))).sum()
}

// === Fields: the key is one byte for the tags 1 to 15, the only ones with a length here ===

fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn str_len(text: &str) -> usize {
    field_len(text.len())
}

/// Writes key and length. Nearly all lengths take one byte, and a span has some sixty of them: those two bytes are written at
/// once, which more than halves what encoding costs.
fn put_message(tag: u32, len: usize, buf: &mut impl BufMut) {
    match (u8::try_from(tag), u8::try_from(len)) {
        (Ok(tag @ 1..=15), Ok(len @ ..0x80)) => {
            buf.put_slice(&[tag << 3 | WireType::LengthDelimited as u8, len]);
        }
        _ => {
            encode_key(tag, WireType::LengthDelimited, buf);
            encode_varint(len as u64, buf);
        }
    }
}

fn put_bytes(tag: u32, bytes: &[u8], buf: &mut impl BufMut) {
    put_message(tag, bytes.len(), buf);
    buf.put_slice(bytes);
}

fn put_str(tag: u32, text: &str, buf: &mut impl BufMut) {
    put_bytes(tag, text.as_bytes(), buf);
}

#[cfg(test)]
mod tests;
