//! Bodies where there are none by HTTP: behind the head of a response to HEAD, of an interim one, of 204 and 304 (RFC 9112
//! section 6.3, rule 1). Some servers send them, as their heads announce, and their clients pass over them.

use agent_ebpf::classify::{self, Looks};

use super::{Cause, Config, Event, Piece, connection::Http1, head::Transfer, stream::Body};
use crate::engine::proto::{Data, Half};

/// The body that the last response announced and may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stray {
    /// One of this length may follow.
    Length(u64),
    /// One in chunks may follow.
    Chunked,
    /// The body follows.
    Passing,
}

impl Stray {
    /// Returns the body that a head announces.
    pub fn announced(transfer: Transfer) -> Option<Self> {
        match transfer {
            Transfer::Length(length) if length > 0 => Some(Self::Length(length)),
            Transfer::Chunked => Some(Self::Chunked),
            Transfer::Length(_) | Transfer::Unsaid | Transfer::OtherCoding => None,
        }
    }
}

impl Http1 {
    /// Takes the bytes behind the last response's head for the body that it announced; `passed` of them are over.
    pub(super) fn begin_stray(&mut self, passed: u64) -> Result<(), Cause> {
        let body = match self.stray.as_deref() {
            Some(Stray::Length(length)) if *length >= passed => Body::Length(length - passed),
            Some(Stray::Chunked) if passed == 0 => Body::chunked(),
            _ if self.awaits_response() => return Err(Cause::Malformed),
            _ => return Err(Cause::Unsolicited),
        };
        self.response.begin_anew();
        self.stray = self.response.begin_body(body).then(|| Box::new(Stray::Passing));
        Ok(())
    }

    /// Takes bytes of a stray body. They give no event: the response is over.
    pub(super) fn follow_stray(&mut self, piece: &mut Piece<'_>) -> Result<(), Cause> {
        // It was not there, or is over: what begins a call and looks like a response may be one.
        if piece.segment_start && matches!(piece.data, Data::Bytes(bytes) if looks_like_response(bytes) == Looks::Yes) {
            return Err(Cause::Unsolicited);
        }
        if self.response.body(piece)?.is_some() {
            self.stray = None;
        }
        Ok(())
    }

    /// Returns whether a stray body is under way.
    pub(super) fn passes_stray(&self) -> bool {
        matches!(self.stray.as_deref(), Some(Stray::Passing))
    }

    /// Passes over held bytes that are no response while no request is open.
    pub(super) fn pass_stray(&mut self, config: &Config, out: &mut Vec<Event>) {
        if let Err(cause) = self.begin_stray(0) {
            return self.lose(cause, out);
        }
        // What may be a response waits for its request.
        while self.follow_held(config, Half::Response, out) {}
    }
}

/// Returns whether these bytes begin a response.
pub(super) fn looks_like_response(bytes: &[u8]) -> Looks {
    let (first, n) = classify::first_bytes(bytes);
    classify::looks_like_response(first, n)
}
