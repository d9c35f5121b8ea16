//! Pieces that came too early: when they are kept, and when they are taken.

use agent_ebpf::classify::{self, Looks};

use super::{Cause, Config, Event, Piece, connection::Http1};
use crate::engine::proto::{Data, Half, held::Held, opaque};

impl Http1 {
    /// Returns whether pieces of a half wait until the other half says more.
    pub(super) fn holds(&self, half: Half) -> bool {
        match half {
            Half::Request => !self.held_request.is_empty(),
            Half::Response => !self.held_response.is_empty(),
        }
    }

    pub(super) fn held(&mut self, half: Half) -> &mut Held {
        match half {
            Half::Request => &mut self.held_request,
            Half::Response => &mut self.held_response,
        }
    }

    /// Keeps a piece that cannot be understood yet.
    pub(super) fn hold(&mut self, config: &Config, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        let full = self.held(half).push(piece).is_err();
        match half {
            Half::Request if full => self.lose(Cause::TooManyPending, out),
            Half::Request => {}
            Half::Response => {
                let (first, n) = self.held_response.first_bytes();
                let is_response = classify::looks_like_response(first, n) != Looks::No;
                if self.undecided && !is_response {
                    let opening = match piece.data {
                        Data::Bytes(bytes) if piece.offset == 0 => bytes,
                        _ => first.get(..n).unwrap_or_default(),
                    };
                    let name = opaque::protocol(opening);
                    self.become_opaque(Cause::OtherProtocol, name, out);
                } else if !is_response && !self.awaits_response() {
                    self.pass_stray(config, out);
                } else if full || self.at_server && begins_with_timeout(&self.held_response) && !self.request.in_head()
                {
                    self.lose(Cause::Unsolicited, out);
                } else if self.request_ended {
                    self.answer_nothing(config, out);
                }
            }
        }
    }

    /// Takes the held pieces that can be understood now.
    pub(super) fn release(&mut self, config: &Config, out: &mut Vec<Event>) {
        loop {
            let half = if !self.held_response.is_empty() && self.awaits_response() {
                Half::Response
            } else if !self.held_request.is_empty() && !self.suspended {
                Half::Request
            } else {
                break;
            };
            if !self.follow_held(config, half, out) {
                break;
            }
        }
        if self.held_response.is_empty()
            && let Some(stamp) = self.response_ended.take()
        {
            self.close_response(*stamp, out);
        }
    }

    /// Takes the first held piece of a half. Returns false if none of it can be taken now: it stays held, and whoever takes
    /// what is held must stop.
    pub(super) fn follow_held(&mut self, config: &Config, half: Half, out: &mut Vec<Event>) -> bool {
        let Some(held) = self.held(half).pop() else {
            return false;
        };
        let offset = held.piece().offset;
        self.follow(config, half, held.piece(), true, out);
        self.held(half).first().is_none_or(|first| first.offset != offset)
    }
}

/// Returns whether a server says that no request came in time (408, RFC 9110 section 15.5.9). The next request has an answer of
/// its own.
fn begins_with_timeout(held: &Held) -> bool {
    match held.first().map(|piece| piece.data) {
        Some(Data::Bytes(bytes)) => bytes.starts_with(b"HTTP/1.") && bytes.get(8..13) == Some(b" 408 "),
        Some(Data::Gap(_)) | None => false,
    }
}
