//! Place in user memory of the bytes that a socket's event is about.
//!
//! The event does not have it. The registers of the thread's system call do, if that call moves bytes through a
//! descriptor of this very socket. In a call on an io_uring, or in none, a request of an io_uring has it
//! ([`super::uring`]). Where the kernel moves the bytes itself (sendfile, splice), their place in the stream is known, and
//! their content is a gap.

use agent_ebpf::abi::{Counter, Direction};

use super::{
    messages::{Ends, next_message},
    splice::note_splice,
    uring::of_request,
};
use crate::{
    copy::{Source, message},
    counters::count,
    kernel::{Args, Registers, Task},
    socket::{Socket, file},
};

/// Numbers of the system calls: arch/x86/entry/syscalls/syscall_64.tbl.
#[cfg(not(bpf_target_arch = "aarch64"))]
mod number {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const READV: u32 = 19;
    pub const WRITEV: u32 = 20;
    pub const SENDTO: u32 = 44;
    pub const RECVFROM: u32 = 45;
    pub const SENDMSG: u32 = 46;
    pub const RECVMSG: u32 = 47;
    pub const IO_SUBMIT: u32 = 209;
    pub const SPLICE: u32 = 275;
    pub const RECVMMSG: u32 = 299;
    pub const SENDMMSG: u32 = 307;
    pub const PREADV2: u32 = 327;
    pub const PWRITEV2: u32 = 328;
}

/// Numbers of the system calls: scripts/syscall.tbl.
#[cfg(bpf_target_arch = "aarch64")]
mod number {
    pub const IO_SUBMIT: u32 = 2;
    pub const READ: u32 = 63;
    pub const WRITE: u32 = 64;
    pub const READV: u32 = 65;
    pub const WRITEV: u32 = 66;
    pub const SPLICE: u32 = 76;
    pub const SENDTO: u32 = 206;
    pub const RECVFROM: u32 = 207;
    pub const SENDMSG: u32 = 211;
    pub const RECVMSG: u32 = 212;
    pub const RECVMMSG: u32 = 243;
    pub const SENDMMSG: u32 = 269;
    pub const PREADV2: u32 = 286;
    pub const PWRITEV2: u32 = 287;
}

use number::{
    IO_SUBMIT, PREADV2, PWRITEV2, READ, READV, RECVFROM, RECVMMSG, RECVMSG, SENDMMSG, SENDMSG, SENDTO, SPLICE, WRITE,
    WRITEV,
};

/// Numbers of the calls that carry out requests of an io_uring, on all architectures.
const IO_URING_ENTER: u32 = 426;
const IO_URING_REGISTER: u32 = 427;

const MSG_OOB: u64 = 0x1;

/// User memory with the bytes of a call.
#[derive(Clone, Copy)]
pub struct Buffers {
    /// Kind of `address`.
    pub source: Source,
    /// Address of the buffer, or of the array.
    pub address: u64,
    /// Entries of the array.
    pub count: u64,
}

impl Buffers {
    /// Bytes without a place that is known.
    pub const NOWHERE: Self = Self {
        source: Source::Nowhere,
        address: 0,
        count: 0,
    };

    /// The buffer, or the array of buffers, of the second and third argument.
    #[inline(always)]
    fn given(source: Source, args: &Args) -> Self {
        Self {
            source,
            address: args.second(),
            count: args.third(),
        }
    }

    /// The buffers of the `struct msghdr` at an address.
    #[inline(always)]
    pub fn message(header: u64) -> Self {
        match message(header) {
            Some([address, count]) => Self {
                source: Source::Vector,
                address,
                count,
            },
            None => Self::NOWHERE,
        }
    }
}

/// Bytes that an event is about, as far as what the thread is doing tells of them.
pub struct Moved {
    /// Their place.
    pub buffers: Buffers,
    /// Whether a request of an io_uring moved them.
    pub by_request: bool,
}

impl Moved {
    /// Bytes that the thread's system call moved.
    #[inline(always)]
    fn by_call(buffers: Buffers) -> Self {
        Self {
            buffers,
            by_request: false,
        }
    }

    /// Bytes that a request of an io_uring moved.
    #[inline(always)]
    fn by_request(socket: &Socket, direction: Direction, bytes: u64) -> Self {
        Self {
            buffers: of_request(socket, direction, bytes),
            by_request: true,
        }
    }
}

/// Mover of the bytes that an event is about.
enum Mover {
    /// A system call whose first argument is a descriptor of this socket.
    Call(Registers, Args),
    /// A request of an io_uring.
    Request,
    /// Anything else.
    Other,
}

impl Mover {
    #[inline(always)]
    fn of(task: Task, socket: &Socket) -> Self {
        let Some(registers) = Registers::of(task) else {
            return if task.is_compat() { Self::Other } else { Self::Request };
        };
        // Its first argument may be the index of a registered ring, not a descriptor.
        if matches!(registers.number(), IO_URING_ENTER | IO_URING_REGISTER) {
            return Self::Request;
        }
        let args = registers.arguments();
        match file(task, args.first() as u32) {
            Some(file) if file == socket.file => Self::Call(registers, args),
            _ => Self::Other,
        }
    }
}

