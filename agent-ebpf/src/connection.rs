//! Which connection: the kernel's socket, its name, its sequence numbers.

use agent_ebpf::abi::{
    CONN_CPU_BITS, Counter, Direction, Execution, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, Header, Kind, Open, Role,
    Segment, UNTIL_CLOSE,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id};

use crate::{
    emit,
    kernel::{self, Socket, is_missing, offset, read},
    maps::{
        CARRY_BYTES, CONNECTIONS, COUNTED, Connection, DESCRIBED, EVENTS, FROM_BIRTH, NAMED, OPAQUE, SCRATCH, UNIX,
        UNIX_USERS, Words, count, mark, unix_user, work,
    },
};

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// What kind of stream a socket carries.
#[derive(Clone, Copy)]
pub struct Stream {
    /// One of `FAMILY_*`.
    pub family: u8,
    /// Whether it has no sequence numbers of ours.
    pub counted: bool,
}

/// The stream of a socket; `None` if it is none that is looked at (UDP, netlink, raw …).
#[inline(always)]
pub fn stream(sock: u64) -> Option<Stream> {
    let family: u16 = read(sock + offset!(sock_family) as u64)?;
    let family = family as u8;
    if family == FAMILY_UNIX {
        if is_missing!(sock_type) {
            return None;
        }
        let kind: u16 = read(sock + offset!(sock_type) as u64)?;
        return (kind == SOCK_STREAM).then_some(Stream { family, counted: true });
    }
    if family != FAMILY_INET && family != FAMILY_INET6 {
        return None;
    }
    match read::<u16>(sock + offset!(sock_protocol) as u64)? {
        // Without a field of the sequence numbers they are of no use: user space leaves out this one then.
        IPPROTO_TCP => Some(Stream {
            family,
            counted: is_missing!(tcp_copied_seq),
        }),
        IPPROTO_MPTCP => Some(Stream { family, counted: true }),
        _ => None,
    }
}

/// Bytes that the present call has moved already, when its connection is described.
#[derive(Clone, Copy)]
pub struct Moved {
    /// Received.
    pub read: u64,
    /// Sent.
    pub written: u64,
}

impl Moved {
    /// The call moved none.
    pub const NONE: Self = Self { read: 0, written: 0 };
}

/// A name that is never used twice while the agent runs.
#[inline(always)]
fn next_id() -> u64 {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u64;
    let Some(named) = NAMED.get_ptr_mut(0) else { return 0 };
    // SAFETY: a per-CPU value.
    unsafe {
        *named += 1;
        *named << CONN_CPU_BITS | cpu & ((1 << CONN_CPU_BITS) - 1)
    }
}

/// Puts a socket into the table, nothing known of it yet.
#[inline(always)]
pub fn insert(socket: Socket, stream: Stream, role: Role) -> Option<*mut Connection> {
    let flags = (if stream.counted { COUNTED } else { 0 }) | (if stream.family == FAMILY_UNIX { UNIX } else { 0 });
    // Not on the stack: older kernels give a program and what it calls 512 bytes.
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the scratch area is this program's until it ends.
    let connection = unsafe { &mut (*scratch).connection };
    *connection = Connection {
        id: next_id(),
        inode: kernel::inode(socket.file)?,
        file: socket.file,
        connect_ns: 0,
        offset: [0; 2],
        body_until: [0; 2],
        chunk_at: [0; 2],
        carry: [[0; CARRY_BYTES]; 2],
        base: [0; 2],
        flags,
        role: role as u32,
        connect_error: 0,
        pad: 0,
    };
    if CONNECTIONS.insert(&socket.sock, &*connection, 0).is_err() {
        count(Counter::ConnectionsFull, 1);
        return None;
    }
    if stream.family == FAMILY_UNIX {
        mark(&UNIX_USERS, unix_user((bpf_get_current_pid_tgid() >> 32) as u32), true);
    }
    CONNECTIONS.get_ptr_mut(&socket.sock)
}

