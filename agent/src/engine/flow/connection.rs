//! State of one connection: ends, stream offsets, parser.

use std::{num::NonZeroU64, sync::Arc};

use agent_ebpf::abi::Hint;
use smallvec::SmallVec;

use super::{
    Counters,
    description::{Description, Sharing},
    hints::{IGNORE, Known, Told},
};
use crate::{
    engine::{
        exchange::{ExchangeId, Opening},
        execution::{Executions, ProcessId, Stamp},
        proto::{
            Config, Data, Discipline, Event, Half, Parser, Piece, Protocol,
            detect::{Detected, FirstBytes, detect},
            opaque,
        },
    },
    record::{Base, Connect, ConnectionId, Direction, Endpoint, Open, Rest, Role, Segment},
};

/// Segments that are searched for a message boundary on a connection older than the agent, before it is given up.
const SEARCH_SEGMENTS: u16 = 4096;

/// Segments within which a boundary is mostly found: the next exchange is then whole.
const LIKELY_SEGMENTS: u16 = 8;

/// Upper bound on the request offsets of a connection that are kept for the other end to find.
const OFFSETS: usize = 4096;

/// Upper bound on the processes that are remembered as sharing a Unix connection.
const HOLDERS: usize = 16;

/// Requests by number or offset, ascending. Most of 100,000 connections have one at a time, which needs no memory on
/// the heap.
pub type Requests = SmallVec<[(u64, ExchangeId); 1]>;

/// A connection of a target.
#[derive(Debug)]
pub struct Connection {
    /// Name of the connection.
    pub id: ConnectionId,
    /// The process that used it last.
    pub process: ProcessId,
    /// Time of the last record.
    pub last_ns: u64,
    /// Addresses of both ends, local first.
    pub ends: Arc<(Endpoint, Endpoint)>,
    /// Time of connect(2), if this end called it and its outcome is not known yet.
    pub connecting_since_ns: Option<u64>,
    /// Request that the connection was opened for.
    pub opening: Opening,
    /// Requests without a whole response, by number.
    pub exchanges: Requests,
    /// Stream offsets of the requests, where both ends can compare them.
    pub offsets: Requests,
    /// Set once the other end will send no more.
    pub remote_fin: bool,
    /// Set once no process has this end any more.
    pub released: bool,
    /// Set if this end stopped receiving before the other end had closed.
    pub gave_up: bool,
    /// Set once the process that used it last has ended.
    pub process_ended: bool,
    /// Processes that share a Unix connection; few are shared.
    pub sharing: Option<Box<Sharing>>,
    /// Stream offsets of the last call that sent so much that it may have blocked.
    pub long_write: (u64, u64),
    described: Option<Description>,
    role: Role,
    next: [u64; 2],
    state: State,
    searched: u16,
    /// Set while the programs skip the requests: those began with bytes that are no HTTP.
    ignored: bool,
    told: Told,
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

/// Outcome of feeding a segment to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Set if this segment told which end is the client.
    pub role_found: bool,
    /// Hints for the kernel programs.
    pub hints: Option<[Hint; 2]>,
    /// Set if bytes were read that may be a request, on a connection whose request boundaries are not known.
    pub unknown_read: bool,
    /// Set if the connection is given up: a name for its protocol, see [`opaque`].
    pub opaque: Option<&'static str>,
}

/// Upper bound on the bytes of a write that cannot have blocked: the default send buffer starts at 16 KiB and grows
/// (net.ipv4.tcp_wmem).
const MAY_BLOCK_BYTES: u32 = 16 * 1024;

impl Connection {
    /// Creates a connection of a process from its description.
    pub fn new(open: &Open, process: ProcessId) -> Self {
        let mut connection = Self::named(open.conn, process, open.stamp.time_ns);
        connection.describe(open);
        // The record of connect(2), if there is one, comes after this record: until then the opener is unknown.
        if open.from_birth {
            connection.opening = Opening::Hidden;
        }
        connection
    }

    /// Creates a connection of which only connect(2) is known.
    pub fn connecting(connect: &Connect<'_>, process: ProcessId) -> Self {
        let mut connection = Self::named(connect.conn, process, connect.stamp.time_ns);
        connection.role = Role::Client;
        connection.connected(connect, process);
        connection
    }

