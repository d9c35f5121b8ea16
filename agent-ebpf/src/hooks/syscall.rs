//! System calls by which stream sockets move bytes, and those that wait for them. One program for each call, on its
//! exit: there the number of bytes is known, the arguments are still in the saved registers, and the user's pages have
//! just been touched, so reading them does not fault. An entry program would cost a second hook and a map between the
//! two.

use agent_ebpf::abi::{Direction, WAITED};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::tracepoint, programs::TracePointContext};

use crate::{
    copy::{Source, gather_messages, message},
    hooks::{is_target, returned},
    kernel::{Args, Task},
    maps::{TARGETS, UNIX_USERS, is_marked, note_flags, unix_user},
    report::{Bytes, report, report_entered},
    scratch::{enter, leave, scratch},
    socket::{connection, report_end_of_file, socket, stream},
};

const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;

/// Reports a call with a buffer or an array of buffers.
#[inline(always)]
fn report_buffers(ctx: &TracePointContext, direction: Direction, source: Source) -> u32 {
    let bytes = returned(ctx);
    if bytes <= 0 || !is_target() {
        return if bytes == 0 && direction == Direction::Read {
            report_empty_read(true)
        } else {
            0
        };
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let Some(socket) = socket(task, args.first() as u32) else {
        return 0;
    };
    let call = Bytes {
        thread: bpf_get_current_pid_tgid(),
        way: direction as u64,
        source: source as u64,
        bytes: bytes as u64,
        address: args.second(),
        count: args.third(),
        flags: 0,
    };
    report(ctx, &socket, &call)
}

/// Reports a read that returned 0 on a Unix socket: its other end has closed. `sized`: the third argument is the
/// requested size, and a read of nothing is no end.
#[inline(always)]
fn report_empty_read(sized: bool) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_marked(&UNIX_USERS, unix_user(tgid)) || !is_marked(&TARGETS, tgid) {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    if sized && args.third() == 0 {
        return 0;
    }
    let Some(socket) = socket(task, args.first() as u32) else {
        return 0;
    };
    if let Some(connection) = connection(socket.sock) {
        report_end_of_file(connection);
    }
    0
}

#[tracepoint]
pub fn read_exit(ctx: TracePointContext) -> u32 {
    report_buffers(&ctx, Direction::Read, Source::Buffer)
}

#[tracepoint]
pub fn write_exit(ctx: TracePointContext) -> u32 {
    report_buffers(&ctx, Direction::Write, Source::Buffer)
}

#[tracepoint]
pub fn readv_exit(ctx: TracePointContext) -> u32 {
    report_buffers(&ctx, Direction::Read, Source::Vector)
}

#[tracepoint]
pub fn writev_exit(ctx: TracePointContext) -> u32 {
    report_buffers(&ctx, Direction::Write, Source::Vector)
}

/// Reports a vectored read; on a socket only offset −1 succeeds.
#[tracepoint]
pub fn preadv2_exit(ctx: TracePointContext) -> u32 {
    report_buffers(&ctx, Direction::Read, Source::Vector)
}

#[tracepoint]
pub fn pwritev2_exit(ctx: TracePointContext) -> u32 {
    report_buffers(&ctx, Direction::Write, Source::Vector)
}

#[tracepoint]
pub fn sendto_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let Some(socket) = socket(task, args.first() as u32) else {
        return 0;
    };
    let call = Bytes {
        thread: bpf_get_current_pid_tgid(),
        way: Direction::Write as u64,
        source: sent(args.fourth(), Source::Buffer) as u64,
        bytes: bytes as u64,
        address: args.second(),
        count: args.third(),
        flags: 0,
    };
    report(&ctx, &socket, &call)
}

/// Returns the source of sent bytes by the call's flags. The last byte of urgent data reaches the receiver beside the
/// stream, if at all (tcp(7)), so the content of the stream is unknown.
#[inline(always)]
fn sent(flags: u64, source: Source) -> Source {
    if flags & MSG_OOB != 0 { Source::Nowhere } else { source }
}

#[tracepoint]
pub fn recvfrom_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return if bytes == 0 { report_empty_read(true) } else { 0 };
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let Some(source) = received(args.fourth(), Source::Buffer) else {
        return 0;
    };
    let Some(socket) = socket(task, args.first() as u32) else {
        return 0;
    };
    let call = Bytes {
        thread: bpf_get_current_pid_tgid(),
        way: Direction::Read as u64,
        source: source as u64,
        bytes: bytes as u64,
        address: args.second(),
        count: args.third(),
        flags: 0,
    };
    report(&ctx, &socket, &call)
}

