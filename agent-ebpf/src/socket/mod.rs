//! Connections: the kernel's socket, its name, and the positions of its two streams.
//!
//! [`descriptor`] walks from a file descriptor to a socket, [`describe`] describes a connection to Core, [`place`]
//! finds the bytes of a call in the stream, [`ends`] reports how far the streams have come when they end.

mod describe;
mod descriptor;
mod ends;
mod place;
mod poller;

use agent_ebpf::{
    abi::{
        CONN_CPU_BITS, Counter, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, IGNORED, Layer, Role, STATE_LOST_READ,
        STATE_LOST_WRITTEN, StreamName,
    },
    plan::Way,
    slot::Slot,
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray},
};
pub use describe::{describe, remote, upper_layer};
pub use descriptor::{Socket, file, inode, socket};
pub use ends::{
    catch_up, fin_read, pass_read, read_to, report_end_of_file, report_ends, report_last, report_unread, unseen,
};
pub use place::{Place, place};
pub use poller::{forget_poller, is_polled};

use crate::{
    counters::count,
    hooks::splice::number_of_splices,
    kernel::{is_missing, offset, read, word},
    maps::{CONTROL, UNIX_USERS, hint, mark, unix_user},
    scratch::scratch,
};

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// Connections by the address of their socket.
#[map]
static CONNECTIONS: HashMap<u64, Connection> = HashMap::with_max_entries(65536, 0);

/// Number of connections that this processor has named.
#[map]
static NAMED: PerCpuArray<Slot<u64>> = PerCpuArray::with_max_entries(1, 0);

/// State of a connection. Programs on all processors read and write it at once.
#[repr(C)]
pub struct Connection {
    /// Name of the connection in records.
    pub id: Slot<u64>,
    /// Inode number of the socket.
    pub inode: Slot<u64>,
    /// Address of the file, compared without a read. The kernel may reuse it sooner than the inode number.
    pub file: Slot<u64>,
    /// Time at which connect(2) was called; 0 if it was not.
    pub connect_ns: Slot<u64>,
    /// Address of the epoll set that watched the socket last; 0: none was seen. Of servers, for [`is_polled`].
    pub set: Slot<u64>,
    /// Thread that connected (process id in the upper half), if the connection is described in an interrupt; else 0.
    pub opener: Slot<u64>,
    /// Directions of the bytes that the socket carries, by [`Direction`](agent_ebpf::abi::Direction).
    pub wire: [Way; 2],
    /// Sequence numbers of stream offset 0, by direction.
    pub base: [Slot<u32>; 2],
    /// Flags: `OPAQUE` and following.
    flags: Slot<u32>,
    /// [`Role`] as a number.
    pub role: Slot<u32>,
    /// Positive errno of a connect that failed before connect(2) returned.
    pub connect_error: Slot<i32>,
    /// 1: the ring had no room for the last record of this direction.
    lost: [Slot<u8>; 2],
    /// Sends by splice(2) of the connection's process, as of its last call, for `hooks/splice.rs`.
    pub splices: Slot<u16>,
}

/// The connection is ignored from now on.
pub const OPAQUE: u32 = 1;
/// Offsets are counted: sequence numbers cannot be read (Unix, MPTCP).
pub const COUNTED: u32 = 2;
/// The record Open was submitted.
pub const DESCRIBED: u32 = 4;
/// The connection was seen from its first byte.
pub const FROM_BIRTH: u32 = 8;
/// A Unix socket.
pub const UNIX: u32 = 16;
/// connect(2) has returned.
pub const CONNECT_RETURNED: u32 = 32;
/// Each call is reported: one began like a message's head, or Core has sent a hint. Never cleared, because the slot of
/// the hint may be another connection's by the next call.
pub const FOLLOWED: u32 = 64;
/// The connection is established, although the socket's state is not set yet.
pub const ESTABLISHED: u32 = 256;
/// No process has the socket any more. Kept here, because the memory of its file may hold another file by now.
pub const RELEASED: u32 = 128;
/// Each splice(2) out of the connection has been counted.
pub const SPLICES_COUNTED: u32 = 512;
/// Multipath TCP.
pub const MULTIPATH: u32 = 1024;
/// An epoll set has watched the socket. Some loops take it out of the set before each call.
const WATCHED_ONCE: u32 = 4096;
/// The role is known, but perhaps not the first bytes: the process may not have been a target then.
const ROLE_ALONE: u32 = 2048;

