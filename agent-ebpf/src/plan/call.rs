//! From the bytes of one call to records.

use super::{Wanted, Way};
use crate::{
    abi::{Mode, PIECE_BYTES, PIECES, SEGMENT_MORE, SEGMENT_OPAQUE},
    frame::{
        chunk::{LINE_BYTES, Line},
        head::{SCAN_BYTES, Scan},
    },
    slot::Slot,
};

/// Bytes that are copied of a call before its framing is known: heads are shorter, mostly.
pub const FIRST_BYTES: u64 = 1024;

/// Calls up to this size are copied whole if there is a chunk line in them: a record for each line would be no less.
pub const SMALL_BYTES: u64 = 2048;

/// Bytes at the end of a call that is too large to be copied whole.
const TAIL_BYTES: u64 = 1024;

/// Most lines of chunks that are walked in one call. Of shorter chunks the bytes are copied.
const LINES: usize = 16;

/// A call that moved bytes of a connection: what the plan is made of, and what carries it out.
///
/// The programs split it into functions that the verifier walks once each ([`Call::chunks`], [`Call::whole`]); the tests
/// call through.
pub trait Call {
    /// Both directions, the call's own first.
    fn ways(&self) -> (&Way, &Way);
    /// Stream offset of the call's first byte.
    fn start(&self) -> u64;
    /// Stream offset behind its last byte.
    fn end(&self) -> u64;
    /// Where its head is scanned.
    fn scan(&self) -> &Scan;
    /// Copies `bytes` bytes, at most [`PIECE_BYTES`], from the stream offset `from` to `place` of the payload (0 or
    /// [`FIRST_BYTES`]). Returns how many came: fewer where memory faults, or there are too many buffers.
    fn copy(&self, from: u64, bytes: u64, place: u64) -> u64;
    /// Scans the payload's first `length` bytes, at most [`SCAN_BYTES`].
    fn scan_to(&self, length: u64);
    /// The payload's first 16 bytes.
    fn first(&self) -> [u64; 2];
    /// A byte of the payload, below [`LINE_BYTES`](crate::frame::chunk::LINE_BYTES).
    fn byte(&self, index: u64) -> u8;
    /// Submits a record with the first `captured` bytes of the payload, which lie at the stream offset `offset`.
    fn submit(&self, offset: u64, captured: u64, flags: u16) -> Option<()>;
    /// [`Call::walk_chunks`], as a function of its own.
    fn chunks(&self, known: u64);
    /// [`Call::copy_whole`], as a function of its own.
    fn whole(&self, from: u64);
    /// [`Call::read_line`], as a function of its own.
    fn line(&self) -> Line;
    /// A loop variable of the three.
    fn at(&self) -> &Slot<u64>;
    /// The middle of a call that is too large was passed over: so many bytes.
    fn count_too_large(&self, bytes: u64);
    /// Whether the connection is known to carry HTTP/1: if not, [`Call::is_worth`] is asked.
    fn is_recognised(&self) -> bool;
    /// The payload holds `copied` bytes from the stream offset `from` on: whether they are worth a look. If not, the
    /// records of the call are made.
    fn is_worth(&self, from: u64, copied: u64) -> bool;
    /// Whether the call's bytes lie where they can be read.
    fn is_visible(&self) -> bool;

    /// Makes the records of a call.
    #[inline(always)]
    fn report(&self) -> Option<()> {
        let (way, _) = self.ways();
        let (start, end) = (self.start(), self.end());
        let from = match way.wanted(start, end) {
            Wanted::Nothing => return None,
            Wanted::End => return self.submit(end, 0, 0),
            Wanted::From(from) => from,
        };
        if !self.is_visible() {
            way.lose();
            return self.submit(from, 0, SEGMENT_OPAQUE);
        }
        if way.is(Mode::Chunk) || way.is(Mode::FirstChunk) {
            if end - start > SMALL_BYTES {
                self.chunks(from);
            } else {
                // The lines are walked all the same: the next call depends on where the next one is.
                self.chunks(end);
                self.whole(from);
            }
            return Some(());
        }
        if way.is(Mode::Unknown) && self.is_recognised() {
            self.whole(from);
            return Some(());
        }
        self.message(from)
    }

    /// Makes the records of a call whose wanted bytes begin a message, or may.
    #[inline(always)]
    fn message(&self, from: u64) -> Option<()> {
        let (way, other) = self.ways();
        let end = self.end();
        let left = end - from;
        let mut copied = self.copy(from, if left > FIRST_BYTES { FIRST_BYTES } else { left }, 0);
        if copied == 0 {
            way.lose();
            return self.submit(from, 0, SEGMENT_OPAQUE);
        }
        if !self.is_recognised() && !self.is_worth(from, copied) {
            return None;
        }
        if way.is(Mode::Head) {
            let scan = self.scan();
            self.scan_to(copied);
            if scan.head_bytes() == 0 && copied == FIRST_BYTES && left > FIRST_BYTES {
                const REST: u64 = SCAN_BYTES as u64 - FIRST_BYTES;
                let rest = left - FIRST_BYTES;
                copied += self.copy(from + FIRST_BYTES, if rest > REST { REST } else { rest }, FIRST_BYTES);
                self.scan_to(copied);
            }
            way.head(other, end, self.first(), copied as usize, scan);
        }
        self.pieces(from, copied)
    }

