//! Messages with a doubtful end: no boundary behind them is trusted, though their heads are plain.
//!
//! Some heads frame the body in a way that peers read differently, or refuse (RFC 9112 section 11.2): `Content-Length :
//! 5`, two lengths, a folded `Transfer-Encoding`. All peers read the same method, target and status, so the exchange is
//! reported. They differ on its end, so the half is skipped until the exchange is over. Then a boundary is looked for
//! as after a loss:
//!
//! | in doubt | passed over | until |
//! |---|---|---|
//! | a request | the request half | its response is done |
//! | a request whose first line cannot be read | the request half | the same, if the server answers as servers answer such requests |
//! | a response | the response half | the client's next request begins, or the connection closes |

use super::{
    Cause, Config, Event, Piece, RequestHead, ResponseHead,
    connection::{Http1, Mode},
    head::Framing,
    resync::Search,
    stream::{Found, skip_empty_lines},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half, opaque},
};

/// Marker of a request line; header lines and bodies seldom hold it.
const VERSION: &[u8] = b"HTTP/1.";

/// The message whose end is in doubt: see the table above.
#[derive(Debug)]
pub(super) enum Doubt {
    /// The end of the last request.
    Request(Watch),
    /// Bytes behind the last request that cannot be read; the answer tells whether the server refused them.
    Refused(Refused),
    /// The end of the oldest response. Holds the call that moved the last byte so far.
    Response(Stamp),
}

impl Doubt {
    /// Returns the calls that moved the bytes in doubt.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let stamps = match self {
            Self::Request(_) => [None, None],
            Self::Refused(refused) => [Some(refused.first), Some(refused.last)],
            Self::Response(last) => [Some(*last), None],
        };
        stamps.into_iter().flatten()
    }
}

/// Bytes that should have been a request.
#[derive(Debug)]
pub(super) struct Refused {
    /// The call that moved the first byte.
    first: Stamp,
    /// The call that moved the last byte so far.
    last: Stamp,
    /// Stream offset of the first byte.
    offset: u64,
    /// If the connection began with these bytes: a name for its protocol, in case the answer is not HTTP.
    carries: Option<&'static str>,
    watch: Watch,
}

/// Search for another request among bytes that are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// The rest of a head that was too large passes: up to its empty line nothing is another request.
    in_head: bool,
    /// In such a head: set at the beginning of a line.
    at_line: bool,
    /// Bytes left of the body that such a head announces.
    body_left: u64,
    /// Bytes of [`VERSION`] at the end of what passed.
    matched: usize,
    met: bool,
}

impl Watch {
    /// Looks behind a request whose end is in doubt. Where only its head was too large to be read, what its sender wrote into
    /// the rest of it, or into its body, is no other request.
    pub fn behind(found: &Found<RequestHead>) -> Self {
        let is_cut = found.framing.doubt == Some(Cause::HeadTooLarge);
        Self {
            in_head: is_cut,
            body_left: found.head.content_length.filter(|_| is_cut).unwrap_or_default(),
            ..Self::default()
        }
    }

    pub fn pass(&mut self, data: Data<'_>) {
        match data {
            Data::Gap(_) if self.in_head => {}
            Data::Gap(length) => {
                self.met |= length > self.body_left;
                self.body_left = self.body_left.saturating_sub(length);
            }
            Data::Bytes(bytes) => {
                let bytes = self.behind_head(bytes);
                let body = self.body_left.min(bytes.len() as u64);
                self.body_left -= body;
                let bytes = bytes.get(body as usize..).unwrap_or_default();
                for byte in bytes {
                    if VERSION.get(self.matched) != Some(byte) {
                        // No second `H` is in it.
                        self.matched = 0;
                    }
                    self.matched += usize::from(VERSION.get(self.matched) == Some(byte));
                    if self.matched == VERSION.len() {
                        self.met = true;
                        self.matched = 0;
                    }
                }
            }
        }
    }

