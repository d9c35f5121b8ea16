//! The binary interface between the programs and the agent.
//!
//! Every record of the ring buffer begins with a [`Header`]; `kind` says which struct it heads. All structs are
//! `repr(C)` without implicit padding, all numbers are in the machine's own byte order, all times are nanoseconds of
//! `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).

use crate::slot::Slot;

mod counters;
mod hint;
mod layout;
mod offsets;

pub use counters::{COUNTER_COLUMNS, Counter};
pub use hint::{CONN_CPU_BITS, HINT_SLOTS, Hint, Hints, IGNORED, Mode, SealedHint, UNTIL_CLOSE, WayState, hint_slot};
pub use layout::ABI_VERSION;
pub use offsets::{Calibration, Offsets, READ_ONLY_CAST};

/// Most bytes of a segment that one record carries.
pub const PIECE_BYTES: usize = 8192;

/// Most records that one system call's bytes are copied into. Of a longer one whose framing the programs do not know, the
/// begin and the end are copied; what lies between is a gap.
pub const PIECES: usize = 8;

/// Highest process id that `TARGETS` can hold (the kernel's own limit, `PID_MAX_LIMIT`).
pub const PID_LIMIT: u32 = 4 * 1024 * 1024;

/// Bytes in an entry of `TARGETS` and `PORTS`: one for each process, or port.
pub const MARKS: usize = 4096;

/// Most processors that have counters of their own; those above share the last row.
pub const CPU_LIMIT: u32 = 512;

/// Bytes of command line and environment that an [`Exec`] carries.
pub const STRINGS_BYTES: usize = 4096;

/// What a record is: [`Header::kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Open`]
    Open = 1,
    /// [`Connect`]
    Connect = 2,
    /// [`Segment`], followed by `captured` bytes
    Segment = 3,
    /// [`State`]
    State = 4,
    /// [`Fork`]
    Fork = 5,
    /// [`Exec`], followed by `strings_len` bytes
    Exec = 6,
    /// [`Exit`]
    Exit = 7,
    /// [`Listen`]
    Listen = 8,
    /// [`Unseen`]
    Unseen = 9,
}

/// Who ran: a thread, or what its runtime multiplexes on threads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Execution {
    /// Process (thread group) id in the initial namespace.
    pub tgid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// The identity word that a runtime's chain of offsets led to; 0: the thread is the identity.
    pub identity: u64,
    /// The identity it descends from; 0: unknown.
    pub parent: u64,
    /// Tells two lives of one identity word apart.
    pub generation: u32,
    /// Which base and chain gave `identity`; 0: none.
    pub source: u32,
}

/// The beginning of each record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// [`Kind`] as a number.
    pub kind: u8,
    /// Meaning depends on the record: [`Direction`] in a segment.
    pub direction: u8,
    /// Flags of the record: `SEGMENT_*` in a segment, [`WAITED`] and [`LOST`] there and in a connect, [`LOST`] in an exit.
    pub flags: u16,
    /// The processor that wrote the record.
    pub cpu: u32,
    /// When: at the exit of the system call, or when the tracepoint fired.
    pub time_ns: u64,
    /// Who.
    pub execution: Execution,
}

/// Which way the bytes of a segment went, seen from the socket's owner.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Received.
    Read = 0,
    /// Sent.
    Write = 1,
}

/// More records of the same system call follow this one.
pub const SEGMENT_MORE: u16 = 1;
/// The bytes could not be copied (a fault, or a call without a user buffer, as sendfile): a gap by its nature.
pub const SEGMENT_OPAQUE: u16 = 2;
/// The stream of this direction ends at `end`, and no bytes come with it. Unix sockets: a read returned 0. TCP: told right
/// behind [`StateChange::Closed`] if bytes before `end` were received and not read; the owner may still read them.
pub const SEGMENT_EOF: u16 = 4;
/// The first bytes of a direction that does not carry HTTP/1. Later bytes of it make no record until Core asks for them by a
/// hint.
pub const SEGMENT_NOT_HTTP: u16 = 8;
/// A flag of segments and connects: the thread has waited in epoll_wait(2) since its last record.
pub const WAITED: u16 = 1 << 15;
/// A flag of segments and connects: a record of the thread found no room in the ring since its last one. Of an exit: a record of
/// the process's Unix connections did.
pub const LOST: u16 = 1 << 14;

