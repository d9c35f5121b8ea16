//! Connections: which end is which, where in its two streams each is, what is missing, and which other connection is the
//! far end of the same one.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod connection;
mod pairs;

pub use connection::{Connection, Fed};
pub use pairs::Pairs;

use std::collections::HashMap;

use agent_ebpf::abi::{Connect, Open, Role, Segment};

use crate::proto::http1::{Config, Event};

/// What went wrong with connections, as counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that could not be followed for want of room.
    pub connections_refused: u64,
    /// Records of connections that are not known: their first record was lost, or they were forgotten.
    pub unknown_connection: u64,
    /// Bytes that no record told.
    pub gap_bytes: u64,
    /// Records that told bytes twice.
    pub repeated_records: u64,
    /// Connections that were forgotten because nothing happened on them for long.
    pub idle_forgotten: u64,
    /// Connections that carry something else than HTTP/1.
    pub opaque: u64,
}

/// All connections of targets that are open now.
#[derive(Debug)]
pub struct Flow {
    connections: HashMap<u64, Connection>,
    /// The far ends.
    pairs: Pairs,
    most: usize,
    /// What went wrong.
    pub counters: Counters,
}

impl Flow {
    /// At most `most` connections are followed at one time.
    pub fn new(most: usize) -> Self {
        Self {
            connections: HashMap::new(),
            pairs: Pairs::default(),
            most,
            counters: Counters::default(),
        }
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Takes up a connection. It may be known already, from its connect.
    pub fn open(&mut self, open: &Open) -> Option<&mut Connection> {
        if !self.connections.contains_key(&open.conn) && self.connections.len() >= self.most {
            self.counters.connections_refused += 1;
            return None;
        }
        let connection = self
            .connections
            .entry(open.conn)
            .and_modify(|connection| connection.describe(open))
            .or_insert_with(|| Connection::new(open));
        if connection.role() != Role::Unknown {
            self.pairs.insert(connection);
        }
        Some(connection)
    }

    /// Takes what connect(2) tells of a connection that is under way.
    pub fn connect(&mut self, connect: &Connect) -> Option<&mut Connection> {
        if !self.connections.contains_key(&connect.conn) && self.connections.len() >= self.most {
            self.counters.connections_refused += 1;
            return None;
        }
        let connection = self
            .connections
            .entry(connect.conn)
            .or_insert_with(|| Connection::connecting(connect));
        connection.connected(connect);
        Some(connection)
    }

    /// Takes a segment, and appends what the protocol says of it.
    pub fn segment(&mut self, segment: &Segment, bytes: &[u8], config: &Config, events: &mut Vec<Event>) -> Fed {
        let Some(connection) = self.connections.get_mut(&segment.conn) else {
            self.counters.unknown_connection += 1;
            return Fed::default();
        };
        let fed = connection.segment(segment, bytes, config, &mut self.counters, events);
        if fed.role_found {
            self.pairs.insert(connection);
        }
        fed
    }

    /// A connection.
    pub fn get(&self, id: u64) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// A connection, counted if it is not known.
    pub fn known(&mut self, id: u64) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(&id);
        if connection.is_none() {
            self.counters.unknown_connection += 1;
        }
        connection
    }

    /// The far end of a connection, if it is a target's, too.
    pub fn peer(&self, id: u64) -> Option<&Connection> {
        self.connections.get(&self.pairs.peer(self.connections.get(&id)?)?)
    }

    /// Forgets a connection.
    pub fn close(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.pairs.remove(&connection);
        Some(connection)
    }

    /// Connections on which nothing happened since `before`, a time of `CLOCK_MONOTONIC`.
    pub fn idle(&self, before_ns: u64) -> Vec<u64> {
        let mut idle: Vec<u64> = self
            .connections
            .values()
            .filter(|connection| connection.last_ns < before_ns)
            .map(|c| c.id)
            .collect();
        idle.sort_unstable();
        idle
    }

    /// Connections that a process used last.
    pub fn of_process(&self, tgid: u32) -> Vec<u64> {
        let mut ids: Vec<u64> = self
            .connections
            .values()
            .filter(|c| c.tgid == tgid)
            .map(|c| c.id)
            .collect();
        ids.sort_unstable();
        ids
    }
}
