//! Chooses the parser of a connection by its first bytes.
//!
//! The bias: HTTP/1 is assumed for a connection whose role is known and whose first byte is seen, until that parser
//! rejects it. Nothing is assumed for a connection older than the agent, until a system call begins with bytes that can
//! hardly be anything else.

use agent_ebpf::classify::{Looks, first_bytes, looks_like_request, looks_like_response};

use super::{Parser, http1::Http1};

/// The first bytes of a connection that are seen.
#[derive(Clone, Copy, Debug)]
pub struct FirstBytes<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Whether the bytes begin with the first byte of a system call.
    pub begins_call: bool,
    /// Whether the bytes are the connection's first.
    pub from_birth: bool,
    /// This end is the server's; `None`: it is not known.
    pub at_server: Option<bool>,
    /// Whether this end sends the bytes.
    pub sent: bool,
}

/// A connection that was recognised.
#[derive(Debug)]
pub struct Detected {
    /// Parser of the protocol.
    pub parser: Parser,
    /// This end is the server's.
    pub at_server: bool,
}

/// Chooses a parser; `None`: these bytes do not show the protocol.
pub fn detect(seen: &FirstBytes<'_>) -> Option<Detected> {
    let at_server = match seen.at_server {
        Some(at_server) => at_server,
        None if seen.begins_call => {
            // The sender of a request is the client, the sender of a response the server.
            let (first, n) = first_bytes(seen.bytes);
            if looks_like_request(first, n) == Looks::Yes {
                !seen.sent
            } else if looks_like_response(first, n) == Looks::Yes {
                seen.sent
            } else {
                return None;
            }
        }
        None => return None,
    };
    let http = Http1::new(seen.from_birth);
    let http = if at_server { http.at_server() } else { http };
    Some(Detected {
        parser: Parser::Http1(Box::new(http)),
        at_server,
    })
}
