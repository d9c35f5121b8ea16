//! Connections of targets: roles, stream offsets, gaps, and the pairs of two ends on one host.

mod connection;
mod description;
mod hints;
mod left_behind;
mod pairs;
mod stream;

pub use connection::{Connection, Fed, Requests};
pub use hints::IGNORE;
pub use pairs::Pairs;

use left_behind::LeftBehind;
use pairs::{Key, Life};

use crate::{
    counters::counters,
    engine::{
        exchange::ExchangeId,
        execution::{Author, ByProcess, Executions, ProcessId, Stamp},
        proto::{Config, Event},
    },
    hash::{FastMap, FastSet},
    record::{Base, Connect, ConnectionId, Direction, Open, Role, Segment, Tgid},
};

/// Number of Unix connections without HTTP from which on their ends must be known. Each service of systemd has one, to
/// its journal.
const MANY_UNIX: usize = 1024;

/// Connections of refused processes that each of two sets remembers, so that their late records are recognised.
const LET_GO: usize = 4096;

/// Time for which further records may have been lost that nobody has noticed: each thread tells of a loss with its next record.
const LOSS_NS: u64 = 10_000_000_000;

counters! {
    /// Counters of connections that were not followed as they should be.
    pub struct Counters {
        /// Connections that were forgotten because the limit was reached: those without a record for longest.
        connections_displaced,
        /// Connections that ended without a record of it, as the kernel's table of connections shows.
        ends_lost,
        /// Records of unknown connections: the first record was lost, or the connection was forgotten.
        unknown_connection,
        /// Bytes without a record that are not known to be body, on connections that a parser reads.
        gap_bytes,
        /// Bytes of connections with HTTP/1 or Redis that passed while no boundary of a message was known.
        unsynchronised_bytes,
        /// Records that repeat bytes of an earlier record.
        repeated_records,
        /// Connections that were forgotten because nothing happened on them for long.
        idle_forgotten,
        /// Connections that carry no protocol which is read.
        opaque,
        /// Multipath TCP connections: their two ends cannot be matched.
        mptcp,
        /// Ended connections whose requests their far ends can find no more, because there were too many.
        left_behind_too_many,
        /// Ended Unix connections with requests whose far end is not certain: it may be an earlier socket's at the same
        /// address, because records were lost.
        uncertain_peer,
    }
}

/// All connections of targets that are open now.
#[derive(Debug)]
pub struct Flow {
    /// Boxed: the table has up to twice as many places as connections, and has to be copied when it grows.
    connections: FastMap<ConnectionId, Box<Connection>>,
    /// Connections by the process that used them last, for the exits of processes.
    used_by: ByProcess<FastSet<ConnectionId>>,
    /// Far ends of the connections.
    pairs: Pairs,
    left_behind: LeftBehind,
    /// Connections of refused processes, later and earlier ones: their records are still on the way.
    let_go: [FastSet<ConnectionId>; 2],
    most: usize,
    /// Connections without a record for longest, and since when: the longest last. They make room for others.
    longest_idle: Vec<(u64, ConnectionId)>,
    /// Time at which a lost record was noticed last; `None`: none was.
    lost_ns: Option<u64>,
    /// Number of Unix connections.
    unix: usize,
    /// Set once HTTP was seen on one of them.
    unix_followed: bool,
    /// Connections that were not followed as they should be.
    pub counters: Counters,
}

