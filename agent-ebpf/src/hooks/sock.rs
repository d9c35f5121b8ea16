//! Events of sockets: bytes that a socket has moved, whichever call moved them. Linux has them since 6.3, for each send
//! and each receive, in the thread that makes it.
//!
//! An event names the socket, so no descriptor is looked up to find it, and no tracepoint of a system call is enabled,
//! which slows all calls of the host. It fires once the protocol has moved the bytes, so the socket's sequence numbers
//! are those behind them. [`super::buffers`] finds the bytes in user memory. A splice(2) out of a socket has no event:
//! [`super::splice`] stands in.

use agent_ebpf::{
    abi::{Direction, TURNED, WATCHED},
    slot::Slot,
};
use aya_ebpf::{
    EbpfContext,
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};

use super::{
    buffers::{Buffers, Moved, is_of_kernel, is_of_nothing, is_of_several, of_receive, of_send, pass_empty_message},
    messages::forget_messages,
    target,
    uring::note_refused,
};
use crate::{
    kernel::{Task, offset, word},
    maps::{UNIX_USERS, is_marked, note_flags, unix_user},
    report::{Bytes, report},
    socket::{OPAQUE, Socket, UNIX, connection, is_in_epoll, report_end_of_file},
};

const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_TRUNC: u32 = 0x20;
const MSG_ERRQUEUE: u32 = 0x2000;

/// Arguments of both events: DECLARE_EVENT_CLASS(sock_msg_length, TP_PROTO(struct sock *sk, int ret, int flags)).
struct Event {
    sock: u64,
    /// Number of bytes, or `-errno`.
    result: i32,
    /// Flags of recvmsg(2); 0 for a send.
    flags: u32,
}

impl Event {
    #[inline(always)]
    fn of(ctx: &RawTracePointContext) -> Self {
        // SAFETY: the kernel passes three words.
        unsafe {
            let words = ctx.as_ptr().cast::<u64>();
            Self {
                sock: *words,
                result: *words.add(1) as i32,
                flags: *words.add(2) as u32,
            }
        }
    }
}

#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn sock_send(ctx: RawTracePointContext) -> u32 {
    let Some(task) = target() else { return 0 };
    let Event { sock, result, .. } = Event::of(&ctx);
    note_send(task);
    if result <= 0 {
        pass_message(task, sock, result);
        note_refused(task, sock, Direction::Write, result);
        return 0;
    }
    let Some(socket) = with_file(sock) else { return 0 };
    let moved = of_send(task, &socket, result as u64);
    report_moved(&ctx, task, &socket, Direction::Write, result as u64, moved)
}

#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn sock_receive(ctx: RawTracePointContext) -> u32 {
    let Some(task) = target() else { return 0 };
    let Event { sock, result, flags } = Event::of(&ctx);
    note_receive(task, sock);
    if result <= 0 {
        pass_message(task, sock, result);
        note_refused(task, sock, Direction::Read, result);
        if result == 0 {
            report_empty(task, sock);
        }
        return 0;
    }
    // They were not taken from the stream.
    if flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB) != 0 {
        return 0;
    }
    let Some(socket) = with_file(sock) else { return 0 };
    let moved = if flags & MSG_TRUNC != 0 {
        None
    } else {
        of_receive(task, &socket, result as u64)
    };
    report_moved(&ctx, task, &socket, Direction::Read, result as u64, moved)
}

/// Takes a message of a recvmmsg(2) or sendmmsg(2) that moved no bytes, or could not be moved.
#[inline(always)]
fn pass_message(task: Task, sock: u64, result: i32) {
    if !is_of_several(task) {
        return;
    }
    if result < 0 {
        forget_messages();
    } else if let Some(socket) = with_file(sock) {
        pass_empty_message(task, &socket);
    }
}

