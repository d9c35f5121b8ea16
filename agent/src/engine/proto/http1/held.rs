//! Pieces that came too early: the two halves reach us in any order relative to each other.

use std::collections::VecDeque;

use agent_ebpf::classify::{self, Looks};

use super::{Cause, Config, Event, Piece, connection::Http1};
use crate::{
    engine::proto::{Data, Half, opaque},
    record::Stamp,
};

/// Upper bound on captured bytes that are held for one half.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// Upper bound on pieces that are held for one half.
const MAX_HELD_PIECES: usize = 1024;

/// Pieces of one half that wait for the other half, in stream order.
#[derive(Debug, Default)]
pub(super) struct Held(Option<Box<Pieces>>);

/// Content of [`Held`], boxed: most of 100,000 connections never hold anything, and then it takes one word.
#[derive(Debug, Default)]
struct Pieces {
    queue: VecDeque<HeldPiece>,
    bytes: usize,
}

/// A [`Piece`] that owns its bytes.
#[derive(Debug)]
pub(super) struct HeldPiece {
    offset: u64,
    segment_start: bool,
    data: HeldData,
    stamp: Stamp,
}

#[derive(Debug)]
enum HeldData {
    Bytes(Box<[u8]>),
    Gap(u64),
}

/// There is no room for one more piece.
#[derive(Debug)]
pub(super) struct Full;

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
            Half::Request if full => self.lose(Cause::TooManyPending, piece.stamp, out),
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
                    self.pass_stray(config, piece.stamp, out);
                } else if full || self.at_server && self.held_response.begins_with_timeout() && !self.request.in_head()
                {
                    self.lose(Cause::Unsolicited, piece.stamp, out);
                } else if self.request_ended {
                    self.answer_nothing(piece.stamp, config, out);
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
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds the piece that comes next in the stream.
    pub fn push(&mut self, piece: Piece<'_>) -> Result<(), Full> {
        let held = HeldPiece::from(piece);
        let pieces = self.0.get_or_insert_default();
        if pieces.queue.len() >= MAX_HELD_PIECES || pieces.bytes + held.captured() > MAX_HELD_BYTES {
            return Err(Full);
        }
        pieces.bytes += held.captured();
        pieces.queue.push_back(held);
        Ok(())
    }

    /// Takes the oldest piece out.
    pub fn pop(&mut self) -> Option<HeldPiece> {
        let pieces = self.0.as_mut()?;
        let held = pieces.queue.pop_front()?;
        pieces.bytes -= held.captured();
        if pieces.queue.is_empty() {
            self.0 = None;
        }
        Some(held)
    }

    /// Puts back the rest of the piece that was taken out last.
    pub fn put_back(&mut self, rest: Piece<'_>) {
        let held = HeldPiece::from(rest);
        let pieces = self.0.get_or_insert_default();
        pieces.bytes += held.captured();
        pieces.queue.push_front(held);
    }

    /// Returns whether a server says that no request came in time (408, RFC 9110 section 15.5.9). The next request has
    /// an answer of its own.
    fn begins_with_timeout(&self) -> bool {
        let first = self.0.as_ref().and_then(|pieces| pieces.queue.front());
        first.is_some_and(|piece| match &piece.data {
            HeldData::Bytes(bytes) => bytes.starts_with(b"HTTP/1.") && bytes.get(8..13) == Some(b" 408 "),
            HeldData::Gap(_) => false,
        })
    }

    /// Returns the first captured bytes, up to a gap: their number, at most 8, and the bytes.
    pub fn first_bytes(&self) -> ([u8; 8], usize) {
        let pieces = self.0.iter().flat_map(|pieces| &pieces.queue);
        let captured = pieces.map_while(|piece| match &piece.data {
            HeldData::Bytes(bytes) => Some(bytes.iter()),
            HeldData::Gap(_) => None,
        });
        classify::first_bytes(captured.flatten())
    }
}

impl HeldPiece {
    pub fn piece(&self) -> Piece<'_> {
        let data = match &self.data {
            HeldData::Bytes(bytes) => Data::Bytes(bytes),
            HeldData::Gap(n) => Data::Gap(*n),
        };
        Piece {
            offset: self.offset,
            segment_start: self.segment_start,
            data,
            stamp: self.stamp,
        }
    }

    fn captured(&self) -> usize {
        match &self.data {
            HeldData::Bytes(bytes) => bytes.len(),
            HeldData::Gap(_) => 0,
        }
    }
}

impl From<Piece<'_>> for HeldPiece {
    fn from(piece: Piece<'_>) -> Self {
        let data = match piece.data {
            Data::Bytes(bytes) => HeldData::Bytes(bytes.into()),
            Data::Gap(n) => HeldData::Gap(n),
        };
        Self {
            offset: piece.offset,
            segment_start: piece.segment_start,
            data,
            stamp: piece.stamp,
        }
    }
}
