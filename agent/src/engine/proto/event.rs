//! The words that parsers and the rest of Core share.

use super::{Config, http1, redis};
use crate::engine::execution::Stamp;

/// A half of a connection's talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Response,
}

/// A stretch of one half's stream.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Captured bytes.
    Bytes(&'a [u8]),
    /// This many bytes passed and were not captured.
    Gap(u64),
}

/// A stretch, where it lies, and the system call that moved it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Stream offset of its first byte: where the piece before on this half ended.
    pub offset: u64,
    /// Whether the piece begins with the first byte of a system call.
    pub segment_start: bool,
    /// The bytes.
    pub data: Data<'a>,
    /// The system call.
    pub stamp: Stamp,
}

impl Piece<'_> {
    /// Returns the number of bytes.
    pub fn len(&self) -> u64 {
        match self.data {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Gap(n) => n,
        }
    }

    /// Returns whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `n` bytes off, at most all of them.
    pub fn skip(&mut self, n: u64) {
        let n = n.min(self.len());
        if n == 0 {
            return;
        }
        self.offset = self.offset.saturating_add(n);
        self.segment_start = false;
        self.data = match self.data {
            Data::Bytes(bytes) => Data::Bytes(bytes.get(n as usize..).unwrap_or_default()),
            Data::Gap(left) => Data::Gap(left - n),
        };
    }
}

/// The way in which replies find their calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Replies come in the order of the calls: one exchange is served at a time, and a loss takes all that follow with
    /// it.
    Fifo,
    /// By a number in each message: exchanges are served side by side, and lost one by one.
    Multiplexed,
}

/// The start of a request: the parts that spans need.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// The head of an HTTP/1 request.
    Http1(Box<http1::RequestHead>),
    /// A Redis command.
    Redis(Box<redis::Command>),
}

/// The start of a response: the parts that spans need.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The head of an HTTP/1 response.
    Http1(Box<http1::ResponseHead>),
    /// The outcome of a Redis command.
    Redis(redis::Answer),
}

impl Reply {
    /// Returns the head of an HTTP/1 response.
    pub fn http1(&self) -> Option<&http1::ResponseHead> {
        if let Self::Http1(head) = self { Some(head) } else { None }
    }

    /// Returns the outcome of a Redis command.
    pub fn redis(&self) -> Option<&redis::Answer> {
        if let Self::Redis(answer) = self {
            Some(answer)
        } else {
            None
        }
    }
}

impl Call {
    /// Returns the values of `traceparent` that came with the call.
    pub fn traceparents(&self) -> impl Iterator<Item = &[u8]> {
        self.values(http1::Header::Traceparent)
    }

    /// Returns the values of `tracestate` that came with the call.
    pub fn tracestates(&self) -> impl Iterator<Item = &[u8]> {
        self.values(http1::Header::Tracestate)
    }

    /// Returns the values of a header. Only HTTP has any.
    fn values(&self, header: http1::Header) -> impl Iterator<Item = &[u8]> {
        // Most calls carry none, and end here.
        let head = match self {
            Self::Http1(head) => Some(head).filter(|head| head.headers().first(header).is_some()),
            Self::Redis(_) => None,
        };
        head.into_iter().flat_map(move |head| head.headers().values(header))
    }

    /// Returns whether the call could be read. If a server refused the bytes, only its refusal shows that they were
    /// meant as a call.
    pub fn is_readable(&self) -> bool {
        match self {
            Self::Http1(head) => head.is_readable(),
            Self::Redis(_) => true,
        }
    }

    /// Returns whether this call repeats a request, as a proxy passes it on.
    pub fn passes_on(&self, request: &Self) -> bool {
        match (self, request) {
            (Self::Http1(call), Self::Http1(request)) => call.passes_on(request),
            // The way of a proxy of commands to its server is not known to be the same.
            (Self::Redis(_), _) | (_, Self::Redis(_)) => false,
        }
    }

    /// Returns whether the call carries telemetry that is not traced. `offset`: where it begins in the stream; `captured`: the
    /// bytes that came with the end of its start, and their offset.
    pub fn is_telemetry(&self, config: &Config, offset: u64, captured: Option<(u64, &[u8])>) -> bool {
        match self {
            Self::Http1(head) => config.http1.telemetry.names(head, offset, captured),
            Self::Redis(_) => false,
        }
    }
}

/// An event of a connection. `exchange` numbers the exchanges of the connection, from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An exchange begins: the start of its request is complete.
    Begins {
        /// Number of the exchange.
        exchange: u64,
        /// The start of the request.
        call: Call,
        /// The system call that moved the request's first byte.
        first: Stamp,
        /// The system call that moved the last byte of the request's start.
        complete: Stamp,
        /// Stream offset of the request's first byte.
        offset: u64,
    },
    /// A request is complete (at once with its start, where no body follows).
    Sent {
        /// Number of the exchange.
        exchange: u64,
        /// The system call that moved the last byte.
        last: Stamp,
        /// Size of the body, without its framing.
        body_bytes: u64,
    },
    /// An exchange is answered: the start of its final response is complete.
    Answered {
        /// Number of the exchange.
        exchange: u64,
        /// The start of the response.
        reply: Reply,
        /// The system call that moved the response's first byte.
        first: Stamp,
        /// The system call that moved the last byte of the response's start.
        complete: Stamp,
        /// Stream offset of the response's first byte.
        offset: u64,
    },
    /// A response is complete, and so is the exchange.
    Ended {
        /// Number of the exchange.
        exchange: u64,
        /// The system call that moved the last byte (that closed, for a body until close).
        last: Stamp,
        /// Size of the body, without its framing; `None`: peers differ on where it ends.
        body_bytes: Option<u64>,
    },
    /// An exchange cannot be followed, because bytes are missing, malformed or in doubt. With [`Discipline::Fifo`]
    /// neither can those behind it.
    ///
    /// Exchanges whose response was not seen whole are lost. The parser looks for the next sure boundary once the
    /// exchanges before this one are over. The number of an exchange that did not begin is used again.
    Lost {
        /// The first exchange that is lost.
        exchange: u64,
        /// The reason.
        cause: Cause,
    },
    /// The connection carries something else from here on (Upgrade, CONNECT), or always did.
    Opaque {
        /// The reason.
        cause: Cause,
        /// The other protocol's name, for people ([`super::opaque`]).
        carries: &'static str,
    },
}

#[cfg(any(test, feature = "fuzzing"))]
impl Event {
    /// Returns the event without what depends on how its bytes were cut: the stamps, and the name of another protocol,
    /// for which a cut opening may be too short.
    pub fn unstamped(mut self) -> Self {
        match &mut self {
            Self::Begins { first, complete, .. } | Self::Answered { first, complete, .. } => {
                (*first, *complete) = (Stamp::default(), Stamp::default());
            }
            Self::Sent { last, .. } | Self::Ended { last, .. } => *last = Stamp::default(),
            Self::Opaque { carries, .. } => *carries = "",
            Self::Lost { .. } => {}
        }
        self
    }
}

/// Reason for which a parser gave up on something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Bytes that frame a message were not captured.
    Gap,
    /// A first line, a chunk or a length that cannot be read.
    Malformed,
    /// A message that peers may end at different bytes: smuggling, or a careless sender.
    Doubtful,
    /// A head longer than the parser follows.
    HeadTooLarge,
    /// A response that no request asked for.
    Unsolicited,
    /// More requests are waiting for responses than are kept.
    TooManyPending,
    /// The first bytes are of another protocol.
    OtherProtocol,
    /// The peers agreed to go on with another protocol.
    Upgrade,
}
