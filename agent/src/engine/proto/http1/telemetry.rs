//! Requests that carry telemetry: the agent's own exports, and those of others by OTLP over HTTP
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
//!
//! A path that ends like OTLP's may be an ordinary application's. What is telemetry says so in its path, its content type
//! and the first bytes of its body together. Where the body's begin was not captured (a client that sends it by a call of
//! its own), the path must be OTLP's own and the content type protobuf: a span too many is better than one that is missing.

use super::{Header, RequestHead};

/// Beginning of the `User-Agent` of the agent's own exporter.
const OWN_USER_AGENT: &[u8] = b"spoor/";

/// Paths to which telemetry is sent by OTLP over HTTP.
const PATHS: [&[u8]; 4] = [b"/v1/traces", b"/v1/metrics", b"/v1/logs", b"/v1development/profiles"];

/// Headers that the parser keeps for this check, behind those that the user chose.
pub(super) const HEADERS: [&str; 2] = ["content-type", "content-encoding"];

/// The only field of OTLP's messages, as JSON.
const FIELDS: [&[u8]; 4] = [
    b"\"resourceSpans\"",
    b"\"resourceMetrics\"",
    b"\"resourceLogs\"",
    b"\"resourceProfiles\"",
];

/// The same as protobuf: field 1, of a length.
const FIELD_1: u8 = 0x0a;

/// Beginning of a gzip file (RFC 1952).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// The rule by which requests are telemetry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telemetry {
    /// Exports of others are traced, too.
    include: bool,
    /// Index at which the parser keeps the [`HEADERS`].
    first_header: u16,
}

impl Telemetry {
    /// Creates the settings. `include`: exports of other programs are traced. `first_header`: index of the first of
    /// [`HEADERS`] among the captured ones.
    pub(super) fn new(include: bool, first_header: u16) -> Self {
        Self { include, first_header }
    }

    /// Returns whether a request carries telemetry that is not traced: see
    /// [`Call::is_telemetry`](crate::engine::proto::Call::is_telemetry).
    pub(in crate::engine::proto) fn names(
        self,
        head: &RequestHead,
        offset: u64,
        captured: Option<(u64, &[u8])>,
    ) -> bool {
        if head.method() != b"POST" {
            return false;
        }
        let value = |wanted| head.headers().first(wanted);
        let kept = |place| value(Header::Captured(self.first_header + place)).unwrap_or_default();
        value(Header::UserAgent).is_some_and(|agent| agent.starts_with(OWN_USER_AGENT))
            || !self.include
                && is_path(head)
                && is_otlp(
                    head,
                    kept(0),
                    kept(1),
                    captured.map_or(&[], |captured| body_of(captured, offset, head)),
                )
    }
}

fn path(head: &RequestHead) -> &[u8] {
    head.target().split(|&byte| byte == b'?').next().unwrap_or_default()
}

/// Returns whether a path ends like OTLP's.
fn is_path(head: &RequestHead) -> bool {
    let path = path(head);
    PATHS.iter().any(|otlp| path.ends_with(otlp))
}

/// Returns whether a POST to a path that ends like OTLP's is an export.
fn is_otlp(head: &RequestHead, content_type: &[u8], encoding: &[u8], body: &[u8]) -> bool {
    let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    let is = |name: &[u8]| media_type.trim_ascii().eq_ignore_ascii_case(name);
    let protobuf = is(b"application/x-protobuf");
    if !protobuf && !is(b"application/json") {
        return false;
    }
    let is_gzip = encoding.trim_ascii().eq_ignore_ascii_case(b"gzip");
    let is_plain = encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
    match body {
        // An empty message is a message.
        [] if head.content_length == Some(0) => protobuf,
        body if is_gzip && !body.is_empty() => GZIP.starts_with(body) || body.starts_with(GZIP),
        [first, ..] if is_plain && protobuf => *first == FIELD_1,
        body if is_plain && !body.is_empty() => is_json_message(body),
        // Not captured, or compressed in another way.
        _ => protobuf && PATHS.contains(&path(head)),
    }
}

/// Returns whether the captured part of some JSON begins like a message of OTLP.
fn is_json_message(body: &[u8]) -> bool {
    let Some(fields) = body.trim_ascii_start().strip_prefix(b"{") else {
        return false;
    };
    let fields = fields.trim_ascii_start();
    fields == b"}"
        || FIELDS
            .iter()
            .any(|field| fields.starts_with(field) || field.starts_with(fields))
}