/// Reports bytes that the thread has moved. `moved`: what is known of them; `None` if nothing that the thread is doing names the
/// socket.
#[inline(always)]
pub fn report_moved(
    ctx: &RawTracePointContext,
    task: Task,
    socket: &Socket,
    direction: Direction,
    bytes: u64,
    moved: Option<Moved>,
) -> u32 {
    // A socket that the kernel uses for itself is no traffic of this process, and never becomes a connection.
    if moved.is_none() && connection(socket.sock).is_none() && is_of_kernel(task, socket) {
        return 0;
    }
    let (buffers, by_request) = moved.map_or((Buffers::NOWHERE, false), |moved| (moved.buffers, moved.by_request));
    let watched = by_request || is_in_epoll(socket.file);
    let call = Bytes {
        thread: task.ids(),
        way: direction as u64,
        source: buffers.source as u64,
        bytes,
        address: buffers.address,
        count: buffers.count,
        flags: if watched { WATCHED } else { 0 },
    };
    report(ctx, socket, &call)
}

/// Returns the socket with its file; `None` for a socket of the kernel's own, which has none.
#[inline(always)]
pub fn with_file(sock: u64) -> Option<Socket> {
    let socket = word(sock + offset!(sock_socket) as u64)?;
    if socket == 0 {
        return None;
    }
    // Each stream of a Multipath TCP connection has a sock of its own, with the socket of the connection.
    if word(socket + offset!(socket_sk) as u64)? != sock {
        return None;
    }
    let file = word(socket + offset!(socket_file) as u64)?;
    (file != 0).then_some(Socket { sock, file })
}

/// Reports a receive that returned 0 on a Unix socket: its other end has closed, unless nothing was asked for.
#[inline(always)]
fn report_empty(task: Task, sock: u64) {
    let tgid = (task.ids() >> 32) as u32;
    if !is_marked(&UNIX_USERS, unix_user(tgid)) || is_of_nothing(task) {
        return;
    }
    if let Some(connection) = connection(sock)
        && connection.has(UNIX)
        && !connection.has(OPAQUE)
    {
        report_end_of_file(connection);
    }
}

/// Slots of [`TURNS`], a power of two.
const TURN_SLOTS: u32 = 65_536;

/// The last turn of each thread: its id (22 bits), how often it had slept (21 bits), and a hash of the socket from
/// which it received last (21 bits). Threads whose ids have the same remainder share a slot: each then seems to begin
/// another turn, which is never wrong.
#[map]
static TURNS: Array<Slot<u64>> = Array::with_max_entries(TURN_SLOTS, 0);

const PART_BITS: u32 = 21;
const PART: u64 = (1 << PART_BITS) - 1;

/// Returns the thread's slot, and the turn that it is in without a socket.
#[inline(always)]
fn turn(task: Task) -> (u32, Option<&'static Slot<u64>>, u64) {
    let tid = task.ids() as u32;
    let turn = (tid as u64) << (2 * PART_BITS) | (task.sleeps() & PART) << PART_BITS;
    (tid, TURNS.get(tid & (TURN_SLOTS - 1)), turn)
}

/// Adds [`TURNED`] to the thread's next record if it has slept or received from another socket since its last receive.
/// A loop serves one socket after the other, so these are the moments at which it may have waited for events. In
/// epoll_wait(2) itself no program of this family runs.
#[inline(always)]
pub fn note_receive(task: Task, sock: u64) {
    /// 2⁶⁴ divided by the golden ratio: spreads the addresses over all hashes.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (tid, slot, turn) = turn(task);
    let turn = turn | sock.wrapping_mul(SPREAD) >> (u64::BITS - PART_BITS);
    if let Some(slot) = slot
        && slot.get() != turn
    {
        slot.set(turn);
        note_flags(tid, TURNED);
    }
}

/// Adds [`TURNED`] to the thread's next record if it has slept since its last receive, or since it was last asked.
#[inline(always)]
pub fn note_send(task: Task) {
    let (tid, slot, turn) = turn(task);
    if let Some(slot) = slot
        && slot.get() >> PART_BITS != turn >> PART_BITS
    {
        slot.set(turn);
        note_flags(tid, TURNED);
    }
}
