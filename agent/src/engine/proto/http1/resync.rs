//! Search for a sure boundary, on a connection that is older than the agent or has lost bytes.
//!
//! A boundary is found, not guessed: a request head that begins where a system call begins, then nothing on either half
//! but that request's own body, then a response head that begins where a system call begins. The exchange that proves it
//! is kept.
//!
//! One thing can deceive this rule: a client that pipelines may have had older requests on the way. So a connection
//! that was seen to pipeline is believed only after it has been silent.

use agent_ebpf::classify::{self, Looks};

use super::{
    Cause, Config, Event, Piece, RequestHead, ResponseHead,
    connection::{Http1, Mode},
    doubt::Watch,
    framing::request_body,
    stream::{Ended, Found, Stream, skip_empty_lines},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half},
};

/// A connection that pipelines and on which nothing passed for so long has no request on the way.
const QUIET_NS: u64 = 1_000_000_000;

/// State of the search for a boundary.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Boxed: searches are few, connections many.
    candidate: Option<Box<Candidate>>,
    /// Time of the last byte, on either half.
    last_ns: u64,
    /// Bytes of the candidate and of what may be the response to it.
    claimed: u64,
}

/// A request that may turn out to be at a sure boundary.
#[derive(Debug)]
enum Candidate {
    /// The head is not complete. `calls`: it lies in more than one system call.
    Head { calls: bool },
    /// The head is complete; `end`: time at which the body was, if it is.
    Whole {
        found: Found<RequestHead>,
        end: Option<(Stamp, Ended)>,
    },
    /// The head is complete, and the end of its body is in doubt.
    Doubtful { found: Found<RequestHead>, watch: Watch },
}

impl Search {
    /// Returns the calls that moved the candidate.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let stamps = match self.candidate.as_deref() {
            None | Some(Candidate::Head { .. }) => [None; 3],
            Some(Candidate::Whole { found, end }) => {
                let end = end.map(|(stamp, _)| stamp);
                [Some(found.first), Some(found.complete), end]
            }
            Some(Candidate::Doubtful { found, .. }) => [Some(found.first), Some(found.complete), None],
        };
        stamps.into_iter().flatten()
    }

    /// Starts anew, after a loss at `stamp`.
    pub fn begin(&mut self, stamp: Stamp) {
        *self = Self {
            last_ns: stamp.time_ns,
            ..Self::default()
        };
    }
}

impl Http1 {
    /// Takes one piece while not synchronised.
    pub(super) fn search(&mut self, config: &Config, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        let quiet = piece.stamp.time_ns.saturating_sub(self.search.last_ns) >= QUIET_NS;
        self.search.last_ns = self.search.last_ns.max(piece.stamp.time_ns);
        self.search.claimed = self.search.claimed.saturating_add(piece.len());
        match half {
            Half::Request => self.search_request(config, quiet, piece),
            Half::Response => self.search_response(config, piece, out),
        }
    }

    fn search_request(&mut self, config: &Config, quiet: bool, mut piece: Piece<'_>) {
        let trusted = quiet || !self.pipelined;
        match self.search.candidate.as_deref_mut() {
            None if !begins_message(piece) || self.overtaken || !trusted => return self.give_up(),
            None => self.search.candidate = Some(Box::new(Candidate::Head { calls: false })),
            // What seemed to be a head was the rest of something else.
            Some(Candidate::Head { .. }) if begins_message(piece) && begins_request(piece) => {
                self.give_up();
                self.search.candidate = Some(Box::new(Candidate::Head { calls: false }));
            }
            Some(Candidate::Head { calls }) => *calls |= piece.segment_start,
            Some(Candidate::Whole { .. } | Candidate::Doubtful { .. }) => {}
        }
        while !piece.is_empty() {
            match self.search.candidate.as_deref_mut() {
                None => return,
                Some(Candidate::Head { calls }) => match self.request.head::<RequestHead>(config, &mut piece) {
                    Ok(None) => {}
                    // The rest of a body and the method behind it look like a method, but not like a known one.
                    Ok(Some(found)) if *calls && !is_known(found.head.method()) => self.give_up(),
                    Ok(Some(found)) if found.framing.doubt.is_some() => {
                        let watch = Watch::behind(&found);
                        self.search.candidate = Some(Box::new(Candidate::Doubtful { found, watch }));
                    }
                    Ok(Some(found)) => {
                        let open = self.request.begin_body(request_body(found.framing));
                        let end = (!open).then_some((found.complete, Ended::default()));
                        self.search.candidate = Some(Box::new(Candidate::Whole { found, end }));
                    }
                    Err(_) => self.give_up(),
                },
                Some(Candidate::Whole { end: end @ None, .. }) => match self.request.body(&mut piece) {
                    Ok(None) => {}
                    Ok(Some(ended)) => *end = Some((piece.stamp, ended)),
                    Err(_) => self.give_up(),
                },
                Some(Candidate::Doubtful { watch, .. }) => {
                    watch.pass(piece.data);
                    piece.skip(u64::MAX);
                    if watch.met() {
                        self.overtaken = true;
                        self.give_up();
                    }
                }
                Some(Candidate::Whole { end: Some(_), .. }) => {
                    skip_empty_lines(&mut piece);
                    if !piece.is_empty() {
                        // The call holds more requests, or a response was missed: the next byte of the response half
                        // decides.
                        self.pipelined |= !piece.segment_start && matches!(piece.data, Data::Bytes(_));
                        self.overtaken = true;
                        self.give_up();
                    }
                }
            }
        }
    }

    fn search_response(&mut self, config: &Config, mut piece: Piece<'_>, out: &mut Vec<Event>) {
        if let Data::Gap(_) = piece.data {
            self.overtaken = false;
            return self.give_up();
        }
        // No gap on this half since the candidate, and yet a request came before the answer to the one before.
        self.pipelined |= self.overtaken;
        self.overtaken = false;
        let awaited = matches!(
            self.search.candidate.as_deref(),
            Some(Candidate::Whole { .. } | Candidate::Doubtful { .. })
        );
        if !awaited || !(self.response.in_head() || begins_message(piece)) {
            return self.give_up();
        }
        match self.response.head::<ResponseHead>(config, &mut piece) {
            Ok(None) => {}
            Ok(Some(response)) => {
                let (found, end, watch) = match self.search.candidate.take().map(|candidate| *candidate) {
                    Some(Candidate::Whole { found, end }) => (found, end, Watch::default()),
                    Some(Candidate::Doubtful { found, watch }) => (found, None, watch),
                    Some(Candidate::Head { .. }) | None => return,
                };
                self.mode = Mode::Following;
                self.search.claimed = 0;
                let (complete, mut doubt) = (found.complete, found.framing.doubt);
                let exchange = self.begin_exchange(found, out);
                if let Some((last, Ended { body_bytes, bare_lf })) = end {
                    out.push(Event::Sent {
                        exchange,
                        last,
                        body_bytes,
                    });
                    doubt = bare_lf.then_some(Cause::Doubtful);
                }
                if let Some(cause) = doubt {
                    self.doubt_request(cause, watch, complete, out);
                }
                self.respond(response, out);
                self.follow(config, Half::Response, piece, false, out);
            }
            Err(_) => self.give_up(),
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
