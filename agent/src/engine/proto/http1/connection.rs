//! Both halves of one connection: which response answers which request.

use std::net::IpAddr;

use agent_ebpf::classify::Looks;
use smallvec::SmallVec;

use super::{
    Call, Cause, Config, Event, Header, Piece, Reply, RequestHead, ResponseHead,
    doubt::{Doubt, Watch},
    framing::{Method, request_body, response_body},
    proxy::{ProxyHeader, Taken},
    resync::Search,
    stray::{Stray, looks_like_response},
    stream::{Ended, Found, Stream, skip_empty_lines},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half, held::Held, opaque},
};

/// Upper bound on requests that wait for their responses.
pub(super) const MAX_PENDING: usize = 1024;

/// As many as fit where a longer queue has its address and length: most connections have one, and 100,000 of them no memory
/// for it beside.
type Pending = SmallVec<[Method; 16]>;

/// Passive parser of both halves of one HTTP/1 connection. It takes the captured bytes and emits events, without a
/// clock and without IO.
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
    pub(super) next_exchange: u64,
    /// Peers differ on where a message ends that is not over. Rare.
    pub(super) doubt: Option<Box<Doubt>>,
    /// The body that the last response announced and that HTTP does not let it have.
    pub(super) stray: Option<Box<Stray>>,
    /// Last exchange that is served, because one of the two ends said that it closes; `u64::MAX`: none said so.
    last_served: u64,
    /// Set until the first bytes have decided the protocol of the connection.
    pub(super) undecided: bool,
    /// PROXY header or its client address, before the first request.
    proxy: Option<Box<Proxy>>,
    /// Set while request bytes wait behind a request that may switch protocols: its response decides how to read them.
    pub(super) suspended: bool,
    /// Responses to requests that were lost, or whose exchanges were: they come first, unless they were lost, too.
    pub(super) owed: u8,
    pub(super) held_request: Held,
    pub(super) held_response: Held,
    /// The request half has ended: a response without a request will never get one.
    pub(super) request_ended: bool,
    /// Whether the bytes were seen at the server's end: there, a request is read before its response is written.
    pub(super) at_server: bool,
    /// The response half has ended, while bytes of it were held.
    pub(super) response_ended: Option<Box<Stamp>>,
    pub(super) counters: Counters,
}

/// Counters of bytes that were skipped without an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that passed, captured or not, while no message boundary was known, since [`Http1::take_unsynchronised`].
    pub unsynchronised_bytes: u64,
}

/// State of the PROXY protocol before the first request.
#[derive(Debug)]
enum Proxy {
    /// The header is looked for, from birth on.
    Header(ProxyHeader),
    /// The header named the client's address. Few connections have one.
    Client(IpAddr),
}

/// Mode in which the parser takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Both halves are followed byte by byte.
    Following,
    /// No boundary is known.
    Searching,
    /// Nothing is looked at any more.
    Opaque,
}

/// Outcome of a half's attempt to take bytes.
enum Step {
    Taken,
    /// Not before the other half says more.
    Blocked,
}