    fn named(id: ConnectionId, process: ProcessId, now_ns: u64) -> Self {
        let nowhere = Endpoint::Unix(None);
        Self {
            id,
            process,
            last_ns: now_ns,
            ends: Arc::new((nowhere.clone(), nowhere)),
            connecting_since_ns: None,
            opening: Opening::Used,
            exchanges: Requests::new(),
            offsets: Requests::new(),
            remote_fin: false,
            released: false,
            gave_up: false,
            process_ended: false,
            sharing: None,
            long_write: (0, 0),
            described: None,
            role: Role::Unknown,
            next: [0; 2],
            state: State::New,
            searched: 0,
            ignored: false,
            told: Told::default(),
        }
    }

    /// Takes a description: role, offsets, ends.
    pub fn describe(&mut self, open: &Open) {
        if open.role != Role::Unknown {
            self.role = open.role;
        }
        self.next = [open.read, open.written];
        self.ends = Arc::new((open.local.into(), open.remote.into()));
        self.connecting_since_ns = None;
        self.described = Some(Description::from(open));
    }

    /// Takes the record of connect(2): the process that opened the connection, and the address.
    pub fn connected(&mut self, connect: &Connect<'_>, process: ProcessId) {
        self.process = process;
        if self.described.is_none() && self.next == [0; 2] {
            self.connecting_since_ns = Some(connect.start_ns);
        }
        let address = match Endpoint::unix(connect.path) {
            None if self.described.is_some() => return,
            None => connect.remote.into(),
            Some(named) => named,
        };
        self.ends = Arc::new((self.ends.0.clone(), address));
    }

    /// Notes that another process uses the connection from now on.
    pub fn pass_to(&mut self, process: ProcessId) {
        if self.is_unix() {
            let Sharing { holders, released } = self.sharing.get_or_insert_default().as_mut();
            holders.retain(|&holder| holder != process);
            if !*released && !self.process_ended && holders.len() < HOLDERS {
                holders.push(self.process);
            }
            *released = false;
        }
        self.process = process;
        // The process that ended shared the connection: its exit did not end the connection.
        self.process_ended = false;
    }

    /// Returns the connection's description, if it has come.
    pub fn described(&self) -> Option<&Description> {
        self.described.as_ref()
    }

    /// Returns whether the connection is known to be a Unix socket's: no state of TCP tells its end then.
    pub fn is_unix(&self) -> bool {
        self.described.is_some_and(|open| matches!(open.base, Base::Unix(_)))
    }

    /// Takes the request that the connection was opened for. Only the first call on it gets one.
    pub fn take_opening(&mut self) -> Opening {
        match self.opening {
            Opening::For(..) => std::mem::take(&mut self.opening),
            opening => opening,
        }
    }

    /// Notes the offset of a request, for the other end to find. Drops requests that have left.
    pub fn note_offset(&mut self, wire: u64, node: ExchangeId, is_known: impl Fn(ExchangeId) -> bool) {
        let left = self.offsets.iter().take_while(|&&(_, node)| !is_known(node)).count();
        let too_many = (self.offsets.len() + 1).saturating_sub(OFFSETS);
        self.offsets.drain(..left.max(too_many));
        self.offsets.push((wire, node));
    }