/// Returns the source of received bytes by the call's flags; `None`: they were not taken from the stream.
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
        return if bytes == 0 { report_empty_read(false) } else { 0 };
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let Some(source) = received(args.third(), Source::Vector) else {
        return 0;
    };
    let _ = report_message(&ctx, task, &args, Direction::Read, source, bytes as u64, args.second());
    0
}

#[tracepoint]
pub fn sendmsg_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let source = sent(args.third(), Source::Vector);
    let _ = report_message(&ctx, task, &args, Direction::Write, source, bytes as u64, args.second());
    0
}

/// Reports the bytes of the `struct msghdr` at `header`.
#[inline(always)]
fn report_message(
    ctx: &TracePointContext,
    task: Task,
    args: &Args,
    direction: Direction,
    source: Source,
    bytes: u64,
    header: u64,
) -> Option<()> {
    let socket = socket(task, args.first() as u32)?;
    let [address, count] = message(header)?;
    let call = Bytes {
        thread: bpf_get_current_pid_tgid(),
        way: direction as u64,
        source: source as u64,
        bytes,
        address,
        count,
        flags: 0,
    };
    report(ctx, &socket, &call);
    Some(())
}

#[tracepoint]
pub fn recvmmsg_exit(ctx: TracePointContext) -> u32 {
    let messages = returned(&ctx);
    if messages <= 0 || !is_target() {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let Some(source) = received(args.fourth(), Source::Vector) else {
        return 0;
    };
    let _ = report_messages(&ctx, task, &args, Direction::Read, source, messages as u64);
    0
}

#[tracepoint]
pub fn sendmmsg_exit(ctx: TracePointContext) -> u32 {
    let messages = returned(&ctx);
    if messages <= 0 || !is_target() {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    let source = sent(args.fourth(), Source::Vector);
    let _ = report_messages(&ctx, task, &args, Direction::Write, source, messages as u64);
    0
}

/// Reports several messages of one call: on a stream, one run of bytes.
#[inline(always)]
fn report_messages(
    ctx: &TracePointContext,
    task: Task,
    args: &Args,
    direction: Direction,
    source: Source,
    messages: u64,
) -> Option<()> {
    let socket = socket(task, args.first() as u32)?;
    // Most such calls move datagrams, whose messages need no walk.
    stream(socket.sock)?;
    let scratch = scratch()?;
    if !enter() {
        return None;
    }
    let count = gather_messages(args.second(), messages as u32) as u64;
    let bytes = scratch.buffers.bytes.get();
    if bytes == 0 {
        leave();
        return None;
    }
    let source = if source == Source::Nowhere || count == 0 {
        Source::Nowhere
    } else {
        Source::Gathered
    };
    let call = Bytes {
        thread: bpf_get_current_pid_tgid(),
        way: direction as u64,
        source: source as u64,
        bytes,
        address: 0,
        count,
        flags: 0,
    };
    report_entered(ctx, &socket, &call);
    Some(())
}

#[tracepoint]
pub fn sendfile64_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    report_moved(&ctx, task, args.first() as u32, Direction::Write, bytes as u64);
    0
}

#[tracepoint]
pub fn splice_exit(ctx: TracePointContext) -> u32 {
    let bytes = returned(&ctx);
    if bytes <= 0 || !is_target() {
        return 0;
    }
    let task = Task::current();
    let Some(args) = Args::of(task) else { return 0 };
    if !report_moved(&ctx, task, args.third() as u32, Direction::Write, bytes as u64) {
        report_moved(&ctx, task, args.first() as u32, Direction::Read, bytes as u64);
    }
    0
}

/// Reports bytes that the kernel moved itself. Returns false if the descriptor is no socket.
#[inline(always)]
fn report_moved(ctx: &TracePointContext, task: Task, fd: u32, direction: Direction, bytes: u64) -> bool {
    let Some(socket) = socket(task, fd) else { return false };
    let call = Bytes {
        thread: bpf_get_current_pid_tgid(),
        way: direction as u64,
        source: Source::Nowhere as u64,
        bytes,
        address: 0,
        count: 0,
        flags: 0,
    };
    report(ctx, &socket, &call);
    true
}

/// Marks the thread: one that waits in epoll_wait(2) between a request and its response serves others meanwhile.
#[tracepoint]
pub fn epoll_wait_exit(_ctx: TracePointContext) -> u32 {
    note_wait()
}

#[tracepoint]
pub fn epoll_pwait_exit(_ctx: TracePointContext) -> u32 {
    note_wait()
}

#[tracepoint]
pub fn epoll_pwait2_exit(_ctx: TracePointContext) -> u32 {
    note_wait()
}

#[inline(always)]
fn note_wait() -> u32 {
    if is_target() {
        note_flags(bpf_get_current_pid_tgid() as u32, WAITED);
    }
    0
}