impl Connection {
    /// Returns whether one of the flags is set.
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.get() & flags != 0
    }

    /// Sets flags. Two programs that set different flags at once may lose one; the next call finds it out again.
    #[inline(always)]
    pub fn add(&self, flags: u32) {
        self.flags.set(self.flags.get() | flags);
    }

    /// Returns whether an epoll set has ever watched the socket, as far as was asked. `now`: whether one does.
    #[inline(always)]
    pub fn is_watched(&self, now: bool) -> bool {
        if now && !self.has(WATCHED_ONCE) {
            self.add(WATCHED_ONCE);
        }
        now || self.has(WATCHED_ONCE)
    }

    /// Notes whether the ring had room for a record of bytes.
    #[inline(always)]
    pub fn submitted(&self, way: usize, done: bool) {
        self.lost[way & 1].set(!done as u8);
    }

    /// Ignores the connection from now on, because its offsets are not known any more (counted). The outcome of what is
    /// under way is unknown.
    #[inline(always)]
    pub fn give_up(&self) {
        count(Counter::Uncounted, 1);
        self.submitted(0, false);
        self.submitted(1, false);
        self.add(OPAQUE);
    }

    /// Returns [`STATE_LOST_READ`] and [`STATE_LOST_WRITTEN`] for the directions whose last record was lost.
    #[inline(always)]
    pub fn lost(&self) -> u8 {
        self.lost[0].get() * STATE_LOST_READ | self.lost[1].get() * STATE_LOST_WRITTEN
    }

    /// Takes a new hint of Core for a direction whose next byte is at `start`.
    #[inline(always)]
    pub fn adopt(&self, way: usize, start: u64) {
        if let Some(hint) = hint(StreamName::new(self.id.get(), Layer::Wire), way)
            && self.wire[way & 1].adopt(hint, start)
        {
            self.add(FOLLOWED);
        }
    }

    /// Begins both directions at stream offsets about which nothing else is known.
    #[inline(always)]
    fn begin(&self, read: u64, written: u64) {
        self.wire[0].begin(read);
        self.wire[1].begin(written);
    }

    /// Begins both directions at the connection's first byte.
    #[inline(always)]
    fn begin_at_birth(&self) {
        let role = self.role.get();
        if role == Role::Unknown as u32 {
            return;
        }
        let is_client = role == Role::Client as u32;
        self.wire[0].begin_at_birth(is_client);
        self.wire[1].begin_at_birth(!is_client);
    }
}

/// Returns the entry of a socket. It stays readable while a program runs. If the socket is closed meanwhile, it may
/// become another socket's: its name, file and sequence numbers then differ.
#[inline(always)]
pub fn connection(sock: u64) -> Option<&'static Connection> {
    // SAFETY: memory of a map lives longer than the programs that use it, and all its fields are slots.
    unsafe { CONNECTIONS.get(&sock) }
}

/// Returns whether an epoll set watches a file.
#[inline(always)]
pub fn is_in_epoll(file: u64) -> bool {
    !is_missing!(file_epoll) && word(file + offset!(file_epoll) as u64).is_some_and(|set| set != 0)
}

/// Removes the entry of a socket.
#[inline(always)]
pub fn remove(sock: u64) {
    let _ = CONNECTIONS.remove(&sock);
}

/// Removes the entry of the socket whose address lies here. The key stays in its slot: older verifiers would count it
/// as one more word of stack.
#[inline(always)]
pub fn remove_at(sock: &Slot<u64>) {
    // SAFETY: the slot is this processor's memory, which no other program writes between `enter` and `leave`.
    let _ = CONNECTIONS.remove(unsafe { &*sock.as_ptr() });
}

/// Returns whether Core has given up a connection. Perhaps only a part of its bytes was seen, because its process may
/// be no target any more.
#[inline(always)]
pub fn is_given_up(id: u64) -> bool {
    let wire = StreamName::new(id, Layer::Wire);
    let is_ignored = |way| hint(wire, way).is_some_and(|hint| hint.until == IGNORED);
    is_ignored(0) && is_ignored(1)
}

/// Kind of stream that a socket carries.
#[derive(Clone, Copy)]
pub struct Stream {
    /// One of `FAMILY_*`.
    pub family: u8,
    /// Whether offsets are counted, because sequence numbers cannot be read.
    pub counted: bool,
    /// Whether this is Multipath TCP.
    pub multipath: bool,
}

/// Returns the stream of a socket; `None` for other sockets (UDP, netlink, raw …).
#[inline(always)]
pub fn stream(sock: u64) -> Option<Stream> {
    let family: u16 = read(sock + offset!(sock_family) as u64)?;
    let family = family as u8;
    if family == FAMILY_UNIX {
        if is_missing!(sock_type) {
            return None;
        }
        let kind: u16 = read(sock + offset!(sock_type) as u64)?;
        return (kind == SOCK_STREAM).then_some(Stream {
            family,
            counted: true,
            multipath: false,
        });
    }
    if family != FAMILY_INET && family != FAMILY_INET6 {
        return None;
    }
    match read::<u16>(sock + offset!(sock_protocol) as u64)? {
        // Without one of the fields, sequence numbers are useless: user space then marks this one as missing.
        IPPROTO_TCP => Some(Stream {
            family,
            counted: is_missing!(tcp_copied_seq),
            multipath: false,
        }),
        IPPROTO_MPTCP => Some(Stream {
            family,
            counted: true,
            multipath: true,
        }),
        _ => None,
    }
}

