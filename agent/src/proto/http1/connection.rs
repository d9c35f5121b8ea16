//! Both halves of one connection: which response answers which request.

use std::net::IpAddr;

use agent_ebpf::classify::{self, Looks};
use smallvec::SmallVec;

use super::head::{Framing, Transfer};
use super::held::Held;
use super::proxy::{ProxyHeader, Taken};
use super::resync::Search;
use super::stream::{Body, Found, Piece, Stream};
use super::{Cause, Config, Event, Header, RequestHead, ResponseHead};
use crate::event::Stamp;
use crate::proto::{Data, Half};

/// Most requests that wait for their responses.
pub(super) const MAX_PENDING: usize = 1024;

/// As many as fit where a longer queue has its address and length: most connections have one, and 100,000 of them no memory
/// for it beside.
type Pending = SmallVec<[Method; 16]>;

/// A passive parser of both halves of one HTTP/1 connection. It is fed with what was captured, says what it found, and
/// does nothing else: no clock, no IO.
///
/// ```text
///            from birth                       not from birth
///                │                                  │
///                ▼     gap in framing, malformed    ▼
///           Following ─────────────────────────► Searching ◄─┐
///            │     ▲                                │  │     │ not sure
///            │     └── request head, response head ─┘  └─────┘
///            ▼         at starts of segments
///          Opaque  (not HTTP, Upgrade, CONNECT)
/// ```
#[derive(Debug)]
pub struct Http1 {
    pub(super) mode: Mode,
    pub(super) search: Search,
    /// This connection was seen to pipeline.
    pub(super) pipelined: bool,
    /// While searching: requests followed on a candidate. Only when the response half moves is it known whose turn it is.
    pub(super) overtaken: bool,
    pub(super) request: Stream,
    pub(super) response: Stream,
    /// Requests whose response is not complete, oldest first: the last one is exchange `next_exchange - 1`.
    pending: Pending,
    next_exchange: u64,
    /// The exchange behind which none is served, for one of its two ends said that it closes; `u64::MAX`: none said so.
    last_served: u64,
    /// Nothing but HTTP was seen yet: what the first bytes are decides what the connection is.
    undecided: bool,
    /// Looked for before the first request, from birth on.
    proxy_header: Option<Box<ProxyHeader>>,
    /// The client's address, as a proxy told it before the first request. Few do.
    proxied_for: Option<Box<IpAddr>>,
    /// Request bytes behind a request that may switch protocols: what they are, its response tells.
    suspended: bool,
    held_request: Held,
    held_response: Held,
    /// The request half has ended: a response without a request will never get one.
    request_ended: bool,
    /// The response half has ended, while bytes of it were held.
    response_ended: Option<Box<Stamp>>,
    pub(super) counters: Counters,
}

/// What was passed over without an event. All count from the connection's birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Heads with more than 100 header lines: parsed all the same, on the slow path.
    pub heads_with_many_headers: u64,
    /// Bytes that passed, captured or not, while no message boundary was known.
    pub unsynchronised_bytes: u64,
}

/// What the parser does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Both halves are followed byte by byte.
    Following,
    /// No boundary is known.
    Searching,
    /// Nothing is looked at any more.
    Opaque,
}

/// What of a request's method says how its response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Connect,
    Other,
}

