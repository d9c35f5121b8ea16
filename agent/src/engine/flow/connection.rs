//! One connection.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use agent_ebpf::{
    abi::{Connect, Direction, FAMILY_INET, FAMILY_UNIX, Hint, Open, Role, SEGMENT_MORE, SEGMENT_NOT_HTTP, Segment},
    classify::{Looks, first_bytes, looks_like_request, looks_like_response},
};
use smallvec::SmallVec;

use super::{
    Counters,
    description::{Description, Sharing},
    hints::{IGNORE, Known, Told},
};
use crate::{
    engine::{
        causality::{Named, NodeId},
        proto::{
            Data, Half,
            http1::{Config, Event, Http1},
            opaque,
        },
        trace::http::{Endpoint, IpOrUnix},
    },
    record::{Stamp, direction},
};

/// Segments of a connection older than the agent that are looked at for a boundary before it is given up.
const SEARCH_SEGMENTS: u32 = 4096;

/// Segments within which a boundary is mostly found: the next exchange is whole.
const LIKELY_SEGMENTS: u32 = 8;

/// Requests of a connection whose offsets are remembered for the other end to find.
const OFFSETS: usize = 1024;

/// Processes that share a Unix connection, of which more is remembered than the last one.
const HOLDERS: usize = 16;

/// Requests by their number or offset, ascending. Most of 100,000 connections have one at a time: it needs no memory of its
/// own.
pub type Requests = SmallVec<[(u64, NodeId); 1]>;

/// A connection of a target.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: u64,
    /// The process that used it last.
    pub tgid: u32,
    /// When something happened on it last.
    pub last_ns: u64,
    /// Its own end and the other, local first.
    pub ends: Arc<(Endpoint, Endpoint)>,
    /// When connect(2) was called, if this end called it and it is not known yet how it ended.
    pub connecting_since_ns: Option<u64>,
    /// The request that it was connected for.
    opener: Option<NodeId>,
    /// The thread rule named the opener. Two flags in place of [`Named`] save a word of each connection.
    opened_by_thread: bool,
    /// The rule of nginx's turns named it.
    opened_by_turn: bool,
    /// The opener is not known: no request had been read before connect(2), or connect(2) was not seen and the connection had
    /// carried nothing when it was found. Its first request may be for a request that nobody saw.
    pub opener_hidden: bool,
    /// Requests that were not answered yet, or not wholly, by their number.
    pub exchanges: Requests,
    /// Stream offsets of the requests, where both ends can compare them.
    pub offsets: Requests,
    /// The other end will send no more.
    pub remote_fin: bool,
    /// No process has this end any more.
    pub released: bool,
    /// This end said that it will receive no more, before the other end had closed.
    pub gave_up: bool,
    /// The process that owns it has ended.
    pub process_ended: bool,
    /// Of a Unix connection that several processes have; few are.
    pub sharing: Option<Box<Sharing>>,
    /// Stream offsets of the last call that sent so much that it may have blocked.
    pub long_write: (u64, u64),
    described: Option<Description>,
    role: Role,
    next: [u64; 2],
    state: State,
    searched: u32,
    /// The programs look no more at requests: they began with what is no HTTP.
    ignored: bool,
    told: Told,
}

#[derive(Debug)]
enum State {
    /// Nothing was seen that tells what it is.
    New,
    /// HTTP/1.
    Http(Box<Http1>),
    /// Not followed any more.
    Opaque,
}

/// What a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// It is known by now which end is the client, and was not before.
    pub role_found: bool,
    /// Hints for the programs.
    pub hints: Option<[Hint; 2]>,
    /// Something was read that may be a request, and where requests begin is not known.
    pub unknown_read: bool,
    /// The connection is given up: what it carries, see [`opaque`].
    pub opaque: Option<&'static str>,
}

/// Calls that send more than this may have blocked: the default send buffer starts at 16 KiB and grows
/// (net.ipv4.tcp_wmem).
const MAY_BLOCK_BYTES: u32 = 16 * 1024;

impl Connection {
    /// A connection that is described.
    pub fn new(open: &Open) -> Self {
        let mut connection = Self::named(open.conn, open.header.execution.tgid, open.header.time_ns);
        connection.describe(open);
        // What connect(2) tells, if it does, comes behind this.
        connection.opener_hidden = open.from_birth == 1;
        connection
    }

    /// A connection of which connect(2) alone told.
    pub fn connecting(connect: &Connect, path: &[u8]) -> Self {
        let mut connection = Self::named(connect.conn, connect.header.execution.tgid, connect.header.time_ns);
        connection.role = Role::Client;
        connection.connected(connect, path);
        connection
    }

