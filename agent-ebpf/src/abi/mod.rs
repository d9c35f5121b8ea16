//! The binary interface between the programs and the agent.
//!
//! Every record of the ring buffer begins with a [`Header`]; `kind` says which struct it heads. A record with the flag
//! [`IDENTITY`] ends with an [`Identity`]. All structs are `repr(C)` without implicit padding, all numbers are in the
//! machine's own byte order, all times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).

use crate::slot::Slot;

mod counters;
mod hint;
mod layout;
mod offsets;

pub use counters::{COUNTER_COLUMNS, Counter};
pub use hint::{CONN_CPU_BITS, HINT_SLOTS, Hint, Hints, IGNORED, Mode, SealedHint, StreamName, UNTIL_CLOSE, WayState};
pub use layout::ABI_VERSION;
pub use offsets::{Calibration, Offsets, READ_ONLY_CAST};

/// Upper bound of the bytes that one record of a segment carries.
pub const PIECE_BYTES: usize = 8192;

/// Upper bound of the records that carry the bytes of one system call. Of a longer call whose framing the programs do
/// not know, the beginning and the end are copied; the middle is a gap.
pub const PIECES: usize = 8;

/// Number of process ids that `TARGETS` has room for: the kernel's own limit (`PID_MAX_LIMIT`).
pub const PID_LIMIT: u32 = 4 * 1024 * 1024;

/// Bytes of an entry of `TARGETS` and `PORTS`, one for each process or port.
pub const MARKS: usize = 4096;

/// Number of processors with counters of their own; those above share the last row.
pub const CPU_LIMIT: u32 = 512;

/// Bytes of command line and environment that an [`Exec`] carries.
pub const STRINGS_BYTES: usize = 4096;

/// Kind of a record: [`Header::kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Open`]
    Open = 1,
    /// [`Connect`]
    Connect = 2,
    /// [`Segment`], followed by its slices
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
    /// [`Begun`]
    Begun = 10,
    /// [`Context`]
    Context = 11,
}

/// Name that a runtime gives to an execution which it multiplexes on threads: the last bytes of a record with the flag
/// [`IDENTITY`]. Without it, the thread is the execution.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Word at the end of the runtime's chain of offsets.
    pub word: u64,
    /// Word of the execution that this one descends from; 0: unknown.
    pub parent: u64,
    /// Generation, which tells two lives of one word apart.
    pub generation: u32,
    /// Base and chain that gave `word`.
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
    /// Flags of the record: `SEGMENT_*`, [`WATCHED`] and [`POLLED`] in a segment, [`WAITED`], [`TURNED`] and [`LOST`] there and in a
    /// connect, [`LOST`] in an exit, [`IDENTITY`] in each.
    pub flags: u16,
    /// The processor that wrote the record.
    pub cpu: u32,
    /// Time of the system call's exit, or of the tracepoint.
    pub time_ns: u64,
    /// Process (thread group) that caused the record: its id in the initial namespace.
    pub tgid: u32,
    /// Thread that caused the record: its id in the initial namespace.
    pub tid: u32,
}

/// Direction of a segment's bytes, seen from the socket's owner.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Received.
    Read = 0,
    /// Sent.
    Write = 1,
}

/// Byte stream of a connection: [`Segment::layer`]. Each has stream offsets, framing and hints of its own.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// The bytes that the socket carries.
    #[default]
    Wire = 0,
    /// The plaintext that a TLS library encrypts and decrypts.
    Tls = 1,
}

/// More records of the same system call follow this one.
pub const SEGMENT_MORE: u16 = 1;
/// The bytes could not be copied: memory faulted, or the call had no user buffer (sendfile). They are a gap.
pub const SEGMENT_OPAQUE: u16 = 2;
/// The stream of this direction ends at `end`; the record has no bytes. Unix sockets: a read returned 0. TCP: follows
/// [`StateChange::Closed`] if bytes before `end` were received and not read; the owner may still read them.
pub const SEGMENT_EOF: u16 = 4;
/// First bytes of a direction that does not carry HTTP/1. Later bytes make no record until a hint of Core asks for
/// them.
pub const SEGMENT_NOT_HTTP: u16 = 8;
/// Flag of segments and connects: the thread has waited in epoll_wait(2) since its last record.
pub const WAITED: u16 = 1 << 15;
/// Flag of segments and connects: the ring had no room for a record of this thread since its last one. Flag of exits:
/// it had none for a record of the process's Unix connections.
pub const LOST: u16 = 1 << 14;
/// Flag of all records: the record ends with an [`Identity`].
pub const IDENTITY: u16 = 1 << 13;
/// Flag of segments and connects in the family `sock`: since the thread's last record it has slept, or received from
/// another socket. A loop has perhaps waited for events between; no program sees epoll_wait(2) in this family.
pub const TURNED: u16 = 1 << 12;
/// Flag of segments in the family `sock`: an epoll set watches the socket (of a client: or did once), or an io_uring moved the
/// bytes.
pub const WATCHED: u16 = 1 << 11;
/// Flag of segments of servers in the family `sock`: another thread of the process than that of the record has been seen to
/// wait for epoll on its connections.
pub const POLLED: u16 = 1 << 10;

