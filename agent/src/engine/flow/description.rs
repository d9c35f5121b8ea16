//! Facts of a connection that the programs told once, and the processes that share it.

use agent_ebpf::abi::Open;

/// Who has a Unix connection beside the process that used it last.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Other processes that used it, and have not closed it as far as is known.
    pub holders: Vec<u32>,
    /// The process that used it last has closed it, others have it.
    pub released: bool,
}

/// What is kept of the record that describes a connection: see [`Open`] for the fields. There may be 100,000 of them.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Address of the socket.
    pub sock: u64,
    /// Of a Unix socket, the address of the other one; else 0.
    pub peer: u64,
    /// Inode number of the socket.
    pub inode: u64,
    /// Sequence number before the first byte sent.
    pub sent_base: u32,
    /// Sequence number before the first byte received.
    pub received_base: u32,
    /// One of `FAMILY_*`.
    pub family: u8,
    /// [`Role`] as a number, as the programs knew it.
    pub role: u8,
    /// 1: offsets are counted, there are no sequence numbers.
    pub counted: u8,
    /// Seen from its first byte.
    pub from_birth: bool,
}

impl From<&Open> for Description {
    fn from(open: &Open) -> Self {
        Self {
            sock: open.sock,
            peer: open.peer,
            inode: open.inode,
            sent_base: open.sent_base,
            received_base: open.received_base,
            family: open.family,
            role: open.role,
            counted: open.counted,
            from_birth: open.from_birth == 1,
        }
    }
}