impl Flow {
    /// Creates a flow that follows at most `most` connections at a time.
    pub fn new(most: usize) -> Self {
        Self {
            connections: FastMap::default(),
            used_by: ByProcess::default(),
            pairs: Pairs::default(),
            left_behind: LeftBehind::default(),
            let_go: Default::default(),
            most,
            longest_idle: Vec::new(),
            lost_ns: None,
            unix: 0,
            unix_followed: false,
            counters: Counters::default(),
        }
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Returns whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Returns the connection to forget before a new one is registered, if there is no room for that: the one without a
    /// record for longest.
    ///
    /// The kernel's table has the same limit. So where there is no room, records of ends were lost, and the connection
    /// is most likely over.
    pub fn displaced_by(&mut self, new: ConnectionId) -> Option<ConnectionId> {
        if self.connections.len() < self.most || self.connections.contains_key(&new) || self.is_let_go(new) {
            return None;
        }
        let Self {
            connections,
            longest_idle,
            ..
        } = self;
        let is_idle = |&(since_ns, id): &(u64, ConnectionId)| {
            connections
                .get(&id)
                .is_some_and(|connection| connection.last_ns == since_ns)
        };
        while let Some(longest) = longest_idle.pop() {
            if is_idle(&longest) {
                return Some(longest.1);
            }
        }
        // One search for many connections: each costs a look at 64 others.
        let mut all: Vec<_> = connections.values().map(|c| (c.last_ns, c.id)).collect();
        let many = (all.len() / 64).max(1);
        if many < all.len() {
            all.select_nth_unstable(many - 1);
            all.truncate(many);
        }
        all.sort_unstable_by(|one, other| other.cmp(one));
        let displaced = all.pop();
        *longest_idle = all;
        displaced.map(|(_, id)| id)
    }

    /// Registers a connection of a process, or describes one that is known from its connect(2). The caller has made
    /// room for it ([`Flow::displaced_by`]).
    pub fn open(&mut self, open: &Open, process: ProcessId) -> Option<&mut Connection> {
        if self.is_let_go(open.conn) {
            return None;
        }
        let was_unix = self.get(open.conn).is_some_and(Connection::is_unix);
        self.counters.mptcp += u64::from(open.base == Base::Counted);
        let connection = self
            .connections
            .entry(open.conn)
            // The description may change the key of a connection, so its old pair goes first.
            .and_modify(|connection| {
                self.pairs.remove(connection);
                connection.describe(open);
            })
            .or_insert_with(|| {
                self.used_by.get_or_default(process).insert(open.conn);
                Box::new(Connection::new(open, process))
            });
        if connection.role() != Role::Unknown {
            self.pairs
                .insert(connection, open.stamp.time_ns.min(connection.last_ns));
        }
        if connection.is_unix() && !was_unix {
            self.unix += 1;
        }
        Some(connection)
    }

    /// Registers a connection whose connect(2) is under way, or takes that record for a known one. The caller has made
    /// room for it ([`Flow::displaced_by`]).
    pub fn connect(&mut self, connect: &Connect<'_>, process: ProcessId) -> Option<&mut Connection> {
        if self.is_let_go(connect.conn) {
            return None;
        }
        let connection = self
            .connections
            .entry(connect.conn)
            .or_insert_with(|| Box::new(Connection::connecting(connect, process)));
        let before = connection.process;
        connection.connected(connect, process);
        if before != process {
            unuse(&mut self.used_by, before, connect.conn);
        }
        self.used_by.get_or_default(process).insert(connect.conn);
        self.pairs.was_there(connection, connect.start_ns);
        Some(connection)
    }

    /// Ends the half of a connection that is read (or written), and appends the events of the protocol.
    ///
    /// Returns the process that used the connection and a name for its protocol, if the connection is given up.
    pub fn end(
        &mut self,
        id: ConnectionId,
        way: Direction,
        stamp: Stamp,
        config: &Config,
        events: &mut Vec<Event>,
    ) -> Option<(ProcessId, &'static str)> {
        self.known(id)?;
        let connection = self.connections.get_mut(&id)?;
        let carries = connection.end(config, way, stamp, &mut self.counters, events)?;
        Some((connection.process, carries))
    }

    /// Takes a segment that `author` moved, and appends the events of the protocol.
    pub fn segment(&mut self, segment: &Segment<'_>, author: &Author, config: &Config, events: &mut Vec<Event>) -> Fed {
        let Some(connection) = self.connections.get_mut(&segment.conn) else {
            let is_let_go = self.is_let_go(segment.conn);
            self.counters.unknown_connection += u64::from(!is_let_go);
            // The programs have not seen the hint: another connection's hint has overwritten it in their shared slot.
            let again = is_let_go.then_some(IGNORE);
            return Fed {
                hints: again,
                ..Fed::default()
            };
        };
        let process = author.execution.process;
        // The programs do not know who moved some bytes (`by_nobody`, agent-ebpf/src/socket/ends.rs).
        if connection.process != process && segment.stamp.execution.tgid != Tgid(0) {
            unuse(&mut self.used_by, connection.process, segment.conn);
            self.used_by.get_or_default(process).insert(segment.conn);
            connection.pass_to(process);
        }
        let mut fed = connection.segment(segment, author.stamp(), config, &mut self.counters, events);
        fed.unknown_read = segment.direction == Direction::Read && connection.hides_requests();
        if fed.role_found {
            self.pairs.insert(connection, connection.last_ns);
        }
        if !self.unix_followed && connection.is_unix() && connection.is_followed() {
            self.unix_followed = true;
        }
        fed
    }

    /// Returns whether ends of Unix connections matter: one carries HTTP, or there are so many that they must be
    /// forgotten in time.
    pub fn needs_unix_ends(&self) -> bool {
        self.unix_followed || self.unix > MANY_UNIX
    }

    /// Returns the Unix connections, by name.
    pub fn unix_connections(&self) -> Vec<&Connection> {
        let mut unix: Vec<_> = self
            .connections
            .values()
            .map(Box::as_ref)
            .filter(|c| c.is_unix())
            .collect();
        unix.sort_unstable_by_key(|connection| connection.id);
        unix
    }

    /// Notes that a process has closed its descriptor of a connection that others still have.
    pub fn release(&mut self, id: ConnectionId, process: ProcessId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let sharing = connection.sharing.get_or_insert_default();
            sharing.holders.retain(|&holder| holder != process);
            sharing.released |= connection.process == process;
        }
    }