/// Returns how many bytes at the beginning of a body show that it is a message of OTLP, or may be one. They are the
/// same in all of its messages.
pub(super) fn marker(body: &[u8]) -> usize {
    match body {
        [FIELD_1, ..] => 1,
        body if body.starts_with(GZIP) || GZIP.starts_with(body) => body.len().min(GZIP.len()),
        body if is_json_message(body) => {
            let fields = body.iter().position(|byte| *byte == b'"').unwrap_or(body.len());
            let name = FIELDS.iter().filter_map(|field| {
                let rest = body.get(fields..)?;
                (rest.starts_with(field) || field.starts_with(rest)).then(|| field.len().min(rest.len()))
            });
            fields + name.max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Returns the part of a request's body that a segment's bytes, which lie at `offset`, hold. The head begins at `head_offset`,
/// and ends in the segment. A chunked body (one without a length) is looked for behind the line of its first chunk.
fn body_of<'a>((offset, bytes): (u64, &'a [u8]), head_offset: u64, head: &RequestHead) -> &'a [u8] {
    let from = usize::try_from(head_offset.saturating_sub(offset)).unwrap_or(usize::MAX);
    let bytes = bytes.get(from..).unwrap_or_default();
    let ends = [b"\n\r\n".as_slice(), b"\n\n"];
    let end = ends
        .iter()
        .filter_map(|end| Some(memchr::memmem::find(bytes, end)? + end.len()))
        .min();
    let body = end.and_then(|end| bytes.get(end..)).unwrap_or_default();
    if head.content_length.is_some() {
        return body;
    }
    match memchr::memchr(b'\n', body) {
        Some(line) if body.first().is_some_and(u8::is_ascii_hexdigit) => body.get(line + 1..).unwrap_or_default(),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(target: &str, length: Option<u64>) -> RequestHead {
        RequestHead {
            content_length: length,
            ..RequestHead::new(b"POST", target.as_bytes(), [].into_iter())
        }
    }

    #[test]
    fn path_type_and_body_must_agree() {
        const PROTOBUF: &str = "application/x-protobuf";
        const JSON: &str = "application/json";
        for (target, content_type, encoding, body, expected) in [
            ("/v1/traces", PROTOBUF, "", b"\x0a\x84\x01".as_slice(), true),
            ("/otlp/v1/metrics?k=v", PROTOBUF, "", b"\x0a", true),
            (
                "/v1/logs",
                "application/x-protobuf; charset=x",
                "gzip",
                b"\x1f\x8b\x08",
                true,
            ),
            ("/v1/logs", JSON, "gzip", b"\x1f", true),
            ("/v1/logs", JSON, "", b"{\"resourceLogs\":[", true),
            ("/v1/traces", "Application/JSON", "", b" {\n \"resourceSp", true),
            ("/v1development/profiles", JSON, "identity", b"{}", true),
            // Ordinary applications.
            ("/api/v1/logs", JSON, "", b"{\"message\":\"hello\"}", false),
            ("/v1/logs", JSON, "", b"[{\"resourceLogs\":1}]", false),
            ("/api/v1/logs", "text/plain", "", b"\x0a", false),
            ("/api/v1/logs", "", "", b"\x0a", false),
            ("/tenant/7/v1/traces", PROTOBUF, "", b"\x12\x04", false),
            ("/v1/traces", PROTOBUF, "gzip", b"\x0a\x04", false),
            ("/v1/tracesx", PROTOBUF, "", b"\x0a", false),
            // The body was not captured, or cannot be read.
            ("/v1/traces", PROTOBUF, "", b"", true),
            ("/v1/traces", PROTOBUF, "zstd", b"\x28\xb5\x2f\xfd", true),
            ("/tenant/7/v1/traces", PROTOBUF, "", b"", false),
            ("/v1/logs", JSON, "", b"", false),
        ] {
            let head = post(target, Some(100));
            let otlp = is_path(&head) && is_otlp(&head, content_type.as_bytes(), encoding.as_bytes(), body);
            assert_eq!(
                otlp,
                expected,
                "{target} {content_type} {encoding} {}",
                body.escape_ascii()
            );
        }
        assert!(is_otlp(&post("/a/v1/logs", Some(0)), PROTOBUF.as_bytes(), b"", b""));
    }

    #[test]
    fn the_body_is_what_is_behind_the_head() {
        let chunked = b"....POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n\x0a\x01";
        let plain = b"....POST / HTTP/1.1\nA: b\n\n\x0a\x01";
        let body = |bytes, length| body_of((96, bytes), 100, &post("/", length));
        assert_eq!(body(chunked, None), b"\x0a\x01");
        assert_eq!(body(plain, Some(2)), b"\x0a\x01");
        assert_eq!(body(&plain[..20], Some(2)), b"");
        assert_eq!(body_of((96, plain), u64::MAX, &post("/", None)), b"");
        // The head began in an earlier segment.
        assert_eq!(body_of((96, b": b\r\n\r\n\x0a"), 50, &post("/", Some(1))), b"\x0a");
    }

    #[test]
    fn what_marks_a_message_says_nothing_of_it() {
        for (body, kept) in [
            (b"\x0a\x84\x01".as_slice(), 1),
            (b"\x1f\x8b\x08", 2),
            (b"\x1f", 1),
            (b"{\"resourceLogs\":[", 15),
            (b" {\n \"resourceSp", 15),
            (b"{}", 2),
            (b"{ \"secret\":1}", 0),
            (b"{ }secret", 0),
            (b"secret", 0),
            (b"", 0),
        ] {
            assert_eq!(marker(body), kept, "{}", body.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
            offset in 0..80u64,
            length in proptest::option::of(0..9u64),
        ) {
            let head = post("/v1/logs", length);
            let body = body_of((0, &bytes), offset, &head);
            is_otlp(&head, b"application/json", b"", body);
        }
    }
}