/// Returns the registers of the thread's system call, if that is splice(2).
#[inline(always)]
fn splice(task: Task) -> Option<Registers> {
    Registers::of(task).filter(|registers| registers.number() == SPLICE)
}

/// Returns the file out of which the thread's splice(2) moves bytes; `None` in other calls.
#[inline(always)]
pub fn spliced_file(task: Task) -> Option<u64> {
    file(task, splice(task)?.arguments().first() as u32)
}

/// Returns whether the thread's system call does not concern a socket whose bytes it has moved: the kernel uses the
/// socket for itself, and sends for NFS within a read(2) of a file. Sockets that an io_uring or io_submit(2) uses are in
/// no such argument.
#[inline(always)]
pub fn is_of_kernel(task: Task, socket: &Socket) -> bool {
    let Some(registers) = Registers::of(task) else {
        return false;
    };
    let args = registers.arguments();
    match registers.number() {
        IO_SUBMIT | IO_URING_ENTER | IO_URING_REGISTER => false,
        SPLICE => !is_named(task, args.first(), socket) && !is_named(task, args.third(), socket),
        _ => !is_named(task, args.first(), socket),
    }
}

/// Returns whether an argument is a descriptor of this socket.
#[inline(always)]
fn is_named(task: Task, fd: u64, socket: &Socket) -> bool {
    file(task, fd as u32).is_some_and(|file| file == socket.file)
}

/// Returns what is known of the bytes that the thread has sent; `None` if nothing that the thread is doing names the socket.
#[inline(always)]
pub fn of_send(task: Task, socket: &Socket, bytes: u64) -> Option<Moved> {
    let (registers, args) = match Mover::of(task, socket) {
        Mover::Call(registers, args) => (registers, args),
        Mover::Request => return Some(Moved::by_request(socket, Direction::Write, bytes)),
        Mover::Other => {
            // Its first argument is the pipe.
            if splice(task).is_some() {
                count(Counter::Splices, 1);
                note_splice();
            }
            return None;
        }
    };
    // The last byte of urgent data reaches the receiver beside the stream, if at all (tcp(7)): the content of the
    // stream is unknown.
    let buffers = match registers.number() {
        WRITE => Buffers::given(Source::Buffer, &args),
        SENDTO if args.fourth() & MSG_OOB == 0 => Buffers::given(Source::Buffer, &args),
        WRITEV | PWRITEV2 => Buffers::given(Source::Vector, &args),
        SENDMSG if args.third() & MSG_OOB == 0 => Buffers::message(args.second()),
        SENDMMSG => {
            let buffers = next_message(&args, bytes, Ends::WithPart);
            if args.fourth() & MSG_OOB == 0 {
                buffers
            } else {
                Buffers::NOWHERE
            }
        }
        _ => Buffers::NOWHERE,
    };
    Some(Moved::by_call(buffers))
}

/// Returns what is known of the bytes that the thread has received, as [`of_send`].
#[inline(always)]
pub fn of_receive(task: Task, socket: &Socket, bytes: u64) -> Option<Moved> {
    let (registers, args) = match Mover::of(task, socket) {
        Mover::Call(registers, args) => (registers, args),
        Mover::Request => return Some(Moved::by_request(socket, Direction::Read, bytes)),
        Mover::Other => return None,
    };
    let buffers = match registers.number() {
        READ | RECVFROM => Buffers::given(Source::Buffer, &args),
        READV | PREADV2 => Buffers::given(Source::Vector, &args),
        RECVMSG => Buffers::message(args.second()),
        // With a time limit, the call may end behind any message.
        RECVMMSG if registers.fifth() == 0 => next_message(&args, bytes, Ends::WithError),
        RECVMMSG => next_message(&args, bytes, Ends::Anywhere),
        _ => Buffers::NOWHERE,
    };
    Some(Moved::by_call(buffers))
}

/// Takes a message without bytes of a recvmmsg(2) or sendmmsg(2): the call goes on.
#[inline(always)]
pub fn pass_empty_message(task: Task, socket: &Socket) {
    if let Mover::Call(registers, args) = Mover::of(task, socket) {
        match registers.number() {
            SENDMMSG => drop(next_message(&args, 0, Ends::WithPart)),
            RECVMMSG if registers.fifth() == 0 => drop(next_message(&args, 0, Ends::WithError)),
            RECVMMSG => drop(next_message(&args, 0, Ends::Anywhere)),
            _ => {}
        }
    }
}

/// Returns whether the thread's system call is a recvmmsg(2) or sendmmsg(2).
#[inline(always)]
pub fn is_of_several(task: Task) -> bool {
    Registers::of(task).is_some_and(|registers| matches!(registers.number(), RECVMMSG | SENDMMSG))
}

/// Returns whether the thread's system call asks for no bytes at all.
#[inline(always)]
pub fn is_of_nothing(task: Task) -> bool {
    let Some(registers) = Registers::of(task) else {
        return false;
    };
    matches!(registers.number(), READ | RECVFROM | READV | PREADV2) && registers.arguments().third() == 0
}