    /// Hands a Unix connection of an ended process to another one that has it, which counts as its user from now on.
    ///
    /// Returns whether the connection lives on.
    pub fn hand_back(&mut self, id: ConnectionId, lives: impl Fn(ProcessId) -> bool) -> bool {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| c.is_unix()) else {
            return false;
        };
        let Some(sharing) = &mut connection.sharing else {
            return false;
        };
        sharing.holders.retain(|&holder| lives(holder));
        let Some(holder) = sharing.holders.pop() else {
            // The last user closed it before it ended, and others had it then: a process that was never seen to use it
            // keeps it open.
            return sharing.released;
        };
        unuse(&mut self.used_by, connection.process, id);
        self.used_by.get_or_default(holder).insert(id);
        connection.process = holder;
        true
    }

    /// Returns a connection.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id).map(Box::as_ref)
    }

    /// Returns a connection. Counts an unknown one.
    pub fn known(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(&id);
        if connection.is_none() {
            let is_let_go = self.let_go.iter().any(|some| some.contains(&id));
            self.counters.unknown_connection += u64::from(!is_let_go);
        }
        connection.map(Box::as_mut)
    }

    fn is_let_go(&self, id: ConnectionId) -> bool {
        self.let_go.iter().any(|some| some.contains(&id))
    }

    /// Returns the far end of a connection, if a target has that, too, and it is certain.
    pub fn peer(&self, id: ConnectionId) -> Option<&Connection> {
        let here = self.get(id)?;
        self.candidate(here)
            .filter(|far| self.is_certain(here, self.pairs.life(far)))
    }

    /// Returns the far end of a connection, or another connection that had the same two Unix sockets' addresses.
    fn candidate(&self, here: &Connection) -> Option<&Connection> {
        // TCP's simultaneous open connects a socket to itself (RFC 9293 section 3.5): it is not its own peer.
        let peer = self.pairs.candidate(here).filter(|&peer| peer != here.id)?;
        self.get(peer)
    }

    /// Returns whether the connection whose key fits, and which lived so long, is the far end.
    fn is_certain(&self, here: &Connection, far: Option<Life>) -> bool {
        let here = self.pairs.life(here);
        here.zip(far).is_some_and(|(here, far)| here.meets(far))
    }

    /// Notes that a Unix connection has its socket at this time. If that tells which connection is its far end, returns
    /// the pairs of their requests until now: here, and there.
    pub fn seen_at(&mut self, id: ConnectionId, at_ns: u64) -> Vec<(ExchangeId, ExchangeId)> {
        // This runs for each segment: where there is no Unix connection, it costs no hash.
        if self.unix == 0 {
            return Vec::new();
        }
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.is_unix()) else {
            return Vec::new();
        };
        connection.last_ns = connection.last_ns.max(at_ns);
        // Requests that come later find those of the far end themselves.
        if connection.offsets.is_empty() || self.pairs.is_paired(connection) {
            return Vec::new();
        }
        let (Some(here), Some(far)) = (self.connections.get(&id), self.far_offsets(id)) else {
            return Vec::new();
        };
        let there = |&(offset, here): &(u64, ExchangeId)| {
            let index = far.binary_search_by_key(&offset, |&(offset, _)| offset).ok()?;
            far.get(index).map(|&(_, there)| (here, there))
        };
        let pairs = here.offsets.iter().filter_map(there).collect();
        self.pairs.pair(here);
        pairs
    }

    /// Notes at the far end that one end of a Unix connection will send no more: no TCP state reports it.
    pub fn tell_far_end(&mut self, id: ConnectionId) {
        if self.get(id).is_some_and(Connection::is_unix)
            && let Some(peer) = self.peer(id).map(|peer| peer.id)
            && let Some(peer) = self.connections.get_mut(&peer)
        {
            peer.remote_fin = true;
        }
    }

    /// Returns whether requests read on a connection will be found at its far end, or were.
    ///
    /// The far end must be traced and followed, and both ends must count from the same byte.
    pub fn expects_peer(&self, id: ConnectionId) -> bool {
        // A candidate that is not certain may become so with its next record.
        self.get(id).is_some_and(|here| {
            self.candidate(here).is_some_and(|peer| {
                here.wire_offset(0).is_some() && peer.wire_offset(0).is_some() && peer.will_be_followed()
            })
        })
    }

    /// Returns the requests of a connection's far end, by the stream offsets that both ends can compare.
    pub fn far_offsets(&self, id: ConnectionId) -> Option<&Requests> {
        if let Some(peer) = self.peer(id) {
            return Some(&peer.offsets);
        }
        let left_behind = (!self.left_behind.is_empty()).then_some(&self.left_behind)?;
        let here = self.connections.get(&id)?;
        let (life, requests) = left_behind.get(&Key::own(here)?)?;
        // A client may have left before its server took the connection. While all records come, a later client at the same
        // address is known.
        (self.is_certain(here, Some(life)) || self.is_intact(life)).then_some(requests)
    }

    /// Notes that a record was lost, at this time or before.
    pub fn lost(&mut self, at_ns: u64) {
        self.lost_ns = self.lost_ns.max(Some(at_ns));
    }

    /// Returns whether no record was lost since a connection began, as far as was noticed.
    fn is_intact(&self, life: Life) -> bool {
        self.lost_ns
            .is_none_or(|lost_ns| lost_ns.saturating_add(LOSS_NS) < life.since_ns)
    }

    /// Keeps the `open` requests of a connection that ends, for its far end to find.
    ///
    /// A call's write(2) may be reported after everything that its server did, and a server may read after its client
    /// gave up.
    pub fn leave_behind(&mut self, id: ConnectionId, now_ns: u64, open: impl Fn(ExchangeId) -> bool) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let left: Requests = connection
            .offsets
            .iter()
            .copied()
            .filter(|&(_, node)| open(node))
            .collect();
        if !left.is_empty()
            && let Some(own) = Key::own(connection)
            && let Some(life) = self.pairs.life(connection)
        {
            let is_uncertain = self.is_uncertain(id);
            self.counters.left_behind_too_many += self.left_behind.leave(own.far(), (life, is_uncertain), left, now_ns);
        }
    }

    /// Forgets requests that were left behind before a time.
    pub fn forget_left_behind(&mut self, before_ns: u64) {
        self.counters.uncertain_peer += self.left_behind.forget_before(before_ns);
    }

    /// Forgets a connection.
    pub fn close(&mut self, id: ConnectionId) -> Option<Connection> {
        self.counters.uncertain_peer += u64::from(self.is_uncertain(id));
        let mut connection = self.connections.remove(&id)?;
        connection.close(&mut self.counters);
        unuse(&mut self.used_by, connection.process, id);
        self.pairs.remove(&connection);
        if !self.left_behind.is_empty()
            && let Some(own) = Key::own(&connection)
        {
            self.left_behind.remove(&own);
        }
        self.unix = self.unix.saturating_sub(usize::from(connection.is_unix()));
        Some(*connection)
    }

    /// Returns whether a connection with requests may have a far end, which is not certain.
    fn is_uncertain(&self, id: ConnectionId) -> bool {
        let here = self.get(id).filter(|here| here.is_unix() && !here.offsets.is_empty());
        here.is_some_and(|here| {
            let left_to = |key: Key| self.left_behind.get(&key).map(|(life, _)| life);
            let own = Key::own(here);
            let is_left = || own.and_then(left_to).is_some();
            // Its requests are looked for, until they are forgotten.
            let leaves =
                || own.is_some_and(|own| left_to(own.far()).is_some_and(|left| Some(left) == self.pairs.life(here)));
            !self.pairs.is_paired(here)
                && (self.candidate(here).is_some() || is_left())
                && self.far_offsets(id).is_none()
                && !leaves()
        })
    }

    /// Forgets a connection of a refused process: its later records are no loss.
    ///
    /// Returns whether it was not forgotten so before, and the connection.
    pub fn let_go(&mut self, id: ConnectionId) -> (bool, Option<Connection>) {
        if self.is_let_go(id) {
            return (false, None);
        }
        let connection = self.close(id);
        let [later, earlier] = &mut self.let_go;
        // Two generations instead of an order: the older half is dropped at once, at no cost for each record.
        if later.len() >= LET_GO {
            *earlier = std::mem::take(later);
        }
        later.insert(id);
        (true, connection)
    }

    /// Returns the connections without a record since `before_ns`, a time of `CLOCK_MONOTONIC`.
    pub fn idle(&self, before_ns: u64) -> Vec<ConnectionId> {
        let mut idle: Vec<ConnectionId> = self
            .connections
            .values()
            .filter(|connection| connection.last_ns < before_ns)
            .map(|c| c.id)
            .collect();
        idle.sort_unstable();
        idle
    }

    /// Returns the connections that a process used last.
    pub fn of_process(&self, process: ProcessId) -> Vec<ConnectionId> {
        let mut ids: Vec<ConnectionId> = self.used_by.get(process).into_iter().flatten().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the number of connections that a process used last, and of those still searched for a first request.
    pub fn count_of_process(&self, process: ProcessId) -> (usize, usize) {
        let ids = self.used_by.get(process);
        let searched = |id: &&ConnectionId| {
            self.connections
                .get(id)
                .is_some_and(|connection| connection.is_searched())
        };
        (
            ids.map_or(0, FastSet::len),
            ids.map_or(0, |ids| ids.iter().filter(searched).count()),
        )
    }

    /// Returns whether a process has connections that it used last.
    pub fn has_process(&self, process: ProcessId) -> bool {
        self.used_by.contains(process)
    }

    /// Keeps the handles that connections hold.
    pub fn keep(&self, executions: &mut Executions) {
        for connection in self.connections.values() {
            connection.keep(executions);
        }
    }
}

fn unuse(used_by: &mut ByProcess<FastSet<ConnectionId>>, process: ProcessId, id: ConnectionId) {
    if let Some(used) = used_by.get_mut(process) {
        used.remove(&id);
        if used.is_empty() {
            used_by.remove(process);
        }
    }
}