    fn named(id: u64, tgid: u32, now_ns: u64) -> Self {
        let nowhere = Endpoint {
            address: IpOrUnix::Unix(None),
            port: 0,
        };
        Self {
            id,
            tgid,
            last_ns: now_ns,
            ends: Arc::new((nowhere.clone(), nowhere)),
            connecting_since_ns: None,
            opener: None,
            opened_by_thread: false,
            opened_by_turn: false,
            opener_hidden: false,
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

    /// Takes what is known of it.
    pub fn describe(&mut self, open: &Open) {
        self.role = match open.role {
            role if role == Role::Client as u8 => Role::Client,
            role if role == Role::Server as u8 => Role::Server,
            _ => self.role,
        };
        self.next = [open.read, open.written];
        self.ends = Arc::new((
            endpoint(open.family, open.local, open.local_port),
            endpoint(open.family, open.remote, open.remote_port),
        ));
        self.connecting_since_ns = None;
        self.described = Some(Description::from(open));
    }

    /// Takes what connect(2) tells: who opened it, and where to. `path`: the Unix socket's address, as it was given.
    pub fn connected(&mut self, connect: &Connect, path: &[u8]) {
        self.tgid = connect.header.execution.tgid;
        if self.described.is_none() && self.next == [0; 2] {
            self.connecting_since_ns = Some(connect.start_ns);
        }
        let address = match unix_address(path) {
            None if self.described.is_some() => return,
            None => endpoint(connect.family, connect.remote, connect.remote_port),
            named => Endpoint {
                address: IpOrUnix::Unix(named),
                port: 0,
            },
        };
        self.ends = Arc::new((self.ends.0.clone(), address));
    }

    /// Another process uses it from now on.
    pub fn pass_to(&mut self, tgid: u32) {
        if self.is_unix() {
            let Sharing { holders, released } = self.sharing.get_or_insert_default().as_mut();
            holders.retain(|&holder| holder != tgid);
            if !*released && !self.process_ended && holders.len() < HOLDERS {
                holders.push(self.tgid);
            }
            *released = false;
        }
        self.tgid = tgid;
        // The process that ended was not the only one that had it.
        self.process_ended = false;
    }

    /// Its description, if it has come.
    pub fn described(&self) -> Option<&Description> {
        self.described.as_ref()
    }

    /// Whether it is known to be a Unix socket's: then no state of TCP tells its end.
    pub fn is_unix(&self) -> bool {
        self.described.is_some_and(|open| open.family == FAMILY_UNIX)
    }

    /// Keeps for which request this end connects.
    pub fn set_opener(&mut self, named: Named) {
        self.opener = named.request();
        self.opened_by_thread = named.by_thread.is_some();
        self.opened_by_turn = self.opener.is_some() && named.by_turn == self.opener;
        self.opener_hidden = self.opener.is_none();
    }

    /// The request that it was connected for.
    pub fn opener(&self) -> Named {
        Named {
            by_thread: self.opener.filter(|_| self.opened_by_thread),
            by_turn: self.opener.filter(|_| self.opened_by_turn),
        }
    }

    /// The request that it was connected for, taken away: only the first call on it is made for that.
    pub fn take_opener(&mut self) -> Named {
        let named = self.opener();
        self.opener = None;
        named
    }

    /// Notes where a request is, for the other end to find. Those that have left are forgotten.
    pub fn note_offset(&mut self, wire: u64, node: NodeId, is_known: impl Fn(NodeId) -> bool) {
        let left = self.offsets.iter().take_while(|&&(_, node)| !is_known(node)).count();
        let too_many = (self.offsets.len() + 1).saturating_sub(OFFSETS);
        self.offsets.drain(..left.max(too_many));
        self.offsets.push((wire, node));
    }

    /// Which end it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether requests on it are read by a parser that knows where it is.
    pub fn is_followed(&self) -> bool {
        matches!(&self.state, State::Http(http) if http.is_synchronised())
    }

    /// Whether it is looked at, and nothing on it was understood yet.
    pub fn is_searched(&self) -> bool {
        match &self.state {
            State::New => self.searched > 0,
            State::Http(http) => !http.is_synchronised(),
            State::Opaque => false,
        }
    }

    /// Whether a request may be read on it that is not recognised.
    pub fn hides_requests(&self) -> bool {
        let read = match &self.state {
            State::New => false,
            State::Http(http) => http.reads_requests(),
            State::Opaque => true,
        };
        self.role != Role::Client && !read
    }

    /// Whether requests on it are read, or will be once they come.
    pub fn will_be_followed(&self) -> bool {
        match &self.state {
            State::New => self.searched <= LIKELY_SEGMENTS,
            State::Http(http) => http.is_synchronised() || self.searched <= LIKELY_SEGMENTS,
            State::Opaque => false,
        }
    }

    /// 1 if the programs counted the SYN as a byte sent: they do not know that this end connected.
    pub fn syn(&self) -> u64 {
        self.described
            .is_some_and(|open| self.role == Role::Client && open.counted == 0) as u64
    }

    /// The offset that the other end gives a byte that this end sent.
    pub fn wire_offset(&self, half_offset: u64) -> Option<u64> {
        let open = self.described?;
        // Bytes of a counted connection that is older than the agent have no common zero.
        if open.counted == 1 && !open.from_birth {
            return None;
        }
        let unknown_at_first = open.role == Role::Unknown as u8;
        Some(
            half_offset
                - if unknown_at_first {
                    self.syn().min(half_offset)
                } else {
                    0
                },
        )
    }

    /// Whether a request that this end read and did not answer was never served: an earlier one was the last.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        self.role == Role::Server && matches!(&self.state, State::Http(http) if http.is_unserved(exchange))
    }

    /// Takes a segment, and appends what the protocol says of it.
    pub fn segment(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        config: &Config,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) -> Fed {
        let way = direction(segment);
        let stamp = Stamp::from(&segment.header);
        self.last_ns = stamp.time_ns;
        // What moves bytes is connected, whether its description was lost or not.
        self.connecting_since_ns = None;
        let before = self.role;
        let begins_call = segment.end.saturating_sub(segment.offset) == segment.call_bytes as u64;
        if let State::Opaque = self.state {
            // The programs have not seen it: another connection's hints are in the same slot.
            return Fed {
                hints: Some(IGNORE),
                ..Fed::default()
            };
        }
        if segment.header.flags & SEGMENT_NOT_HTTP != 0 && !self.may_be_refused(way) {
            return Fed {
                opaque: Some(self.become_opaque(opaque::protocol(bytes), counters)),
                ..Fed::default()
            };
        }
        self.ignored |= segment.header.flags & SEGMENT_NOT_HTTP != 0;
        if way == Direction::Write && segment.call_bytes > MAY_BLOCK_BYTES {
            self.long_write = (segment.end.saturating_sub(segment.call_bytes as u64), segment.end);
        }
        if let State::New = self.state
            && !self.begin(way, begins_call, bytes, segment)
        {
            self.advance(way, segment);
            self.searched += 1;
            if self.searched > SEARCH_SEGMENTS {
                return Fed {
                    role_found: false,
                    hints: Some(IGNORE),
                    opaque: Some(self.become_opaque(opaque::NO_HTTP, counters)),
                    unknown_read: false,
                };
            }
            return Fed::default();
        }
        let half = self.half(way);
        let next = self.reached(way);
        let State::Http(http) = &mut self.state else {
            return Fed::default();
        };
        let mut offset = segment.offset;
        let mut bytes = bytes;
        if offset < next {
            counters.repeated_records += 1;
            let known = (next - offset).min(bytes.len() as u64) as usize;
            bytes = bytes.get(known..).unwrap_or_default();
            offset = next;
        } else if offset > next {
            count_gap(http, half, next, offset, counters);
            http.feed(config, half, next, false, Data::Gap(offset - next), stamp, events);
        }
        http.feed(config, half, offset, begins_call, Data::Bytes(bytes), stamp, events);
        let mut reached = offset.saturating_add(bytes.len() as u64);
        if segment.header.flags & SEGMENT_MORE == 0 && segment.end > reached {
            count_gap(http, half, reached, segment.end, counters);
            http.feed(
                config,
                half,
                reached,
                false,
                Data::Gap(segment.end - reached),
                stamp,
                events,
            );
            reached = segment.end;
        }
        self.set_next(way, reached);
        let mut gave_up = None;
        if let Some(name) = carries(events) {
            gave_up = Some(self.become_opaque(name, counters));
        } else if self.searched > SEARCH_SEGMENTS {
            gave_up = Some(self.become_opaque(opaque::NO_HTTP, counters));
        } else if !self.is_followed() {
            self.searched += 1;
        } else {
            self.searched = 0;
        }
        let hints = self.hints(segment);
        Fed {
            role_found: self.role != before,
            hints,
            opaque: gave_up,
            unknown_read: false,
        }
    }

    /// The first look at a connection: is it HTTP, and which end is this? False: not known yet.
    fn begin(&mut self, way: Direction, begins_call: bool, bytes: &[u8], segment: &Segment) -> bool {
        let from_birth = self.described.is_some_and(|open| open.from_birth) && self.next == [0; 2];
        if self.role == Role::Unknown {
            if !begins_call {
                return false;
            }
            let (first, n) = first_bytes(bytes);
            let sends = way == Direction::Write;
            // Who sends a request is the client, who sends a response the server.
            if looks_like_request(first, n) == Looks::Yes {
                self.role = if sends { Role::Client } else { Role::Server };
            } else if looks_like_response(first, n) == Looks::Yes {
                self.role = if sends { Role::Server } else { Role::Client };
            } else {
                return false;
            }
        }
        let from_birth = from_birth && segment.offset == 0;
        let http = Http1::new(from_birth);
        let http = if self.role == Role::Server {
            http.at_server()
        } else {
            http
        };
        self.state = State::Http(Box::new(http));
        true
    }

    /// Passes over a segment of which nothing is known.
    fn advance(&mut self, way: Direction, segment: &Segment) {
        let next = if segment.header.flags & SEGMENT_MORE == 0 {
            segment.end
        } else {
            segment.offset.saturating_add(segment.captured as u64)
        };
        self.set_next(way, next);
    }

    /// Stream offset behind the last byte that was told.
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

    /// Hints that the programs need behind this segment.
    fn hints(&mut self, segment: &Segment) -> Option<[Hint; 2]> {
        let http = match &self.state {
            State::New => return None,
            State::Opaque => return Some(IGNORE),
            State::Http(http) => http,
        };
        if segment.header.flags & (SEGMENT_MORE | SEGMENT_NOT_HTTP) != 0 {
            return None;
        }
        let known = [Direction::Read, Direction::Write].map(|way| {
            let half = self.half(way);
            Known {
                next: self.reached(way),
                ahead: http.ahead(half),
                responses: half == Half::Response,
                doubted: http.is_doubted(half),
            }
        });
        let way = direction(segment);
        let is_old = self.described.is_some_and(|open| !open.from_birth) && self.told.epoch() == 0;
        // What followed an opening that a server refused has passed without a record.
        let is_refused = self.ignored && self.half(way) == Half::Response && !http.awaits_refusal();
        self.ignored &= !is_refused;
        self.told.hints(known, way, segment.until, is_old || is_refused)
    }

    /// Whether what is no HTTP may be a request that a server of HTTP refuses: its answer tells.
    fn may_be_refused(&self, way: Direction) -> bool {
        match &self.state {
            State::New => self.role != Role::Unknown && self.half(way) == Half::Request,
            State::Http(http) => http.awaits_refusal(),
            State::Opaque => false,
        }
    }

    /// The half that carries what is read (or written) ends. What the connection carries, if it is given up.
    pub fn end(
        &mut self,
        config: &Config,
        way: Direction,
        stamp: Stamp,
        counters: &mut Counters,
        events: &mut Vec<Event>,
    ) -> Option<&'static str> {
        let half = self.half(way);
        let State::Http(http) = &mut self.state else {
            return None;
        };
        http.end(config, half, stamp, events);
        let name = carries(events)?;
        Some(self.become_opaque(name, counters))
    }
}

