//! OTLP's protobuf (opentelemetry-proto: `trace/v1/trace.proto`), without a tree of messages in between:
//! ```text
//! ExportTraceServiceRequest { 1: ResourceSpans*  { 1: Resource, 2: ScopeSpans, 3: schema_url } }
//!                                  ScopeSpans    { 1: InstrumentationScope, 2: Span*, 3: schema_url }
//! ```
//! A message's length stands before it. A span's is written last, into the room that was left for it: so nothing is
//! measured before it is written.

use bytes::{BufMut, BytesMut};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{
    SCOPE_NAME, SCOPE_VERSION,
    append::append,
    writer::{Head, STATUS_CODE_ERROR, SpanWriter},
};
use crate::engine::trace::{Key, Resource, SpanId, TraceId};

// === Requests ===

/// Encodes field 1 of `ResourceSpans`.
pub fn resource(resource: &Resource) -> Vec<u8> {
    let mut buf = Vec::new();
    let start = begin_message(key(1), &mut buf);
    let mut writer = Protobuf::new(&mut buf);
    writer.attribute_key = key(1);
    writer.attributes(&resource.attributes);
    end_message(start, &mut buf);
    buf
}

/// Returns an upper bound of the bytes that a group of spans has beside them.
pub fn group_overhead(resource: &[u8]) -> usize {
    const TWO_KEYS_AND_LENGTHS: usize = 2 * (1 + 5);
    TWO_KEYS_AND_LENGTHS + resource.len() + scope_len() + 2 * str_len(SCHEMA_URL)
}

/// Writes what stands before the spans of a resource.
pub fn begin_group(resource: &[u8], span_bytes: usize, buf: &mut BytesMut) {
    let scope_spans = scope_len() + span_bytes + str_len(SCHEMA_URL);
    let resource_spans = resource.len() + field_len(scope_spans) + str_len(SCHEMA_URL);
    put_length(key(1), resource_spans, buf);
    buf.put_slice(resource);
    put_length(key(2), scope_spans, buf);
    put_length(key(1), scope_body_len(), buf);
    put_str(key(1), SCOPE_NAME, buf);
    put_str(key(2), SCOPE_VERSION, buf);
}

/// Writes what stands behind the spans of a resource.
pub fn end_group(buf: &mut BytesMut) {
    put_str(key(3), SCHEMA_URL, buf);
    put_str(key(3), SCHEMA_URL, buf);
}

fn scope_body_len() -> usize {
    str_len(SCOPE_NAME) + str_len(SCOPE_VERSION)
}

fn scope_len() -> usize {
    field_len(scope_body_len())
}

// === Spans ===

/// Writes spans as field 2 of `ScopeSpans`.
pub struct Protobuf<'a> {
    buf: &'a mut Vec<u8>,
    /// The key of an attribute: its field has another number in a span than in a link.
    attribute_key: u8,
    span_start: usize,
    link_start: usize,
}

impl<'a> Protobuf<'a> {
    /// Appends to `buf`.
    pub fn new(buf: &'a mut Vec<u8>) -> Self {
        Self {
            buf,
            attribute_key: key(9),
            span_start: 0,
            link_start: 0,
        }
    }

    /// Writes the key and the lengths of an attribute up to those of its `AnyValue`, and its key.
    fn begin_attribute(&mut self, key_text: &str, value_len: usize) {
        put_length(self.attribute_key, str_len(key_text) + field_len(value_len), self.buf);
        put_str(key(1), key_text, self.buf);
        put_length(key(2), value_len, self.buf);
    }
}

