//! Connections that were reset while a write was under way.
//!
//! On loopback the reset that answers a write comes in an interrupt inside of it: the end of the connection is told before
//! the write returns and tells its bytes. By then the programs have forgotten the socket, and tell of it under a new name.

use std::collections::{HashMap, VecDeque};

use agent_ebpf::abi::{Direction, FAMILY_UNIX, Open, Role, Segment};

use super::Core;

/// A system call that is told of this long after the reset was under way when it came.
const GRACE_NS: u64 = 50_000_000;

/// A connection that was reset, and what may still be told of it.
#[derive(Debug)]
struct Reset {
    id: u64,
    error: i32,
    at_ns: u64,
    /// Address and inode of the socket.
    socket: (u64, u64),
    /// Sent offsets of the new name count the SYN, those of the old one do not.
    syn: u64,
}

/// Connections that were reset a moment ago, oldest first.
#[derive(Debug, Default)]
pub(super) struct Resets {
    waiting: VecDeque<Reset>,
    /// From the new name to the old one, and by how much the new one's sent offsets are ahead.
    names: HashMap<u64, (u64, u64)>,
}

impl Resets {
    /// Whether this is a connection that was reset, under a new name.
    pub fn resume(&mut self, open: &Open) -> bool {
        let socket = (open.sock, open.inode);
        match self.waiting.iter().find(|reset| reset.socket == socket) {
            Some(reset) if open.from_birth == 0 && open.role == Role::Unknown as u8 => {
                self.names.insert(open.conn, (reset.id, reset.syn));
                true
            }
            _ => false,
        }
    }

    /// A segment under the name that its connection is known by.
    pub fn place(&self, segment: &Segment) -> Segment {
        let mut segment = *segment;
        if let Some(&(id, syn)) = self.names.get(&segment.conn) {
            segment.conn = id;
            if segment.header.direction == Direction::Write as u8 {
                segment.offset = segment.offset.saturating_sub(syn);
                segment.end = segment.end.saturating_sub(syn);
            }
        }
        segment
    }

    /// When the oldest one has waited long enough.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting.front().map(|reset| reset.at_ns.saturating_add(GRACE_NS))
    }
}

impl Core {
    /// A connection was reset: what was written at that moment may still be told. False: nothing is known of its socket.
    pub(super) fn await_last_write(&mut self, id: u64, error: i32, at_ns: u64) -> bool {
        let Some(open) = self.flow.get(id).and_then(|connection| connection.described()) else {
            return false;
        };
        if open.family == FAMILY_UNIX {
            return false;
        }
        self.resets.waiting.push_back(Reset {
            id,
            error,
            at_ns,
            socket: (open.sock, open.inode),
            syn: (open.role == Role::Client as u8 && open.counted == 0) as u64,
        });
        true
    }

    /// The resets that have waited long enough take effect.
    pub(super) fn settle_resets(&mut self, now_ns: u64) {
        while self
            .resets
            .next_deadline_ns()
            .is_some_and(|deadline| deadline <= now_ns)
        {
            let Some(Reset { id, error, at_ns, .. }) = self.resets.waiting.pop_front() else {
                return;
            };
            self.resets.names.retain(|_, &mut (name, _)| name != id);
            if self.flow.get(id).is_some() {
                self.closed(id, error, at_ns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> Resets {
        Resets {
            waiting: [Reset {
                id: 1,
                error: libc::EPIPE,
                at_ns: 1000,
                socket: (0xffff, 7),
                syn: 1,
            }]
            .into(),
            names: HashMap::new(),
        }
    }

    fn open(conn: u64, sock: u64, inode: u64) -> Open {
        Open {
            conn,
            sock,
            inode,
            written: 11,
            ..Open::default()
        }
    }

    fn segment(conn: u64, direction: Direction) -> (u64, u64, u64) {
        let mut segment = Segment {
            conn,
            offset: 11,
            end: 31,
            ..Segment::default()
        };
        segment.header.direction = direction as u8;
        let mut resets = reset();
        assert!(resets.resume(&open(2, 0xffff, 7)));
        let Segment { conn, offset, end, .. } = resets.place(&segment);
        (conn, offset, end)
    }

    #[test]
    fn the_last_write_goes_to_the_connection_that_was_reset() {
        assert_eq!(segment(2, Direction::Write), (1, 10, 30));
        assert_eq!(segment(2, Direction::Read), (1, 11, 31));
        assert_eq!(segment(3, Direction::Write), (3, 11, 31));
    }

    #[test]
    fn another_socket_is_another_connection() {
        let mut resets = reset();
        assert!(!resets.resume(&open(2, 0xffff, 8)));
        assert!(!resets.resume(&open(2, 0xfffe, 7)));
        let from_birth = Open {
            from_birth: 1,
            ..open(2, 0xffff, 7)
        };
        assert!(!resets.resume(&from_birth));
        assert_eq!(resets.next_deadline_ns(), Some(1000 + GRACE_NS));
    }
}