impl Http1 {
    /// Creates a parser. `from_birth`: the first byte that is fed is the first of the connection; else no boundary is
    /// known yet.
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
            doubt: None,
            stray: None,
            last_served: u64::MAX,
            undecided: from_birth,
            proxy: from_birth.then(|| Box::new(Proxy::Header(ProxyHeader::new()))),
            suspended: false,
            owed: 0,
            held_request: Held::default(),
            held_response: Held::default(),
            request_ended: false,
            at_server: false,
            response_ended: None,
            counters: Counters::default(),
        }
    }

    /// Creates a parser for the server's end, where no response comes before its request.
    pub fn at_server(self) -> Self {
        Self {
            at_server: true,
            ..self
        }
    }

    /// Takes the next piece of one half's stream. The halves may run ahead of each other by 64 KiB.
    pub fn feed(&mut self, config: &Config, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
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
                    self.hold(config, half, piece, out);
                }
                self.release(config, out);
            }
        }
        if self.mode == Mode::Searching {
            self.search.note(half, piece.stamp);
        }
    }

    /// Returns the calls that later events may name.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let header = match self.proxy.as_deref() {
            Some(Proxy::Header(header)) => Some(header.first()),
            Some(Proxy::Client(_)) | None => None,
        };
        let halves = self.request.stamps().chain(self.response.stamps());
        let held = self.held_request.stamps().chain(self.held_response.stamps());
        let doubt = self.doubt.iter().flat_map(|doubt| doubt.stamps());
        let ended = self.response_ended.as_deref().copied();
        let rare = doubt.chain(self.search.stamps()).chain(header).chain(ended);
        halves.chain(held).chain(rare)
    }

    /// Ends a half: the reader saw its end, or the socket is closed.
    ///
    /// The arrival of a FIN is not enough while bytes before it wait to be read. This ends a response that runs until
    /// close; another incomplete message gives no further event. To be called for both halves when a connection is
    /// closed.
    pub fn end(&mut self, config: &Config, half: Half, stamp: Stamp, out: &mut Vec<Event>) {
        match (self.mode, half) {
            (Mode::Opaque, _) => {}
            (Mode::Searching, Half::Request) => {}
            (Mode::Searching, Half::Response) => self.give_up(),
            (Mode::Following, Half::Request) => {
                self.request_ended = true;
                if !self.held_response.is_empty() {
                    self.answer_nothing(config, out);
                    self.release(config, out);
                }
            }
            (Mode::Following, Half::Response) if self.held_response.is_empty() => self.close_response(stamp, out),
            (Mode::Following, Half::Response) => self.response_ended = Some(Box::new(stamp)),
        }
    }

    /// Returns the stream offset below which all bytes of this half are body, so that a gap in them does no harm.
    ///
    /// 0: nothing is known. `u64::MAX`: nothing on this half matters any more except its end (body until close), or not
    /// even that (opaque).
    ///
    /// For chunked bodies this is the end of the current chunk's data; the line end behind it frames.
    pub fn body_until(&self, half: Half) -> u64 {
        match (self.mode, half) {
            (Mode::Opaque, _) => u64::MAX,
            (_, Half::Request) => self.request.body_until(),
            (_, Half::Response) if self.passes_stray() => 0,
            (_, Half::Response) => self.response.body_until(),
        }
    }

    /// Returns whether the answer will tell if the last, unreadable bytes were meant as a request.
    pub(crate) fn awaits_refusal(&self) -> bool {
        matches!(self.doubt.as_deref(), Some(Doubt::Refused(_)))
    }

    /// Returns whether no boundary of a half is trusted: peers may read it in two ways.
    pub(crate) fn is_doubted(&self, half: Half) -> bool {
        match (half, self.doubt.as_deref()) {
            (Half::Request, doubt) => matches!(doubt, Some(Doubt::Request(_) | Doubt::Refused(_))),
            (Half::Response, doubt) => self.stray.is_some() || matches!(doubt, Some(Doubt::Response(_))),
        }
    }

    /// Numbers the exchanges from this number on.
    pub fn number_from(&mut self, exchange: u64) {
        self.next_exchange = exchange;
    }

    /// Returns the number of the request whose head comes next.
    pub(super) fn next_exchange(&self) -> u64 {
        self.next_exchange
    }

    /// Returns whether the next byte of the request half begins a head, whatever comes on the other half.
    pub(super) fn awaits_request(&self) -> bool {
        !self.request.in_head() && !self.suspended && !self.awaits_proxy()
    }

    /// Boundaries of both halves are known. Not so before the first sure one, after a loss, and when opaque.
    pub fn is_synchronised(&self) -> bool {
        self.mode == Mode::Following
    }

    /// Returns the number of requests whose head was reported and whose response is not complete.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns whether an exchange without a response was never served.
    ///
    /// An earlier one was the connection's last, as one of its ends said (RFC 9112 section 9.6). The bytes were read
    /// all the same, with those before them.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        exchange > self.last_served
    }

    /// Returns the counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns the bytes that passed while no message boundary was known, since this was last called.
    pub fn take_unsynchronised(&mut self) -> u64 {
        std::mem::take(&mut self.counters.unsynchronised_bytes)
    }

    /// Takes the end of the connection. Returns the bytes that passed while no message boundary was known, those that waited
    /// for one included.
    pub fn end_search(&mut self) -> u64 {
        if self.mode == Mode::Searching {
            self.give_up();
        }
        self.take_unsynchronised()
    }

    /// Takes one piece while synchronised. `again`: it was held, so its unread rest goes back to the front.
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
                Ok(Step::Blocked) => return self.hold(config, half, piece, out),
                Err(cause) => self.fail(half, cause, &mut piece, out),
            }
        }
        if self.mode == Mode::Searching {
            self.pass_over(&mut piece);
        }
    }

    /// Gives up a half that cannot be read any further.
    fn fail(&mut self, half: Half, cause: Cause, piece: &mut Piece<'_>, out: &mut Vec<Event>) {
        let unreadable = matches!(cause, Cause::Malformed | Cause::OtherProtocol);
        match half {
            Half::Request if unreadable && !self.request.in_body() && !self.awaits_proxy() => {
                self.refuse(cause, piece, out);
            }
            Half::Response if self.pending.is_empty() && self.leave_refused(piece.stamp, out) => {}
            _ if self.undecided && cause == Cause::OtherProtocol => {
                let name = match half {
                    Half::Request => opaque::OTHER,
                    Half::Response => opaque::protocol(self.response.opening(piece)),
                };
                self.become_opaque(cause, name, out);
            }
            _ => {
                let cause = if cause == Cause::OtherProtocol {
                    Cause::Malformed
                } else {
                    cause
                };
                let owed = if half == Half::Request && cause == Cause::Gap {
                    self.owed_behind_gap(piece.len())
                } else {
                    0
                };
                self.lose(cause, out);
                self.owe(owed);
            }
        }
    }

    /// Returns the number of responses that come before that to the first request behind a gap in the request half, at the
    /// least: those to the requests that are open, and one to a request that the gap can hold, unless a response waits for
    /// that.
    fn owed_behind_gap(&self, gap_bytes: u64) -> usize {
        /// Shorter gaps hold no request: urgent data, for example.
        const SHORTEST: u64 = b"A / HTTP/1.1\r\n\r\n".len() as u64;
        if !self.held_response.is_empty() {
            return 0;
        }
        let is_one_lost = self.request.in_head() || !self.request.in_body() && gap_bytes >= SHORTEST;
        self.pending.len() + usize::from(is_one_lost)
    }

    /// Notes that so many responses come before that to the next request.
    fn owe(&mut self, responses: usize) {
        // Whoever has so many requests open pipelines.
        self.pipelined |= responses > usize::from(u8::MAX);
        self.owed = responses.min(u8::MAX.into()) as u8;
    }

    fn follow_request(&mut self, config: &Config, piece: &mut Piece<'_>, out: &mut Vec<Event>) -> Result<Step, Cause> {
        if self.request.in_body() {
            if let Some(Ended { body_bytes, bare_lf }) = self.request.body(piece)? {
                let exchange = self.next_exchange.saturating_sub(1);
                out.push(Event::Sent {
                    exchange,
                    last: piece.stamp,
                    body_bytes,
                });
                if bare_lf {
                    self.doubt_request(Cause::Doubtful, Watch::default(), piece.stamp, out);
                }
            }
            return Ok(Step::Taken);
        }
        if self.pass_doubted_request(config, piece, out) {
            return Ok(Step::Taken);
        }
        if self.suspended {
            return Ok(Step::Blocked);
        }
        if let Some(Proxy::Header(header)) = self.proxy.as_deref_mut() {
            let (begin, stamp) = match header.take(piece)? {
                Taken::More => return Ok(Step::Taken),
                Taken::Header(client) => {
                    self.proxy = client.map(Proxy::Client).map(Box::new);
                    return Ok(Step::Taken);
                }
                Taken::Nothing(begin, stamp) => (begin, stamp),
            };
            self.proxy = None;
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
            let (complete, framing, watch) = (found.complete, found.framing, Watch::behind(&found));
            let exchange = self.begin_exchange(found, out);
            if let Some(cause) = framing.doubt {
                self.doubt_request(cause, watch, complete, out);
            } else if !self.request.begin_body(request_body(framing)) {
                out.push(Event::Sent {
                    exchange,
                    last: complete,
                    body_bytes: 0,
                });
            }
        }
        Ok(Step::Taken)
    }

    /// Reports a request that was found, and returns its number.
    pub(super) fn begin_exchange(&mut self, found: Found<RequestHead>, out: &mut Vec<Event>) -> u64 {
        let exchange = self.next_exchange;
        let method = Method::of(found.head.method());
        self.next_exchange += 1;
        self.pending.push(method);
        self.undecided = false;
        self.suspended = found.may_switch();
        if found.framing.closes {
            self.last_served = self.last_served.min(exchange);
        }
        let Found {
            mut head,
            first,
            complete,
            offset,
            ..
        } = found;
        if let Some(Proxy::Client(client)) = self.proxy.as_deref() {
            head.headers.push(Header::ProxiedFor, client.to_string().as_bytes());
        }
        out.push(Event::Begins {
            exchange,
            call: Call::Http1(head),
            first,
            complete,
            offset,
        });
        exchange
    }

    fn follow_response(&mut self, config: &Config, piece: &mut Piece<'_>, out: &mut Vec<Event>) -> Result<Step, Cause> {
        if self.pass_doubted_response(piece) {
            return Ok(Step::Taken);
        }
        if self.response.in_body() {
            return self.follow_response_body(piece, out);
        }
        if !self.awaits_response() && !self.undecided {
            skip_empty_lines(piece);
            if let Data::Bytes(bytes) = piece.data
                && looks_like_response(bytes) == Looks::No
            {
                return self.begin_stray(0).map(|()| Step::Taken);
            }
        }
        if piece.is_empty() {
            return Ok(Step::Taken);
        }
        if !self.awaits_response() {
            return Ok(Step::Blocked);
        }
        match self.response.head::<ResponseHead>(config, piece) {
            Ok(Some(found)) => self.respond(found, out),
            Ok(None) => {}
            Err(Cause::OtherProtocol) if self.stray.is_some() => {
                self.begin_stray(self.response.head_bytes_before(*piece))?;
            }
            Err(cause) => return Err(cause),
        }
        Ok(Step::Taken)
    }

    fn follow_response_body(&mut self, piece: &mut Piece<'_>, out: &mut Vec<Event>) -> Result<Step, Cause> {
        if self.passes_stray() {
            return self.follow_stray(piece).map(|()| Step::Taken);
        }
        if let Some(Ended { body_bytes, bare_lf }) = self.response.body(piece)? {
            self.end_response(piece.stamp, Some(body_bytes), out);
            if bare_lf && self.mode == Mode::Following {
                self.lose(Cause::Doubtful, out);
            }
        }
        Ok(Step::Taken)
    }

    /// Returns whether the first bytes may be a PROXY header.
    fn awaits_proxy(&self) -> bool {
        matches!(self.proxy.as_deref(), Some(Proxy::Header(_)))
    }

    /// Reports the head of a response, which answers the oldest request.
    pub(super) fn respond(&mut self, found: Found<ResponseHead>, out: &mut Vec<Event>) {
        let status = found.head.status;
        let is_interim = matches!(status, 100 | 102..=199);
        let method = self.pending.first().copied();
        let bodiless = is_interim || method == Some(Method::Head) || matches!(status, 204 | 304);
        self.stray = Stray::announced(found.framing.transfer)
            .filter(|_| bodiless)
            .map(Box::new);
        if is_interim {
            return;
        }
        let Some(method) = method else {
            return self.answer_refused(found, out);
        };
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
        } = found;
        out.push(Event::Answered {
            exchange,
            reply: Reply::Http1(head),
            first,
            complete,
            offset,
        });
        if status == 101 || (method == Method::Connect && matches!(status, 200..=299)) {
            self.end_response(complete, Some(0), out);
            return self.become_opaque(Cause::Upgrade, opaque::UPGRADED, out);
        }
        if self.pending.len() == 1 {
            self.suspended = false;
        }
        if let Some(cause) = framing.doubt.filter(|_| !bodiless) {
            self.doubt_response(cause, complete, out);
        } else if !self.response.begin_body(response_body(status, method, framing)) {
            self.end_response(complete, Some(0), out);
        }
    }

    /// Ends the response to the oldest request.
    pub(super) fn end_response(&mut self, last: Stamp, body_bytes: Option<u64>, out: &mut Vec<Event>) {
        let exchange = self.oldest_exchange();
        if !self.pending.is_empty() {
            self.pending.remove(0);
        }
        out.push(Event::Ended {
            exchange,
            last,
            body_bytes,
        });
        if self.pending.is_empty() && matches!(self.doubt.as_deref(), Some(Doubt::Request(_))) {
            self.look_again(last);
        }
    }

    pub(super) fn close_response(&mut self, stamp: Stamp, out: &mut Vec<Event>) {
        if matches!(self.doubt.as_deref(), Some(Doubt::Response(_))) {
            self.end_response(stamp, None, out);
            self.look_again(stamp);
        } else if let Some(body_bytes) = self.response.close() {
            self.end_response(stamp, Some(body_bytes), out);
        } else {
            if self.passes_stray() {
                self.stray = None;
                self.response.begin_anew();
            }
            if self.pending.is_empty() {
                self.leave_refused(stamp, out);
            }
        }
    }

    /// Returns the number of the oldest exchange whose response is not complete, or of the next one.
    pub(super) fn oldest_exchange(&self) -> u64 {
        self.next_exchange.saturating_sub(self.pending.len() as u64)
    }

    pub(super) fn lose(&mut self, cause: Cause, out: &mut Vec<Event>) {
        out.push(Event::Lost {
            exchange: self.oldest_exchange(),
            cause,
        });
        self.begin_search(Search::default());
    }

    /// Looks for a boundary from now on. What was held is passed over.
    pub(super) fn begin_search(&mut self, search: Search) {
        let held = self.held_request.bytes().saturating_add(self.held_response.bytes());
        self.counters.unsynchronised_bytes = self.counters.unsynchronised_bytes.saturating_add(held);
        self.forget();
        self.mode = Mode::Searching;
        self.overtaken = false;
        self.owed = 0;
        self.search = search;
    }

    pub(super) fn become_opaque(&mut self, cause: Cause, carries: &'static str, out: &mut Vec<Event>) {
        out.push(Event::Opaque { cause, carries });
        self.forget();
        self.mode = Mode::Opaque;
    }

    /// Forgets all that is known of both halves, but for the number of the next exchange.
    pub(super) fn forget(&mut self) {
        self.request = Stream::new();
        self.response = Stream::new();
        self.pending = Pending::new();
        self.doubt = None;
        self.stray = None;
        self.last_served = u64::MAX;
        self.undecided = false;
        if self.awaits_proxy() {
            self.proxy = None;
        }
        self.suspended = false;
        self.held_request = Held::default();
        self.held_response = Held::default();
        self.response_ended = None;
    }
}
