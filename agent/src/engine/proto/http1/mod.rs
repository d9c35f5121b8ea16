//! HTTP/1.0 and 1.1 (RFC 9112), as seen by a passive listener.
//!
//! [`Http1`] takes both halves of one connection, in pieces of any size with gaps between them, and reports the
//! exchanges.
//!
//! `line`, `start_line` and `fields` read the lines of heads, and `head` reads whole ones. `chunked` finds the end of
//! chunked bodies. `stream` puts them together for one half, `connection` for both. `proxy` removes the header that a
//! proxy sent first, and `stray` skips bodies that should not be there. `resync` finds the way back after a loss, and
//! `doubt` decides when only that helps. `structure` decides which bytes of messages a redacted tape may show.

mod ahead;
mod chunked;
mod connection;
mod doubt;
mod fields;
mod framing;
mod head;
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
pub use structure::Structure;
pub use telemetry::Telemetry;

use crate::config::HeaderName;

use super::{Call, Cause, Event, Piece, Reply};

/// A request's head, with the headers that spans need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// As sent; any token. Empty if the request line could not be read, and a server refused it.
    pub method: Box<[u8]>,
    /// The request target as sent: origin form, absolute form, authority form or `*`. Empty as the method is.
    pub target: Box<[u8]>,
    /// Minor version: 0, or 1 for all later ones (RFC 9110 section 2.5).
    pub minor_version: u8,
    /// Value of `Content-Length`, if there was a valid one.
    pub content_length: Option<u64>,
    /// Only the headers that are of interest, in the order received.
    pub headers: Vec<(Header, Box<[u8]>)>,
}

impl RequestHead {
    /// Creates the head of a request whose first line could not be read.
    fn unreadable() -> Self {
        Self {
            method: Box::default(),
            target: Box::default(),
            minor_version: 1,
            content_length: None,
            headers: Vec::new(),
        }
    }

    /// Returns whether its first line could be read.
    pub fn is_readable(&self) -> bool {
        !self.method.is_empty()
    }

    /// Returns the values of a header, in the order received.
    pub fn values(&self, wanted: Header) -> impl Iterator<Item = &[u8]> {
        let values = self.headers.iter().filter(move |(header, _)| *header == wanted);
        values.map(|(_, value)| &**value)
    }

    /// Returns whether this request repeats another one, as a proxy passes it on: the same method, and the same target or one
    /// without a prefix.
    pub(super) fn passes_on(&self, request: &Self) -> bool {
        let shortest = 2;
        request.method == self.method
            && (request.target == self.target
                || self.target.len() >= shortest
                    && (request.target.ends_with(&self.target) || self.target.ends_with(&request.target)))
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
    /// Only the headers that are of interest, in the order received.
    pub headers: Vec<(Header, Box<[u8]>)>,
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
    /// Lower-case names of request headers that are kept beside those that spans need.
    capture_request: Vec<String>,
    /// Lower-case names of response headers that are kept.
    capture_response: Vec<String>,
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
