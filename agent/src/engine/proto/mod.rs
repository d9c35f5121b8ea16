//! Protocols: passive, sans-IO parsers behind one boundary.
//!
//! [`detect`] chooses a [`Parser`] for a connection. The parser is fed with stretches of both halves ([`Data`]) and emits
//! protocol-neutral [`Event`]s. Only this room and [`trace::conventions`](crate::engine::trace::conventions) name a protocol:
//! everybody else passes a [`Call`] and a [`Reply`] on without looking into them. docs/dev/add-a-protocol.md has the steps
//! of a new one.

pub mod detect;
mod event;
mod held;
pub mod http1;
pub mod opaque;
pub mod redis;
pub mod structure;
#[cfg(test)]
mod testing;

use agent_ebpf::abi::Mode;

pub use event::{Call, Cause, Data, Discipline, Event, Half, Piece, Reply};

use crate::engine::execution::Stamp;
use http1::Http1;
use redis::Redis;

/// A protocol that Spoor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1 (RFC 9112).
    Http1,
    /// Redis: RESP2 and RESP3.
    Redis,
}

/// A parser of one connection.
#[derive(Debug)]
pub enum Parser {
    /// HTTP/1.0 and 1.1 (RFC 9112).
    Http1(Box<Http1>),
    /// Redis: RESP2 and RESP3.
    Redis(Box<Redis>),
}

/// The parts of messages that parsers keep for the user.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Settings of HTTP/1.
    pub http1: http1::Config,
}

/// The next boundary of a half, for the kernel programs, which skip bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Below this stream offset all bytes are body; 0: no body is under way.
    pub until: u64,
    /// Kind of bytes that begin at `until` or, if that is 0, with the next byte.
    pub mode: Mode,
    /// The exchange that the next message on this half belongs to.
    pub exchange: u64,
}

impl Ahead {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        until: 0,
        mode: Mode::Unknown,
        exchange: 0,
    };
}

impl Protocol {
    /// Returns how replies find their calls.
    pub fn discipline(self) -> Discipline {
        match self {
            Self::Http1 | Self::Redis => Discipline::Fifo,
        }
    }

    /// Describes exchanges of this protocol that were lost for other reasons than missing bytes, for people.
    pub fn unreadable(self, cause: Cause) -> Option<&'static str> {
        match self {
            Self::Http1 => http1::unreadable(cause),
            Self::Redis => redis::unreadable(cause),
        }
    }
}

impl Parser {
    /// Returns the protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Redis(_) => Protocol::Redis,
        }
    }

    /// Takes the next piece of one half's stream, and appends its events. The halves may run ahead of each other.
    pub fn feed(&mut self, config: &Config, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        match self {
            Self::Http1(http) => http.feed(&config.http1, half, piece, out),
            Self::Redis(redis) => redis.feed(half, piece, out),
        }
    }

    /// Takes the end of a half: its reader has seen it, or the socket is closed. To be called for both halves when a
    /// connection is closed.
    pub fn end(&mut self, config: &Config, half: Half, stamp: Stamp, out: &mut Vec<Event>) {
        match self {
            Self::Http1(http) => http.end(&config.http1, half, stamp, out),
            Self::Redis(redis) => redis.end(half, stamp, out),
        }
    }

    /// Shows the calls that later events may name, so that their executions are kept.
    pub fn stamps(&self, see: impl FnMut(Stamp)) {
        match self {
            Self::Http1(http) => http.stamps().for_each(see),
            Self::Redis(redis) => redis.stamps().for_each(see),
        }
    }

    /// Returns the next boundary of a half.
    pub fn ahead(&self, half: Half) -> Ahead {
        match self {
            Self::Http1(http) => http.ahead(half),
            Self::Redis(redis) => redis.ahead(half),
        }
    }

    /// Returns the stream offset below which all bytes of a half are body: a gap of them hides nothing. 0: nothing is known.
    pub fn body_until(&self, half: Half) -> u64 {
        match self {
            Self::Http1(http) => http.body_until(half),
            Self::Redis(redis) => redis.body_until(half),
        }
    }

    /// Returns the bytes that passed while no message boundary was known, since this was last called.
    pub fn take_unsynchronised(&mut self) -> u64 {
        match self {
            Self::Http1(http) => http.take_unsynchronised(),
            Self::Redis(redis) => redis.take_unsynchronised(),
        }
    }

    /// Takes the end of the connection. Returns what [`Parser::take_unsynchronised`] does, and the bytes that waited for a
    /// boundary.
    pub fn end_search(&mut self) -> u64 {
        match self {
            Self::Http1(http) => http.end_search(),
            Self::Redis(redis) => redis.take_unsynchronised(),
        }
    }

    /// Returns whether boundaries of both halves are known.
    pub fn is_synchronised(&self) -> bool {
        match self {
            Self::Http1(http) => http.is_synchronised(),
            Self::Redis(redis) => redis.is_synchronised(),
        }
    }

    /// Returns whether each request that comes will be recognised.
    pub fn reads_requests(&self) -> bool {
        match self {
            Self::Http1(http) => http.reads_requests(),
            Self::Redis(redis) => redis.is_synchronised(),
        }
    }

    /// Numbers the exchanges from this number on. Called before the first bytes.
    pub fn number_from(&mut self, exchange: u64) {
        match self {
            Self::Http1(http) => http.number_from(exchange),
            Self::Redis(redis) => redis.number_from(exchange),
        }
    }

    /// Returns whether no boundary of a half that the programs claim is believed.
    pub fn is_doubted(&self, half: Half) -> bool {
        match self {
            Self::Http1(http) => http.is_doubted(half),
            // The programs frame HTTP/1 alone: a boundary that they claim is one of bytes that look like it.
            Self::Redis(_) => true,
        }
    }

    /// Returns whether the answer will tell if the last, unreadable bytes were meant as a request.
    pub fn awaits_refusal(&self) -> bool {
        match self {
            Self::Http1(http) => http.awaits_refusal(),
            Self::Redis(_) => false,
        }
    }

    /// Returns whether an exchange without a reply was never served: an earlier one was the connection's last.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        match self {
            Self::Http1(http) => http.is_unserved(exchange),
            Self::Redis(_) => false,
        }
    }
}
