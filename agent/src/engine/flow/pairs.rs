//! Pairs of connections that are the two ends of one, both on this host.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Connection;
use crate::record::{Base, ConnectionId};

/// Key that only the two ends of one connection have.
///
/// It holds no address, port or network namespace, so NAT and containers do not matter. The own part comes first: the
/// far end has the two swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// TCP: sequence numbers of the first bytes sent and received.
    Sequences((u32, u32)),
    /// Unix: kernel addresses of the own socket and the far one.
    Sockets((u64, u64)),
}

/// Time for which a connection is known to have had its socket.
///
/// A Unix socket holds its far end's memory until both ends are closed. So no end of a connection lives at the same time
/// as an end of an earlier one at the same two addresses: ends with fitting addresses are those of one connection if,
/// and only if, both had their sockets at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Time of the first event.
    pub since_ns: u64,
    /// Time of the last event so far.
    pub last_ns: u64,
}

impl Life {
    /// TCP: no two connections of one time have the same sequence numbers.
    pub const ALWAYS: Self = Self {
        since_ns: 0,
        last_ns: u64::MAX,
    };

    /// Returns whether two ends were there at one moment.
    pub fn meets(self, other: Self) -> bool {
        self.since_ns <= other.last_ns && other.since_ns <= self.last_ns
    }
}

/// End of a Unix connection.
#[derive(Clone, Copy, Debug)]
struct UnixEnd {
    id: ConnectionId,
    since_ns: u64,
    /// Set once its far end is known for certain.
    is_paired: bool,
}

/// Table that finds the far end of a connection.
///
/// The hash is seeded, because a peer chooses half of the sequence numbers. There are two tables, because the keys of
/// 100,000 TCP connections need half the memory.
#[derive(Debug, Default)]
pub struct Pairs {
    tcp: HashMap<(u32, u32), ConnectionId, RandomState>,
    unix: HashMap<(u64, u64), UnixEnd, RandomState>,
}

impl Key {
    /// Returns the key of a connection's own end.
    pub fn own(connection: &Connection) -> Option<Self> {
        let open = connection.described()?;
        match open.base {
            Base::Unix(peer) => Some(Self::Sockets((open.socket.address, peer?.get()))),
            Base::Sequences { sent, received } => {
                Some(Self::Sequences((sent.wrapping_add(connection.syn() as u32), received)))
            }
            Base::Counted => None,
        }
    }

    /// Returns the key of the far end.
    pub fn far(self) -> Self {
        match self {
            Self::Sequences((own, other)) => Self::Sequences((other, own)),
            Self::Sockets((own, other)) => Self::Sockets((other, own)),
        }
    }
}

impl Pairs {
    /// Registers a connection whose role is known, and which is there since this time at the latest.
    pub fn insert(&mut self, connection: &Connection, since_ns: u64) {
        match Key::own(connection) {
            Some(Key::Sequences(key)) => {
                self.tcp.insert(key, connection.id);
            }
            Some(Key::Sockets(key)) => {
                let end = UnixEnd {
                    id: connection.id,
                    since_ns,
                    is_paired: false,
                };
                self.unix.insert(key, end);
            }
            None => {}
        }
    }

    /// Notes that a connection was there at an earlier time already.
    pub fn was_there(&mut self, connection: &Connection, at_ns: u64) {
        if let Some(end) = self.unix_end_mut(connection) {
            end.since_ns = end.since_ns.min(at_ns);
        }
    }

    /// Forgets a connection.
    pub fn remove(&mut self, connection: &Connection) {
        let key = Key::own(connection);
        // A later connection may have the same key: sequence numbers and kernel addresses are used again.
        if key.and_then(|key| self.named(key)) != Some(connection.id) {
            return;
        }
        match key {
            Some(Key::Sequences(key)) => {
                self.tcp.remove(&key);
            }
            Some(Key::Sockets(key)) => {
                self.unix.remove(&key);
            }
            None => {}
        }
    }

    /// Returns the name of the connection whose key fits. It is the far end if the lives of both meet.
    pub fn candidate(&self, connection: &Connection) -> Option<ConnectionId> {
        self.named(Key::own(connection)?.far())
    }

    /// Returns the life of a connection; `None`: a later one has its key.
    pub fn life(&self, connection: &Connection) -> Option<Life> {
        match Key::own(connection)? {
            Key::Sequences(_) => Some(Life::ALWAYS),
            Key::Sockets(key) => {
                let end = self.unix.get(&key).filter(|end| end.id == connection.id)?;
                Some(Life {
                    since_ns: end.since_ns,
                    last_ns: connection.last_ns,
                })
            }
        }
    }

    /// Returns whether the far end of a Unix connection is known for certain, as far as was noted.
    pub fn is_paired(&self, connection: &Connection) -> bool {
        match Key::own(connection) {
            Some(Key::Sockets(key)) => self
                .unix
                .get(&key)
                .is_some_and(|end| end.id == connection.id && end.is_paired),
            _ => false,
        }
    }

    /// Notes that the far end of a Unix connection is known for certain.
    pub fn pair(&mut self, connection: &Connection) {
        if let Some(end) = self.unix_end_mut(connection) {
            end.is_paired = true;
        }
    }

    fn unix_end_mut(&mut self, connection: &Connection) -> Option<&mut UnixEnd> {
        match Key::own(connection)? {
            Key::Sockets(key) => self.unix.get_mut(&key).filter(|end| end.id == connection.id),
            Key::Sequences(_) => None,
        }
    }

    fn named(&self, key: Key) -> Option<ConnectionId> {
        match key {
            Key::Sequences(key) => self.tcp.get(&key).copied(),
            Key::Sockets(key) => self.unix.get(&key).map(|end| end.id),
        }
    }
}
