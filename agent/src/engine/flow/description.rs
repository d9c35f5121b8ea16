//! Facts that the programs report once per connection, and the processes that share it.

use crate::{
    engine::execution::ProcessId,
    record::{Base, Open, Role, Socket},
};

/// Processes that have a Unix connection, besides the one that used it last.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Other processes that used the connection and were not seen to close it.
    pub holders: Vec<ProcessId>,
    /// Set if the process that used it last has closed it and others still have it.
    pub released: bool,
}

/// Facts kept from the record that describes a connection: see [`Open`]. There may be 100,000 of them.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Socket of the connection.
    pub socket: Socket,
    /// Zero of its stream offsets.
    pub base: Base,
    /// Role, as the programs knew it.
    pub role: Role,
    /// Set if the connection was seen from its first byte.
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
