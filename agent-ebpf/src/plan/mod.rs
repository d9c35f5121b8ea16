//! The plan of a call: the bytes that become records, and the next boundary of its direction. Pure, so that tests run
//! the same code.
//!
//! ```text
//! hook ─► locate: which connection, from which stream offset ─► adopt Core's hint ─► Call::report ─► copy ─► submit
//!                                                                                     │
//!                                 Mode::Head: the head, then its body ── Chunk: the lines ── Unknown: all bytes
//! ```
//!
//! A [`Way`] is one direction of a connection. It trusts its own framing only from a known message boundary: the
//! connection's first byte, the end of a message that began at such a boundary, or an offset in a hint of Core. Doubt
//! makes it [`Mode::Unknown`], which costs bytes and never hides a boundary. docs/dev/kernel-contract.md has the
//! reasons and the races.

mod call;
#[cfg(test)]
mod tests;

pub use call::{Call, FIRST_BYTES};

use crate::{
    abi::{Hint, IGNORED, Mode, WayState},
    classify::{Looks, looks_like_request, looks_like_response},
    frame::{
        chunk::{LINE_BYTES, Line},
        head::{Body, Scan},
    },
    slot::Slot,
};

/// State of one direction of a connection. Programs on several processors write it.
#[repr(C)]
pub struct Way {
    /// Stream offset of the next byte.
    pub offset: Slot<u64>,
    /// Stream offset below which no byte is wanted.
    until: Slot<u64>,
    /// Mode, number and epoch. The mode is that of the bytes at `until`.
    state: Slot<WayState>,
    /// Beginning of the chunk line at `until` that the last call cut off: its bytes up to `offset`.
    carry: Slot<[u64; 2]>,
}

/// Bytes of a call that are wanted before any of them is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No bytes, and no record.
    Nothing,
    /// No bytes, but a record, because a body ends with the call.
    End,
    /// All bytes from this stream offset on.
    From(u64),
}

impl Way {
    /// Creates a direction of which only the offset is known.
    pub const fn new(offset: u64) -> Self {
        Self {
            offset: Slot::new(offset),
            until: Slot::new(0),
            state: Slot::new(WayState::new(Mode::Unknown, false)),
            carry: Slot::new([0; 2]),
        }
    }

    /// Begins at a stream offset about which nothing is known.
    #[inline(always)]
    pub fn begin(&self, offset: u64) {
        self.offset.set(offset);
        self.until.set(0);
        self.state.set(WayState::new(Mode::Unknown, false));
    }

    /// Begins with the first byte of a connection, which begins a message.
    #[inline(always)]
    pub fn begin_at_birth(&self, responses: bool) {
        self.offset.set(0);
        self.until.set(0);
        self.state.set(WayState::new(Mode::Head, responses));
    }

    /// Returns whether the bytes at the next boundary have this mode.
    #[inline(always)]
    pub fn is(&self, mode: Mode) -> bool {
        self.state.get().is(mode)
    }

    /// Returns the stream offset of the next known boundary, which may lie behind the last byte; 0: none. A record
    /// carries it ([`Segment::until`](crate::abi::Segment::until)), so that Core can object.
    #[inline(always)]
    pub fn claim(&self) -> u64 {
        if self.is(Mode::Unknown) { 0 } else { self.until.get() }
    }

    /// Takes Core's hint if it is new; returns whether it is. A late hint is about bytes that have passed: later
    /// conclusions of the programs may rest on framing that Core denies, so they are forgotten.
    #[inline(always)]
    pub fn adopt(&self, hint: Hint, start: u64) -> bool {
        if hint.state.epoch() == self.state.get().epoch() {
            return false;
        }
        let is_late = hint.until < start;
        self.until.set(if is_late { 0 } else { hint.until });
        self.state.set(if is_late {
            hint.state.with_mode(Mode::Unknown)
        } else {
            hint.state
        });
        true
    }

    /// Forgets the next boundary.
    #[inline(always)]
    pub fn lose(&self) {
        self.until.set(0);
        self.state.set(self.state.get().with_mode(Mode::Unknown));
    }

    /// Ignores all further bytes of this direction.
    #[inline(always)]
    pub fn ignore(&self) {
        self.until.set(IGNORED);
        self.state.set(self.state.get().with_mode(Mode::Ignored));
    }

    /// Passes bytes up to `end` that no program has looked at.
    #[inline(always)]
    pub fn pass(&self, end: u64) {
        self.offset.set(end);
        if self.until.get() < end {
            self.lose();
        }
    }

    /// Returns which bytes of the call that moved `start..end` are wanted. Called once for each call, after
    /// [`Way::adopt`].
    #[inline(always)]
    pub fn wanted(&self, start: u64, end: u64) -> Wanted {
        let until = self.until.get();
        if until > start {
            return match until {
                _ if until > end => Wanted::Nothing,
                _ if until == end => Wanted::End,
                _ => Wanted::From(until),
            };
        }
        if until < start && !self.is_line_carried(start - until) {
            self.lose();
        }
        Wanted::From(start)
    }

    /// Returns whether the line at `until` was cut off that many bytes later.
    #[inline(always)]
    fn is_line_carried(&self, bytes: u64) -> bool {
        bytes < LINE_BYTES && (self.is(Mode::Chunk) || self.is(Mode::FirstChunk))
    }