    /// Passes over the rest of a head. What lies behind it.
    fn behind_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if !self.in_head {
            return bytes;
        }
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.at_line => {
                    self.in_head = false;
                    return bytes.get(index + 1..).unwrap_or_default();
                }
                b'\n' => self.at_line = true,
                b'\r' => {}
                _ => self.at_line = false,
            }
        }
        &[]
    }

    /// Returns whether another request may have passed.
    pub fn met(&self) -> bool {
        self.met
    }
}

impl Http1 {
    /// Returns whether a response is expected: to a request, or to bytes that should have been one.
    pub(super) fn awaits_response(&self) -> bool {
        self.pending() > 0 || self.awaits_refusal()
    }

    /// Returns whether all requests that come are reported.
    pub fn reads_requests(&self) -> bool {
        let in_doubt = matches!(self.doubt.as_deref(), Some(Doubt::Request(_) | Doubt::Refused(_)));
        self.mode == Mode::Following && !in_doubt
    }

    /// Notes that the last request's end is in doubt.
    pub(super) fn doubt_request(&mut self, cause: Cause, watch: Watch, stamp: Stamp, out: &mut Vec<Event>) {
        out.push(Event::Lost {
            exchange: self.next_exchange,
            cause,
        });
        self.doubt = Some(Box::new(Doubt::Request(watch)));
        if !self.awaits_response() {
            self.look_again(stamp);
        }
    }

    /// Notes that the end of the response that began is in doubt.
    pub(super) fn doubt_response(&mut self, cause: Cause, complete: Stamp, out: &mut Vec<Event>) {
        let exchange = self.oldest_exchange();
        out.push(Event::Lost {
            exchange: exchange + 1,
            cause,
        });
        // The next request is the sign that this response is over: only if none is there yet, and requests are read.
        if self.pending() == 1 && self.doubt.is_none() && !self.request.in_head() && self.held_request.is_empty() {
            self.doubt = Some(Box::new(Doubt::Response(complete)));
        } else {
            self.end_response(complete, None, out);
            self.look_again(complete);
        }
    }

    /// Skips the request half from here on, because it cannot be read. The answer will tell whether the bytes were
    /// meant as a request.
    pub(super) fn refuse(&mut self, cause: Cause, piece: &mut Piece<'_>, out: &mut Vec<Event>) {
        let (first, offset) = self.request.head_start(*piece);
        let mut carries = None;
        if self.undecided && cause == Cause::OtherProtocol {
            let name = opaque::protocol(self.request.opening(piece));
            // A TLS client at a port for plain HTTP gets a response in HTTP, others do not wait for one.
            if ![opaque::OTHER, opaque::TLS].contains(&name) {
                return self.become_opaque(Cause::OtherProtocol, name, out);
            }
            carries = Some(name);
        } else {
            out.push(Event::Lost {
                exchange: self.next_exchange,
                cause: Cause::Malformed,
            });
        }
        let mut watch = Watch::default();
        if let Data::Bytes(bytes) = piece.data {
            // Behind the line itself.
            let behind = memchr::memchr(b'\n', bytes).and_then(|end| bytes.get(end..));
            watch.pass(Data::Bytes(behind.unwrap_or_default()));
        }
        self.doubt = Some(Box::new(Doubt::Refused(Refused {
            first,
            last: piece.stamp,
            offset,
            carries,
            watch,
        })));
        self.request.begin_anew();
        self.pass_over(piece);
    }

    /// Takes bytes of the request half while it, or a response, is in doubt. `false`: nothing is.
    pub(super) fn pass_doubted_request(
        &mut self,
        config: &Config,
        piece: &mut Piece<'_>,
        out: &mut Vec<Event>,
    ) -> bool {
        match self.doubt.as_deref_mut() {
            None => return false,
            Some(Doubt::Request(watch)) => watch.pass(piece.data),
            Some(Doubt::Refused(refused)) => {
                refused.last = piece.stamp;
                refused.watch.pass(piece.data);
            }
            Some(Doubt::Response(last)) => {
                let last = *last;
                skip_empty_lines(piece);
                if !piece.is_empty() {
                    self.end_response(last, None, out);
                    self.look_again(last);
                    self.search(config, Half::Request, *piece, out);
                    piece.skip(u64::MAX);
                }
                return true;
            }
        }
        self.pass_over(piece);
        true
    }

