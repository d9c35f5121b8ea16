//! Search for a sure boundary, on a connection that is older than the agent or has lost bytes.
//!
//! A boundary is found, not guessed: a request head that begins where a system call begins, then nothing on either half
//! but that request's own body, then a response head that begins where a system call begins. The exchange that proves it
//! is kept.
//!
//! One thing can deceive this rule: a client that pipelines may have had older requests on the way. So a connection
//! that was seen to pipeline is believed only after it has been silent: the last byte on either half was a response's,
//! and ten seconds passed since then. Behind a silence no older request is on the way. So further requests may come before
//! the response, which answers the first of them, and all of them are kept:
//!
//! | the request begins | on a connection | further requests before the response |
//! |---|---|---|
//! | behind a silence | of any kind | are held with the first one |
//! | anywhere else | that was never seen to pipeline | end the candidate |
//! | anywhere else | that was seen to pipeline | there is no candidate |
//!
//! A connection on which no byte was seen is not silent. A gap has no time of its own: it counts as bytes that pass when
//! it is noticed. A silence behind a byte of a request only shows that the server is slow.
//!
//! After a gap in the request half, the next response belongs to a request that was in the gap, unless there is a gap in the
//! response half, too.
//!
//! The rule is still deceived by a client that always has several requests on the way, if nothing tells of the first of them:
//! they were sent before the agent came. And by a server that lets ten seconds pass between two pipelined responses, if the
//! client sends its next request before the second one.

use std::num::NonZeroU64;

use agent_ebpf::classify::{self, Looks};

use super::{
    Cause, Config, Event, Piece, RequestHead, ResponseHead,
    connection::{Http1, MAX_PENDING, Mode},
    doubt::Watch,
    framing::request_body,
    head::MAX_HEAD_BYTES,
    stray::looks_like_response,
    stream::{Ended, Found, Stream, skip_empty_lines},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half},
};

/// Length of a silence behind which no request is on the way.
pub(super) const QUIET_NS: u64 = 10_000_000_000;

/// State of the search for a boundary.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Boxed: searches are few, connections many.
    candidate: Option<Box<Candidate>>,
    /// Time of the last byte on either half, if it was a response's.
    answered_ns: Option<NonZeroU64>,
    /// Bytes of the candidate and of what may be the response to it.
    claimed: u64,
}

/// Requests that may turn out to begin at a sure boundary.
#[derive(Debug)]
struct Candidate {
    /// The first request begins behind a silence, so others may follow it.
    behind_silence: bool,
    /// Requests whose heads are complete, oldest first.
    requests: Vec<Asked>,
    /// Bytes of their heads.
    head_bytes: u64,
    next: Next,
}

/// A request of the candidate.
#[derive(Debug)]
struct Asked {
    found: Found<RequestHead>,
    /// The call that moved the body's last byte, and the body's end.
    sent: Option<(Stamp, Ended)>,
}

/// The part of the request half that comes next.
#[derive(Debug)]
enum Next {
    /// The first head, or its rest. `calls`: it lies in more than one system call.
    First { calls: bool },
    /// A further head, or its rest.
    Further,
    /// The body of the last request, or its rest.
    Body,
    /// Bytes behind the last request, whose end is in doubt. `passed`: so many of them are here.
    Doubtful { cause: Cause, watch: Watch, passed: u64 },
}

/// The candidate's first request is at no sure boundary, or its requests cannot be read any further.
struct Unsure;

impl From<Cause> for Unsure {
    fn from(_: Cause) -> Self {
        Self
    }
}

impl Search {
    /// Begins a search behind a response that ended at `stamp`.
    pub fn behind_response(stamp: Stamp) -> Self {
        Self {
            answered_ns: NonZeroU64::new(stamp.time_ns),
            ..Self::default()
        }
    }

    /// Notes that bytes of a half passed.
    pub fn note(&mut self, half: Half, stamp: Stamp) {
        self.answered_ns = match half {
            Half::Request => None,
            Half::Response => self.answered_ns.max(NonZeroU64::new(stamp.time_ns)),
        };
    }

    /// Returns the calls that moved the candidate.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let requests = self.candidate.iter().flat_map(|candidate| &candidate.requests);
        requests.flat_map(|Asked { found, sent }| {
            let sent = sent.map(|(stamp, _)| stamp);
            [found.first, found.complete].into_iter().chain(sent)
        })
    }

    /// Returns whether a call that moves the next byte does so behind a silence.
    fn is_silent(&self, stamp: Stamp) -> bool {
        self.answered_ns
            .is_some_and(|answered_ns| stamp.time_ns.saturating_sub(answered_ns.get()) >= QUIET_NS)
    }
}

