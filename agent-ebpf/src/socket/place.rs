//! Place of a call's bytes in the stream.

use agent_ebpf::abi::{Counter, Direction};

use super::{COUNTED, Connection, OPAQUE, Socket, fin_read, inode, upper_layer};
use crate::{
    counters::count,
    kernel::{half_word, offset},
};

/// Place of a call's bytes in the stream.
#[derive(PartialEq, Eq)]
pub enum Place {
    /// The bytes begin at this offset.
    At(u64),
    /// The bytes lie somewhere before this offset, which the stream has reached.
    Before(u64),
    /// The socket's sequence number does not tell.
    Unknown,
    /// The table's entry belongs to a former socket at the same address.
    OtherLife,
}

/// Compares the `bytes` of a call with the advance of the socket's own sequence number. At the exit of a call that
/// blocked, the descriptor may name another socket (measured: dup2 over a blocked read), and two threads may use the
/// socket at once: no match is a counted gap, never a segment.
#[inline(always)]
pub fn place(socket: Socket, connection: &Connection, way: usize, bytes: u64) -> Place {
    let way = way & 1;
    let start = connection.wire[way].offset.get();
    if connection.has(COUNTED) {
        return Place::At(start);
    }
    let field = if way == Direction::Read as usize {
        offset!(tcp_copied_seq)
    } else {
        offset!(tcp_write_seq)
    };
    let Some(now) = half_word(socket.sock + field as u64) else {
        return Place::Unknown;
    };
    let mut ahead = now
        .wrapping_sub(connection.base[way].get())
        .wrapping_sub((start + bytes) as u32) as i32;
    // A read that met the FIN advances by one more.
    if ahead > 0 && way == Direction::Read as usize && fin_read(socket.sock, now) {
        ahead -= 1;
    }
    if ahead == 0 {
        return Place::At(start);
    }
    if inode(socket.file) != Some(connection.inode.get()) {
        return Place::OtherLife;
    }
    if connection.has(OPAQUE) {
        return Place::Unknown;
    }
    if upper_layer(socket.sock) == Some(true) {
        connection.add(OPAQUE);
        return Place::Unknown;
    }
    count(Counter::SequenceMismatch, bytes);
    if ahead > 0 {
        count(Counter::Unreported, ahead as u64);
        return Place::Before(start + bytes + ahead as u64);
    }
    Place::Unknown
}
