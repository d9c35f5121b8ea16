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

/// Table that finds the far end of a connection.
///
/// The hash is seeded, because a peer chooses half of the sequence numbers. There are two tables, because the keys of
/// 100,000 TCP connections need half the memory.
#[derive(Debug, Default)]
pub struct Pairs {
    tcp: HashMap<(u32, u32), ConnectionId, RandomState>,
    unix: HashMap<(u64, u64), ConnectionId, RandomState>,
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
    /// Registers a connection whose role is known.
    pub fn insert(&mut self, connection: &Connection) {
        match Key::own(connection) {
            Some(Key::Sequences(key)) => self.tcp.insert(key, connection.id),
            Some(Key::Sockets(key)) => self.unix.insert(key, connection.id),
            None => None,
        };
    }

    /// Forgets a connection.
    pub fn remove(&mut self, connection: &Connection) {
        let key = Key::own(connection);
        // A later connection may have the same key: sequence numbers and kernel addresses are used again.
        if key.and_then(|key| self.named(key)) != Some(connection.id) {
            return;
        }
        match key {
            Some(Key::Sequences(key)) => self.tcp.remove(&key),
            Some(Key::Sockets(key)) => self.unix.remove(&key),
            None => None,
        };
    }

    /// Returns the name of the far end.
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
