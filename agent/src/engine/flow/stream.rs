//! One byte stream of a connection, the wire or the plaintext of a TLS library: offsets, parser, hints.

use std::num::NonZeroU64;

use agent_ebpf::abi::Hint;

use super::{
    Counters, Fed,
    hints::{IGNORE, Known, Told},
};
use crate::{
    engine::{
        execution::{Executions, Stamp},
        proto::{
            Config, Data, Event, Half, Parser, Piece, Protocol,
            detect::{Detected, FirstBytes, detect},
            opaque,
        },
    },
    record::{Direction, Layer, Rest, Role, Segment, Slice},
};

/// Segments that are searched for a message boundary on a connection older than the agent, before it is given up.
const SEARCH_SEGMENTS: u16 = 4096;

/// Segments within which a boundary is mostly found: the next exchange is then whole.
const LIKELY_SEGMENTS: u16 = 8;

/// Upper bound on the bytes of a write that cannot have blocked: the default send buffer starts at 16 KiB and grows
/// (net.ipv4.tcp_wmem).
const MAY_BLOCK_BYTES: u32 = 16 * 1024;

/// Added to the numbers of exchanges and to the offsets of plaintext: no two layers of a connection share one.
pub const PLAINTEXT: u64 = 1 << 63;

/// One end of a connection, as far as its streams must know it.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Role of this end.
    pub role: Role,
    /// Set once the connection's description has come.
    pub is_described: bool,
    /// Set if the connection was seen from its first byte.
    pub from_birth: bool,
}

impl End {
    fn half(self, way: Direction) -> Half {
        if (way == Direction::Write) == (self.role == Role::Client) {
            Half::Request
        } else {
            Half::Response
        }
    }
}

/// A byte stream of a connection, in both directions.
#[derive(Debug)]
pub struct Stream {
    /// Stream offsets behind the last byte that was reported, by direction.
    next: [u64; 2],
    state: State,
    searched: u16,
    told: Told,
    /// Set while the programs skip the requests: those began with bytes that are no HTTP.
    ignored: bool,
    /// Set if this end stopped receiving before the other end had closed. Of the wire alone: plaintext has no such end.
    pub gave_up: bool,
    /// Set if epoll watched the connection at a segment. Of the wire alone, too.
    pub watched_once: bool,
    /// Bytes of the last call that sent so much that it may have blocked.
    long_bytes: u32,
    /// Stream offset behind that call.
    long_end: u64,
}

#[derive(Debug)]
enum State {
    /// No bytes were seen that tell the protocol.
    New,
    /// A parser reads it.
    Read(Parser),
    /// Given up, or never followed.
    Opaque,
}

impl Stream {
    /// Creates a stream of which nothing was seen.
    pub fn new() -> Self {
        Self {
            next: [0; 2],
            state: State::New,
            searched: 0,
            told: Told::default(),
            ignored: false,
            gave_up: false,
            watched_once: false,
            long_bytes: 0,
            long_end: 0,
        }
    }

    /// Goes on at these stream offsets, of reading and of writing.
    pub fn pass(&mut self, next: [u64; 2]) {
        self.next = next;
    }

    /// Returns whether no byte has passed.
    pub fn is_unused(&self) -> bool {
        self.next == [0; 2]
    }