    /// Returns whether all further bytes of this direction are ignored.
    #[inline(always)]
    pub fn is_ignored(&self) -> bool {
        self.until.get() == IGNORED && self.is(Mode::Ignored)
    }

    /// Returns whether Core has given up the connection.
    #[inline(always)]
    pub fn is_given_up(&self) -> bool {
        self.is_ignored() && self.state.get().epoch() == WayState::GIVEN_UP
    }

    /// Takes a scanned head that begins at a known boundary. The call ends at `end`. `first` are the head's first 16
    /// bytes, of which `known` are there.
    #[inline(always)]
    fn head(&self, other: &Self, end: u64, first: [u64; 2], known: usize, scan: &Scan) {
        let state = self.state.get();
        let at = self.until.get() + scan.head_bytes() as u64;
        let next = if state.carries_responses() {
            response(state, other.state.get(), first, known, scan)
        } else {
            request(state, first, known, scan)
        };
        let Some((state, body)) = next else {
            return self.lose();
        };
        let (until, mode) = match body {
            _ if scan.head_bytes() == 0 => (0, Mode::Unknown),
            Body::Unsaid => (at, Mode::Head),
            Body::Length(length) => (at + length, Mode::Head),
            Body::Chunked => (at, Mode::FirstChunk),
            Body::Unknown => (0, Mode::Unknown),
        };
        // Another message begins in this call: its head is not scanned.
        let mode = if matches!(mode, Mode::Head) && until < end {
            Mode::Unknown
        } else {
            mode
        };
        self.until.set(until);
        self.state.set(state.with_mode(mode));
    }

    /// Returns a byte of the line that was cut off, below [`LINE_BYTES`].
    #[inline(always)]
    fn carried(&self, index: u64) -> u8 {
        let byte = (index & (LINE_BYTES - 1)) as usize;
        // SAFETY: one of the 16 bytes of the slot. Not copied first: older verifiers refuse a variable offset on the
        // stack.
        unsafe { self.carry.as_ptr().cast::<u8>().add(byte).read_volatile() }
    }

    /// Takes the chunk line at `until`.
    #[inline(always)]
    fn chunk(&self, line: Line) {
        let mode = if line.size == 0 { Mode::Head } else { Mode::Chunk };
        self.until.set(self.until.get() + line.bytes + line.size);
        self.state.set(self.state.get().with_mode(mode));
    }
}

const HEAD: u64 = u64::from_le_bytes(*b"HEAD \0\0\0");
const CONNECT: u64 = u64::from_le_bytes(*b"CONNECT ");
const FIVE_BYTES: u64 = u64::MAX >> 24;

/// Returns the state behind a request whose head begins with these bytes, and its body. `None`: it may be no request,
/// or no HTTP follows it.
///
/// A request counts once its method is certain: the framing of its response depends on nothing else.
#[inline(always)]
fn request(state: WayState, first: [u64; 2], known: usize, scan: &Scan) -> Option<(WayState, Body)> {
    let [word, _] = first;
    let is_request = match looks_like_request(word.to_le_bytes(), known) {
        Looks::Yes => true,
        // An empty line, or a proxy's header, is no request line.
        Looks::Maybe => scan.is_request_line() && !matches!(word as u8, b'\r' | b'\n'),
        Looks::No => false,
    };
    if !is_request || word == CONNECT {
        return None;
    }
    let body = if scan.is_request_line() {
        scan.body()
    } else {
        Body::Unknown
    };
    Some((state.after_message(word & FIVE_BYTES == HEAD), body))
}

/// Returns the state behind a response and its body, as [`request`]. `requests`: the state of the other direction.
#[inline(always)]
fn response(
    state: WayState,
    requests: WayState,
    first: [u64; 2],
    known: usize,
    scan: &Scan,
) -> Option<(WayState, Body)> {
    // In "HTTP/1.1 200 OK" the digits are bytes 9 to 11. Other forms are left to Core.
    let [space, class, tens, ones, behind, ..] = first[1].to_le_bytes();
    let is_plain = space == b' '
        && class.is_ascii_digit()
        && tens.is_ascii_digit()
        && ones.is_ascii_digit()
        && (behind == b' ' || behind == b'\r');
    if !matches!(looks_like_response(first[0].to_le_bytes(), known), Looks::Yes) || known < 13 || !is_plain {
        return None;
    }
    // Each epoch counts anew, so numbers of two epochs cannot be compared.
    if requests.epoch() != state.epoch() {
        return None;
    }
    let by_head = requests.asked_by_head(state.number())?;
    let is_current = first[0] == u64::from_le_bytes(*b"HTTP/1.1");
    let has_none = tens == b'0' && ones == b'4' && (class == b'2' || class == b'3');
    if class == b'1' {
        // Another response to the same request follows; after 101 (Switching Protocols) another protocol.
        return (ones != b'1' || tens != b'0').then_some((state, Body::Unsaid));
    }
    let body = match scan.body() {
        // Peers may find the head's end at different lines.
        Body::Unknown => Body::Unknown,
        _ if by_head || has_none => Body::Unsaid,
        // RFC 9112 section 6.1: chunked coding exists only in HTTP/1.1.
        Body::Chunked if !is_current => Body::Unknown,
        // The body ends with the connection: Core decides that.
        Body::Unsaid => Body::Unknown,
        body => body,
    };
    Some((state.after_message(false), body))
}