/// A part of the bytes of one read or write. `captured` bytes follow the struct.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// kind = [`Kind::Segment`]
    pub header: Header,
    /// The connection, as [`Open::conn`].
    pub conn: u64,
    /// Stream offset of the first captured byte (of the first byte that is not, where nothing is captured).
    pub offset: u64,
    /// Stream offset behind the system call's last byte.
    pub end: u64,
    /// Bytes behind this struct.
    pub captured: u32,
    /// Bytes that the whole system call moved.
    pub call_bytes: u32,
    /// Stream offset of the next place where something is known to begin: below it no record follows. 0: the programs know
    /// no such place, all is told. Core objects with a [`Hint`] where it knows better.
    pub until: u64,
}

/// How a connection came to be: [`Open::role`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is older than the agent, or its birth was not seen.
    Unknown = 0,
    /// This end called connect.
    Client = 1,
    /// This end called accept.
    Server = 2,
}

/// [`Open::family`]: an IPv4 connection, addresses in the first 4 bytes.
pub const FAMILY_INET: u8 = 2;
/// [`Open::family`]: an IPv6 connection (v4-mapped addresses are told as they are).
pub const FAMILY_INET6: u8 = 10;
/// [`Open::family`]: a Unix stream socket.
pub const FAMILY_UNIX: u8 = 1;

/// A connection is seen for the first time, or is now known in full. Precedes its first segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    /// kind = [`Kind::Open`]; the execution is the one that accepted, connected or first used it
    pub header: Header,
    /// Names the connection in all later records; never used twice while the agent runs.
    pub conn: u64,
    /// Address of the kernel's socket.
    pub sock: u64,
    /// Unix sockets: address of the other end's socket. Else 0.
    pub peer: u64,
    /// Inode number of the socket, as in /proc/PID/fd: the generation of `sock`.
    pub inode: u64,
    /// Bytes sent before this record.
    pub written: u64,
    /// Bytes received before this record.
    pub read: u64,
    /// TCP: `snd_una - bytes_acked`, the sequence number of the first byte sent; one less on the connecting side.
    pub sent_base: u32,
    /// TCP: `rcv_nxt - bytes_received`, the sequence number of the first byte received.
    pub received_base: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Local address, network order.
    pub local: [u8; 16],
    /// Remote address, network order.
    pub remote: [u8; 16],
    /// One of `FAMILY_*`.
    pub family: u8,
    /// [`Role`] as a number.
    pub role: u8,
    /// 1: sequence numbers are not to be had (MPTCP, Unix): offsets are counted, `sent_base`/`received_base` mean nothing.
    pub counted: u8,
    /// 1: seen from its first byte. 0: bytes passed before.
    pub from_birth: u8,
    /// Always 0.
    pub pad: u32,
}

/// Longest address of a Unix socket (`sun_path`).
pub const UNIX_PATH_BYTES: usize = 108;

/// A connect(2) has returned. To a Unix socket, `path_bytes` bytes follow: the address as it was given, without the NUL
/// that ends a path; an abstract one begins with NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect {
    /// kind = [`Kind::Connect`]
    pub header: Header,
    /// The connection.
    pub conn: u64,
    /// When connect(2) was called.
    pub start_ns: u64,
    /// What it returned, 0 or `-errno`.
    pub result: i32,
    /// One of `FAMILY_*`.
    pub family: u8,
    /// Bytes of a Unix socket's address that follow, at most [`UNIX_PATH_BYTES`].
    pub path_bytes: u8,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Remote address, network order.
    pub remote: [u8; 16],
}

/// What happened to a connection: [`State::state`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// This end will send no more (close or shutdown). Told again when close(2) comes behind shutdown(2).
    LocalFin = 1,
    /// The other end will send no more.
    RemoteFin = 2,
    /// Over: nothing follows on this connection. `error` says why.
    Closed = 3,
    /// A process closed a descriptor of a Unix connection, and others are left, of another process mostly. The execution
    /// is who closed it.
    Released = 4,
    /// Over, and nobody saw when or how. Never said by the programs: the agent says it of Unix connections that ended
    /// before the hooks that tell it were attached.
    Gone = 5,
}