    /// Returns this end's role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the protocol that a parser reads, if any does.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Read(parser) => Some(parser.protocol()),
            State::New | State::Opaque => None,
        }
    }

    /// Returns the way in which replies find their calls.
    pub fn discipline(&self) -> Discipline {
        self.protocol().map_or(Discipline::Fifo, Protocol::discipline)
    }

    /// Returns whether requests are read by a parser that knows its place in the stream.
    pub fn is_followed(&self) -> bool {
        matches!(&self.state, State::Read(parser) if parser.is_synchronised())
    }

    /// Returns whether the connection is looked at and nothing on it was understood yet.
    pub fn is_searched(&self) -> bool {
        match &self.state {
            State::New => self.searched > 0,
            State::Read(parser) => !parser.is_synchronised(),
            State::Opaque => false,
        }
    }

    /// Returns whether a request may be read that is not recognised.
    pub fn hides_requests(&self) -> bool {
        let read = match &self.state {
            State::New => false,
            State::Read(parser) => parser.reads_requests(),
            State::Opaque => true,
        };
        self.role != Role::Client && !read
    }

    /// Returns whether requests are read now, or will be once they come.
    pub fn will_be_followed(&self) -> bool {
        match &self.state {
            State::New => self.searched <= LIKELY_SEGMENTS,
            State::Read(parser) => parser.is_synchronised() || self.searched <= LIKELY_SEGMENTS,
            State::Opaque => false,
        }
    }

    /// Returns 1 if the programs counted the SYN as a byte sent, because they did not know that this end connected;
    /// else 0.
    pub fn syn(&self) -> u64 {
        self.described
            .is_some_and(|open| self.role == Role::Client && matches!(open.base, Base::Sequences { .. })) as u64
    }

    /// Returns the offset that both ends give a byte which this end counts as `half_offset`.
    pub fn wire_offset(&self, half_offset: u64) -> Option<u64> {
        let open = self.described?;
        // Without sequence numbers, offsets count from the first byte seen. Two ends agree on that byte only from
        // birth.
        if !matches!(open.base, Base::Sequences { .. }) && !open.from_birth {
            return None;
        }
        // Programs that knew the role have subtracted the SYN themselves.
        let unknown_at_first = open.role == Role::Unknown;
        Some(
            half_offset
                - if unknown_at_first {
                    self.syn().min(half_offset)
                } else {
                    0
                },
        )
    }

    /// Returns whether a request that this end read and did not answer was never served: an earlier one was the last.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        self.role == Role::Server && matches!(&self.state, State::Read(parser) if parser.is_unserved(exchange))
    }

    /// Keeps the handles that the connection holds.
    pub fn keep(&self, executions: &mut Executions) {
        executions.keep_process(self.process);
        let holders = self.sharing.iter().flat_map(|sharing| &sharing.holders);
        holders.for_each(|&holder| executions.keep_process(holder));
        if let State::Read(parser) = &self.state {
            parser.stamps(|stamp| executions.keep(stamp.execution));
        }
    }

    /// Takes a segment, and appends the events of the protocol.
    pub fn segment(
        &mut self,
        segment: &Segment<'_>,
        stamp: Stamp,
        config: &Config,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) -> Fed {
        let way = segment.direction;
        self.last_ns = segment.stamp.time_ns;
        // A connection that moves bytes is connected, even if the record of its description was lost.
        self.connecting_since_ns = None;
        let before = self.role;
        if let State::Opaque = self.state {
            // The programs have not seen the hint: another connection's hint has overwritten it in their shared slot.
            return Fed {
                hints: Some(IGNORE),
                ..Fed::default()
            };
        }
        if segment.unknown_opening && !self.may_be_refused(way) {
            return Fed {
                opaque: Some(self.become_opaque(opaque::protocol(segment.bytes), counters)),
                ..Fed::default()
            };
        }
        self.ignored |= segment.unknown_opening;
        // The record is made at the exit of write(2), which may come long after the peer read the first byte.
        if way == Direction::Write && segment.call_bytes > MAY_BLOCK_BYTES {
            self.long_write = (segment.end.saturating_sub(segment.call_bytes.into()), segment.end);
        }
        if let State::New = self.state
            && !self.begin(segment)
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
        self.parse(segment, stamp, config, counters, events);
        let gave_up = if let Some(name) = carries(events) {
            Some(self.become_opaque(name, counters))
        } else if self.searched > SEARCH_SEGMENTS {
            Some(self.become_opaque(opaque::NONE_FOUND, counters))
        } else {
            self.searched = if self.is_followed() { 0 } else { self.searched + 1 };
            None
        };
        Fed {
            role_found: self.role != before,
            hints: self.hints(segment),
            opaque: gave_up,
            unknown_read: false,
        }
    }

    /// Feeds a segment to the parser: the gap before it, its bytes, the gap behind them.
    fn parse(
        &mut self,
        segment: &Segment<'_>,
        stamp: Stamp,
        config: &Config,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) {
        let way = segment.direction;
        let half = self.half(way);
        let next = self.reached(way);
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
        let mut offset = segment.offset;
        let mut bytes = segment.bytes;
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
            segment_start: segment.begins_call(),
            data: Data::Bytes(bytes),
            stamp,
        };
        parser.feed(config, half, piece, events);
        let mut reached = offset.saturating_add(bytes.len() as u64);
        if segment.rest == Rest::Gap && segment.end > reached {
            gap(parser, reached, segment.end, events);
            reached = segment.end;
        }
        counters.repeated_records += u64::from(segment.offset < next);
        self.set_next(way, reached);
    }

    /// Detects the protocol and the role of a connection. Returns false while they are unknown.
    fn begin(&mut self, segment: &Segment<'_>) -> bool {
        let from_birth = self.described.is_some_and(|open| open.from_birth) && self.next == [0; 2];
        let seen = FirstBytes {
            bytes: segment.bytes,
            begins_call: segment.begins_call(),
            from_birth: from_birth && segment.offset == 0,
            at_server: match self.role {
                Role::Unknown => None,
                Role::Client => Some(false),
                Role::Server => Some(true),
            },
            sent: segment.direction == Direction::Write,
        };
        let Some(Detected { parser, at_server }) = detect(&seen) else {
            return false;
        };
        self.role = if at_server { Role::Server } else { Role::Client };
        self.state = State::Read(parser);
        true
    }

    /// Passes over a segment of an unknown protocol.
    fn advance(&mut self, segment: &Segment<'_>) {
        let next = match segment.rest {
            Rest::Gap => segment.end,
            Rest::Follows => segment.offset.saturating_add(segment.bytes.len() as u64),
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

    fn half(&self, way: Direction) -> Half {
        if (way == Direction::Write) == (self.role == Role::Client) {
            Half::Request
        } else {
            Half::Response
        }
    }

    fn become_opaque(&mut self, carries: &'static str, counters: &mut Counters) -> &'static str {
        self.state = State::Opaque;
        counters.opaque += 1;
        carries
    }

    /// Returns the hints that the programs need after this segment.
    fn hints(&mut self, segment: &Segment<'_>) -> Option<[Hint; 2]> {
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
        let known = [Direction::Read, Direction::Write].map(|way| {
            let half = self.half(way);
            Known {
                next: self.reached(way),
                ahead: parser.ahead(half),
                responses: half == Half::Response,
                doubted: parser.is_doubted(half),
            }
        });
        let way = segment.direction;
        let is_old = self.described.is_some_and(|open| !open.from_birth) && self.told.epoch() == 0;
        // The programs ignore a direction that did not begin with HTTP. A server of HTTP has answered, so later
        // requests may be HTTP, and what passed meanwhile has no record: both directions need a hint.
        let is_refused = self.ignored && self.half(way) == Half::Response && !parser.awaits_refusal();
        self.ignored &= !is_refused;
        let claim = segment.until.map_or(0, NonZeroU64::get);
        self.told.hints(known, way, claim, is_old || is_refused)
    }

    /// Returns whether bytes that are no HTTP may be a request that a server of HTTP refuses: its answer decides.
    fn may_be_refused(&self, way: Direction) -> bool {
        match &self.state {
            State::New => self.role != Role::Unknown && self.half(way) == Half::Request,
            State::Read(parser) => parser.awaits_refusal(),
            State::Opaque => false,
        }
    }

    /// Ends the half that is read (or written). Returns a name for the protocol, if the connection is given up.
    pub fn end(
        &mut self,
        config: &Config,
        way: Direction,
        stamp: Stamp,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) -> Option<&'static str> {
        let half = self.half(way);
        let State::Read(parser) = &mut self.state else {
            return None;
        };
        parser.end(config, half, stamp, events);
        let name = carries(events)?;
        Some(self.become_opaque(name, counters))
    }
}

/// Returns a name for the protocol, if the parser gave the connection up.
fn carries(events: &[Event]) -> Option<&'static str> {
    events.iter().find_map(|event| match event {
        Event::Opaque { carries, .. } => Some(*carries),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::proto::{http1::Http1, redis::Redis};

    /// Each word costs a megabyte with 100,000 connections. The allocator's sizes are 192, 224 and 256 bytes.
    #[test]
    fn sizes() {
        assert!(size_of::<Connection>() <= 224, "{}", size_of::<Connection>());
        assert!(size_of::<Http1>() <= 224, "{}", size_of::<Http1>());
        assert!(size_of::<Redis>() <= 224, "{}", size_of::<Redis>());
    }
}