impl Method {
    pub(super) fn of(method: &[u8]) -> Self {
        match method {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// Whether a half could take bytes.
enum Step {
    Taken,
    /// Not before the other half says more.
    Blocked,
}

impl Http1 {
    /// `from_birth`: the first byte that is fed is the first of the connection. Else no boundary is known yet.
    pub fn new(from_birth: bool) -> Self {
        Self {
            mode: if from_birth { Mode::Following } else { Mode::Searching },
            search: Search::default(),
            pipelined: false,
            overtaken: false,
            request: Stream::new(),
            response: Stream::new(),
            pending: Pending::new(),
            next_exchange: 0,
            last_served: u64::MAX,
            undecided: from_birth,
            proxy_header: from_birth.then(|| Box::new(ProxyHeader::new())),
            proxied_for: None,
            suspended: false,
            held_request: Held::default(),
            held_response: Held::default(),
            request_ended: false,
            response_ended: None,
            counters: Counters::default(),
        }
    }

    /// Takes what comes next in the stream of one half: `offset` is where the last call for this half ended.
    /// `segment_start`: `data` begins with the first byte of a system call. `stamp`: that call. The halves may run ahead
    /// of each other by 64 KiB.
    #[expect(
        clippy::too_many_arguments,
        reason = "a piece's fields and where to write: a struct would only be unpacked"
    )]
    pub fn feed(
        &mut self,
        config: &Config,
        half: Half,
        offset: u64,
        segment_start: bool,
        data: Data<'_>,
        stamp: Stamp,
        out: &mut Vec<Event>,
    ) {
        let piece = Piece {
            offset,
            segment_start,
            data,
            stamp,
        };
        if piece.is_empty() {
            return;
        }
        if half == Half::Request {
            self.request_ended = false;
        }
        match self.mode {
            Mode::Opaque => {}
            Mode::Searching => self.search(config, half, piece, out),
            Mode::Following => {
                if self.held(half).is_empty() {
                    self.follow(config, half, piece, false, out);
                } else {
                    self.hold(half, piece, out);
                }
                self.release(config, out);
            }
        }
    }

    /// No more bytes come on this half: the reader saw its end or the socket is closed. That a FIN arrived is not enough
    /// while bytes before it wait to be read. Ends a response that runs until close; of any other message that is not
    /// complete there is no more to say. To be called for both halves when a connection is closed.
    pub fn end(&mut self, half: Half, stamp: Stamp, out: &mut Vec<Event>) {
        match (self.mode, half) {
            (Mode::Opaque, _) => {}
            (Mode::Searching, Half::Request) => {}
            (Mode::Searching, Half::Response) => self.give_up(),
            (Mode::Following, Half::Request) => {
                self.request_ended = true;
                if self.pending.is_empty() && !self.held_response.is_empty() && self.held_request.is_empty() {
                    self.lose(Cause::Unsolicited, stamp, out);
                }
            }
            (Mode::Following, Half::Response) if self.held_response.is_empty() => self.close_response(stamp, out),
            (Mode::Following, Half::Response) => self.response_ended = Some(Box::new(stamp)),
        }
    }

    /// All bytes of this half below this stream offset are body: whether they are captured makes no difference, a gap of
    /// them is as good. 0: nothing is known. `u64::MAX`: nothing that comes on this half matters any more, but its end
    /// (body until close) or not even that (opaque).
    ///
    /// For chunked bodies this is the end of the current chunk's data; the line end behind it frames.
    pub fn body_until(&self, half: Half) -> u64 {
        match (self.mode, half) {
            (Mode::Opaque, _) => u64::MAX,
            (_, Half::Request) => self.request.body_until(),
            (_, Half::Response) => self.response.body_until(),
        }
    }

    /// Boundaries of both halves are known. Not so before the first sure one, after a loss, and when opaque.
    pub fn is_synchronised(&self) -> bool {
        self.mode == Mode::Following
    }

    /// Requests whose head was reported and whose response is not complete.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether an exchange that gets no response was never served: an earlier one was the connection's last, as one of its
    /// ends said (RFC 9112 section 9.6). The bytes were read all the same, with those before them.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        exchange > self.last_served
    }

