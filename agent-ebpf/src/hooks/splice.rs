//! Bytes that targets receive by splice(2), for which no event of a socket fires.
//!
//! A TCP socket's own sequence number tells how many they are: [`tcp_spliced`] reports them at once, and without it the
//! next call on the connection shows them. The offsets of other connections are counted, so each call must be seen:
//! [`counted_spliced`] is attached once a target speaks HTTP on a Unix socket. A connection that is older than that is
//! given up once its process splices ([`is_uncounted`]), because nothing tells how many of its bytes have passed.

use agent_ebpf::{abi::Direction, slot::Slot};
use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{map, raw_tracepoint, tracepoint},
    maps::Array,
    programs::{RawTracePointContext, TracePointContext},
};

use super::{
    buffers::spliced_file,
    is_target, returned,
    sock::{note_receive, report_moved, with_file},
    target,
};
use crate::{
    kernel::{Args, Task, offset},
    maps::CONTROL,
    scratch::on_own_stack,
    socket::{COUNTED, Connection, OPAQUE, SPLICES_COUNTED, UNIX, connection, inode, pass_read, socket, unseen},
};

/// Reports bytes that splice(2) has taken out of a socket, for which no event fires. TRACE_EVENT(tcp_rcv_space_adjust,
/// TP_PROTO(struct sock *sk)): in tcp_read_sock, behind the update of the socket's sequence number, with the socket
/// locked (<https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp.c>). It fires in recvmsg(2), too, before the
/// event that reports those bytes, and in interrupts: so the thread's call has to be a splice(2) out of this socket.
#[raw_tracepoint(tracepoint = "tcp_rcv_space_adjust")]
pub fn tcp_spliced(ctx: RawTracePointContext) -> u32 {
    let Some(task) = target() else { return 0 };
    let Some(file) = spliced_file(task) else { return 0 };
    // SAFETY: the kernel passes a word.
    let sock = unsafe { *ctx.as_ptr().cast::<u64>() };
    let Some(socket) = with_file(sock).filter(|socket| socket.file == file) else {
        return 0;
    };
    let Some(connection) = connection(sock) else { return 0 };
    // A former socket at the same address had other sequence numbers.
    if inode(file) != Some(connection.inode.get()) {
        return 0;
    }
    note_receive(task, sock);
    let bytes = unseen(sock, connection, Direction::Read as usize);
    if bytes == 0 {
        return 0;
    }
    report_moved(&ctx, task, &socket, Direction::Read, bytes, None)
}

/// Counts the bytes that splice(2) has taken out of a socket without sequence numbers.
#[tracepoint]
pub fn counted_spliced(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    if let Some(control) = CONTROL.get(0) {
        control.splices_are_counted.set(1);
    }
    let bytes = returned(&ctx);
    if bytes > 0 && is_target() {
        let _ = pass_spliced(bytes as u64);
    }
    0
}

#[inline(always)]
fn pass_spliced(bytes: u64) -> Option<()> {
    let task = Task::current();
    let args = Args::of(task)?;
    let socket = socket(task, args.first() as u32)?;
    let connection = connection(socket.sock)?;
    if !has_no_event(connection) || connection.has(OPAQUE) || inode(socket.file)? != connection.inode.get() {
        return None;
    }
    note_receive(task, socket.sock);
    pass_read(connection, bytes);
    Some(())
}

/// Returns whether a splice(2) out of a connection changes nothing that a program can read. Until Multipath TCP got a
/// splice of its own (`mptcp_splice_read`), the kernel spliced out of it by receiving, which is an event.
#[inline(always)]
fn has_no_event(connection: &Connection) -> bool {
    connection.has(UNIX) || connection.has(COUNTED) && offset!(multipath_splices) == 1
}

/// Number of sends by splice(2) of each process, modulo 2¹⁶. Processes whose ids have the same remainder share a slot:
/// each then seems to splice more.
#[map]
static SPLICES: Array<Slot<u16>> = Array::with_max_entries(SPLICE_SLOTS, 0);

/// Slots of [`SPLICES`], a power of two.
const SPLICE_SLOTS: u32 = 4096;

#[inline(always)]
fn splices() -> Option<&'static Slot<u16>> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    SPLICES.get(tgid & (SPLICE_SLOTS - 1))
}

/// Notes that the current process sends by splice(2): it has received the bytes by that call, too, perhaps from a
/// socket.
#[inline(always)]
pub fn note_splice() {
    if let Some(number) = splices() {
        number.set(number.get().wrapping_add(1));
    }
}

/// Returns how often the current process has sent by splice(2), modulo 2¹⁶.
#[inline(always)]
pub fn number_of_splices() -> u16 {
    splices().map_or(0, Slot::get)
}

/// Returns whether bytes of a connection may have passed without being counted, since its last call.
#[inline(always)]
pub fn is_uncounted(connection: &Connection) -> bool {
    has_no_event(connection) && !connection.has(SPLICES_COUNTED) && connection.splices.get() != number_of_splices()
}