/// A connection changed its state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// kind = [`Kind::State`]; the execution means nothing (TCP tells it in interrupt context), unless `state` says so
    pub header: Header,
    /// The connection.
    pub conn: u64,
    /// `sk_err` of the socket, positive errno, 0 if none (ECONNRESET: a reset was received).
    pub error: i32,
    /// [`StateChange`] as a number.
    pub state: u8,
    /// TCP state it was in before, as the kernel numbers them.
    pub old: u8,
    /// `sk_shutdown`: 1 for the receiving side, 2 for the sending side. close(2) sets both, and so does shutdown(2) of the
    /// sending side behind the other end's FIN.
    pub shutdown: u8,
    /// `STATE_*`; neither [`STATE_OPEN`] nor [`STATE_RELEASED`]: it is not known whether the socket is still open.
    pub flags: u8,
}

/// A process still has the socket: shutdown(2) or the other end did this.
pub const STATE_OPEN: u8 = 1;
/// No process has the socket any more: close(2), or the end of its last process, did this or came before.
pub const STATE_RELEASED: u8 = 2;
/// The last record of what was read found no room in the ring.
pub const STATE_LOST_READ: u8 = 4;
/// The last record of what was written found no room in the ring.
pub const STATE_LOST_WRITTEN: u8 = 8;

/// A target forked a process (not a thread).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Fork {
    /// kind = [`Kind::Fork`]; the execution is the parent
    pub header: Header,
    /// The new process.
    pub child: u32,
    /// Always 0.
    pub pad: u32,
}

/// A process runs a new program. `strings_len` bytes follow: its command line, then its environment (words end with NUL;
/// what is longer than [`STRINGS_BYTES`] is cut off).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// kind = [`Kind::Exec`]
    pub header: Header,
    /// Bytes behind this struct.
    pub strings_len: u32,
    /// How many of them are the command line's.
    pub cmdline_len: u32,
    /// 1: it was no target before, it is captured provisionally.
    pub provisional: u32,
    /// Always 0.
    pub pad: u32,
    /// The thread's name, NUL padded.
    pub comm: [u8; 16],
}

/// The last thread of a target has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exit {
    /// kind = [`Kind::Exit`]
    pub header: Header,
    /// `task->exit_code`: the low 7 bits are the signal that killed it.
    pub exit_code: u32,
    /// Always 0.
    pub pad: u32,
}

/// A process listens on a port that a rule names; it is a target from now on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Listen {
    /// kind = [`Kind::Listen`]
    pub header: Header,
    /// Local port, host order.
    pub port: u32,
    /// Always 0.
    pub pad: u32,
}

/// A target does something that the programs cannot see into.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Unseen {
    /// kind = [`Kind::Unseen`]
    pub header: Header,
    /// [`UnseenCause`] as a number.
    pub cause: u32,
    /// Always 0.
    pub pad: u32,
}

/// [`Unseen::cause`]
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnseenCause {
    /// It set up an io_uring: what it sends through it is invisible.
    IoUring = 1,
}

/// Switches that the agent may turn while the programs run: the memory-mapped array `CONTROL`, one entry.
#[repr(C)]
pub struct Control {
    /// 1: the reader sleeps and wants the next record to wake it; the program that does so writes 0.
    pub reader_sleeps: Slot<u32>,
    /// 1: a process that execs becomes a (provisional) target.
    pub capture_new: Slot<u32>,
    /// The agent's own process, never a target.
    pub agent_tgid: Slot<u32>,
    /// Always 0.
    pub pad: Slot<u32>,
}

/// Plain data: any bytes are a value, and there is no padding.
///
/// # Safety
/// The type must be `repr(C)`, of integers and arrays of them, without padding.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),+) => {
        $(
            // SAFETY: a struct of this file: `repr(C)`, integers only, padding spelt out.
            unsafe impl Plain for $name {}
        )+
    };
}

plain!(Header, Segment, Open, Connect, State, Fork, Exec, Exit, Listen, Unseen);

/// The value at the begin of a record, and what follows it; `None` if the record is too short.
pub fn split<T: Plain>(record: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = record.split_at_checked(size_of::<T>())?;
    // SAFETY: the bytes are as many as the type has, and any bytes are a value of it.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, rest))
}

/// The bytes of a value: what a record begins with.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: plain data has no padding.
    unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}