/// Parts of the bytes of one read or write. The bytes of the first part, its slice, follow the struct. Each further
/// slice is a [`Slice`] and its bytes, and begins at the next multiple of eight bytes behind the slice before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// kind = [`Kind::Segment`]
    pub header: Header,
    /// The connection, as [`Open::conn`].
    pub conn: u64,
    /// Stream offset of the first captured byte; without captured bytes, of the first byte that is missing.
    pub offset: u64,
    /// Stream offset behind the system call's last byte.
    pub end: u64,
    /// Stream offset of the next known boundary: bytes below it make no record. 0: the programs know none, and report
    /// all bytes. Core objects with a [`Hint`] where it knows better.
    pub until: u64,
    /// Bytes of the first slice.
    pub captured: u32,
    /// Bytes that the whole system call moved.
    pub call_bytes: u32,
    /// [`Layer`] as a number.
    pub layer: u8,
    /// Number of further slices, in the order of the stream.
    pub slices: u8,
    /// Always 0.
    pub pad: [u8; 6],
}

/// A further part of a segment's bytes, which follow the struct. What lies between two slices is a gap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Slice {
    /// Stream offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u32,
    /// Always 0.
    pub pad: u32,
}

/// Origin of a connection: [`Open::role`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The connection is older than the agent, or its birth was not seen.
    Unknown = 0,
    /// This end called connect.
    Client = 1,
    /// This end called accept.
    Server = 2,
}

/// [`Open::family`]: an IPv4 connection, addresses in the first 4 bytes.
pub const FAMILY_INET: u8 = 2;
/// [`Open::family`]: an IPv6 connection (v4-mapped addresses stay as they are).
pub const FAMILY_INET6: u8 = 10;
/// [`Open::family`]: a Unix stream socket.
pub const FAMILY_UNIX: u8 = 1;

/// A connection that is new, or is now known in full. Precedes its first segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    /// kind = [`Kind::Open`]; the execution is the one that accepted, connected or first used it
    pub header: Header,
    /// Name of the connection in all later records; never used twice while the agent runs.
    pub conn: u64,
    /// Address of the kernel's socket.
    pub sock: u64,
    /// Address of the other end's socket for Unix sockets; else 0.
    pub peer: u64,
    /// Inode number of the socket, as in /proc/PID/fd: the generation of `sock`.
    pub inode: u64,
    /// Bytes sent before this record.
    pub written: u64,
    /// Bytes received before this record.
    pub read: u64,
    /// Sequence number of the first byte sent, `snd_una - bytes_acked`; one less on the connecting side. TCP only.
    pub sent_base: u32,
    /// Sequence number of the first byte received, `rcv_nxt - bytes_received`. TCP only.
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
    /// 1: offsets are counted, because sequence numbers cannot be read (MPTCP, Unix); `sent_base` and `received_base`
    /// have no meaning.
    pub counted: u8,
    /// 1: seen from its first byte. 0: bytes passed before.
    pub from_birth: u8,
    /// Always 0.
    pub pad: u32,
}

/// Longest address of a Unix socket (`sun_path`).
pub const UNIX_PATH_BYTES: usize = 108;

/// A connect(2) that returned. To a Unix socket, `path_bytes` bytes follow: the address as given, without the NUL that
/// ends a path. An abstract address begins with NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect {
    /// kind = [`Kind::Connect`]
    pub header: Header,
    /// The connection.
    pub conn: u64,
    /// Time at which connect(2) was called.
    pub start_ns: u64,
    /// Result of connect(2): 0 or `-errno`.
    pub result: i32,
    /// One of `FAMILY_*`.
    pub family: u8,
    /// Number of bytes of a Unix socket's address that follow, at most [`UNIX_PATH_BYTES`].
    pub path_bytes: u8,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Remote address, network order.
    pub remote: [u8; 16],
}

/// Change of a connection: [`State::state`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// This end will send no more (close or shutdown). Repeated when close(2) follows shutdown(2).
    LocalFin = 1,
    /// The other end will send no more.
    RemoteFin = 2,
    /// The connection is over: no record of it follows. `error` has the reason.
    Closed = 3,
    /// A process closed a descriptor of a Unix connection, and others remain, mostly in another process. The execution
    /// is the one that closed it.
    Released = 4,
    /// The connection is over, and its end was not seen. The programs never report this: the agent does for Unix
    /// connections that ended before the hooks were attached.
    Gone = 5,
}