/// Bytes that the present call had already moved when its connection is described.
#[derive(Clone, Copy)]
pub struct Moved {
    /// Received.
    pub read: u64,
    /// Sent.
    pub written: u64,
}

impl Moved {
    /// A call without bytes.
    pub const NONE: Self = Self { read: 0, written: 0 };
}

/// Returns a name that is never used twice while the agent runs.
#[inline(always)]
fn next_id() -> u64 {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u64;
    let Some(named) = NAMED.get(0) else { return 0 };
    let number = named.get() + 1;
    named.set(number);
    number << CONN_CPU_BITS | cpu & ((1 << CONN_CPU_BITS) - 1)
}

/// Inserts a socket into the table, with nothing known about it yet.
#[inline(always)]
pub fn insert(socket: Socket, stream: Stream, role: Role) -> Option<&'static Connection> {
    let splices = CONTROL
        .get(0)
        .is_some_and(|control| control.splices_are_counted.get() != 0);
    let flags = (if stream.counted { COUNTED } else { 0 })
        | (if stream.family == FAMILY_UNIX { UNIX } else { 0 })
        | (if stream.multipath { MULTIPATH } else { 0 })
        | (if splices { SPLICES_COUNTED } else { 0 });
    // Not on the stack: a program and the functions that it calls share 512 bytes.
    let new = &scratch()?.connection;
    new.id.set(next_id());
    new.inode.set(inode(socket.file)?);
    new.file.set(socket.file);
    new.connect_ns.set(0);
    new.set.set(0);
    new.opener.set(0);
    new.begin(0, 0);
    new.base[0].set(0);
    new.base[1].set(0);
    new.flags.set(flags);
    new.role.set(role as u32);
    new.connect_error.set(0);
    new.lost[0].set(0);
    new.lost[1].set(0);
    new.splices.set(if stream.counted { number_of_splices() } else { 0 });
    if CONNECTIONS.insert(&socket.sock, new, 0).is_err() {
        count(Counter::ConnectionsFull, 1);
        return None;
    }
    if stream.family == FAMILY_UNIX {
        mark(&UNIX_USERS, unix_user((bpf_get_current_pid_tgid() >> 32) as u32), true);
    }
    connection(socket.sock)
}

/// Returns whether an entry marks the socket's connection as ignored. The file shows that the entry is not of a former
/// socket at the same address.
#[inline(always)]
pub fn is_opaque(connection: &Connection, socket: Socket) -> bool {
    connection.has(OPAQUE)
        && (connection.file.get() == socket.file || inode(socket.file) == Some(connection.inode.get()))
}

/// Returns the connection of a socket, and describes it if it is new. `known`: the table's entry. `moved`: bytes that
/// the present call has moved already, so that the description has the positions before it.
#[inline(always)]
pub fn of(socket: Socket, known: Option<&'static Connection>, moved: Moved) -> Option<&'static Connection> {
    if let Some(connection) = known {
        // A Unix socket has no sequence number that would show a former socket at the same address.
        let same = !connection.has(UNIX) || inode(socket.file)? == connection.inode.get();
        if same && connection.has(DESCRIBED) {
            return Some(connection);
        }
        if same {
            return describe(socket.sock, moved).then_some(connection);
        }
        remove(socket.sock);
    }
    open(socket, Role::Unknown, moved)
}

/// Inserts a socket into the table and describes it.
#[inline(always)]
pub fn open(socket: Socket, role: Role, moved: Moved) -> Option<&'static Connection> {
    let stream = stream(socket.sock)?;
    let accepted = offset!(by_events) == 1 && stream.multipath && is_accepted(socket.sock);
    let connection = insert(socket, stream, if accepted { Role::Server } else { role })?;
    if accepted {
        connection.add(ROLE_ALONE);
    }
    describe(socket.sock, moved).then_some(connection)
}

/// Multipath TCP connections that were accepted. The kernel makes them before a process has them, with a change of state,
/// and nothing in them tells it later.
#[map]
static ACCEPTED: LruHashMap<u64, Slot<u64>> = LruHashMap::with_max_entries(4096, 0);

/// Notes that a connection is accepted, if it is one of Multipath TCP. Called in an interrupt.
#[inline(always)]
pub fn note_accepted(sock: u64) {
    if read::<u16>(sock + offset!(sock_protocol) as u64) == Some(IPPROTO_MPTCP) {
        let _ = ACCEPTED.insert(&sock, &Slot::new(1), 0);
    }
}

/// Forgets a former connection at an address.
#[inline(always)]
pub fn forget_accepted(sock: u64) {
    let _ = ACCEPTED.remove(&sock);
}

/// Returns whether a connection of Multipath TCP was accepted, and is open: bytes that are read behind its end get a
/// description without a role.
#[inline(always)]
fn is_accepted(sock: u64) -> bool {
    // SAFETY: memory of a map lives longer than the programs that use it, and its values are slots.
    let known = unsafe { ACCEPTED.get(&sock) }.is_some();
    known && read::<u8>(sock + offset!(sock_state) as u64).is_some_and(|state| state != TCP_CLOSE)
}