impl SpanWriter for Protobuf<'_> {
    fn begin(&mut self, head: &Head<'_>) {
        self.span_start = begin_message(key(2), self.buf);
        let mut ids = [0; 2 + 16 + 2 + 8];
        let (trace, span) = ids.split_at_mut(2 + 16);
        fill(trace, key(1), &head.trace_id.to_bytes());
        fill(span, key(2), &head.span_id.to_bytes());
        self.buf.extend_from_slice(&ids);
        if !head.trace_state.is_empty() {
            put_str(key(3), head.trace_state, self.buf);
        }
        if let Some(parent) = head.parent_span_id {
            let mut id = [0; 2 + 8];
            fill(&mut id, key(4), &parent.to_bytes());
            self.buf.extend_from_slice(&id);
        }
        put_str(key(5), head.name, self.buf);
        let [s0, s1, s2, s3, s4, s5, s6, s7] = head.start_unix_ns.to_le_bytes();
        let [e0, e1, e2, e3, e4, e5, e6, e7] = head.end_unix_ns.to_le_bytes();
        let [f0, f1, f2, f3] = head.flags.to_le_bytes();
        #[rustfmt::skip]
        self.buf.extend_from_slice(&[
            KIND_KEY, head.kind,
            START_KEY, s0, s1, s2, s3, s4, s5, s6, s7,
            END_KEY, e0, e1, e2, e3, e4, e5, e6, e7,
            FLAGS_KEY[0], FLAGS_KEY[1], f0, f1, f2, f3,
        ]);
    }

    fn str(&mut self, key_text: &Key, text: &str) {
        let (key_len, text_len) = (key_text.len(), text.len());
        match u8::try_from(key_len + text_len + 6) {
            // Nearly all. A span has a dozen of them, whose keys and lengths are written four at once.
            Ok(len @ ..0x80) => {
                let (key_len, text_len) = (key_len as u8, text_len as u8);
                self.buf.extend_from_slice(&[self.attribute_key, len, key(1), key_len]);
                append(key_text.as_bytes(), self.buf);
                self.buf.extend_from_slice(&[key(2), text_len + 2, key(1), text_len]);
                append(text.as_bytes(), self.buf);
            }
            _ => {
                self.begin_attribute(key_text, str_len(text));
                put_str(key(1), text, self.buf);
            }
        }
    }

    fn int(&mut self, key_text: &Key, number: i64) {
        let number = number.cast_unsigned();
        self.begin_attribute(key_text, 1 + encoded_len_varint(number));
        encode_key(3, WireType::Varint, self.buf);
        encode_varint(number, self.buf);
    }

    fn bool(&mut self, key_text: &Key, truth: bool) {
        self.begin_attribute(key_text, 2);
        encode_key(2, WireType::Varint, self.buf);
        self.buf.push(u8::from(truth));
    }

    fn strs(&mut self, key_text: &Key, texts: &[String]) {
        let array_len = texts.iter().map(|text| field_len(str_len(text))).sum();
        self.begin_attribute(key_text, field_len(array_len));
        put_length(key(5), array_len, self.buf);
        for text in texts {
            put_length(key(1), str_len(text), self.buf);
            put_str(key(1), text, self.buf);
        }
    }

    fn begin_links(&mut self) {
        self.attribute_key = key(4);
    }

    fn begin_link(&mut self, trace_id: TraceId, span_id: SpanId) {
        self.link_start = begin_message(key(13), self.buf);
        put_bytes(key(1), &trace_id.to_bytes(), self.buf);
        put_bytes(key(2), &span_id.to_bytes(), self.buf);
    }

    fn end_link(&mut self, flags: u32) {
        encode_key(6, WireType::ThirtyTwoBit, self.buf);
        self.buf.extend_from_slice(&flags.to_le_bytes());
        end_message(self.link_start, self.buf);
    }

    fn end(&mut self, error: Option<&str>) {
        if let Some(description) = error {
            let description_len = if description.is_empty() {
                0
            } else {
                str_len(description)
            };
            put_length(key(15), description_len + 2, self.buf);
            if !description.is_empty() {
                put_str(key(2), description, self.buf);
            }
            encode_key(3, WireType::Varint, self.buf);
            self.buf.push(STATUS_CODE_ERROR);
        }
        end_message(self.span_start, self.buf);
        self.attribute_key = key(9);
    }
}

// === Fields ===

const KIND_KEY: u8 = 6 << 3 | WireType::Varint as u8;
const START_KEY: u8 = 7 << 3 | WireType::SixtyFourBit as u8;
const END_KEY: u8 = 8 << 3 | WireType::SixtyFourBit as u8;
/// `flags` is field 16, the first whose key takes two bytes.
const FLAGS_KEY: [u8; 2] = [(16 << 3 | WireType::ThirtyTwoBit as u8) | 0x80, 1];

/// Returns the key of a field with a length. All of them have tags from 1 to 15, whose keys are one byte.
const fn key(tag: u8) -> u8 {
    tag << 3 | WireType::LengthDelimited as u8
}

/// Writes key and length into the first two bytes of `field`, and then the bytes, fewer than 128.
fn fill<const N: usize>(field: &mut [u8], key: u8, bytes: &[u8; N]) {
    if let Some((prefix, body)) = field.split_first_chunk_mut::<2>()
        && let Some(body) = body.first_chunk_mut::<N>()
    {
        *prefix = [key, N as u8];
        *body = *bytes;
    }
}

fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn str_len(text: &str) -> usize {
    field_len(text.len())
}

/// Writes key and length. Nearly all lengths take one byte, and a span has some sixty of them: those two bytes are written
/// at once, which more than halves what encoding costs.
fn put_length(key: u8, len: usize, buf: &mut impl BufMut) {
    match u8::try_from(len) {
        Ok(len @ ..0x80) => buf.put_slice(&[key, len]),
        _ => {
            buf.put_u8(key);
            encode_varint(len as u64, buf);
        }
    }
}

fn put_bytes(key: u8, bytes: &[u8], buf: &mut impl BufMut) {
    put_length(key, bytes.len(), buf);
    buf.put_slice(bytes);
}

fn put_str(key: u8, text: &str, buf: &mut impl BufMut) {
    put_bytes(key, text.as_bytes(), buf);
}

/// Writes a key, and leaves room for a length of two bytes. Returns where the message begins.
fn begin_message(key: u8, buf: &mut Vec<u8>) -> usize {
    buf.extend_from_slice(&[key, 0, 0]);
    buf.len()
}

/// Writes the length of the message that begins at `start`.
fn end_message(start: usize, buf: &mut Vec<u8>) {
    let len = buf.len() - start;
    if let 0x80..0x4000 = len {
        if let Some(room) = buf.get_mut(start - 2..start) {
            room.copy_from_slice(&[len as u8 | 0x80, (len >> 7) as u8]);
        }
        return;
    }
    // A span of more than 16 KiB, a link, an empty resource: what was written moves.
    let mut length = Vec::new();
    encode_varint(len as u64, &mut length);
    buf.splice(start - 2..start, length);
}
