//! The two ends of one connection, both on this host.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Connection;
use crate::record::{Base, ConnectionId};

/// What both ends of a connection can tell, and nobody else: no addresses, no ports, no network namespaces. The own part
/// first, so the other end has the two swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// TCP: sequence numbers of the first byte sent and the first received.
    Sequences((u32, u32)),
    /// Unix: addresses of the own socket and the other's.
    Sockets((u64, u64)),
}

/// Finds the far end of a connection. The other side has a say in sequence numbers: a seeded hash. Two tables, because keys
/// of 100,000 TCP connections need half of the place.
#[derive(Debug, Default)]
pub struct Pairs {
    tcp: HashMap<(u32, u32), ConnectionId, RandomState>,
    unix: HashMap<(u64, u64), ConnectionId, RandomState>,
}

impl Key {
    /// The key of a connection's own end.
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

    /// The key that the far end has.
    pub fn far(self) -> Self {
        match self {
            Self::Sequences((own, other)) => Self::Sequences((other, own)),
            Self::Sockets((own, other)) => Self::Sockets((other, own)),
        }
    }
}

impl Pairs {
    /// Takes up a connection whose role is known.
    pub fn insert(&mut self, connection: &Connection) {
        match Key::own(connection) {
            Some(Key::Sequences(key)) => self.tcp.insert(key, connection.id),
            Some(Key::Sockets(key)) => self.unix.insert(key, connection.id),
            None => None,
        };
    }

    /// Forgets it.
    pub fn remove(&mut self, connection: &Connection) {
        let key = Key::own(connection);
        if key.and_then(|key| self.named(key)) != Some(connection.id) {
            return;
        }
        match key {
            Some(Key::Sequences(key)) => self.tcp.remove(&key),
            Some(Key::Sockets(key)) => self.unix.remove(&key),
            None => None,
        };
    }

    /// The name of the far end.
    pub fn peer(&self, connection: &Connection) -> Option<ConnectionId> {
        self.named(Key::own(connection)?.far())
    }

    fn named(&self, key: Key) -> Option<ConnectionId> {
        match key {
            Key::Sequences(key) => self.tcp.get(&key),
            Key::Sockets(key) => self.unix.get(&key),
        }
        .copied()
    }
}
