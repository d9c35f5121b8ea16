//! OTLP's JSON (OTLP specification, section "JSON Protobuf Encoding"), as opentelemetry-proto's serde gives it: ids are
//! hexadecimal, 64-bit integers are texts, and empty fields are there.

use bytes::{BufMut, BytesMut};
use opentelemetry_semantic_conventions::SCHEMA_URL;

use super::{
    SCOPE_NAME, SCOPE_VERSION,
    append::{append, append_few, append_last},
    writer::{Head, STATUS_CODE_ERROR, SpanWriter},
};
use crate::engine::trace::{Resource, SpanId, TraceId};

// === Requests ===

/// Length of the comma that a span and a resource begin with: the first ones are written without it.
pub const SEPARATOR_BYTES: usize = 1;

/// Begin of a request.
const BEGIN: &[u8] = br#"{"resourceSpans":["#;
/// End of a request.
const END: &[u8] = b"]}";

/// Encodes what stands before the spans of a resource, with the comma that separates it from the resource before.
pub fn resource(resource: &Resource) -> Vec<u8> {
    let mut buf = br#",{"resource":{"attributes":["#.to_vec();
    Json::new(&mut buf).attributes(&resource.attributes);
    close_list(&mut buf);
    buf.extend_from_slice(br#","droppedAttributesCount":0,"entityRefs":[]},"scopeSpans":[{"scope":{"name":""#);
    put_text(SCOPE_NAME, &mut buf);
    buf.extend_from_slice(br#"","version":""#);
    put_text(SCOPE_VERSION, &mut buf);
    buf.extend_from_slice(br#"","attributes":[],"droppedAttributesCount":0},"spans":["#);
    buf
}

/// Returns an upper bound of the bytes that a group of spans has beside them, and a request of that group alone beside it.
pub fn group_overhead(resource: &[u8]) -> usize {
    const KEYS: usize = 64;
    BEGIN.len() + resource.len() + 2 * SCHEMA_URL.len() + KEYS + END.len()
}

/// Writes what stands before the spans of a resource: for the first one, with the begin of the request.
pub fn begin_group(resource: &[u8], is_first: bool, buf: &mut BytesMut) {
    if is_first {
        buf.put_slice(BEGIN);
        buf.put_slice(resource.get(SEPARATOR_BYTES..).unwrap_or_default());
    } else {
        buf.put_slice(resource);
    }
}

/// Writes what stands behind the spans of a resource: for the last one, with the end of the request.
pub fn end_group(is_last: bool, buf: &mut BytesMut) {
    for _ in 0..2 {
        buf.put_slice(br#"],"schemaUrl":""#);
        buf.put_slice(SCHEMA_URL.as_bytes());
        buf.put_slice(br#""}"#);
    }
    if is_last {
        buf.put_slice(END);
    }
}

// === Spans ===

/// Writes spans as elements of a list, each with [`SEPARATOR_BYTES`] before it.
pub struct Json<'a> {
    buf: &'a mut Vec<u8>,
}

impl<'a> Json<'a> {
    /// Appends to `buf`.
    pub fn new(buf: &'a mut Vec<u8>) -> Self {
        Self { buf }
    }
}

impl SpanWriter for Json<'_> {
    fn begin(&mut self, head: &Head<'_>) {
        let buf = &mut *self.buf;
        buf.extend_from_slice(br#",{"traceId":""#);
        buf.extend_from_slice(hex(head.trace_id.to_bytes()).as_flattened());
        buf.extend_from_slice(br#"","spanId":""#);
        buf.extend_from_slice(hex(head.span_id.to_bytes()).as_flattened());
        buf.extend_from_slice(br#"","traceState":""#);
        put_text(head.trace_state, buf);
        buf.extend_from_slice(br#"","parentSpanId":""#);
        if let Some(parent) = head.parent_span_id {
            buf.extend_from_slice(hex(parent.to_bytes()).as_flattened());
        }
        buf.extend_from_slice(br#"","flags":"#);
        put_number(head.flags, buf);
        buf.extend_from_slice(br#","name":""#);
        put_text(head.name, buf);
        buf.extend_from_slice(br#"","kind":"#);
        put_number(head.kind, buf);
        buf.extend_from_slice(br#","startTimeUnixNano":""#);
        put_number(head.start_unix_ns, buf);
        buf.extend_from_slice(br#"","endTimeUnixNano":""#);
        put_number(head.end_unix_ns, buf);
        buf.extend_from_slice(br#"","attributes":["#);
    }

    fn str(&mut self, key: &str, text: &str) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"stringValue":""#);
        put_text(text, self.buf);
        self.buf.extend_from_slice(br#""}},"#);
    }

    fn int(&mut self, key: &str, number: i64) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"intValue":""#);
        put_number(number, self.buf);
        self.buf.extend_from_slice(br#""}},"#);
    }

    fn bool(&mut self, key: &str, truth: bool) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"boolValue":"#);
        self.buf.extend_from_slice(if truth { b"true}}," } else { b"false}}," });
    }

    fn strs(&mut self, key: &str, texts: &[String]) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"arrayValue":{"values":["#);
        for text in texts {
            self.buf.extend_from_slice(br#"{"stringValue":""#);
            put_text(text, self.buf);
            self.buf.extend_from_slice(br#""},"#);
        }
        close_list(self.buf);
        self.buf.extend_from_slice(b"}}},");
    }

    fn begin_links(&mut self) {
        close_list(self.buf);
        self.buf
            .extend_from_slice(br#","droppedAttributesCount":0,"events":[],"droppedEventsCount":0,"links":["#);
    }

    fn begin_link(&mut self, trace_id: TraceId, span_id: SpanId) {
        self.buf.extend_from_slice(br#"{"traceId":""#);
        self.buf.extend_from_slice(hex(trace_id.to_bytes()).as_flattened());
        self.buf.extend_from_slice(br#"","spanId":""#);
        self.buf.extend_from_slice(hex(span_id.to_bytes()).as_flattened());
        self.buf.extend_from_slice(br#"","traceState":"","attributes":["#);
    }

    fn end_link(&mut self, flags: u32) {
        close_list(self.buf);
        self.buf.extend_from_slice(br#","droppedAttributesCount":0,"flags":"#);
        put_number(flags, self.buf);
        self.buf.extend_from_slice(b"},");
    }

    fn end(&mut self, error: Option<&str>) {
        close_list(self.buf);
        let buf = &mut *self.buf;
        match error {
            None => buf.extend_from_slice(br#","droppedLinksCount":0,"status":null}"#),
            Some(description) => {
                buf.extend_from_slice(br#","droppedLinksCount":0,"status":{"message":""#);
                put_text(description, buf);
                buf.extend_from_slice(br#"","code":"#);
                put_number(STATUS_CODE_ERROR, buf);
                buf.extend_from_slice(b"}}");
            }
        }
    }
}

/// Writes an attribute up to the end of its key.
fn put_key(key: &str, buf: &mut Vec<u8>) {
    buf.extend_from_slice(br#"{"key":""#);
    put_text(key, buf);
}

/// Ends a list. Each element has a comma behind it, which the last one loses.
fn close_list(buf: &mut Vec<u8>) {
    buf.pop_if(|byte| *byte == b',');
    buf.push(b']');
}

// === Values ===

/// Returns both hexadecimal digits.
fn digits(byte: u8) -> [u8; 2] {
    let digit = |four: u8| four + if four < 10 { b'0' } else { b'a' - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

/// Returns the hexadecimal digits of an id.
fn hex<const N: usize>(bytes: [u8; N]) -> [[u8; 2]; N] {
    bytes.map(digits)
}

fn put_number(number: impl itoa::Integer, buf: &mut Vec<u8>) {
    append(itoa::Buffer::new().format(number).as_bytes(), buf);
}

/// Writes the content of a JSON string (RFC 8259, section 7), without its quotation marks.
///
/// Eight bytes at a time: nearly all texts are written as they are, and a span has some thirty.
pub fn put_text(text: &str, buf: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let Some(last) = bytes.last_chunk::<8>() else {
        return put_few(bytes, buf);
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut left = words.iter();
    while let Some(word) = left.next() {
        if special(u64::from_le_bytes(*word)) {
            put_escaped(word, buf);
            put_escaped(left.as_slice().as_flattened(), buf);
            return put_escaped(rest, buf);
        }
        buf.extend_from_slice(word);
    }
    if special(u64::from_le_bytes(*last)) {
        put_escaped(rest, buf);
    } else {
        append_last(last, rest.len(), buf);
    }
}

/// Writes fewer than eight bytes of a JSON string.
fn put_few(bytes: &[u8], buf: &mut Vec<u8>) {
    // The filling is not special.
    let word = match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
            first | last << 32
        }
        _ => bytes.iter().fold(u64::MAX, |word, &byte| word << 8 | u64::from(byte)),
    };
    if special(word) {
        put_escaped(bytes, buf);
    } else {
        append_few(bytes, buf);
    }
}

/// Returns whether one of the eight bytes is below 0x20, a quotation mark or a backslash.
///
/// `(x - ONES) & !x & HIGH` has a bit for the lowest byte of `x` that is 0 (Hacker's Delight, section 6-1); with 0x20 in
/// place of 1, for the lowest below it.
fn special(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = 0x80 * ONES;
    let quote = word ^ (u64::from(b'"') * ONES);
    let backslash = word ^ (u64::from(b'\\') * ONES);
    let below = word.wrapping_sub(0x20 * ONES) & !word;
    (below | quote.wrapping_sub(ONES) & !quote | backslash.wrapping_sub(ONES) & !backslash) & HIGH != 0
}

#[cold]
fn put_escaped(bytes: &[u8], buf: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => buf.extend_from_slice(&[b'\\', byte]),
            0x08 => buf.extend_from_slice(br"\b"),
            b'\t' => buf.extend_from_slice(br"\t"),
            b'\n' => buf.extend_from_slice(br"\n"),
            0x0c => buf.extend_from_slice(br"\f"),
            b'\r' => buf.extend_from_slice(br"\r"),
            ..0x20 => {
                buf.extend_from_slice(br"\u00");
                buf.extend_from_slice(&digits(byte));
            }
            _ => buf.push(byte),
        }
    }
}
