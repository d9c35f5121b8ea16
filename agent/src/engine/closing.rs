//! Connections that TCP has closed, and on which calls of their process may still be reported. There are two cases:
//!
//! - A reset that answers a write on loopback arrives in an interrupt inside of that write(2): the record of the
//!   connection's end comes before the record of the write and its bytes.
//! - A process can read received bytes as long as it has the socket. After shutdown(2) of the sending side, the other
//!   end's FIN closes the connection while the response lies unread.
//!
//! By then the programs have forgotten the socket, and report each such call under a new name.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::Core;
use crate::{
    hash::FastMap,
    record::{Base, ConnectionId, Direction, Layer, Open, Role, Segment, Socket},
};

/// Upper bound on the time from a connection's end to the record of a call that was under way at that end.
const GRACE_NS: u64 = 50_000_000;

/// Upper bound on the connections that wait. Beyond it, the oldest end at once.
const MOST: usize = 16_384;

/// Upper bound on the later names of one socket: one for each thread that is in a call on it. The oldest is forgotten.
const NAMES: usize = 8;

/// Connection that is over, and the calls on it that may still be reported.
#[derive(Debug)]
struct Over {
    /// `sk_err`.
    error: i32,
    at_ns: u64,
    until_ns: u64,
    socket: Socket,
    /// Sent offsets of the new names count the SYN, those of the old one do not.
    syn: u64,
    /// Stream offset where the received bytes end, if some were not read.
    received_to: Option<u64>,
    /// New names of the socket.
    names: SmallVec<[ConnectionId; 2]>,
}

/// Connections that ended a moment ago.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Connections that wait, by the name that Core knows them by.
    over: FastMap<ConnectionId, Over>,
    /// Times at which the connections end, earliest first.
    due: BTreeSet<(u64, ConnectionId)>,
    /// Names that Core knows the connections by, by socket.
    sockets: FastMap<Socket, ConnectionId>,
    /// Old names by new ones, with the number of bytes by which the new one's received offsets are behind.
    names: FastMap<ConnectionId, (ConnectionId, u64)>,
}

impl Closing {
    /// Returns whether no connection waits: the usual case, asked for each segment.
    pub fn is_empty(&self) -> bool {
        self.over.is_empty()
    }

    /// Takes a new name of a connection that is over. Returns false if this is no such name.
    ///
    /// `read_to` returns the stream offset up to which a connection was read.
    pub fn resume(&mut self, open: &Open, read_to: impl FnOnce(ConnectionId) -> Option<u64>) -> bool {
        let is_new_name = !open.from_birth && open.role == Role::Unknown;
        let Some(&id) = self.sockets.get(&open.socket).filter(|_| is_new_name) else {
            return false;
        };
        let Some(over) = self.over.get_mut(&id) else {
            return false;
        };
        if over.names.len() >= NAMES {
            self.names.remove(&over.names.remove(0));
        }
        over.names.push(open.conn);
        // The programs cannot distinguish a socket that was reset from one whose FIN was read with its last bytes: in
        // both cases they subtract one sequence number for a FIN.
        let no_fin = over.error != 0 && read_to(id) == Some(open.read.wrapping_add(1));
        self.names.insert(open.conn, (id, no_fin as u64));
        true
    }

