//! HTTP/1.0 and 1.1 (RFC 9112), as seen by somebody who only listens.
//!
//! [`Http1`] is fed with both halves of one connection, in pieces of any size with gaps between them, and says which
//! exchanges there were. `line`, `start_line` and `fields` read the lines of heads and `head` whole ones, `chunked` finds the
//! end of chunked bodies, `stream` puts them together for one half, `connection` for both, `proxy` takes off what a proxy
//! sent first, `stray` passes over bodies that should not be there, `resync` finds the way back after a loss, and `doubt` knows when
//! nothing but that helps.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

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

#[cfg(test)]
mod tests;

pub use ahead::Ahead;
pub use connection::{Counters, Http1};
pub(crate) use framing::{Follow, Method, follow_request, follow_response};

use crate::record::Stamp;

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
    /// The head of a request whose first line could not be read.
    fn unreadable() -> Self {
        Self {
            method: Box::default(),
            target: Box::default(),
            minor_version: 1,
            content_length: None,
            headers: Vec::new(),
        }
    }

    /// Whether its first line could be read.
    pub fn is_readable(&self) -> bool {
        !self.method.is_empty()
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
    /// No header of the request, but one of its connection: the client's address that the PROXY protocol tells.
    ProxiedFor,
    /// One that the user asked for: its index in [`Config::capture_request`] or [`Config::capture_response`].
    Captured(u16),
}

/// What the parser keeps and how much it holds.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Lower-case names of request headers that the user wants as attributes.
    pub capture_request: Vec<String>,
    /// Lower-case names of response headers that the user wants as attributes.
    pub capture_response: Vec<String>,
}

/// What the parser found. `exchange` counts the requests of the connection from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request's head is complete.
    RequestHead {
        /// Number of the exchange.
        exchange: u64,
        /// The head.
        head: Box<RequestHead>,
        /// The call that moved the head's first byte.
        first: Stamp,
        /// The call that moved the head's last byte.
        complete: Stamp,
        /// Stream offset of the head's first byte.
        offset: u64,
    },
    /// A request's body is complete (at once with the head, where there is none).
    RequestEnd {
        /// Number of the exchange.
        exchange: u64,
        /// The call that moved the last byte.
        last: Stamp,
        /// Size of the body: without the framing of chunks.
        body_bytes: u64,
    },
    /// A final response's head is complete (1xx are passed over, 101 is final).
    ResponseHead {
        /// Number of the exchange.
        exchange: u64,
        /// The head.
        head: Box<ResponseHead>,
        /// The call that moved the head's first byte.
        first: Stamp,
        /// The call that moved the head's last byte.
        complete: Stamp,
        /// Stream offset of the head's first byte.
        offset: u64,
    },
    /// A response's body is complete.
    ResponseEnd {
        /// Number of the exchange.
        exchange: u64,
        /// The call that moved the last byte (that closed, for a body until close).
        last: Stamp,
        /// Size of the body, without the framing of chunks; `None`: peers differ on where it ends.
        body_bytes: Option<u64>,
    },
    /// The exchanges from this one on cannot be followed: bytes are missing, malformed or in doubt. Those whose response was
    /// not seen whole are lost; the parser looks for the next sure boundary, as soon as those before this one are over. The
    /// number of an exchange whose head was not reported is used again.
    Lost {
        /// The first exchange that is lost.
        exchange: u64,
        /// Why.
        cause: Cause,
    },
    /// The connection carries something else from here on (Upgrade, CONNECT) or always did: it is opaque.
    Opaque {
        /// Why.
        cause: Cause,
        /// The other protocol's name, for people ([`super::opaque`]).
        carries: &'static str,
    },
}

/// Why the parser gave up on something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Bytes that frame a message were not captured.
    Gap,
    /// A first line or chunk that cannot be read.
    Malformed,
    /// A message whose end peers place differently: smuggling, or a careless sender.
    Doubtful,
    /// A head longer than 64 KiB.
    HeadTooLarge,
    /// A response that no request asked for.
    Unsolicited,
    /// More requests are waiting for responses than are kept.
    TooManyPending,
    /// The first bytes are not HTTP/1.
    NotHttp,
    /// 101, or a 2xx to CONNECT.
    Upgrade,
}
