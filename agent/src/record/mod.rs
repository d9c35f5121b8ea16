//! Records of the kernel, decoded once: no number of the binary interface is used above this module.
//!
//! [`Record::decode`] turns the bytes of the ring buffer, or of a tape, into enums and newtypes. A record with a number that
//! this version does not know is refused, and Core counts it as malformed.

mod decode;
mod endpoint;
mod slices;
#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroU64};

pub use agent_ebpf::abi::{Carrier, Direction, Layer, Role};
pub use decode::{gone, lost_end};
pub use endpoint::{Address, Endpoint};
pub use slices::{Slice, Slices};

/// Process (thread group) id in the initial PID namespace. The kernel uses ids again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tgid(pub u32);

/// Thread id in the initial PID namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// Name of one end of a connection; the programs give none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for Tgid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A thread, or what its runtime multiplexes on threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Execution {
    /// Process of the thread.
    pub tgid: Tgid,
    /// The thread that it ran on.
    pub tid: Tid,
    /// The runtime's own name for it; `None`: the thread is the execution.
    pub identity: Option<Identity>,
}

/// The word in memory, or in a register, that names an execution to its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The word that the runtime's chain of offsets led to.
    pub word: NonZeroU64,
    /// Tells two executions apart that have the word one after the other.
    pub generation: u32,
    /// The word of the execution that it descends from, where that is known.
    pub parent: Option<NonZeroU64>,
    /// The base and chain of offsets that gave the word.
    pub source: u32,
}

/// Time and author of something that a system call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// `CLOCK_MONOTONIC`, at the exit of the system call.
    pub time_ns: u64,
    /// The execution that made the system call.
    pub execution: Execution,
}

/// Events in a thread's life that had no record of their own, told with its next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The thread has waited in epoll_wait(2).
    pub waited: bool,
    /// The thread has slept, or received from another socket: if it is a loop, it has perhaps waited for events.
    pub turned: bool,
    /// A record of the thread found no room in the ring.
    pub lost: bool,
}

/// A record of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A connection was seen for the first time, or is described in full.
    Open(Open),
    /// connect(2) returned.
    Connect(Connect<'a>),
    /// Bytes were moved.
    Segment(Segment<'a>),
    /// A stream has ended for its reader.
    EndOfStream(EndOfStream),
    /// A connection changed its state.
    State(State),
    /// A target forked a process.
    Fork(Fork),
    /// A process runs a new program.
    Exec(Exec<'a>),
    /// The last thread of a target ended.
    Exit(Exit),
    /// A process listens on a port that a rule names. It is a target from now on.
    Listen(Listen),
    /// A target uses a way to move bytes that the programs cannot see.
    Unseen(Stamp, Unseen),
    /// An execution has begun: the stamp names its maker's thread, and itself by its identity.
    Begun(Stamp),
    /// A context was put into bytes as they left.
    Context(Context),
}

/// Socket in the kernel: its address, and its inode number, which distinguishes two sockets at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Address.
    pub address: u64,
    /// Inode number.
    pub inode: u64,
}

/// The common zero of both ends' stream offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// TCP: the sequence numbers before the first byte sent, and before the first byte received.
    Sequences {
        /// Sequence number before the first byte sent.
        sent: u32,
        /// Sequence number before the first byte received.
        received: u32,
    },
    /// Unix: the programs count from the socket's first byte. The address of the other end's socket, if it has one.
    Unix(Option<NonZeroU64>),
    /// Multipath TCP: the bytes are counted, and no number identifies the other end.
    Counted,
}

/// A connection, as the programs describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Thread that accepted, connected or first used the connection, and the time.
    pub stamp: Stamp,
    /// Name of the connection.
    pub conn: ConnectionId,
    /// The socket.
    pub socket: Socket,
    /// Zero of its stream offsets.
    pub base: Base,
    /// Bytes sent before this record.
    pub written: u64,
    /// Bytes received before this record.
    pub read: u64,
    /// Role of this end, as the programs know it.
    pub role: Role,
    /// Address of this end.
    pub local: Address,
    /// Address of the other end.
    pub remote: Address,
    /// Whether the first byte is seen: no bytes passed before.
    pub from_birth: bool,
}

/// connect(2) has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Thread that called connect(2), and the time at which the call returned.
    pub stamp: Stamp,
    /// Told of the thread with this record.
    pub since: Since,
    /// The connection.
    pub conn: ConnectionId,
    /// Time at which connect(2) was called.
    pub start_ns: u64,
    /// 0, or a positive errno.
    pub errno: i32,
    /// Address that was connected to.
    pub remote: Address,
    /// The Unix socket's address, as it was given.
    pub path: &'a [u8],
}

/// Bytes behind those that a record captured, in the same system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The bytes are not captured, if there are any.
    Gap,
    /// Another record of the same system call has them.
    Follows,
}