    /// Takes bytes of a response whose end is in doubt. Returns `false` if no response is.
    pub(super) fn pass_doubted_response(&mut self, piece: &mut Piece<'_>) -> bool {
        let Some(Doubt::Response(last)) = self.doubt.as_deref_mut() else {
            return false;
        };
        *last = piece.stamp;
        piece.skip(u64::MAX);
        true
    }

    /// Takes the first final response behind unreadable bytes. They were a request if HTTP has that response for such
    /// bytes: 4xx, or 501 and 505 for methods and versions that the server does not know (RFC 9110 sections 15.6.2 and
    /// 15.6.6).
    pub(super) fn answer_refused(&mut self, found: Found<ResponseHead>, out: &mut Vec<Event>) {
        let Some(Doubt::Refused(refused)) = self.doubt.take().map(|doubt| *doubt) else {
            return;
        };
        let complete = found.complete;
        self.doubt = Some(Box::new(Doubt::Request(refused.watch)));
        if !matches!(found.head.status, 400..=499 | 501 | 505) {
            return self.not_refused(refused.carries, complete, out);
        }
        let request = Found {
            head: Box::new(RequestHead::unreadable()),
            framing: Framing::default(),
            first: refused.first,
            complete: refused.last,
            offset: refused.offset,
        };
        self.begin_exchange(request, out);
        if refused.carries.is_some() {
            out.push(Event::Lost {
                exchange: self.next_exchange,
                cause: Cause::Malformed,
            });
        }
        self.respond(found, out);
    }

    /// Decides that the unreadable bytes were no request that a server of HTTP refused.
    fn not_refused(&mut self, carries: Option<&'static str>, stamp: Stamp, out: &mut Vec<Event>) {
        match carries {
            Some(name) => self.become_opaque(Cause::OtherProtocol, name, out),
            None => self.look_again(stamp),
        }
    }

    /// Gives unreadable bytes up, because nothing readable answers them. Returns `false` if there were none.
    pub(super) fn leave_refused(&mut self, stamp: Stamp, out: &mut Vec<Event>) -> bool {
        let Some(Doubt::Refused(refused)) = self.doubt.as_deref() else {
            return false;
        };
        self.not_refused(refused.carries, stamp, out);
        true
    }

    /// Resolves a held response that answers none of the whole requests, once no more requests come.
    pub(super) fn answer_nothing(&mut self, config: &Config, out: &mut Vec<Event>) {
        if self.awaits_response() || !self.held_request.is_empty() {
            return;
        }
        if self.request.in_head() {
            self.answer_cut(config, out);
        } else {
            self.lose(Cause::Unsolicited, out);
        }
    }

    /// Takes a server's answer to a head that stops short: it timed out, or was too large.
    fn answer_cut(&mut self, config: &Config, out: &mut Vec<Event>) {
        match self.request.cut_head::<RequestHead>(config, Cause::Malformed) {
            Ok(found) => {
                let (complete, cause) = (found.complete, Cause::Malformed);
                self.begin_exchange(found, out);
                self.doubt_request(cause, Watch::default(), complete, out);
            }
            Err((first, last, offset)) => {
                out.push(Event::Lost {
                    exchange: self.next_exchange,
                    cause: Cause::Malformed,
                });
                self.doubt = Some(Box::new(Doubt::Refused(Refused {
                    first,
                    last,
                    offset,
                    carries: None,
                    watch: Watch::default(),
                })));
            }
        }
        self.request.begin_anew();
    }

    /// Looks for a boundary, as after a loss: the exchange in doubt is over. `stamp`: the call that moved its last byte; if that was
    /// a request's, the search takes note of it when the call's bytes are fed.
    pub(super) fn look_again(&mut self, stamp: Stamp) {
        if let Some(Doubt::Request(watch)) = self.doubt.as_deref() {
            self.pipelined |= watch.met();
        }
        self.begin_search(Search::behind_response(stamp));
    }

    pub(super) fn pass_over(&mut self, piece: &mut Piece<'_>) {
        self.counters.unsynchronised_bytes = self.counters.unsynchronised_bytes.saturating_add(piece.len());
        piece.skip(u64::MAX);
    }
}