/// Returns the protocol's name, if the parser gave the connection up.
fn carries(events: &[Event]) -> Option<&'static str> {
    events.iter().find_map(|event| match event {
        Event::Opaque { carries, .. } => Some(*carries),
        _ => None,
    })
}

/// Counts bytes that no record told, as far as they are not known to be body.
fn count_gap(http: &Http1, half: Half, from: u64, to: u64, counters: &mut Counters) {
    let missed = to.saturating_sub(http.body_until(half).max(from));
    counters.gap_bytes = counters.gap_bytes.saturating_add(missed);
}

/// The address of a Unix socket as it is shown: a path, or `@name` of an abstract one. `None`: it has none.
fn unix_address(path: &[u8]) -> Option<Arc<str>> {
    let name = match path.split_first()? {
        (0, name) => [b"@", name].concat(),
        // What is behind a NUL is no part of a path.
        _ => path.split(|&byte| byte == 0).next()?.to_vec(),
    };
    Some(String::from_utf8_lossy(&name).into())
}

fn endpoint(family: u8, address: [u8; 16], port: u16) -> Endpoint {
    let address = match family {
        FAMILY_UNIX => IpOrUnix::Unix(None),
        FAMILY_INET => {
            let [a, b, c, d, ..] = address;
            IpOrUnix::Ip(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        _ => IpOrUnix::Ip(IpAddr::V6(Ipv6Addr::from(address)).to_canonical()),
    };
    Endpoint { address, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 100,000 of them, a word is a megabyte. The allocator's sizes are 192, 224 and 256 bytes.
    #[test]
    fn sizes() {
        assert!(size_of::<Connection>() <= 224, "{}", size_of::<Connection>());
        assert!(size_of::<Http1>() <= 224, "{}", size_of::<Http1>());
    }
}