/// Whether this entry says that a socket's connection is of no interest. Nothing more is looked at then: that its other
/// lives are not taken for it is what the file says.
#[inline(always)]
pub fn is_opaque(connection: *mut Connection, socket: Socket) -> bool {
    // SAFETY: a live map value.
    unsafe {
        (*connection).flags & OPAQUE != 0
            && ((*connection).file == socket.file || kernel::inode(socket.file) == Some((*connection).inode))
    }
}

/// Whether Core follows a connection no more. What it carried may have been seen in part: its process may be no target any
/// more.
#[inline(always)]
pub fn is_given_up(id: u64) -> bool {
    Words::of(id).is_some_and(Words::give_up)
}

/// The connection of a socket, described if it is seen for the first time. `known`: what the table has. `moved` are the bytes, by direction, that the
/// present call has moved already: the description tells what was before it.
#[inline(always)]
pub fn of(socket: Socket, known: Option<*mut Connection>, moved: Moved) -> Option<*mut Connection> {
    if let Some(connection) = known {
        // SAFETY: a live map value.
        let flags = unsafe { (*connection).flags };
        // A Unix socket has no sequence number that would betray another life at the same address.
        // SAFETY: as above.
        let same = flags & UNIX == 0 || kernel::inode(socket.file)? == unsafe { (*connection).inode };
        if same && flags & DESCRIBED != 0 {
            return Some(connection);
        }
        if same {
            return describe(socket.sock, moved).then_some(connection);
        }
        let _ = CONNECTIONS.remove(&socket.sock);
    }
    open(socket, Role::Unknown, moved)
}

/// Puts a socket into the table and describes it.
#[inline(always)]
pub fn open(socket: Socket, role: Role, moved: Moved) -> Option<*mut Connection> {
    let stream = stream(socket.sock)?;
    let connection = insert(socket, stream, role)?;
    describe(socket.sock, moved).then_some(connection)
}

/// A socket's place in its two streams.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sequences {
    copied: u32,
    received: u32,
    write: u32,
    unacked: u32,
    bytes_received: u64,
    bytes_acked: u64,
}

impl Sequences {
    #[inline(always)]
    fn read(sock: u64) -> Option<Self> {
        Some(Self {
            copied: read(sock + offset!(tcp_copied_seq) as u64)?,
            received: read(sock + offset!(tcp_rcv_nxt) as u64)?,
            write: read(sock + offset!(tcp_write_seq) as u64)?,
            unacked: read(sock + offset!(tcp_snd_una) as u64)?,
            bytes_received: read(sock + offset!(tcp_bytes_received) as u64)?,
            bytes_acked: read(sock + offset!(tcp_bytes_acked) as u64)?,
        })
    }

    /// The fields change under the reader: two equal readings, or none (measured: 2 torn pairs in 615,626). A short request
    /// and the FIN behind it, as both come, make two changes.
    #[inline(always)]
    fn stable(sock: u64) -> Option<Self> {
        let mut one = Self::read(sock)?;
        let mut other = Self::read(sock)?;
        if one == other {
            return Some(one);
        }
        count(Counter::TornSequence, 1);
        one = Self::read(sock)?;
        if one == other {
            return Some(one);
        }
        other = Self::read(sock)?;
        (one == other).then_some(one)
    }
}

/// Finds out all about a connection and tells it. False: it could not be told (counted), try again at the next call.
#[inline(always)]
pub fn describe(sock: u64, moved: Moved) -> bool {
    describe_socket(sock, moved.read, moved.written) == 1
}

/// [`describe`], as a global function: the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_socket(sock: u64, moved_read: u64, moved_written: u64) -> u32 {
    let moved = Moved {
        read: moved_read,
        written: moved_written,
    };
    CONNECTIONS
        .get_ptr_mut(&sock)
        .and_then(|connection| describe_open(sock, connection, moved))
        .is_some() as u32
}

