//! Pieces that came too early: the two halves reach a parser in any order relative to each other.

use std::collections::VecDeque;

use agent_ebpf::classify;

use super::{Data, Piece};
use crate::engine::execution::Stamp;

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

impl Held {
    /// Returns whether none is held.
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

    /// Puts back what is left of the piece that was taken out last.
    pub fn put_back(&mut self, rest: Piece<'_>) {
        let held = HeldPiece::from(rest);
        let pieces = self.0.get_or_insert_default();
        pieces.bytes += held.captured();
        pieces.queue.push_front(held);
    }

    /// Returns the oldest piece.
    pub fn first(&self) -> Option<Piece<'_>> {
        let pieces = self.0.as_ref()?;
        pieces.queue.front().map(HeldPiece::piece)
    }

    /// Returns the number of bytes, captured or not.
    pub fn bytes(&self) -> u64 {
        let pieces = self.0.iter().flat_map(|pieces| &pieces.queue);
        pieces.fold(0, |sum, piece| sum.saturating_add(piece.piece().len()))
    }

    /// Returns the calls that moved the pieces.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let pieces = self.0.iter().flat_map(|pieces| &pieces.queue);
        pieces.map(|piece| piece.stamp)
    }

    /// Returns the first captured bytes, up to a gap: the bytes, at most 8, and their number.
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
    /// Returns it as it came.
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
