//! Facts of a connection that the programs told once, and the processes that share it.

use crate::record::{Base, Open, Role, Socket, Tgid};

/// Processes that have a Unix connection beside the one that used it last.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Other processes that used it, and have not closed it as far as is known.
    pub holders: Vec<Tgid>,
    /// The process that used it last has closed it, others have it.
    pub released: bool,
}

/// The part of the record that describes a connection which is kept: see [`Open`]. There may be 100,000 of them.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The socket.
    pub socket: Socket,
    /// Zero of its stream offsets.
    pub base: Base,
    /// Its role, as the programs knew it.
    pub role: Role,
    /// Seen from its first byte.
    pub from_birth: bool,
}

impl From<&Open> for Description {
    fn from(open: &Open) -> Self {
        Self {
            socket: open.socket,
            base: open.base,
            role: open.role,
            from_birth: open.from_birth,
        }
    }
}