#[inline(always)]
fn describe_open(sock: u64, connection: *mut Connection, moved: Moved) -> Option<()> {
    // SAFETY: a live map value.
    let connection = unsafe { &mut *connection };
    // Filled in where it is submitted from: on the stack it would be half of what there is.
    let Some(mut entry) = EVENTS.reserve::<Open>(0) else {
        count(Counter::RingFull, 1);
        return None;
    };
    // SAFETY: the record is reserved, and all of it is written.
    let open = unsafe {
        let open = entry.as_mut_ptr();
        open.write(Open::default());
        &mut *open
    };
    let Some(early) = fill(open, sock, connection, moved) else {
        entry.discard(0);
        return None;
    };
    if !early {
        connection.flags |= DESCRIBED;
    }
    emit::submit_entry(entry);
    Some(())
}

/// Whether it is not established yet: then it is told again.
#[inline(always)]
fn fill(open: &mut Open, sock: u64, connection: &mut Connection, moved: Moved) -> Option<bool> {
    let mut early = false;
    let family: u16 = read(sock + offset!(sock_family) as u64)?;
    open.header = emit::header(Kind::Open, 0, 0);
    open.conn = connection.id;
    open.sock = sock;
    open.inode = connection.inode;
    open.family = family as u8;
    open.role = connection.role as u8;
    if connection.flags & COUNTED == 0 {
        if upper_layer(sock)? {
            connection.flags |= OPAQUE;
        }
        let state: u8 = read(sock + offset!(sock_state) as u64)?;
        // Fast Open sends before it is established: by then all is told again.
        early = state == TCP_SYN_SENT;
        if early && moved.written == 0 || state == TCP_LISTEN {
            return None;
        }
        if state == TCP_CLOSE {
            // It is closed already, and no event will tell its end.
            if moved.read == 0 && moved.written == 0 {
                let _ = CONNECTIONS.remove(&sock);
                return None;
            }
            let scratch = SCRATCH.get_ptr_mut(0)?;
            work!(scratch.dead = 1);
        }
        let now = Sequences::stable(sock)?;
        open.sent_base = now.unacked.wrapping_sub(now.bytes_acked as u32);
        open.received_base = now.received.wrapping_sub(now.bytes_received as u32);
        let written = now.bytes_acked + now.write.wrapping_sub(now.unacked) as u64;
        let mut received = now
            .bytes_received
            .wrapping_sub(now.received.wrapping_sub(now.copied) as u64);
        if received > 0 && fin_read(sock, now.copied) {
            received -= 1;
        }
        open.read = if early { 0 } else { received.wrapping_sub(moved.read) };
        // The SYN alone was sent before, and nothing was read: it connected, if by sendto(2) (MSG_FASTOPEN).
        let first = open.read == 0 && written.wrapping_sub(moved.written) == 1;
        if first && connection.role == Role::Unknown as u32 && state != TCP_CLOSE {
            connection.role = Role::Client as u32;
            open.role = Role::Client as u8;
        }
        let syn = (connection.role == Role::Client as u32) as u64;
        open.written = written.wrapping_sub(syn).wrapping_sub(moved.written);
        connection.offset = [open.read, open.written];
        connection.base = [open.received_base, open.sent_base.wrapping_add(syn as u32)];
    } else {
        open.counted = 1;
    }
    if open.read == 0 && open.written == 0 && (connection.flags & COUNTED == 0 || connection.role != 0) {
        connection.flags |= FROM_BIRTH;
    }
    open.from_birth = (connection.flags & FROM_BIRTH != 0) as u8;
    if family as u8 == FAMILY_UNIX {
        if !is_missing!(unix_peer) {
            open.peer = read(sock + offset!(unix_peer) as u64)?;
        }
        return Some(early);
    }
    addresses(sock, open)?;
    Some(early)
}

/// Whether the kernel has another protocol on top of a TCP socket, as kTLS is (counted).
#[inline(always)]
pub fn upper_layer(sock: u64) -> Option<bool> {
    if is_missing!(upper_layer) {
        return Some(false);
    }
    let there = read::<u64>(sock + offset!(upper_layer) as u64)? != 0;
    if there {
        count(Counter::UpperLayer, 1);
    }
    Some(there)
}

/// Tells how far the streams have come, where only the connection's end ends a body: none of its bytes made a record.
/// Works in interrupts, and in nobody's name.
#[inline(always)]
pub fn tell_ends(connection: &Connection) {
    tell_end(connection, Direction::Read, 0);
    tell_end(connection, Direction::Write, 0);
}

