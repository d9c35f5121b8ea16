//! HTTP/1.0 and 1.1 (RFC 9112), as seen by a passive listener.
//!
//! [`Http1`] takes both halves of one connection, in pieces of any size with gaps between them, and reports the
//! exchanges.
//!
//! `line`, `start_line` and `fields` read the lines of heads, and `head` reads whole ones; `headers` has what is kept of
//! them. `chunked` finds the end of chunked bodies. `stream` puts them together for one half, `connection` for both.
//! `proxy` removes the header that a proxy sent first, and `stray` skips bodies that should not be there. `resync` finds
//! the way back after a loss, and `doubt` decides when only that helps. `structure` decides which bytes of messages a
//! redacted tape may show.

mod ahead;
mod chunked;
mod connection;
mod doubt;
mod fields;
mod framing;
mod head;
mod headers;
mod held;
mod line;
mod proxy;
mod resync;
mod start_line;
mod stray;
mod stream;
pub(super) mod structure;
pub mod telemetry;

#[cfg(test)]
mod tests;

pub use connection::{Counters, Http1};
pub use headers::Headers;
pub use structure::Structure;
pub use telemetry::Telemetry;

use crate::config::HeaderName;

use super::{Call, Cause, Event, Piece, Reply};
use fields::Captured;
use headers::Builder;

/// A request's head, with the headers that spans need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Minor version: 0, or 1 for all later ones (RFC 9110 section 2.5).
    pub minor_version: u8,
    /// Value of `Content-Length`, if there was a valid one.
    pub content_length: Option<u64>,
    /// Length of the method: 8 KiB at most.
    method_bytes: u32,
    /// Method and target, and the headers that are of interest.
    headers: Headers,
}

impl RequestHead {
    /// Creates the head of an HTTP/1.1 request without a body.
    pub fn new<'a>(method: &[u8], target: &[u8], list: impl Iterator<Item = (Header, &'a [u8])>) -> Self {
        let mut headers = Builder::with_capacity(method.len() + target.len());
        headers.add_word(method);
        headers.add_word(target);
        list.for_each(|(header, value)| headers.add(header, value));
        Self {
            minor_version: 1,
            content_length: None,
            method_bytes: method.len() as u32,
            headers: headers.finish(),
        }
    }

    /// Creates the head of a request whose first line could not be read.
    fn unreadable() -> Self {
        Self::new(b"", b"", [].into_iter())
    }

    /// Returns the method as sent; any token. Empty if the request line could not be read, and a server refused it.
    pub fn method(&self) -> &[u8] {
        self.headers
            .words()
            .get(..self.method_bytes as usize)
            .unwrap_or_default()
    }

    /// Returns the request target as sent: origin form, absolute form, authority form or `*`. Empty as the method is.
    pub fn target(&self) -> &[u8] {
        self.headers
            .words()
            .get(self.method_bytes as usize..)
            .unwrap_or_default()
    }

    /// Returns the headers that are of interest.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns whether its first line could be read.
    pub fn is_readable(&self) -> bool {
        self.method_bytes > 0
    }

    /// Returns whether this request repeats another one, as a proxy passes it on: the same method, and the same target or one
    /// without a prefix.
    pub(super) fn passes_on(&self, request: &Self) -> bool {
        let shortest = 2;
        let (target, other) = (self.target(), request.target());
        request.method() == self.method()
            && (other == target || target.len() >= shortest && (other.ends_with(target) || target.ends_with(other)))
    }
}

/// A response's head, with the headers that spans need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code, 100 to 999.
    pub status: u16,
    /// Minor version: 0, or 1 for all later ones.
    pub minor_version: u8,
    /// Value of `Content-Length`, if there was a valid one.
    pub content_length: Option<u64>,
    /// The headers that are of interest.
    pub headers: Headers,
}

/// A header that spans need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// `Host`
    Host,
    /// `User-Agent`
    UserAgent,
    /// `traceparent` (W3C Trace Context)
    Traceparent,
    /// `tracestate` (W3C Trace Context)
    Tracestate,
    /// `Forwarded` (RFC 7239)
    Forwarded,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Forwarded-Host`
    XForwardedHost,
    /// The client's address from the PROXY protocol: a header of the connection, not of the request.
    ProxiedFor,
    /// A header that the user asked for, by its place in the list that [`Config::new`] was given.
    Captured(u16),
}

/// The parts of messages that the parser keeps.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Request headers that are kept beside those that spans need.
    capture_request: Captured,
    /// Response headers that are kept.
    capture_response: Captured,
    pub(super) telemetry: Telemetry,
}

impl Config {
    /// Keeps these headers, by their lower-case names. `include_telemetry`: exports of others by OTLP give spans.
    pub fn new(capture_request: &[HeaderName], capture_response: &[HeaderName], include_telemetry: bool) -> Self {
        let wanted = capture_request.iter().map(HeaderName::to_string);
        Self {
            capture_request: wanted.chain(telemetry::HEADERS.map(str::to_owned)).collect(),
            capture_response: capture_response.iter().map(HeaderName::to_string).collect(),
            telemetry: Telemetry::new(include_telemetry, capture_request.len() as u16),
        }
    }
}

/// Describes exchanges that were lost for other reasons than missing bytes.
pub(super) fn unreadable(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Malformed => Some("malformed HTTP/1"),
        Cause::Doubtful => Some("HTTP/1 with a doubtful end"),
        Cause::HeadTooLarge => Some("heads above 64 KiB"),
        Cause::Unsolicited => Some("responses without a request"),
        Cause::TooManyPending => Some("too many pipelined requests"),
        // Gaps show as missed exchanges; the other causes are reported with the protocol.
        Cause::Gap | Cause::OtherProtocol | Cause::Upgrade => None,
    }
}