impl Candidate {
    fn new(behind_silence: bool) -> Self {
        Self {
            behind_silence,
            requests: Vec::new(),
            head_bytes: 0,
            next: Next::First { calls: false },
        }
    }

    /// Takes bytes that the client sent next; `stream` reads them.
    fn take(&mut self, config: &Config, stream: &mut Stream, piece: &mut Piece<'_>) -> Result<(), Unsure> {
        match &mut self.next {
            Next::First { calls } => {
                let calls = *calls;
                if let Some(found) = stream.head::<RequestHead>(config, piece)? {
                    // The rest of a body and the method behind it look like a method, but not like a known one.
                    if calls && !is_known(found.head.method()) {
                        return Err(Unsure);
                    }
                    self.push(found, stream, piece);
                }
            }
            Next::Further => {
                if !self.takes_more() {
                    return Err(Unsure);
                }
                if let Some(found) = stream.head::<RequestHead>(config, piece)? {
                    self.push(found, stream, piece);
                }
            }
            Next::Body => {
                if let Some(ended) = stream.body(piece)? {
                    if let Some(last) = self.requests.last_mut() {
                        last.sent = Some((piece.stamp, ended));
                    }
                    self.next = if ended.bare_lf {
                        Next::doubtful(Cause::Doubtful, Watch::default())
                    } else {
                        Next::Further
                    };
                }
            }
            Next::Doubtful { watch, passed, .. } => {
                watch.pass(piece.data);
                *passed = passed.saturating_add(piece.len());
                piece.skip(u64::MAX);
                if watch.met() && !self.behind_silence {
                    return Err(Unsure);
                }
            }
        }
        Ok(())
    }

    /// Adds a request whose head ends where `piece` begins.
    fn push(&mut self, found: Found<RequestHead>, stream: &mut Stream, piece: &Piece<'_>) {
        let mut sent = None;
        self.next = if let Some(cause) = found.framing.doubt {
            Next::doubtful(cause, Watch::behind(&found))
        } else if stream.begin_body(request_body(found.framing)) {
            Next::Body
        } else {
            sent = Some((found.complete, Ended::default()));
            Next::Further
        };
        let length = piece.offset.saturating_sub(found.offset);
        self.head_bytes = self.head_bytes.saturating_add(length);
        self.requests.push(Asked { found, sent });
    }

    /// Returns whether another request may follow those that are here.
    fn takes_more(&self) -> bool {
        // Only the response tells how to read the bytes behind a request that may switch protocols.
        let may_switch = self.requests.last().is_some_and(|last| last.found.may_switch());
        let has_room = self.requests.len() < MAX_PENDING && self.head_bytes <= MAX_HEAD_BYTES as u64;
        self.behind_silence && !may_switch && has_room
    }

    /// Returns whether another request may have passed behind one whose end is in doubt.
    fn passed_more(&self) -> bool {
        matches!(&self.next, Next::Doubtful { watch, .. } if watch.met())
    }
}

impl Next {
    fn doubtful(cause: Cause, watch: Watch) -> Self {
        Self::Doubtful {
            cause,
            watch,
            passed: 0,
        }
    }
}

impl Http1 {
    /// Takes one piece while not synchronised.
    pub(super) fn search(&mut self, config: &Config, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        if half == Half::Request && self.begins_elsewhere(piece) {
            // What seemed to be a head was the rest of something else.
            self.give_up();
        }
        self.search.claimed = self.search.claimed.saturating_add(piece.len());
        match half {
            Half::Request => self.search_request(config, piece),
            Half::Response => self.search_response(config, piece, out),
        }
    }

    /// Returns whether a request begins with this piece, in the middle of the candidate's first head.
    fn begins_elsewhere(&self, piece: Piece<'_>) -> bool {
        let candidate = self.search.candidate.as_deref();
        candidate.is_some_and(|candidate| matches!(candidate.next, Next::First { .. }))
            && begins_message(piece)
            && begins_request(piece)
    }