    /// Returns a segment under the name that its connection is known by, if that is another one.
    pub fn place<'a>(&self, segment: &Segment<'a>) -> Option<Segment<'a>> {
        // This runs for each segment: an empty table costs no hash.
        if self.names.is_empty() {
            return None;
        }
        let &(id, behind) = self.names.get(&segment.conn)?;
        let syn = self.over.get(&id)?.syn;
        let mut segment = *segment;
        segment.conn = id;
        // Offsets of plaintext count neither SYN nor FIN.
        if segment.layer == Layer::Tls {
            return Some(segment);
        }
        if segment.direction == Direction::Write {
            segment.offset = segment.offset.saturating_sub(syn);
            segment.end = segment.end.saturating_sub(syn);
            segment.further.shift(syn.wrapping_neg());
        } else {
            // The programs took one number too many off: a first byte of offset 0 has wrapped around.
            segment.offset = segment.offset.wrapping_add(behind);
            segment.end = segment.end.wrapping_add(behind);
            segment.further.shift(behind);
        }
        Some(segment)
    }

    /// Returns whether a connection waits.
    pub fn contains(&self, id: ConnectionId) -> bool {
        self.over.contains_key(&id)
    }

    /// Returns whether a connection waits that was reset.
    pub fn is_reset(&self, id: ConnectionId) -> bool {
        self.over.get(&id).is_some_and(|over| over.error != 0)
    }

    /// Returns the offset at which the received bytes of a connection end, if it waits for these to be read.
    fn received_to(&self, id: ConnectionId) -> Option<u64> {
        self.over.get(&id)?.received_to
    }

    /// Returns the time at which the first connection has waited long enough.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.due.first().map(|&(until_ns, _)| until_ns)
    }

    /// Forgets a connection that waits no more.
    pub fn forget(&mut self, id: ConnectionId) {
        self.remove(id);
    }

    fn insert(&mut self, id: ConnectionId, over: Over) {
        self.remove(id);
        self.due.insert((over.until_ns, id));
        self.sockets.insert(over.socket, id);
        self.over.insert(id, over);
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Over> {
        let over = self.over.remove(&id)?;
        self.due.remove(&(over.until_ns, id));
        if self.sockets.get(&over.socket) == Some(&id) {
            self.sockets.remove(&over.socket);
        }
        for name in &over.names {
            self.names.remove(name);
        }
        Some(over)
    }

    /// Makes a connection wait until its process has read the bytes received up to this offset.
    fn wait_for_reads(&mut self, id: ConnectionId, received_to: u64, hold_ns: u64) -> bool {
        let Some(over) = self.over.get_mut(&id) else {
            return false;
        };
        over.received_to = Some(received_to);
        self.due.remove(&(over.until_ns, id));
        over.until_ns = over.until_ns.max(over.at_ns.saturating_add(hold_ns));
        self.due.insert((over.until_ns, id));
        true
    }
}

impl Core {
    /// Makes a connection that is over wait for calls on it that may still be reported. Returns false if nothing is
    /// known of its socket.
    pub(super) fn await_last_calls(&mut self, id: ConnectionId, error: i32, at_ns: u64) -> bool {
        let Some(open) = self.flow.get(id).and_then(|connection| connection.described()) else {
            return false;
        };
        if matches!(open.base, Base::Unix(_)) {
            return false;
        }
        let over = Over {
            error,
            at_ns,
            until_ns: at_ns.saturating_add(GRACE_NS),
            socket: open.socket,
            syn: (open.role == Role::Client && matches!(open.base, Base::Sequences { .. })) as u64,
            received_to: None,
            names: SmallVec::new(),
        };
        if self.closing.over.len() >= MOST
            && let Some(&(_, oldest)) = self.closing.due.first()
        {
            self.counters.closed_early += 1;
            self.settle_closing(oldest);
        }
        self.closing.insert(id, over);
        true
    }

    /// Makes a closed connection wait for the read of its bytes, which end at this offset. Its process may read them as
    /// long as spans are held.
    pub(super) fn await_reads(&mut self, id: ConnectionId, received_to: u64) -> bool {
        self.closing.wait_for_reads(id, received_to, self.hold_ns)
    }

    /// Ends a connection that is over, if the segment just taken was the last that it received.
    pub(super) fn end_if_read(&mut self, id: ConnectionId, now_ns: u64) {
        let read_to = self.flow.get(id).map(|connection| connection.reached(Direction::Read));
        if let Some((received_to, read_to)) = self.closing.received_to(id).zip(read_to)
            && read_to >= received_to
            && let Some(over) = self.closing.remove(id)
        {
            self.closed(id, over.error, now_ns);
        }
    }

