//! The plan of a call: the bytes that become records, and the next boundary of its direction. Pure; tests run the same code.
//!
//! ```text
//! hook ─► locate: which connection, from which stream offset ─► adopt Core's hint ─► Call::report ─► copy ─► submit
//!                                                                                     │
//!                                 Mode::Head: the head, then its body ── Chunk: the lines ── Unknown: all bytes
//! ```
//!
//! A [`Way`] is one direction of a connection. It trusts its own framing only from a message boundary that is known: the
//! connection's first byte, the end of a message that began at such a boundary, or an offset that Core told. What it
//! cannot be sure of makes it [`Mode::Unknown`]: that costs bytes, and never hides a boundary. docs/dev/kernel-contract.md
//! has the reasons and the races.

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
    /// No byte below this stream offset is wanted.
    until: Slot<u64>,
    /// Mode, number and epoch: the mode says what comes at `until`.
    state: Slot<WayState>,
    /// The beginning of the chunk line at `until` that the last call cut off: the bytes up to `offset`.
    carry: Slot<[u64; 2]>,
}

/// Which bytes of a call are wanted before any of them is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None, and no record.
    Nothing,
    /// None, but that a body ends with the call.
    End,
    /// All from this stream offset on.
    From(u64),
}

impl Way {
    /// A direction of which only the offset is known.
    pub const fn new(offset: u64) -> Self {
        Self {
            offset: Slot::new(offset),
            until: Slot::new(0),
            state: Slot::new(WayState::new(Mode::Unknown, false)),
            carry: Slot::new([0; 2]),
        }
    }

    /// Begins at a stream offset of which nothing is known.
    #[inline(always)]
    pub fn begin(&self, offset: u64) {
        self.offset.set(offset);
        self.until.set(0);
        self.state.set(WayState::new(Mode::Unknown, false));
    }

    /// Begins with the first byte of a connection, which is the first of a message.
    #[inline(always)]
    pub fn begin_at_birth(&self, responses: bool) {
        self.offset.set(0);
        self.until.set(0);
        self.state.set(WayState::new(Mode::Head, responses));
    }

    /// Whether this is what comes at the next boundary.
    #[inline(always)]
    pub fn is(&self, mode: Mode) -> bool {
        self.state.get().is(mode)
    }

    /// The stream offset of the next place where something begins that is known, which may lie behind what was seen; 0:
    /// there is none. A record says it ([`Segment::until`](crate::abi::Segment::until)), so that Core can object.
    #[inline(always)]
    pub fn claim(&self) -> u64 {
        if self.is(Mode::Unknown) { 0 } else { self.until.get() }
    }

    /// Takes Core's hint, if it is a new one; says whether it is. A hint that comes late speaks of bytes that have passed:
    /// whatever was concluded since may rest on what Core denies, so it is forgotten.
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

    /// Forgets what comes next.
    #[inline(always)]
    pub fn lose(&self) {
        self.until.set(0);
        self.state.set(self.state.get().with_mode(Mode::Unknown));
    }

    /// Nothing that comes in this direction matters.
    #[inline(always)]
    pub fn ignore(&self) {
        self.until.set(IGNORED);
        self.state.set(self.state.get().with_mode(Mode::Ignored));
    }

    /// Bytes up to `end` have passed, and nobody has looked at them.
    #[inline(always)]
    pub fn pass(&self, end: u64) {
        self.offset.set(end);
        if self.until.get() < end {
            self.lose();
        }
    }

    /// Which bytes of the call that moved `start..end` are wanted. To be asked once for each call, behind
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

    /// Whether the line at `until` was cut off so many bytes later.
    #[inline(always)]
    fn is_line_carried(&self, bytes: u64) -> bool {
        bytes < LINE_BYTES && (self.is(Mode::Chunk) || self.is(Mode::FirstChunk))
    }

    /// Whether nothing that comes in this direction matters.
    #[inline(always)]
    pub fn is_ignored(&self) -> bool {
        self.until.get() == IGNORED && self.is(Mode::Ignored)
    }

    /// Whether Core has given up the connection.
    #[inline(always)]
    pub fn is_given_up(&self) -> bool {
        self.is_ignored() && self.state.get().epoch() == WayState::GIVEN_UP
    }

    /// Takes a head that was scanned, which begins at a known boundary; the call ends at `end`. `first` are its first 16
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
        // One more message begins in this call: its head is not looked at.
        let mode = if matches!(mode, Mode::Head) && until < end {
            Mode::Unknown
        } else {
            mode
        };
        self.until.set(until);
        self.state.set(state.with_mode(mode));
    }

    /// A byte of the line that was cut off, below [`LINE_BYTES`].
    #[inline(always)]
    fn carried(&self, index: u64) -> u8 {
        let byte = (index & (LINE_BYTES - 1)) as usize;
        // SAFETY: a byte of the 16 that the slot has. Not by a copy: older verifiers refuse a variable place on the stack.
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

/// A request whose head begins with these bytes: the state behind it, and its body. `None`: it may be none, or what
/// follows it is no HTTP.
///
/// A request counts as soon as its method is certain: how its response is framed depends on no more.
#[inline(always)]
fn request(state: WayState, first: [u64; 2], known: usize, scan: &Scan) -> Option<(WayState, Body)> {
    let [word, _] = first;
    let is_request = match looks_like_request(word.to_le_bytes(), known) {
        Looks::Yes => true,
        // An empty line, or what a proxy sends first, is no request line.
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

/// The same for a response. `requests`: the state of the other direction.
#[inline(always)]
fn response(
    state: WayState,
    requests: WayState,
    first: [u64; 2],
    known: usize,
    scan: &Scan,
) -> Option<(WayState, Body)> {
    // "HTTP/1.1 200 OK": the digits are bytes 9 to 11. Other forms are Core's to read.
    let [space, class, tens, ones, behind, ..] = first[1].to_le_bytes();
    let is_plain = space == b' '
        && class.is_ascii_digit()
        && tens.is_ascii_digit()
        && ones.is_ascii_digit()
        && (behind == b' ' || behind == b'\r');
    if !matches!(looks_like_response(first[0].to_le_bytes(), known), Looks::Yes) || known < 13 || !is_plain {
        return None;
    }
    // Numbers of two epochs have nothing to do with each other.
    if requests.epoch() != state.epoch() {
        return None;
    }
    let by_head = requests.asked_by_head(state.number())?;
    let is_current = first[0] == u64::from_le_bytes(*b"HTTP/1.1");
    let has_none = tens == b'0' && ones == b'4' && (class == b'2' || class == b'3');
    if class == b'1' {
        // Another response follows for the same request; behind 101 (Switching Protocols) something else.
        return (ones != b'1' || tens != b'0').then_some((state, Body::Unsaid));
    }
    let body = match scan.body() {
        // Odd lines may hide where the head ends, for one of the peers.
        Body::Unknown => Body::Unknown,
        _ if by_head || has_none => Body::Unsaid,
        // RFC 9112 section 6.1: chunks are of HTTP/1.1.
        Body::Chunked if !is_current => Body::Unknown,
        // It ends with the connection, which is for Core to say.
        Body::Unsaid => Body::Unknown,
        body => body,
    };
    Some((state.after_message(false), body))
}
