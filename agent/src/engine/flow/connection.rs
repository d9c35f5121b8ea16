//! State of one connection: ends, stream offsets, parser.

use std::{num::NonZeroU64, ops::Range, sync::Arc};

use agent_ebpf::abi::Hint;
use smallvec::SmallVec;

use super::{
    Counters,
    description::{Description, Sharing},
    stream::{End, PLAINTEXT, Stream},
};
use crate::{
    engine::{
        exchange::{ExchangeId, Opening},
        execution::{Executions, ProcessId, Stamp},
        proto::{Config, Discipline, Event, Protocol},
    },
    record::{Base, Connect, ConnectionId, Direction, Endpoint, Layer, Open, Role, Segment},
};

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
    pub connecting_since_ns: Option<NonZeroU64>,
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
    /// Set once the process that used it last has ended.
    pub process_ended: bool,
    /// Processes that share a Unix connection; few are shared.
    pub sharing: Option<Box<Sharing>>,
    described: Option<Description>,
    role: Role,
    /// The bytes that the socket carries.
    wire: Stream,
    /// The plaintext, if a TLS library was seen to encrypt it: it is read in place of the wire.
    tls: Option<Box<Stream>>,
}

/// Outcome of feeding a segment to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Set if this segment told which end is the client.
    pub role_found: bool,
    /// Set if this end is the client.
    pub at_client: bool,
    /// Set if this end is the server.
    pub at_server: bool,
    /// Set if epoll watches the connection, or did once.
    pub watched_once: bool,
    /// Hints for the kernel programs.
    pub hints: Option<[Hint; 2]>,
    /// Set if bytes were read that may be a request, on a connection whose request boundaries are not known.
    pub unknown_read: bool,
    /// Set if the connection is given up: a name for its protocol, see [`opaque`](crate::engine::proto::opaque).
    pub opaque: Option<&'static str>,
}

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
            process_ended: false,
            sharing: None,
            described: None,
            role: Role::Unknown,
            wire: Stream::new(),
            tls: None,
        }
    }

    /// Takes a description: role, offsets, ends.
    pub fn describe(&mut self, open: &Open) {
        if open.role != Role::Unknown {
            self.role = open.role;
        }
        self.wire.pass([open.read, open.written]);
        self.ends = Arc::new((open.local.into(), open.remote.into()));
        self.connecting_since_ns = None;
        self.described = Some(Description::from(open));
    }

    /// Takes the record of connect(2): the process that opened the connection, and the address.
    pub fn connected(&mut self, connect: &Connect<'_>, process: ProcessId) {
        self.process = process;
        if self.described.is_none() && self.wire.is_unused() {
            self.connecting_since_ns = NonZeroU64::new(connect.start_ns.max(1));
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
        let dropped = left.max(too_many);
        // The usual case within a batch of records: an empty drain is not free.
        if dropped > 0 {
            self.offsets.drain(..dropped);
        }
        self.offsets.push((wire, node));
    }

    /// Returns the places, among the open exchanges, of those of one stream: the one with the exchange of this number.
    pub fn exchanges_of_stream(&self, exchange: u64) -> Range<usize> {
        let of_wire = self.exchanges.partition_point(|&(number, _)| number < PLAINTEXT);
        if exchange < PLAINTEXT {
            0..of_wire
        } else {
            of_wire..self.exchanges.len()
        }
    }

    /// Returns this end's role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the stream whose messages are read: the plaintext of a TLS library where it is seen, else the wire.
    fn read(&self) -> &Stream {
        self.tls.as_deref().unwrap_or(&self.wire)
    }

    fn this_end(&self) -> End {
        End {
            role: self.role,
            is_described: self.described.is_some(),
            from_birth: self.described.is_some_and(|open| open.from_birth),
        }
    }

    /// Notes that this end stopped receiving before the other end had closed.
    pub fn give_up(&mut self) {
        self.wire.gave_up = true;
    }

    /// Returns whether this end stopped receiving before the other end had closed.
    pub fn gave_up(&self) -> bool {
        self.wire.gave_up
    }

    /// Counts what waited for a message boundary: the connection is over.
    pub fn close(&mut self, counters: &mut Counters) {
        self.wire.close(counters);
        if let Some(tls) = &mut self.tls {
            tls.close(counters);
        }
    }

    /// Returns whether the plaintext of a TLS library is read in place of the wire.
    pub fn reads_plaintext(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns the protocol that a parser reads, if any does.
    pub fn protocol(&self) -> Option<Protocol> {
        self.read().protocol()
    }

    /// Returns the way in which replies find their calls.
    pub fn discipline(&self) -> Discipline {
        self.protocol().map_or(Discipline::Fifo, Protocol::discipline)
    }

    /// Returns whether requests are read by a parser that knows its place in the stream.
    pub fn is_followed(&self) -> bool {
        self.read().is_followed()
    }

    /// Returns whether the connection is looked at and nothing on it was understood yet.
    pub fn is_searched(&self) -> bool {
        self.read().is_searched()
    }

    /// Returns whether a request may be read that is not recognised.
    pub fn hides_requests(&self) -> bool {
        self.role != Role::Client && !self.read().reads_requests()
    }

    /// Returns whether requests are read now, or will be once they come.
    pub fn will_be_followed(&self) -> bool {
        self.read().will_be_followed()
    }

    /// Returns whether a request that this end read and did not answer was never served: an earlier one was the last.
    pub fn is_unserved(&self, exchange: u64) -> bool {
        self.role == Role::Server && self.read().is_unserved(exchange)
    }

    /// Returns whether the call that sent the byte at this offset sent so much that it may have blocked.
    pub fn may_have_blocked(&self, offset: u64) -> bool {
        self.read().may_have_blocked(offset)
    }

    /// Returns the offset behind the last byte of the socket's that was reported.
    pub fn reached(&self, way: Direction) -> u64 {
        self.wire.reached(way)
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
        if self.tls.is_some() {
            // Offsets of two layers never meet, and stay in order: the plaintext is behind all that was read before.
            return open.from_birth.then_some(PLAINTEXT | half_offset);
        }
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

    /// Keeps the handles that the connection holds.
    pub fn keep(&self, executions: &mut Executions) {
        executions.keep_process(self.process);
        let holders = self.sharing.iter().flat_map(|sharing| &sharing.holders);
        holders.for_each(|&holder| executions.keep_process(holder));
        self.wire.keep(executions);
        if let Some(tls) = &self.tls {
            tls.keep(executions);
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
        self.last_ns = self.last_ns.max(segment.stamp.time_ns);
        // A connection that moves bytes is connected, even if the record of its description was lost.
        self.connecting_since_ns = None;
        self.wire.watched_once |= segment.watched;
        let before = self.role;
        let mut end = self.this_end();
        let stream = match segment.layer {
            Layer::Wire => &mut self.wire,
            Layer::Tls => self.tls.get_or_insert_with(|| Box::new(Stream::new())),
        };
        let mut fed = stream.segment(segment, &mut end, stamp, config, counters, events);
        self.role = end.role;
        fed.role_found = self.role != before;
        fed.at_client = self.role == Role::Client;
        fed.at_server = self.role == Role::Server;
        fed.watched_once = self.wire.watched_once;
        // What a TLS library encrypts cannot be read on the wire, and is read all the same. Requests of a tunnel or of an
        // upgrade may still be answered there; what looks like another one is cipher text.
        if segment.layer == Layer::Wire && self.tls.is_some() {
            fed.opaque = None;
            events.retain(|event| !matches!(event, Event::Begins { .. }));
        }
        fed
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
        let end = self.this_end();
        let stream = self.tls.as_deref_mut().unwrap_or(&mut self.wire);
        stream.end(end, config, way, stamp, counters, events)
    }
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
