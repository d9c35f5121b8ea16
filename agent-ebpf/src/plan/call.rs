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

/// Bytes of a call that are copied before its framing is known. Most heads are shorter.
pub const FIRST_BYTES: u64 = 1024;

/// Size up to which a call with a chunk line in it is copied whole: a record for each line would be no smaller.
pub const SMALL_BYTES: u64 = 2048;

/// Bytes that are copied of the end of a call that is too large to be copied whole.
const TAIL_BYTES: u64 = 1024;

/// Upper bound of the chunk lines that are walked in one call. Shorter chunks are copied instead.
const LINES: usize = 16;

/// A call that moved bytes of a connection, with the actions of the plan.
///
/// The programs split it into functions that the verifier walks once each ([`Call::chunks`], [`Call::whole`]); the
/// tests call straight through.
pub trait Call {
    /// Returns both directions, the call's own first.
    fn ways(&self) -> (&Way, &Way);
    /// Returns the stream offset of the call's first byte.
    fn start(&self) -> u64;
    /// Returns the stream offset behind the call's last byte.
    fn end(&self) -> u64;
    /// Returns the scan of the call's head.
    fn scan(&self) -> &Scan;
    /// Copies `bytes` bytes, at most [`PIECE_BYTES`], from the stream offset `from` to `place` of the payload (0 or
    /// [`FIRST_BYTES`]). Returns the number of bytes copied: fewer if memory faults or if there are too many buffers.
    fn copy(&self, from: u64, bytes: u64, place: u64) -> u64;
    /// Scans the payload's first `length` bytes, at most [`SCAN_BYTES`].
    fn scan_to(&self, length: u64);
    /// Returns the payload's first 16 bytes.
    fn first(&self) -> [u64; 2];
    /// Returns a byte of the payload, below [`LINE_BYTES`](crate::frame::chunk::LINE_BYTES).
    fn byte(&self, index: u64) -> u8;
    /// Submits a record with the first `captured` bytes of the payload, which lie at the stream offset `offset`.
    fn submit(&self, offset: u64, captured: u64, flags: u16) -> Option<()>;
    /// Runs [`Call::walk_chunks`] as a function of its own.
    fn chunks(&self, known: u64);
    /// Runs [`Call::copy_whole`] as a function of its own.
    fn whole(&self, from: u64);
    /// Runs [`Call::read_line`] as a function of its own.
    fn line(&self) -> Line;
    /// Returns the loop variable of these three.
    fn at(&self) -> &Slot<u64>;
    /// Counts the bytes in the middle of a call that is too large.
    fn count_too_large(&self, bytes: u64);
    /// Returns whether the connection is known to carry HTTP/1. If not, the plan calls [`Call::is_worth`].
    fn is_recognised(&self) -> bool;
    /// Returns whether the payload, `copied` bytes from the stream offset `from` on, is worth a look. If not, this
    /// makes the records of the call.
    fn is_worth(&self, from: u64, copied: u64) -> bool;
    /// Returns whether the call's bytes lie in readable memory.
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
                // Walks the lines all the same: the next call depends on the place of the next line.
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

    /// Makes the records of a call whose wanted bytes may begin a message.
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

    /// Submits the payload, the bytes from `from` on, and the wanted bytes behind it.
    #[inline(always)]
    fn pieces(&self, from: u64, copied: u64) -> Option<()> {
        let (way, _) = self.ways();
        let end = self.end();
        let is_chunked = way.is(Mode::FirstChunk);
        if is_chunked && end - self.start() > SMALL_BYTES {
            // The head alone: behind it only chunk lines make records.
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

    /// Copies the call's bytes from the stream offset `from` on, without looking at them.
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
            // Too large to be copied whole: the end may hold a chunk's last bytes, so it is copied.
            let mut next = behind;
            if turn == 1 && end - behind > ((PIECES - 1) * PIECE_BYTES) as u64 {
                next = end - TAIL_BYTES;
                self.count_too_large(next - behind);
            }
            self.at().set(next);
        }
        Some(())
    }

    /// Reads the chunk line at the direction's boundary. An earlier call may have brought its beginning. For a line
    /// that is not whole, `size` is the number of this call's bytes that were looked at.
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

    /// Walks the lines between chunks and makes a record of each; the data makes none. Records have all bytes before
    /// `known` already. From a malformed line on, everything is copied.
    #[inline(always)]
    fn walk_chunks(&self, known: u64) -> Option<()> {
        let (way, _) = self.ways();
        let (start, end) = (self.start(), self.end());
        let mut turn = 0;
        while turn < LINES {
            turn += 1;
            let at = way.claim();
            if at >= end {
                // Only a call whose beginning is in a record still needs its end reported.
                return if known > start && known < end {
                    self.submit(known, 0, 0)
                } else {
                    Some(())
                };
            }
            // The last chunk ended, and another message begins in this call: its head is not scanned.
            if way.is(Mode::Head) {
                break;
            }
            let carried = start.saturating_sub(at);
            let from = at + carried;
            let line = self.line();
            if line.bytes == 0 && line.size < end - from && line.size < LINE_BYTES {
                // The line lies in unreadable memory.
                way.lose();
                let told = if from > known { from } else { known };
                return if end > told {
                    self.submit(told, 0, SEGMENT_OPAQUE)
                } else {
                    Some(())
                };
            }
            if line.bytes == 0 && carried == 0 && end - from < LINE_BYTES {
                // The call's end cuts the line off: the next call brings the rest.
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
        self.give_up_lines(known);
        Some(())
    }

    /// Copies everything from the line at the direction's boundary on, which cannot be read, but not the bytes before
    /// `known`.
    #[inline(always)]
    fn give_up_lines(&self, known: u64) {
        let (way, _) = self.ways();
        let at = way.claim();
        way.lose();
        let from = if at > known { at } else { known };
        let from = if from > self.start() { from } else { self.start() };
        if from < self.end() {
            self.whole(from);
        }
    }
}