    /// Ends a connection that waits.
    pub(super) fn settle_closing(&mut self, id: ConnectionId) {
        let Some(over) = self.closing.remove(id) else { return };
        if self.flow.get(id).is_some() {
            self.counters.left_unread += u64::from(over.received_to.is_some());
            self.closed(id, over.error, over.at_ns);
        }
    }

    /// Ends the connections that have waited long enough.
    pub(super) fn settle_due(&mut self, now_ns: u64) {
        while let Some(&(until_ns, id)) = self.closing.due.first()
            && until_ns <= now_ns
        {
            self.settle_closing(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Address, Layer, Rest, Since, Slices, Stamp};

    const OLD: ConnectionId = ConnectionId(1);
    const SOCKET: Socket = Socket {
        address: 0xffff,
        inode: 7,
    };

    fn closing() -> Closing {
        let mut closing = Closing::default();
        closing.insert(
            OLD,
            Over {
                error: libc::EPIPE,
                at_ns: 1000,
                until_ns: 1000 + GRACE_NS,
                socket: SOCKET,
                syn: 1,
                received_to: None,
                names: SmallVec::new(),
            },
        );
        closing
    }

    fn open(conn: u64, socket: Socket) -> Open {
        Open {
            stamp: Stamp::default(),
            conn: ConnectionId(conn),
            socket,
            base: Base::Sequences { sent: 0, received: 0 },
            written: 11,
            read: 0,
            role: Role::Unknown,
            local: Address::Unix,
            remote: Address::Unix,
            from_birth: false,
        }
    }

    fn placed(closing: &Closing, conn: u64, direction: Direction) -> Option<(u64, u64, u64)> {
        let segment = Segment {
            stamp: Stamp::default(),
            since: Since::default(),
            conn: ConnectionId(conn),
            layer: Layer::Wire,
            direction,
            offset: 11,
            end: 31,
            call_bytes: 20,
            until: None,
            bytes: &[],
            further: Slices::default(),
            rest: Rest::Gap,
            unknown_opening: false,
            watched: false,
            polled: false,
        };
        let Segment { conn, offset, end, .. } = closing.place(&segment)?;
        Some((conn.0, offset, end))
    }

    #[test]
    fn late_calls_go_to_the_connection_that_is_over() {
        let mut closing = closing();
        assert!(closing.resume(&open(2, SOCKET), |_| Some(0)));
        assert_eq!(placed(&closing, 2, Direction::Write), Some((1, 10, 30)));
        assert_eq!(placed(&closing, 2, Direction::Read), Some((1, 11, 31)));
        assert_eq!(placed(&closing, 3, Direction::Write), None);
    }

    #[test]
    fn no_fin_was_read_of_a_connection_that_was_reset() {
        let mut closing = closing();
        assert!(closing.resume(&open(2, SOCKET), |_| Some(1)));
        assert_eq!(placed(&closing, 2, Direction::Read), Some((1, 12, 32)));
    }

    #[test]
    fn another_socket_is_another_connection() {
        let mut closing = closing();
        assert!(!closing.resume(&open(2, Socket { inode: 8, ..SOCKET }), |_| None));
        assert!(!closing.resume(
            &open(
                2,
                Socket {
                    address: 0xfffe,
                    ..SOCKET
                }
            ),
            |_| None
        ));
        let from_birth = Open {
            from_birth: true,
            ..open(2, SOCKET)
        };
        assert!(!closing.resume(&from_birth, |_| None));
        assert_eq!(closing.next_deadline_ns(), Some(1000 + GRACE_NS));
    }

    /// A byte a read: each has a name of its own.
    #[test]
    fn names_are_forgotten() {
        let mut closing = closing();
        for conn in 2..10_000 {
            assert!(closing.resume(&open(conn, SOCKET), |_| None));
        }
        assert_eq!(closing.names.len(), NAMES);
        assert_eq!(placed(&closing, 9_999, Direction::Read), Some((1, 11, 31)));
        assert!(closing.remove(OLD).is_some());
        assert!(closing.is_empty() && closing.names.is_empty() && closing.sockets.is_empty() && closing.due.is_empty());
    }
}