    /// Returns the protocol that a parser reads, if any does.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Read(parser) => Some(parser.protocol()),
            State::New | State::Opaque => None,
        }
    }

    /// Returns whether requests are read by a parser that knows its place in the stream.
    pub fn is_followed(&self) -> bool {
        matches!(&self.state, State::Read(parser) if parser.is_synchronised())
    }

    /// Returns whether the stream is looked at and nothing on it was understood yet.
    pub fn is_searched(&self) -> bool {
        match &self.state {
            State::New => self.searched > 0,
            State::Read(parser) => !parser.is_synchronised(),
            State::Opaque => false,
        }
    }

    /// Returns whether each request that comes will be recognised, or none can come.
    pub fn reads_requests(&self) -> bool {
        match &self.state {
            State::New => false,
            State::Read(parser) => parser.reads_requests(),
            State::Opaque => true,
        }
    }

    /// Returns whether requests are read now, or will be once they come.
    pub fn will_be_followed(&self) -> bool {
        match &self.state {
            State::New => self.searched <= LIKELY_SEGMENTS,
            State::Read(parser) => parser.is_synchronised() || self.searched <= LIKELY_SEGMENTS,
            State::Opaque => false,
        }
    }

    /// Returns whether a request that was read and not answered was never served: an earlier one was the last.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        matches!(&self.state, State::Read(parser) if parser.is_unserved(exchange))
    }

    /// Returns whether the call that sent the byte at this offset sent so much that it may have blocked.
    pub fn may_have_blocked(&self, offset: u64) -> bool {
        let from = self.long_end.saturating_sub(self.long_bytes.into());
        (from..self.long_end).contains(&offset)
    }

    /// Keeps the handles that the stream holds.
    pub fn keep(&self, executions: &mut Executions) {
        if let State::Read(parser) = &self.state {
            parser.stamps(|stamp| executions.keep(stamp.execution));
        }
    }

    /// Takes a segment, and appends the events of the protocol.
    pub fn segment(
        &mut self,
        segment: &Segment<'_>,
        end: &mut End,
        stamp: Stamp,
        config: &Config,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) -> Fed {
        let way = segment.direction;
        if let State::Opaque = self.state {
            // The programs have not seen the hint: another stream's hint has overwritten it in their shared slot.
            return Fed {
                hints: Some(IGNORE),
                ..Fed::default()
            };
        }
        if segment.unknown_opening && !self.may_be_refused(*end, way) {
            return Fed {
                opaque: Some(self.become_opaque(opaque::protocol(segment.bytes), counters)),
                ..Fed::default()
            };
        }
        self.ignored |= segment.unknown_opening;
        // The record is made at the exit of write(2), which may come long after the peer read the first byte.
        if way == Direction::Write && segment.call_bytes > MAY_BLOCK_BYTES {
            (self.long_bytes, self.long_end) = (segment.call_bytes, segment.end);
        }
        if let State::New = self.state
            && !self.begin(segment, end)
        {
            self.advance(segment);
            self.searched += 1;
            let too_long = self.searched > SEARCH_SEGMENTS;
            return Fed {
                hints: too_long.then_some(IGNORE),
                opaque: too_long.then(|| self.become_opaque(opaque::NONE_FOUND, counters)),
                ..Fed::default()
            };
        }
        self.parse(segment, *end, stamp, config, counters, events);
        let gave_up = if let Some(name) = carries(events) {
            Some(self.become_opaque(name, counters))
        } else if self.searched > SEARCH_SEGMENTS {
            Some(self.become_opaque(opaque::NONE_FOUND, counters))
        } else {
            self.searched = if self.is_followed() { 0 } else { self.searched + 1 };
            None
        };
        Fed {
            hints: self.hints(segment, *end),
            opaque: gave_up,
            ..Fed::default()
        }
    }

    /// Feeds a segment to the parser: each slice behind the gap before it, then the gap behind the last one.
    fn parse(
        &mut self,
        segment: &Segment<'_>,
        end: End,
        stamp: Stamp,
        config: &Config,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) {
        let way = segment.direction;
        let half = end.half(way);
        let mut next = self.reached(way);
        let State::Read(parser) = &mut self.state else {
            return;
        };
        let mut gap = |parser: &mut Parser, from: u64, to: u64, events: &mut Vec<Event>| {
            // Bytes without a record are lost, unless they are known to be body.
            let missed = to.saturating_sub(parser.body_until(half).max(from));
            counters.gap_bytes = counters.gap_bytes.saturating_add(missed);
            let piece = Piece {
                offset: from,
                segment_start: false,
                data: Data::Gap(to - from),
                stamp,
            };
            parser.feed(config, half, piece, events);
        };
        counters.repeated_records += u64::from(segment.offset < next);
        let mut feed = |Slice { mut offset, mut bytes }: Slice<'_>, segment_start: bool| {
            if offset < next {
                // Parsers read each byte once: the repeated part is cut off.
                let known = (next - offset).min(bytes.len() as u64) as usize;
                bytes = bytes.get(known..).unwrap_or_default();
                offset = next;
            } else if offset > next {
                gap(parser, next, offset, events);
            }
            let piece = Piece {
                offset,
                segment_start,
                data: Data::Bytes(bytes),
                stamp,
            };
            parser.feed(config, half, piece, events);
            next = offset.saturating_add(bytes.len() as u64);
        };
        let first = Slice {
            offset: segment.offset,
            bytes: segment.bytes,
        };
        feed(first, segment.begins_call());
        for slice in segment.further {
            feed(slice, false);
        }
        if segment.rest == Rest::Gap && segment.end > next {
            gap(parser, next, segment.end, events);
            next = segment.end;
        }
        count_unsynchronised(parser.take_unsynchronised(), counters);
        self.set_next(way, next);
    }

    /// Detects the protocol and the role of the connection. Returns false while they are unknown.
    fn begin(&mut self, segment: &Segment<'_>, end: &mut End) -> bool {
        let from_birth = end.from_birth && self.is_unused();
        let seen = FirstBytes {
            bytes: segment.bytes,
            begins_call: segment.begins_call(),
            from_birth: from_birth && segment.offset == 0,
            at_server: match end.role {
                Role::Unknown => None,
                Role::Client => Some(false),
                Role::Server => Some(true),
            },
            sent: segment.direction == Direction::Write,
        };
        let Some(Detected { mut parser, at_server }) = detect(&seen) else {
            return false;
        };
        if segment.layer == Layer::Tls {
            parser.number_from(PLAINTEXT);
        }
        end.role = if at_server { Role::Server } else { Role::Client };
        self.state = State::Read(parser);
        true
    }

    /// Passes over a segment of an unknown protocol.
    fn advance(&mut self, segment: &Segment<'_>) {
        let next = match segment.rest {
            Rest::Gap => segment.end,
            Rest::Follows => segment.captured_to(),
        };
        self.set_next(segment.direction, next);
    }

    /// Returns the stream offset behind the last byte that was reported.
    pub fn reached(&self, way: Direction) -> u64 {
        let [read, written] = self.next;
        if way == Direction::Read { read } else { written }
    }

    fn set_next(&mut self, way: Direction, offset: u64) {
        let [read, written] = &mut self.next;
        *(if way == Direction::Read { read } else { written }) = offset;
    }

    fn become_opaque(&mut self, carries: &'static str, counters: &mut Counters) -> &'static str {
        self.state = State::Opaque;
        counters.opaque += 1;
        carries
    }

    /// Returns the hints that the programs need after this segment.
    fn hints(&mut self, segment: &Segment<'_>, end: End) -> Option<[Hint; 2]> {
        let parser = match &self.state {
            State::New => return None,
            State::Opaque => return Some(IGNORE),
            State::Read(parser) => parser,
        };
        // More records of the same call follow: a hint is due behind the last one. An opening that is no HTTP waits for
        // its answer.
        if segment.rest == Rest::Follows || segment.unknown_opening {
            return None;
        }
        let known = |way| {
            let half = end.half(way);
            Known {
                next: self.reached(way),
                ahead: parser.ahead(half),
                responses: half == Half::Response,
                doubted: parser.is_doubted(half),
            }
        };
        let known = [known(Direction::Read), known(Direction::Write)];
        let way = segment.direction;
        let is_old = end.is_described && !end.from_birth && self.told.epoch() == 0;
        // The programs ignore a direction that did not begin with HTTP. A server of HTTP has answered, so later
        // requests may be HTTP, and what passed meanwhile has no record: both directions need a hint.
        let is_refused = self.ignored && end.half(way) == Half::Response && !parser.awaits_refusal();
        self.ignored &= !is_refused;
        let claim = segment.until.map_or(0, NonZeroU64::get);
        self.told.hints(known, way, claim, is_old || is_refused)
    }

    /// Returns whether bytes that are no HTTP may be a request that a server of HTTP refuses: its answer decides.
    fn may_be_refused(&self, end: End, way: Direction) -> bool {
        match &self.state {
            State::New => end.role != Role::Unknown && end.half(way) == Half::Request,
            State::Read(parser) => parser.awaits_refusal(),
            State::Opaque => false,
        }
    }

    /// Ends the half that is read (or written). Returns a name for the protocol, if the connection is given up.
    pub fn end(
        &mut self,
        this: End,
        config: &Config,
        way: Direction,
        stamp: Stamp,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) -> Option<&'static str> {
        let half = this.half(way);
        let State::Read(parser) = &mut self.state else {
            return None;
        };
        parser.end(config, half, stamp, events);
        count_unsynchronised(parser.take_unsynchronised(), counters);
        let name = carries(events)?;
        Some(self.become_opaque(name, counters))
    }

    /// Takes the end of the connection.
    pub fn close(&mut self, counters: &mut Counters) {
        if let State::Read(parser) = &mut self.state {
            count_unsynchronised(parser.end_search(), counters);
        }
    }
}

fn count_unsynchronised(bytes: u64, counters: &mut Counters) {
    counters.unsynchronised_bytes = counters.unsynchronised_bytes.saturating_add(bytes);
}

/// Returns a name for the protocol, if the parser gave the connection up.
fn carries(events: &[Event]) -> Option<&'static str> {
    events.iter().find_map(|event| match event {
        Event::Opaque { carries, .. } => Some(*carries),
        _ => None,
    })
}