    fn search_request(&mut self, config: &Config, mut piece: Piece<'_>) {
        let behind_silence = self.search.is_silent(piece.stamp);
        let trusted = behind_silence || !self.pipelined;
        if behind_silence {
            self.owed = 0;
        }
        match self.search.candidate.as_deref_mut() {
            None if !begins_message(piece) || self.overtaken || !trusted => return self.give_up(),
            None => self.search.candidate = Some(Box::new(Candidate::new(behind_silence))),
            Some(Candidate {
                next: Next::First { calls },
                ..
            }) => *calls |= piece.segment_start,
            Some(_) => {}
        }
        while !piece.is_empty() {
            let Some(candidate) = self.search.candidate.as_deref_mut() else {
                return;
            };
            if matches!(candidate.next, Next::Further) && !self.request.in_head() {
                skip_empty_lines(&mut piece);
                if piece.is_empty() {
                    return;
                }
                // The call holds more requests, or a response was missed: the next byte of the response half decides.
                self.pipelined |= !piece.segment_start && matches!(piece.data, Data::Bytes(_));
                self.overtaken = true;
            }
            let taken = candidate.take(config, &mut self.request, &mut piece);
            self.overtaken |= candidate.passed_more();
            if let Err(Unsure) = taken {
                self.give_up();
            }
        }
    }

    fn search_response(&mut self, config: &Config, mut piece: Piece<'_>, out: &mut Vec<Event>) {
        if self.pays(piece) {
            // The candidate was sent before this response, and so before its own.
            self.pipelined |= self.search.candidate.is_some();
            self.overtaken = false;
            return self.give_up();
        }
        if let Data::Gap(_) = piece.data {
            self.overtaken = false;
            return self.give_up();
        }
        // No gap on this half since the candidate, and yet a request came before the answer to the one before.
        self.pipelined |= self.overtaken;
        self.overtaken = false;
        let candidate = self.search.candidate.as_deref();
        let awaited = candidate.is_some_and(|candidate| !candidate.requests.is_empty());
        if !awaited || !(self.response.in_head() || begins_message(piece)) {
            return self.give_up();
        }
        match self.response.head::<ResponseHead>(config, &mut piece) {
            Ok(None) => {}
            Ok(Some(response)) => {
                self.mode = Mode::Following;
                self.search.claimed = 0;
                if let Some(candidate) = self.search.candidate.take() {
                    self.believe(*candidate, out);
                }
                self.respond(response, out);
                self.follow(config, Half::Response, piece, false, out);
            }
            Err(_) => self.give_up(),
        }
    }

    /// Takes bytes of the response half. Returns whether they begin a response that is owed.
    fn pays(&mut self, piece: Piece<'_>) -> bool {
        let Data::Bytes(bytes) = piece.data else {
            self.owed = 0;
            return false;
        };
        let pays = self.owed > 0 && piece.segment_start && looks_like_response(bytes) != Looks::No;
        // Behind an interim response, the final one is owed still (RFC 9110, section 15.2).
        let is_final = bytes.get(8..10) != Some(b" 1".as_slice());
        self.owed -= u8::from(pays && is_final);
        pays
    }

    /// Reports the candidate's requests. The rest of an unfinished one is in the request half's stream.
    fn believe(&mut self, candidate: Candidate, out: &mut Vec<Event>) {
        let mut last = Stamp::default();
        for Asked { found, sent } in candidate.requests {
            last = found.complete;
            let exchange = self.begin_exchange(found, out);
            if let Some((last, Ended { body_bytes, .. })) = sent {
                out.push(Event::Sent {
                    exchange,
                    last,
                    body_bytes,
                });
            }
        }
        if let Next::Doubtful { cause, watch, passed } = candidate.next {
            self.counters.unsynchronised_bytes = self.counters.unsynchronised_bytes.saturating_add(passed);
            self.doubt_request(cause, watch, last, out);
        }
    }

    /// Passes over the candidate, if there is one, and all that came since.
    pub(super) fn give_up(&mut self) {
        self.counters.unsynchronised_bytes = self.counters.unsynchronised_bytes.saturating_add(self.search.claimed);
        self.search.claimed = 0;
        self.search.candidate = None;
        self.request = Stream::new();
        self.response = Stream::new();
    }
}

/// Returns whether a piece can begin with the first byte of a message: its system call begins there, too.
fn begins_message(piece: Piece<'_>) -> bool {
    piece.segment_start && matches!(piece.data, Data::Bytes([first, ..]) if !matches!(first, b'\r' | b'\n'))
}

/// Returns whether a piece begins with a known method.
fn begins_request(piece: Piece<'_>) -> bool {
    match piece.data {
        Data::Bytes(bytes) => looks(bytes.iter()) == Looks::Yes,
        Data::Gap(_) => false,
    }
}

fn is_known(method: &[u8]) -> bool {
    looks(method.iter().chain(b" ")) == Looks::Yes
}

fn looks<'a>(bytes: impl Iterator<Item = &'a u8>) -> Looks {
    let (first, n) = classify::first_bytes(bytes);
    classify::looks_like_request(first, n)
}
