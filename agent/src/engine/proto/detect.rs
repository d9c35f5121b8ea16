//! Chooses the parser of a connection by its first bytes.
//!
//! The bias: HTTP/1 is assumed for a connection whose role is known and whose first byte is seen, until that parser
//! rejects it, unless its client begins like one of Redis. Nothing is assumed for a connection older than the agent, until a
//! system call begins with bytes that can hardly be anything else.

use agent_ebpf::classify::{Looks, first_bytes, looks_like_request, looks_like_resp_command, looks_like_response};

use super::{Parser, Protocol, http1::Http1, redis::Redis};

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
    let (protocol, at_server) = match seen.at_server {
        Some(at_server) => (expected(seen, at_server), at_server),
        None if seen.begins_call => unmistakable(seen)?,
        None => return None,
    };
    let parser = match protocol {
        Protocol::Http1 => {
            let http = Http1::new(seen.from_birth);
            Parser::Http1(Box::new(if at_server { http.at_server() } else { http }))
        }
        Protocol::Redis => Parser::Redis(Box::new(Redis::new(seen.from_birth, at_server))),
    };
    Some(Detected { parser, at_server })
}

/// Returns the protocol of a connection of which it is known who the client is: only its first bytes choose another one than
/// HTTP/1.
fn expected(seen: &FirstBytes<'_>, at_server: bool) -> Protocol {
    let (first, n) = first_bytes(seen.bytes);
    let is_request = seen.sent != at_server;
    // No method of HTTP begins so.
    let is_command = looks_like_resp_command(first, n) != Looks::No || seen.bytes == b"*";
    if is_request && is_command && seen.from_birth {
        Protocol::Redis
    } else {
        Protocol::Http1
    }
}

/// Returns the protocol, and whether this end is the server's: who sends a request is the client, who sends a response the
/// server.
fn unmistakable(seen: &FirstBytes<'_>) -> Option<(Protocol, bool)> {
    let (first, n) = first_bytes(seen.bytes);
    if looks_like_request(first, n) == Looks::Yes {
        Some((Protocol::Http1, !seen.sent))
    } else if looks_like_response(first, n) == Looks::Yes {
        Some((Protocol::Http1, seen.sent))
    } else {
        // A command of Redis looks like a reply that is an array, so it does not tell the ends apart.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_choose_the_parser() {
        const COMMAND: &str = "*1\r\n$4\r\nPING\r\n";
        const GET: &str = "GET / HTTP/1.1\r\n";
        let (http, redis) = (Some(Protocol::Http1), Some(Protocol::Redis));
        /// The bytes, whether they are the connection's first, whether this end is the server's, whether it sends them.
        type Case = (&'static str, bool, Option<bool>, bool, Option<Protocol>);
        let table: &[Case] = &[
            (COMMAND, true, Some(false), true, redis),
            (COMMAND, true, Some(true), false, redis),
            ("*", true, Some(false), true, redis),
            ("*1", true, Some(false), true, redis),
            ("PING\r\n", true, Some(false), true, http),
            (GET, true, Some(false), true, http),
            ("", true, Some(false), true, http),
            // A server does not send commands.
            (COMMAND, true, Some(true), true, http),
            ("+OK\r\n", true, Some(false), false, http),
            // Older than the agent.
            (COMMAND, false, None, true, None),
            (COMMAND, false, Some(true), false, http),
            // Replies that look like commands: an element of a list that a worker waited for, and a message.
            ("*2\r\n$6\r\ncelery\r\n$2\r\n{}\r\n", false, None, false, None),
            ("*3\r\n$7\r\nmessage\r\n", false, None, false, None),
            ("*1", false, Some(true), false, http),
            ("*1", false, None, true, None),
            ("+OK\r\n", false, None, true, None),
            (GET, false, None, true, http),
        ];
        for &(bytes, from_birth, at_server, sent, expected) in table {
            let seen = FirstBytes {
                bytes: bytes.as_bytes(),
                begins_call: true,
                from_birth,
                at_server,
                sent,
            };
            let found = detect(&seen);
            let protocol = found.as_ref().map(|found| found.parser.protocol());
            assert_eq!(protocol, expected, "{bytes:?} {from_birth} {at_server:?} {sent}");
            if let (Some(found), None) = (found, at_server) {
                assert_eq!(found.at_server, !sent, "{bytes:?}");
            }
        }
    }
}