    /// What was passed over so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes one piece while synchronised. `again`: it was held, so what is left of it goes back to the front.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        half: Half,
        mut piece: Piece<'_>,
        again: bool,
        out: &mut Vec<Event>,
    ) {
        while !piece.is_empty() && self.mode == Mode::Following {
            let step = match half {
                Half::Request => self.follow_request(config, &mut piece, out),
                Half::Response => self.follow_response(config, &mut piece, out),
            };
            match step {
                Ok(Step::Taken) => {}
                Ok(Step::Blocked) if again => return self.held(half).put_back(piece),
                Ok(Step::Blocked) => return self.hold(half, piece, out),
                Err(Cause::NotHttp) if self.undecided => self.become_opaque(Cause::NotHttp, out),
                Err(cause) => {
                    let cause = if cause == Cause::NotHttp {
                        Cause::Malformed
                    } else {
                        cause
                    };
                    self.counters.unsynchronised_bytes = self.counters.unsynchronised_bytes.saturating_add(piece.len());
                    self.lose(cause, piece.stamp, out);
                }
            }
        }
    }

    fn follow_request(&mut self, config: &Config, piece: &mut Piece<'_>, out: &mut Vec<Event>) -> Result<Step, Cause> {
        if self.request.in_body() {
            if let Some(body_bytes) = self.request.body(piece)? {
                let exchange = self.next_exchange.saturating_sub(1);
                out.push(Event::RequestEnd {
                    exchange,
                    last: piece.stamp,
                    body_bytes,
                });
            }
            return Ok(Step::Taken);
        }
        if self.suspended {
            return Ok(Step::Blocked);
        }
        if let Some(header) = &mut self.proxy_header {
            let (begin, stamp) = match header.take(piece)? {
                Taken::More => return Ok(Step::Taken),
                Taken::Header(client) => {
                    self.proxied_for = client.map(Box::new);
                    self.proxy_header = None;
                    return Ok(Step::Taken);
                }
                Taken::Nothing(begin, stamp) => (begin, stamp),
            };
            self.proxy_header = None;
            let mut begin = Piece {
                offset: piece.offset.saturating_sub(begin.len() as u64),
                segment_start: true,
                data: Data::Bytes(begin),
                stamp,
            };
            // Too short to be a head.
            self.request.head::<RequestHead>(config, &mut begin)?;
        }
        if let Some(found) = self.request.head::<RequestHead>(config, piece)? {
            if self.pending.len() >= MAX_PENDING {
                return Err(Cause::TooManyPending);
            }
            let (complete, framing) = (found.complete, found.framing);
            let exchange = self.begin_exchange(found, out);
            if !self.request.begin_body(request_body(framing)) {
                out.push(Event::RequestEnd {
                    exchange,
                    last: complete,
                    body_bytes: 0,
                });
            }
        }
        Ok(Step::Taken)
    }

    /// A request was found: its number.
    pub(super) fn begin_exchange(&mut self, found: Found<RequestHead>, out: &mut Vec<Event>) -> u64 {
        let exchange = self.next_exchange;
        let method = Method::of(&found.head.method);
        self.next_exchange += 1;
        self.pending.push(method);
        self.undecided = false;
        self.suspended = method == Method::Connect || found.framing.upgrade;
        if found.framing.closes {
            self.last_served = self.last_served.min(exchange);
        }
        self.counters.heads_with_many_headers += u64::from(found.many_headers);
        let Found {
            mut head,
            first,
            complete,
            offset,
            ..
        } = found;
        if let Some(client) = &self.proxied_for {
            head.headers
                .push((Header::ProxiedFor, client.to_string().into_bytes().into()));
        }
        out.push(Event::RequestHead {
            exchange,
            head,
            first,
            complete,
            offset,
        });
        exchange
    }

    fn follow_response(&mut self, config: &Config, piece: &mut Piece<'_>, out: &mut Vec<Event>) -> Result<Step, Cause> {
        if self.response.in_body() {
            if let Some(body_bytes) = self.response.body(piece)? {
                self.end_response(piece.stamp, body_bytes, out);
            }
            return Ok(Step::Taken);
        }
        if self.pending.is_empty() {
            return Ok(Step::Blocked);
        }
        if let Some(found) = self.response.head::<ResponseHead>(config, piece)? {
            self.respond(found, out);
        }
        Ok(Step::Taken)
    }

    /// A response's head was found: it answers the oldest request.
    pub(super) fn respond(&mut self, found: Found<ResponseHead>, out: &mut Vec<Event>) {
        let Some(method) = self.pending.first().copied() else {
            return;
        };
        self.counters.heads_with_many_headers += u64::from(found.many_headers);
        let status = found.head.status;
        if matches!(status, 100 | 102..=199) {
            return;
        }
        // The request behind the oldest one was sent before this response came.
        self.pipelined |= self.pending.len() > 1;
        let exchange = self.oldest_exchange();
        if found.framing.closes {
            self.last_served = exchange;
        }
        let Found {
            head,
            framing,
            first,
            complete,
            offset,
            ..
        } = found;
        out.push(Event::ResponseHead {
            exchange,
            head,
            first,
            complete,
            offset,
        });
        if status == 101 || (method == Method::Connect && matches!(status, 200..=299)) {
            self.end_response(complete, 0, out);
            return self.become_opaque(Cause::Upgrade, out);
        }
        if self.pending.len() == 1 {
            self.suspended = false;
        }
        if !self.response.begin_body(response_body(status, method, framing)) {
            self.end_response(complete, 0, out);
        }
    }

    fn end_response(&mut self, last: Stamp, body_bytes: u64, out: &mut Vec<Event>) {
        let exchange = self.oldest_exchange();
        if !self.pending.is_empty() {
            self.pending.remove(0);
        }
        out.push(Event::ResponseEnd {
            exchange,
            last,
            body_bytes,
        });
    }

    fn close_response(&mut self, stamp: Stamp, out: &mut Vec<Event>) {
        if let Some(body_bytes) = self.response.close() {
            self.end_response(stamp, body_bytes, out);
        }
    }

    /// The oldest exchange whose response is not complete, or the next one.
    fn oldest_exchange(&self) -> u64 {
        self.next_exchange.saturating_sub(self.pending.len() as u64)
    }

    fn held(&mut self, half: Half) -> &mut Held {
        match half {
            Half::Request => &mut self.held_request,
            Half::Response => &mut self.held_response,
        }
    }

    /// Keeps a piece that cannot be understood yet.
    fn hold(&mut self, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        let full = self.held(half).push(piece).is_err();
        match half {
            Half::Request if full => self.lose(Cause::TooManyPending, piece.stamp, out),
            Half::Request => {}
            Half::Response => {
                let (first, n) = self.held_response.first_bytes();
                if self.undecided && classify::looks_like_response(first, n) == Looks::No {
                    self.become_opaque(Cause::NotHttp, out);
                } else if full || (self.request_ended && self.pending.is_empty() && self.held_request.is_empty()) {
                    self.lose(Cause::Unsolicited, piece.stamp, out);
                }
            }
        }
    }

    /// Takes pieces that were held, as far as they can be understood now.
    fn release(&mut self, config: &Config, out: &mut Vec<Event>) {
        loop {
            let half = if !self.held_response.is_empty() && !self.pending.is_empty() {
                Half::Response
            } else if !self.held_request.is_empty() && !self.suspended {
                Half::Request
            } else {
                break;
            };
            if let Some(held) = self.held(half).pop() {
                self.follow(config, half, held.piece(), true, out);
            }
        }
        if self.held_response.is_empty()
            && let Some(stamp) = self.response_ended.take()
        {
            self.close_response(*stamp, out);
        }
    }

    fn lose(&mut self, cause: Cause, stamp: Stamp, out: &mut Vec<Event>) {
        out.push(Event::Lost {
            exchange: self.oldest_exchange(),
            cause,
        });
        self.forget();
        self.mode = Mode::Searching;
        self.overtaken = false;
        self.search.begin(stamp);
    }

    fn become_opaque(&mut self, cause: Cause, out: &mut Vec<Event>) {
        out.push(Event::Opaque { cause });
        self.forget();
        self.mode = Mode::Opaque;
    }

    /// Forgets all that is known of both halves, but for the number of the next exchange.
    fn forget(&mut self) {
        self.request = Stream::new();
        self.response = Stream::new();
        self.pending = Pending::new();
        self.last_served = u64::MAX;
        self.undecided = false;
        self.proxy_header = None;
        self.suspended = false;
        self.held_request = Held::default();
        self.held_response = Held::default();
        self.response_ended = None;
    }
}

/// RFC 9112 section 6.3, for requests.
pub(super) fn request_body(framing: Framing) -> Body {
    match framing.transfer {
        Transfer::Length(length) => Body::Length(length),
        Transfer::Chunked => Body::chunked(),
        Transfer::Unsaid | Transfer::OtherCoding => Body::None,
    }
}

/// RFC 9112 section 6.3, for final responses.
pub(super) fn response_body(status: u16, method: Method, framing: Framing) -> Body {
    if method == Method::Head || matches!(status, 204 | 304) {
        return Body::None;
    }
    match framing.transfer {
        Transfer::Length(length) => Body::Length(length),
        Transfer::Chunked => Body::chunked(),
        Transfer::Unsaid | Transfer::OtherCoding => Body::UntilClose,
    }
}