/// The same where the process itself ends its side. A call that no program saw (the kernel skips them at times) shows here
/// at the latest: without its bytes, the connection would seem to end without them.
#[inline(always)]
pub fn tell_last(sock: u64, connection: &mut Connection) {
    let [read, written] = if connection.flags & (COUNTED | DESCRIBED) == DESCRIBED {
        [unseen(sock, connection, 0), unseen(sock, connection, 1)]
    } else {
        [0, 0]
    };
    tell_end(connection, Direction::Read, read);
    tell_end(connection, Direction::Write, written);
}

/// Whether the sequence number of what was read counts the other end's FIN, too: it is the last one that comes.
#[inline(always)]
pub fn fin_read(sock: u64, copied: u32) -> bool {
    const ESTABLISHED: u8 = 1;
    const FIN_WAIT1: u8 = 4;
    const FIN_WAIT2: u8 = 5;
    let received = !matches!(
        read::<u8>(sock + offset!(sock_state) as u64),
        Some(ESTABLISHED | FIN_WAIT1 | FIN_WAIT2)
    );
    received && read::<u32>(sock + offset!(tcp_rcv_nxt) as u64) == Some(copied)
}

/// Bytes behind the last that was seen, as the socket's own sequence numbers say. No FIN was sent yet; one that was
/// received may have been read. The socket has its state of before.
#[inline(always)]
fn unseen(sock: u64, connection: &mut Connection, way: usize) -> u64 {
    let field = if way == 0 {
        offset!(tcp_copied_seq)
    } else {
        offset!(tcp_write_seq)
    };
    let Some(now) = read::<u32>(sock + field as u64) else {
        return 0;
    };
    let mut ahead = now
        .wrapping_sub(connection.base[way])
        .wrapping_sub(connection.offset[way] as u32) as i32;
    if ahead > 0 && way == 0 && fin_read(sock, now) {
        ahead -= 1;
    }
    if ahead <= 0 {
        return 0;
    }
    count(Counter::Unreported, ahead as u64);
    connection.offset[way] += ahead as u64;
    ahead as u64
}

#[inline(always)]
fn tell_end(connection: &Connection, way: Direction, unseen: u64) {
    let is_awaited = || Words::of(connection.id).is_some_and(|words| words.until(way as usize) == UNTIL_CLOSE);
    // Bytes that no program saw are told even if Core has not said yet that it follows: it may not have come so far.
    if unseen == 0 && !is_awaited() {
        return;
    }
    let at = connection.offset[way as usize];
    emit::submit(Segment {
        header: Header {
            execution: Execution::default(),
            ..emit::header(Kind::Segment, way as u8, 0)
        },
        conn: connection.id,
        offset: at,
        end: at,
        captured: 0,
        call_bytes: 0,
    });
}

#[inline(always)]
fn addresses(sock: u64, open: &mut Open) -> Option<()> {
    if !is_missing!(sock_num) {
        open.local_port = read(sock + offset!(sock_num) as u64)?;
        open.remote_port = u16::from_be(read(sock + offset!(sock_dport) as u64)?);
    }
    if open.family == FAMILY_INET {
        if is_missing!(sock_daddr) {
            return namespace(sock, open);
        }
        let local: [u8; 4] = read(sock + offset!(sock_saddr) as u64)?;
        let remote: [u8; 4] = read(sock + offset!(sock_daddr) as u64)?;
        open.local = [
            local[0], local[1], local[2], local[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        open.remote = [
            remote[0], remote[1], remote[2], remote[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
    } else if !is_missing!(sock_v6_daddr) {
        open.local = read(sock + offset!(sock_v6_saddr) as u64)?;
        open.remote = read(sock + offset!(sock_v6_daddr) as u64)?;
    }
    namespace(sock, open)
}

#[inline(always)]
fn namespace(sock: u64, open: &mut Open) -> Option<()> {
    if is_missing!(net_inum) {
        return Some(());
    }
    let net: u64 = read(sock + offset!(sock_net) as u64)?;
    open.netns = read(net + offset!(net_inum) as u64)?;
    Some(())
}
