//! The two ends of one connection, both on this host.

use std::collections::HashMap;

use agent_ebpf::abi::FAMILY_UNIX;
use foldhash::fast::RandomState;

use super::Connection;

/// What both ends of a connection can tell, and nobody else: no addresses, no ports, no network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// TCP: sequence numbers of the first byte sent and the first received.
    Sequences(u32, u32),
    /// Unix: addresses of the own socket and the other's.
    Sockets(u64, u64),
}

impl Key {
    fn swapped(self) -> Self {
        match self {
            Self::Sequences(sent, received) => Self::Sequences(received, sent),
            Self::Sockets(own, other) => Self::Sockets(other, own),
        }
    }
}

/// Finds the far end of a connection. The other side has a say in sequence numbers: a seeded hash.
#[derive(Debug, Default)]
pub struct Pairs(HashMap<Key, u64, RandomState>);

impl Pairs {
    fn key(connection: &Connection) -> Option<Key> {
        let open = connection.described()?;
        if open.family == FAMILY_UNIX {
            return (open.peer != 0).then_some(Key::Sockets(open.sock, open.peer));
        }
        (open.counted == 0)
            .then(|| Key::Sequences(open.sent_base.wrapping_add(connection.syn() as u32), open.received_base))
    }

    /// Takes up a connection whose role is known.
    pub fn insert(&mut self, connection: &Connection) {
        if let Some(key) = Self::key(connection) {
            self.0.insert(key, connection.id);
        }
    }

    /// Forgets it.
    pub fn remove(&mut self, connection: &Connection) {
        if let Some(key) = Self::key(connection)
            && self.0.get(&key) == Some(&connection.id)
        {
            self.0.remove(&key);
        }
    }

    /// The name of the far end.
    pub fn peer(&self, connection: &Connection) -> Option<u64> {
        self.0.get(&Self::key(connection)?.swapped()).copied()
    }
}
