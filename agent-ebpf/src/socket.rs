//! The system calls by which stream sockets move bytes. One program a call, on its exit: there the bytes are known, the
//! arguments are still in the saved registers, and the user's pages have just been touched.

use agent_ebpf::abi::{Counter, Direction};
use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_user},
    macros::tracepoint,
    programs::TracePointContext,
};

use crate::{
    connection,
    kernel::{self, Args},
    maps::{self, BUFFERS, CONNECTIONS, SCRATCH, TARGETS, UNIX_USERS, count, is_marked, unix_user, work},
    segment::{self, Call, Source},
};

const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;
/// `struct msghdr` of user space: iov at byte 16, iovlen at 24, 56 bytes in all; `struct mmsghdr` adds the length.
const MSGHDR_BYTES: u64 = 56;
const MMSGHDR_BYTES: u64 = 64;
/// Most messages of one call (`UIO_MAXIOV` of the kernel).
const MESSAGES: u32 = 1024;

/// Whether the current process is a target.
#[inline(always)]
pub fn is_target() -> bool {
    is_marked(&TARGETS, (bpf_get_current_pid_tgid() >> 32) as u32)
}

/// What the system call returned (`sys_exit_*`: `long ret` at byte 16).
#[inline(always)]
pub fn returned(ctx: &TracePointContext) -> i64 {
    // SAFETY: the tracepoint's record is 24 bytes long, and its words are loaded without a helper.
    unsafe { ctx.as_ptr().cast::<i64>().add(2).read() }
}

/// An argument at the system call's entry (`sys_enter_*`: words from byte 16 on).
#[inline(always)]
pub fn argument(ctx: &TracePointContext, index: usize) -> u64 {
    // SAFETY: the tracepoint's record holds all arguments of the call.
    unsafe { ctx.as_ptr().cast::<u64>().add(2 + index).read() }
}

/// A call with a buffer or an array of buffers.
#[inline(always)]
fn plain(ctx: &TracePointContext, direction: Direction, source: Source) -> u32 {
    let bytes = returned(ctx);
    if bytes <= 0 || !is_target() {
        return if bytes == 0 && direction == Direction::Read {
            end_of_file(true)
        } else {
            0
        };
    }
    let Some(args) = Args::saved() else { return 0 };
    let Some(socket) = kernel::socket(args.first() as u32) else {
        return 0;
    };
    let call = Call {
        way: direction as u64,
        source: source as u64,
        bytes: bytes as u64,
        address: args.second(),
        count: args.third(),
    };
    segment::report(ctx, &socket, &call)
}

/// A read that returned 0 on a Unix socket: its other end has closed. `sized`: the third argument says how much was asked
/// for, and a read of nothing is no end.
#[inline(always)]
fn end_of_file(sized: bool) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_marked(&UNIX_USERS, unix_user(tgid)) || !is_marked(&TARGETS, tgid) {
        return 0;
    }
    let Some(args) = Args::saved() else { return 0 };
    if sized && args.third() == 0 {
        return 0;
    }
    let Some(socket) = kernel::socket(args.first() as u32) else {
        return 0;
    };
    if let Some(connection) = CONNECTIONS.get_ptr(&socket.sock) {
        // SAFETY: a live map value.
        unsafe { segment::end_of_file(&*connection) };
    }
    0
}

#[tracepoint]
pub fn read_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Read, Source::Buffer)
}

#[tracepoint]
pub fn write_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Write, Source::Buffer)
}

#[tracepoint]
pub fn readv_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Read, Source::Vector)
}

#[tracepoint]
pub fn writev_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Write, Source::Vector)
}

/// On a socket only offset −1 succeeds.
#[tracepoint]
pub fn preadv2_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Read, Source::Vector)
}

#[tracepoint]
pub fn pwritev2_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Write, Source::Vector)
}

#[tracepoint]
pub fn sendto_exit(ctx: TracePointContext) -> u32 {
    plain(&ctx, Direction::Write, Source::Buffer)
}

#[tracepoint]
pub fn recvfrom_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return if bytes == 0 { end_of_file(true) } else { 0 };
    }
    let Some(args) = Args::saved() else { return 0 };
    let Some(source) = received(args.fourth(), Source::Buffer) else {
        return 0;
    };
    let Some(socket) = kernel::socket(args.first() as u32) else {
        return 0;
    };
    let call = Call {
        way: Direction::Read as u64,
        source: source as u64,
        bytes: bytes as u64,
        address: args.second(),
        count: args.third(),
    };
    segment::report(&ctx, &socket, &call)
}

/// Where received bytes lie by the call's flags; `None`: they were not taken from the stream.
#[inline(always)]
fn received(flags: u64, source: Source) -> Option<Source> {
    if flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB) != 0 {
        return None;
    }
    Some(if flags & MSG_TRUNC != 0 {
        Source::Nowhere
    } else {
        source
    })
}

#[tracepoint]
pub fn recvmsg_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return if bytes == 0 { end_of_file(false) } else { 0 };
    }
    let Some(args) = Args::saved() else { return 0 };
    let Some(source) = received(args.third(), Source::Vector) else {
        return 0;
    };
    let _ = message(&ctx, &args, Direction::Read, source, bytes as u64, args.second());
    0
}

#[tracepoint]
pub fn sendmsg_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let Some(args) = Args::saved() else { return 0 };
    let _ = message(
        &ctx,
        &args,
        Direction::Write,
        Source::Vector,
        bytes as u64,
        args.second(),
    );
    0
}

