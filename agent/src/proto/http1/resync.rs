//! The search for a sure boundary, on a connection that is older than the agent or of which bytes are missing.
//!
//! A boundary is found, not guessed: a request head that begins where a system call begins, then nothing on either half
//! but that request's own body, then a response head that begins where a system call begins. The exchange that proves it
//! is kept.
//!
//! One thing can deceive this rule: a client that pipelines may have had older requests on the way. So a connection
//! that was seen to pipeline is believed only after it has been silent.

use super::connection::{Http1, Mode, request_body};
use super::stream::{Found, Piece, Stream};
use super::{Config, Event, RequestHead, ResponseHead};
use crate::event::Stamp;
use crate::proto::{Data, Half};

/// A connection that pipelines and on which nothing passed for so long has no request on the way.
const QUIET_NS: u64 = 1_000_000_000;

/// What the search remembers.
#[derive(Debug, Default)]
pub(super) struct Search {
    candidate: Option<Candidate>,
    /// Requests followed on a candidate: only when the response half moves is it known whose turn it is.
    overtaken: bool,
    /// This connection was seen to pipeline.
    pub pipelined: bool,
    /// When the last byte passed, on either half.
    last_ns: u64,
}

/// A request that may turn out to be at a sure boundary.
#[derive(Debug)]
enum Candidate {
    /// Its head is not complete.
    Head,
    /// Its head is complete; `end`: its body too, when and how many bytes.
    Whole {
        found: Box<Found<RequestHead>>,
        end: Option<(Stamp, u64)>,
    },
}

impl Search {
    /// Starts anew, after a loss at `stamp`.
    pub fn begin(&mut self, stamp: Stamp) {
        *self = Self {
            pipelined: self.pipelined,
            last_ns: stamp.time_ns,
            ..Self::default()
        };
    }

    /// Drops the candidate.
    pub fn forget(&mut self) {
        self.candidate = None;
    }
}

impl Http1 {
    /// Takes one piece while not synchronised.
    pub(super) fn search(&mut self, config: &Config, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        let quiet = piece.stamp.time_ns.saturating_sub(self.search.last_ns) >= QUIET_NS;
        self.search.last_ns = self.search.last_ns.max(piece.stamp.time_ns);
        match half {
            Half::Request => self.search_request(config, quiet, piece),
            Half::Response => self.search_response(config, piece, out),
        }
    }

    fn search_request(&mut self, config: &Config, quiet: bool, mut piece: Piece<'_>) {
        let trusted = quiet || !self.search.pipelined;
        if self.search.candidate.is_none() {
            if !begins_message(piece) || self.search.overtaken || !trusted {
                return self.pass_over(piece);
            }
            self.request = Stream::new();
            self.search.candidate = Some(Candidate::Head);
        }
        while !piece.is_empty() {
            match &mut self.search.candidate {
                None => return self.pass_over(piece),
                Some(Candidate::Head) => match self.request.head::<RequestHead>(config, &mut piece) {
                    Ok(None) => {}
                    Ok(Some(found)) => {
                        let open = self.request.begin_body(request_body(found.framing));
                        let end = (!open).then_some((found.complete, 0));
                        self.search.candidate = Some(Candidate::Whole {
                            found: Box::new(found),
                            end,
                        });
                    }
                    Err(_) => self.drop_candidate(),
                },
                Some(Candidate::Whole { end: end @ None, .. }) => match self.request.body(&mut piece) {
                    Ok(None) => {}
                    Ok(Some(body_bytes)) => *end = Some((piece.stamp, body_bytes)),
                    Err(_) => self.drop_candidate(),
                },
                Some(Candidate::Whole { end: Some(_), .. }) => {
                    piece.skip_empty_lines();
                    if !piece.is_empty() {
                        // More requests in the same call, or a response that was missed: the next byte of the response
                        // half tells.
                        self.search.pipelined |= !piece.segment_start && matches!(piece.data, Data::Bytes(_));
                        self.search.overtaken = true;
                        self.drop_candidate();
                    }
                }
            }
        }
    }

    fn search_response(&mut self, config: &Config, mut piece: Piece<'_>, out: &mut Vec<Event>) {
        if let Data::Gap(_) = piece.data {
            self.search.overtaken = false;
            self.drop_candidate();
            return self.pass_over(piece);
        }
        // No gap on this half since the candidate, and yet a request came before the answer to the one before.
        self.search.pipelined |= self.search.overtaken;
        self.search.overtaken = false;
        let awaited = matches!(self.search.candidate, Some(Candidate::Whole { .. }));
        if !awaited || !(self.response.in_head() || begins_message(piece)) {
            self.drop_candidate();
            return self.pass_over(piece);
        }
        match self.response.head::<ResponseHead>(config, &mut piece) {
            Ok(None) => {}
            Ok(Some(response)) => {
                if let Some(Candidate::Whole { found, end }) = self.search.candidate.take() {
                    self.mode = Mode::Following;
                    let exchange = self.begin_exchange(*found, out);
                    if let Some((last, body_bytes)) = end {
                        out.push(Event::RequestEnd {
                            exchange,
                            last,
                            body_bytes,
                        });
                    }
                    self.respond(response, out);
                    self.follow(config, Half::Response, piece, false, out);
                }
            }
            Err(_) => {
                self.drop_candidate();
                self.pass_over(piece);
            }
        }
    }

    fn drop_candidate(&mut self) {
        self.search.candidate = None;
        self.request = Stream::new();
        self.response = Stream::new();
    }

    fn pass_over(&mut self, piece: Piece<'_>) {
        self.counters.unsynchronised_bytes += piece.len();
    }
}

/// Whether a piece can begin with the first byte of a message that a system call begins with.
fn begins_message(piece: Piece<'_>) -> bool {
    piece.segment_start && matches!(piece.data, Data::Bytes([first, ..]) if !matches!(first, b'\r' | b'\n'))
}