/// A change of a connection's state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// kind = [`Kind::State`]; the execution has no meaning (TCP reports in interrupt context), unless `state` says so
    pub header: Header,
    /// The connection.
    pub conn: u64,
    /// `sk_err` of the socket, positive errno, 0 if none (ECONNRESET: a reset was received).
    pub error: i32,
    /// [`StateChange`] as a number.
    pub state: u8,
    /// TCP state before the change, in the kernel's numbers.
    pub old: u8,
    /// `sk_shutdown`: 1 for the receiving side, 2 for the sending side. close(2) sets both, and so does shutdown(2) of
    /// the sending side after the other end's FIN.
    pub shutdown: u8,
    /// `STATE_*`. With neither [`STATE_OPEN`] nor [`STATE_RELEASED`], it is unknown whether the socket is still open.
    pub flags: u8,
}

/// A process still has the socket: shutdown(2) or the other end caused the change.
pub const STATE_OPEN: u8 = 1;
/// No process has the socket any more: close(2), or the end of its last process, caused the change or preceded it.
pub const STATE_RELEASED: u8 = 2;
/// The ring had no room for the last record of bytes that were read.
pub const STATE_LOST_READ: u8 = 4;
/// The ring had no room for the last record of bytes that were written.
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

/// A process runs a new program. `strings_len` bytes follow: the command line, then the environment. Words end with
/// NUL; strings longer than [`STRINGS_BYTES`] are cut off.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// kind = [`Kind::Exec`]
    pub header: Header,
    /// Bytes behind this struct.
    pub strings_len: u32,
    /// Number of those bytes that are the command line.
    pub cmdline_len: u32,
    /// 1: the process was no target before, and is captured provisionally.
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

/// A process listens on a port that a rule names, and is a target from now on.
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

/// A target does something that the programs cannot see.
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
    /// The process set up an io_uring: bytes that it moves through the ring are invisible to the family `syscall`.
    IoUring = 1,
    /// The process has an io_uring, whose requests the programs of the family `sock` may not see yet.
    Requests = 2,
}

/// An execution has begun. The record's [`Identity`] names it and what it descends from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun {
    /// kind = [`Kind::Begun`]; the thread is the one that made it
    pub header: Header,
}

/// A context that a program put into bytes as they left.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// kind = [`Kind::Context`]; direction = [`Direction::Write`]
    pub header: Header,
    /// The connection.
    pub conn: u64,
    /// Stream offset of the first byte of the message that carries it.
    pub offset: u64,
    /// Trace id, in the order of `traceparent`.
    pub trace_id: [u8; 16],
    /// Id of the span that the receiver's span is a child of.
    pub span_id: [u8; 8],
    /// Flags of `traceparent`.
    pub trace_flags: u8,
    /// [`Layer`] of the offset, as a number.
    pub layer: u8,
    /// [`Carrier`] as a number.
    pub carrier: u8,
    /// Always 0.
    pub pad: [u8; 5],
}

/// Part of a message that carries a context: [`Context::carrier`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A `traceparent` header.
    Header = 0,
    /// An option of the TCP segment.
    TcpOption = 1,
}

/// Switches that the agent sets while the programs run: the memory-mapped array `CONTROL`, one entry.
#[repr(C)]
pub struct Control {
    /// 1: the reader sleeps, and the next record wakes it; the program that wakes it writes 0.
    pub reader_sleeps: Slot<u32>,
    /// 1: a process that execs becomes a provisional target.
    pub capture_new: Slot<u32>,
    /// Process id of the agent, never a target.
    pub agent_tgid: Slot<u32>,
    /// 1: programs count the bytes that splice(2) takes out of Unix sockets. They set it themselves.
    pub splices_are_counted: Slot<u32>,
}

/// Plain data: any bytes are a value, and there is no padding.
///
/// # Safety
/// The type must be `repr(C)`, of integers and arrays of them, without padding.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),+) => {
        $(
            // SAFETY: a struct of this file: `repr(C)`, integers only, and each padding is a field.
            unsafe impl Plain for $name {}
        )+
    };
}

plain!(
    Header, Identity, Segment, Slice, Open, Connect, State, Fork, Exec, Exit, Listen, Unseen, Begun, Context
);

/// Splits a record into the value at its beginning and the bytes behind; `None` if the record is too short.
pub fn split<T: Plain>(record: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = record.split_at_checked(size_of::<T>())?;
    // SAFETY: `head` has the size of the type, and any bytes are a value of it.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, rest))
}

/// Returns the bytes of a value: the beginning of a record.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: plain data has no padding.
    unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}