/// Reports the bytes of the `struct msghdr` at `header`.
#[inline(always)]
fn message(
    ctx: &TracePointContext,
    args: &Args,
    direction: Direction,
    source: Source,
    bytes: u64,
    header: u64,
) -> Option<()> {
    let socket = kernel::socket(args.first() as u32)?;
    let [address, count] = user_words::<2>(header + 16)?;
    let call = Call {
        way: direction as u64,
        source: source as u64,
        bytes,
        address,
        count,
    };
    segment::report(ctx, &socket, &call);
    Some(())
}

#[inline(always)]
fn user_words<const N: usize>(address: u64) -> Option<[u64; N]> {
    let mut words = [0u64; N];
    // SAFETY: the destination has the size that is passed.
    if unsafe {
        bpf_probe_read_user(
            words.as_mut_ptr().cast(),
            size_of::<[u64; N]>() as u32,
            kernel::user(address),
        )
    } != 0
    {
        count(Counter::UserFault, 1);
        return None;
    }
    Some(words)
}

#[tracepoint]
pub fn recvmmsg_exit(ctx: TracePointContext) -> u32 {
    let messages = returned(&ctx);
    if messages <= 0 || !is_target() {
        return 0;
    }
    let Some(args) = Args::saved() else { return 0 };
    let Some(source) = received(args.fourth(), Source::Vector) else {
        return 0;
    };
    let _ = several(&ctx, &args, Direction::Read, source, messages as u64);
    0
}

#[tracepoint]
pub fn sendmmsg_exit(ctx: TracePointContext) -> u32 {
    let messages = returned(&ctx);
    if messages <= 0 || !is_target() {
        return 0;
    }
    let Some(args) = Args::saved() else { return 0 };
    let _ = several(&ctx, &args, Direction::Write, Source::Vector, messages as u64);
    0
}

/// Several messages of one call: to a stream, one run of bytes.
#[inline(always)]
fn several(ctx: &TracePointContext, args: &Args, direction: Direction, source: Source, messages: u64) -> Option<()> {
    let socket = kernel::socket(args.first() as u32)?;
    // Datagrams, mostly: their messages are not looked at.
    connection::stream(socket.sock)?;
    let scratch = SCRATCH.get_ptr_mut(0)?;
    if !maps::enter() {
        return None;
    }
    let count = messages_buffers(args.second(), messages as u32) as u64;
    let bytes = work!(scratch.at);
    if bytes == 0 {
        maps::leave();
        return None;
    }
    let source = if source == Source::Nowhere || count == 0 {
        Source::Nowhere
    } else {
        Source::Gathered
    };
    let call = Call {
        way: direction as u64,
        source: source as u64,
        bytes,
        address: 0,
        count,
    };
    segment::report_entered(ctx, &socket, &call);
    Some(())
}

/// Puts the buffers of an array of `struct mmsghdr` into the scratch area, as far as messages fill them, and into `at` how
/// many bytes all messages have. Returns how many buffers there are, 0 if they are more than are walked. A global function:
/// the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn messages_buffers(first: u64, messages: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    work!(scratch.at = 0);
    work!(scratch.done = 0);
    let mut index = 0u32;
    while index < MESSAGES {
        if index >= messages {
            break;
        }
        if message_buffers(first + index as u64 * MMSGHDR_BYTES) == 0 {
            work!(scratch.done = TOO_MANY);
        }
        index += 1;
    }
    let count = work!(scratch.done);
    if count > BUFFERS as u64 {
        self::count(Counter::TooManyBuffers, 1);
        return 0;
    }
    count as u32
}

/// In place of a number of buffers: there are more than are walked.
const TOO_MANY: u64 = u32::MAX as u64;

/// [`messages_buffers`], of one message. 0: there is no more room, or memory faulted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn message_buffers(header: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let Some([length]) = user_words::<1>(header + MSGHDR_BYTES) else {
        return 0;
    };
    let length = length & 0xffff_ffff;
    let before = work!(scratch.at);
    work!(scratch.at = before + length);
    work!(scratch.skip = length);
    let Some([address, vectors]) = user_words::<2>(header + 16) else {
        return 0;
    };
    let mut index = 0u64;
    while index < BUFFERS as u64 {
        let left = work!(scratch.skip);
        if index >= vectors || left == 0 {
            break;
        }
        let Some([start, bytes]) = user_words::<2>(address + index * 16) else {
            return 0;
        };
        index += 1;
        let bytes = if bytes > left { left } else { bytes };
        let at = work!(scratch.done);
        if at >= BUFFERS as u64 {
            return 0;
        }
        // SAFETY: `at` is below BUFFERS.
        unsafe { (*scratch).buffers[at as usize & (BUFFERS - 1)] = [start, bytes] };
        work!(scratch.done = at + 1);
        work!(scratch.skip = left - bytes);
    }
    (work!(scratch.skip) == 0) as u32
}

#[tracepoint]
pub fn sendfile64_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let Some(args) = Args::saved() else { return 0 };
    moved(&ctx, args.first() as u32, Direction::Write, bytes as u64);
    0
}

#[tracepoint]
pub fn splice_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let Some(args) = Args::saved() else { return 0 };
    if !moved(&ctx, args.third() as u32, Direction::Write, bytes as u64) {
        moved(&ctx, args.first() as u32, Direction::Read, bytes as u64);
    }
    0
}

/// Bytes that the kernel moved by itself. False: not a socket.
#[inline(always)]
fn moved(ctx: &TracePointContext, fd: u32, direction: Direction, bytes: u64) -> bool {
    let Some(socket) = kernel::socket(fd) else { return false };
    let call = Call {
        way: direction as u64,
        source: Source::Nowhere as u64,
        bytes,
        address: 0,
        count: 0,
    };
    segment::report(ctx, &socket, &call);
    true
}
