//! Marks the values of headers: numbers and words that frame a body, or that HTTP or OTLP give a meaning to, stay.

use super::target::SCHEMES;
use crate::engine::proto::structure::{Marks, Shape, Words};

/// Words of the headers whose words have a meaning to HTTP.
const WORDS: Words<'_> = Words::usual(&[
    b"chunked",
    b"identity",
    b"gzip",
    b"deflate",
    b"compress",
    b"br",
    b"close",
    b"keep-alive",
    b"upgrade",
    b"websocket",
    b"h2c",
    b"http2-settings",
    b"te",
    b"trailers",
    b"100-continue",
]);

/// Media types of telemetry, which gives no spans.
const MEDIA_TYPES: Words<'_> = Words::usual(&[b"application/x-protobuf", b"application/json"]);

/// Beginning of the `User-Agent` of Spoor's own exports, which give no spans.
const AGENTS: Words<'_> = Words::usual(&[b"spoor/"]);

/// Parameters of `Forwarded` (RFC 7239), and its schemes.
const FORWARDED: Words<'_> = Words::usual(&[b"for", b"by", b"host", b"proto", b"https", b"http"]);

/// A header's value, and the place of the next byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Words of the services.
    Text,
    /// `Content-Length`: digits and commas stay.
    Length,
    /// A list in which these words stay; the others have this shape.
    List(Words<'static>, Shape),
    /// `traceparent`.
    Traceparent {
        /// Dashes before the next byte.
        field: u8,
        /// Bytes of the field.
        bytes: usize,
    },
    /// `tracestate`.
    Tracestate,
}

impl Value {
    /// Creates the state before the first byte of the value of the header with this lower-case name. The byte begins a
    /// word.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"content-length" => Self::Length,
            b"transfer-encoding" | b"connection" | b"upgrade" | b"expect" | b"te" | b"content-encoding" => {
                Self::List(WORDS, Shape::Text)
            }
            b"host" | b"x-forwarded-host" | b"x-forwarded-for" => Self::List(Words::NONE, Shape::Address),
            b"x-forwarded-proto" => Self::List(SCHEMES, Shape::Path),
            b"forwarded" => Self::List(FORWARDED, Shape::Address),
            b"content-type" => Self::List(MEDIA_TYPES, Shape::Text),
            b"user-agent" => Self::List(AGENTS, Shape::Text),
            b"traceparent" => Self::Traceparent { field: 0, bytes: 0 },
            b"tracestate" => Self::Tracestate,
            _ => Self::Text,
        }
    }

    /// Marks a byte, and returns the place behind it.
    pub fn next(self, byte: u8, marks: &mut Marks<'_>) -> Self {
        match self {
            Self::Length if byte.is_ascii_digit() || byte == b',' => marks.keep(1),
            Self::Text | Self::Length => marks.word(1, Shape::Text, Words::NONE),
            Self::List(..) if matches!(byte, b' ' | b'\t' | b',' | b';' | b'=' | b'"') => separator(marks),
            Self::List(words, shape) => marks.word(1, shape, words),
            Self::Traceparent { field, bytes } => return in_traceparent(field, bytes, byte, marks),
            Self::Tracestate if matches!(byte, b',' | b'=') => separator(marks),
            Self::Tracestate => marks.word(1, Shape::Path, Words::NONE),
        }
        self
    }
}

fn separator(marks: &mut Marks<'_>) {
    marks.keep(1);
    marks.new_word();
}

/// Marks a byte of `version "-" trace-id "-" parent-id "-" flags` (W3C Trace Context): version and flags stay.
fn in_traceparent(field: u8, bytes: usize, byte: u8, marks: &mut Marks<'_>) -> Value {
    match (field, byte) {
        (_, b' ' | b'\t') => {
            marks.keep(1);
            return Value::Traceparent { field, bytes };
        }
        (_, b'-') => {
            separator(marks);
            let field = field.saturating_add(1);
            return Value::Traceparent { field, bytes: 0 };
        }
        (0 | 3, byte) if bytes < 2 && byte.is_ascii_hexdigit() => marks.word(1, Shape::Same, Words::NONE),
        _ => marks.word(1, Shape::Hex, Words::ZEROS),
    }
    Value::Traceparent {
        field,
        bytes: bytes.saturating_add(1),
    }
}
