//! OTLP's JSON (OTLP specification, section "JSON Protobuf Encoding"), as opentelemetry-proto's serde gives it: ids are
//! hexadecimal, 64-bit integers are texts, and empty fields are there.

use bytes::{BufMut, BytesMut};
use opentelemetry_semantic_conventions::SCHEMA_URL;

use super::{
    SCOPE_NAME, SCOPE_VERSION,
    append::append,
    writer::{Head, STATUS_CODE_ERROR, SpanWriter},
};
use crate::engine::trace::{Key, Resource, SpanId, TraceId};

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

    fn str(&mut self, key: &Key, text: &str) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"stringValue":""#);
        put_text(text, self.buf);
        self.buf.extend_from_slice(br#""}},"#);
    }

    fn int(&mut self, key: &Key, number: i64) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"intValue":""#);
        put_number(number, self.buf);
        self.buf.extend_from_slice(br#""}},"#);
    }

    fn bool(&mut self, key: &Key, truth: bool) {
        put_key(key, self.buf);
        self.buf.extend_from_slice(br#"","value":{"boolValue":"#);
        self.buf.extend_from_slice(if truth { b"true}}," } else { b"false}}," });
    }

    fn strs(&mut self, key: &Key, texts: &[String]) {
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
fn put_key(key: &Key, buf: &mut Vec<u8>) {
    buf.extend_from_slice(br#"{"key":""#);
    match key {
        Key::Borrowed(constant) => {
            debug_assert!(is_plain(constant.as_bytes()), "{constant} must be escaped");
            append(constant.as_bytes(), buf);
        }
        Key::Owned(key) => put_text(key, buf),
    }
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
    let mut text = [[0; 2]; N];
    // The compiler makes vector instructions of this loop, and none of `bytes.map`.
    for (digits_of_byte, byte) in text.iter_mut().zip(bytes) {
        *digits_of_byte = digits(byte);
    }
    text
}

fn put_number(number: impl itoa::Integer, buf: &mut Vec<u8>) {
    append(itoa::Buffer::new().format(number).as_bytes(), buf);
}

/// Writes the content of a JSON string (RFC 8259, section 7), without its quotation marks.
pub fn put_text(text: &str, buf: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    if is_plain(bytes) {
        append(bytes, buf);
    } else {
        put_escaped(bytes, buf);
    }
}

/// Returns whether a text is written as it is, as nearly all are. A span has some thirty.
fn is_plain(bytes: &[u8]) -> bool {
    match bytes.len() {
        16.. => are_plain::<16>(bytes),
        8.. => are_plain::<8>(bytes),
        4.. => are_plain::<4>(bytes),
        _ => !bytes.iter().any(is_special),
    }
}

/// Looks at blocks. The last one may share bytes with the one before it.
fn are_plain<const N: usize>(bytes: &[u8]) -> bool {
    let (blocks, _) = bytes.as_chunks::<N>();
    !blocks.iter().chain(bytes.last_chunk()).any(has_special)
}

/// Returns whether a block has a byte that must be escaped. Looks at all of them: that takes a few vector instructions.
fn has_special<const N: usize>(block: &[u8; N]) -> bool {
    block.iter().fold(false, |found, byte| found | is_special(byte))
}

/// Returns whether a byte must be escaped: a control character, a quotation mark or a backslash.
fn is_special(byte: &u8) -> bool {
    // Without branches, for `has_special`.
    (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\')
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