    /// Submits what the payload holds, the bytes from `from` on, and as much behind it as is wanted.
    #[inline(always)]
    fn pieces(&self, from: u64, copied: u64) -> Option<()> {
        let (way, _) = self.ways();
        let end = self.end();
        let is_chunked = way.is(Mode::FirstChunk);
        if is_chunked && end - self.start() > SMALL_BYTES {
            // The head alone: of what follows, the lines are told.
            let head_end = way.claim();
            self.submit(from, head_end - from, if head_end < end { SEGMENT_MORE } else { 0 })?;
            self.chunks(head_end);
            return Some(());
        }
        let behind = from + copied;
        let is_body = way.is(Mode::Head) && way.claim() >= end;
        let last = behind >= end || is_body;
        self.submit(from, copied, if last { 0 } else { SEGMENT_MORE })?;
        if !last {
            self.whole(behind);
        }
        if is_chunked {
            self.chunks(end);
        }
        Some(())
    }

    /// Copies the call's bytes from the stream offset `from` on, whatever they are.
    #[inline(always)]
    fn copy_whole(&self, from: u64) -> Option<()> {
        const PIECE: u64 = PIECE_BYTES as u64;
        let end = self.end();
        self.at().set(from);
        let mut turn = 0;
        while turn <= PIECES {
            turn += 1;
            let from = self.at().get();
            let left = end - from;
            let copied = self.copy(from, if left > PIECE { PIECE } else { left }, 0);
            if copied == 0 {
                return self.submit(from, 0, SEGMENT_OPAQUE);
            }
            let behind = from + copied;
            let last = behind >= end || turn > PIECES;
            self.submit(from, copied, if last { 0 } else { SEGMENT_MORE })?;
            if last {
                break;
            }
            // Of a call that is too large to be copied whole, the end: there a chunk's last bytes are.
            let mut next = behind;
            if turn == 1 && end - behind > ((PIECES - 1) * PIECE_BYTES) as u64 {
                next = end - TAIL_BYTES;
                self.count_too_large(next - behind);
            }
            self.at().set(next);
        }
        Some(())
    }

    /// Reads the chunk line at which the call's direction is, the beginning of which may have come with an earlier call. Of
    /// a line that is not read whole, the size is how many of the call's bytes were looked at.
    #[inline(always)]
    fn read_line(&self) -> Line {
        let (way, _) = self.ways();
        let (start, end, at) = (self.start(), self.end(), way.claim());
        let carried = start.saturating_sub(at);
        let carried = if carried < LINE_BYTES { carried } else { 0 };
        let from = at + carried;
        let left = end - from;
        let copied = self.copy(from, if left > LINE_BYTES { LINE_BYTES } else { left }, 0);
        let line = Line::read(way.is(Mode::FirstChunk), copied + carried, |index| {
            if index < carried {
                way.carried(index)
            } else {
                self.byte(index - carried)
            }
        });
        if line.bytes == 0 {
            Line { bytes: 0, size: copied }
        } else {
            line
        }
    }

    /// Walks the lines between chunks and makes a record of each; the data makes none. What lies before `known` is in
    /// records already, which may be all. Where a line is not as it must be, all from there on is copied.
    #[inline(always)]
    fn walk_chunks(&self, known: u64) -> Option<()> {
        let (way, _) = self.ways();
        let (start, end) = (self.start(), self.end());
        let mut turn = 0;
        while turn < LINES {
            turn += 1;
            let at = way.claim();
            if at >= end {
                // Nothing to say, but for a call whose begin was told.
                return if known > start && known < end {
                    self.submit(known, 0, 0)
                } else {
                    Some(())
                };
            }
            // The last chunk has ended, and one more message begins in this call: its head is not looked at.
            if way.is(Mode::Head) {
                break;
            }
            let carried = start.saturating_sub(at);
            let from = at + carried;
            let line = self.line();
            if line.bytes == 0 && line.size < end - from && line.size < LINE_BYTES {
                // It is not in memory that can be read.
                way.lose();
                let told = if from > known { from } else { known };
                return if end > told {
                    self.submit(told, 0, SEGMENT_OPAQUE)
                } else {
                    Some(())
                };
            }
            if line.bytes == 0 && carried == 0 && end - from < LINE_BYTES {
                // Cut off by the call's end: the rest comes with the next one.
                way.carry.set(self.first());
                return if end > known {
                    self.submit(at, end - from, 0)
                } else {
                    Some(())
                };
            }
            if line.bytes <= carried || at + line.bytes > end {
                break;
            }
            way.chunk(line);
            let next = way.claim();
            if at + line.bytes > known {
                let last = next >= end;
                self.submit(from, line.bytes - carried, if last { 0 } else { SEGMENT_MORE })?;
                if last {
                    return Some(());
                }
            }
        }
        let at = way.claim();
        way.lose();
        let from = if at > known { at } else { known };
        let from = if from > start { from } else { start };
        if from < end {
            self.whole(from);
        }
        Some(())
    }
}