/// The bytes of one read or write, or a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Thread that moved the bytes, and the time.
    pub stamp: Stamp,
    /// Told of the thread with this record.
    pub since: Since,
    /// The connection.
    pub conn: ConnectionId,
    /// The byte stream that the offsets count in.
    pub layer: Layer,
    /// Received or sent.
    pub direction: Direction,
    /// Stream offset of the first captured byte.
    pub offset: u64,
    /// Stream offset behind the system call's last byte.
    pub end: u64,
    /// Bytes that the whole system call moved.
    pub call_bytes: u32,
    /// Stream offset below which the programs make no record; `None`: all bytes make one.
    pub until: Option<NonZeroU64>,
    /// The captured bytes, up to the first gap.
    pub bytes: &'a [u8],
    /// The captured bytes behind that gap.
    pub further: Slices<'a>,
    /// The bytes behind all captured ones.
    pub rest: Rest,
    /// An epoll set watches the socket (of a client: or did once), or an io_uring moved the bytes.
    pub watched: bool,
    /// Another thread of the process has been seen to wait for epoll on its connections.
    pub polled: bool,
    /// The programs know no protocol that begins like this, and report no more of this direction until Core asks for it.
    pub unknown_opening: bool,
}

impl<'a> Segment<'a> {
    /// Returns the captured part that holds the byte at this offset, or else the last one before it.
    pub fn slice_at(&self, offset: u64) -> Option<Slice<'a>> {
        let first = Slice {
            offset: self.offset,
            bytes: self.bytes,
        };
        let further = self.further.take_while(|slice| slice.offset <= offset).last();
        further.or_else(|| (first.offset <= offset).then_some(first))
    }

    /// Returns the stream offset behind the last captured byte.
    pub fn captured_to(&self) -> u64 {
        let behind = |offset: u64, bytes: &[u8]| offset.saturating_add(bytes.len() as u64);
        let last = self.further.last();
        last.map_or_else(
            || behind(self.offset, self.bytes),
            |last| behind(last.offset, last.bytes),
        )
    }

    /// Returns whether the captured bytes begin with the first byte of the system call.
    pub fn begins_call(&self) -> bool {
        self.end.saturating_sub(self.offset) == u64::from(self.call_bytes)
    }
}

/// End of a stream: a read returned 0, or a TCP connection has closed with received bytes before `end` that no read has
/// taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfStream {
    /// Thread that read, if any did, and the time.
    pub stamp: Stamp,
    /// The connection.
    pub conn: ConnectionId,
    /// The byte stream that has ended.
    pub layer: Layer,
    /// Stream offset behind the last received byte.
    pub end: u64,
}

/// A change of a connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This end sends no more, by close(2) or shutdown(2). Told again when close(2) comes behind shutdown(2).
    LocalFin,
    /// The other end sends no more.
    RemoteFin,
    /// Over.
    Closed,
    /// A process closed a descriptor of a Unix connection that others have.
    Released,
    /// Over, at an unknown time and in an unknown way: the agent reports it for Unix connections, and after records were
    /// lost.
    Gone,
}

/// Kinds of knowledge about the processes that have a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The programs cannot tell.
    Unknown,
    /// A process has it.
    Open,
    /// No process has it any more.
    Released,
}

/// States of TCP that decide something, by the kernel's numbers
/// (<https://elixir.bootlin.com/linux/v6.18/source/include/net/tcp_states.h>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// connect(2) is under way.
    SynSent,
    /// The other end has closed, this one has not.
    CloseWait,
    /// Another.
    Other,
}

/// A connection changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Time of the change, and the thread if a process made it.
    pub stamp: Stamp,
    /// The connection.
    pub conn: ConnectionId,
    /// The change.
    pub change: Change,
    /// `sk_err` of the socket: a positive errno, or 0.
    pub errno: i32,
    /// The state before.
    pub before: TcpState,
    /// Both directions are shut down on this end: by close(2), or by shutdown(2).
    pub shut_both: bool,
    /// Whether a process still has the socket.
    pub held: Held,
    /// Set if the last record of received bytes found no room in the ring.
    pub lost_read: bool,
    /// Set if the last record of sent bytes found no room in the ring.
    pub lost_written: bool,
}

/// A target forked a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The parent, and when.
    pub stamp: Stamp,
    /// The new process.
    pub child: Tgid,
}

/// A process runs a new program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec<'a> {
    /// Thread and time.
    pub stamp: Stamp,
    /// Command line: words, each ends with NUL.
    pub command_line: &'a [u8],
    /// Environment: words, each ends with NUL; cut off where there is more than a record holds.
    pub environment: &'a [u8],
    /// The process was no target before: it is captured until user space decides.
    pub provisional: bool,
    /// The thread's name, NUL padded.
    pub comm: [u8; 16],
}

/// The last thread of a target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Thread and time.
    pub stamp: Stamp,
    /// `task->exit_code`: the low 7 bits are the signal that killed it.
    pub code: u32,
    /// A record of the process's Unix connections found no room in the ring.
    pub lost_unix: bool,
}

/// A process listens on a port that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Thread and time.
    pub stamp: Stamp,
    /// The port.
    pub port: u16,
}

/// A context that a program put into bytes as they left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Thread that sent the bytes, and the time.
    pub stamp: Stamp,
    /// The connection.
    pub conn: ConnectionId,
    /// The byte stream that `offset` counts in.
    pub layer: Layer,
    /// Stream offset of the first byte of the message that carries it.
    pub offset: u64,
    /// Part of the message that carries it.
    pub carrier: Carrier,
    /// Trace id.
    pub trace_id: [u8; 16],
    /// Id of the span that the receiver's span is a child of.
    pub span_id: [u8; 8],
    /// Flags of `traceparent`.
    pub trace_flags: u8,
}

/// A way to move bytes that the programs cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// An io_uring was set up while bytes are seen at system calls.
    IoUring,
    /// A process has an io_uring, whose requests may not be seen yet.
    Requests,
}
