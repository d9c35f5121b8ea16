//! Changes of TCP's states: beginnings of connections in the family `sock`, ends in both families.

use agent_ebpf::abi::{Connect, Control, Kind, Listen, Role, STATE_OPEN, STATE_RELEASED, State, StateChange};
use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

use super::{
    is_target,
    sock::{note_send, with_file},
};
use crate::{
    kernel::{Task, is_missing, offset, read},
    maps::{CONTROL, PORTS, TARGETS, is_marked, mark},
    scratch::{enter, leave},
    socket::{
        self, CONNECT_RETURNED, COUNTED, Connection, MULTIPATH, Moved, OPAQUE, RELEASED, connection, forget_accepted,
        is_given_up, note_accepted, read_to, report_ends, report_last, report_unread,
    },
    submit,
};

const EADDRNOTAVAIL: i32 = 99;
const EINPROGRESS: i32 = 115;

// TCP's states: include/net/tcp_states.h.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;
const CLOSING: u32 = 11;

/// Reports the changes of TCP's states that are only made in calls of processes.
///
/// A program of its own, because the kernel skips a program that runs already on its processor (`__bpf_trace_run`,
/// kernel/trace/bpf_trace.c), and an interrupt may change the states of other sockets while this one runs.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_called(ctx: RawTracePointContext) -> u32 {
    let (sock, old, new) = transition(&ctx);
    match (old, new) {
        (_, LISTEN) => report_listening(sock),
        (CLOSE, SYN_SENT) if offset!(by_events) == 1 => open_connecting(sock),
        (_, FIN_WAIT1 | LAST_ACK) => report_change(sock, old, new),
        _ => {}
    }
    0
}

/// Reports the other changes of TCP's states. A raw tracepoint, because it fires in interrupts (measured: the birth of
/// an accepted connection fires with the connecting client as `current`). So only the socket tells the owner, never the
/// thread.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_state(ctx: RawTracePointContext) -> u32 {
    let (sock, old, new) = transition(&ctx);
    match (old, new) {
        (_, LISTEN | SYN_SENT | FIN_WAIT1 | LAST_ACK) => {}
        (SYN_SENT, ESTABLISHED) if offset!(by_events) == 1 => describe_established(sock),
        (LISTEN | SYN_RECV, ESTABLISHED) if offset!(by_events) == 1 => note_accepted(sock),
        (SYN_SENT, CLOSE) if connection(sock).is_none() => note_stream_error(sock),
        _ => report_change(sock, old, new),
    }
    0
}

/// Reports a change of the state of a connection that is known.
#[inline(always)]
fn report_change(sock: u64, old: u32, new: u32) {
    let Some(entry) = connection(sock) else { return };
    let id = entry.id.get();
    let owner = owner(entry);
    // close(2) after shutdown(2) sets the same state again.
    let again = new == old;
    if again && (owner != STATE_RELEASED || entry.has(RELEASED)) {
        return;
    }
    if owner == STATE_RELEASED {
        entry.add(RELEASED);
    }
    let Some(change) = change(new, again) else { return };
    let mut error = 0i32;
    if new == CLOSE {
        if !is_missing!(sock_err) {
            error = read(sock + offset!(sock_err) as u64).unwrap_or(0);
        }
        if old == SYN_SENT && error == 0 && owner == STATE_OPEN {
            error = if entry.has(MULTIPATH) {
                entry.connect_error.get()
            } else if entry.has(COUNTED) {
                0
            } else {
                without_error(sock)
            };
        }
        if old == SYN_SENT && !entry.has(CONNECT_RETURNED) {
            // The connect failed within connect(2), whose exit reports it: a call that does not wait returns
            // EINPROGRESS nevertheless.
            entry.connect_error.set(error);
            return;
        }
    }
    let opaque = entry.has(OPAQUE) || is_given_up(id);
    if !opaque {
        report_streams(sock, entry, change, again);
    }
    let read_to = if new == CLOSE && owner == STATE_OPEN && !opaque {
        read_to(entry)
    } else {
        None
    };
    let lost = entry.lost();
    if new == CLOSE {
        socket::remove(sock);
    }
    if !opaque || new == CLOSE {
        submit::submit(State {
            header: submit::header(Kind::State, 0, 0),
            conn: id,
            error,
            state: change as u8,
            old: old as u8,
            shutdown: shutdown(sock),
            flags: owner | lost,
        });
    }
    if let Some(read_to) = read_to {
        report_unread(sock, id, read_to, fin_received(old, error));
    }
}

/// Returns the error of a connect that ended without one in the socket: without a SYN that has a sequence number, no
/// local port was free (`failure` in `tcp_v4_connect`, `late_failure` in `tcp_v6_connect`). A route that depends on the
/// port, and is missing, ends an IPv4 connect in the same way. 0: it is not known.
#[inline(always)]
fn without_error(sock: u64) -> i32 {
    match read::<u32>(sock + offset!(tcp_write_seq) as u64) {
        Some(0) => EADDRNOTAVAIL,
        _ => 0,
    }
}

/// Returns the connection of Multipath TCP that a socket is a stream of, if that is known.
#[inline(always)]
fn multipath(stream: u64) -> Option<u64> {
    let socket = read::<u64>(stream + offset!(sock_socket) as u64)?;
    if socket == 0 {
        return None;
    }
    let sock = read::<u64>(socket + offset!(socket_sk) as u64)?;
    if sock == stream {
        return None;
    }
    connection(sock)?.has(MULTIPATH).then_some(sock)
}

/// Notes why the first stream of a Multipath TCP connection could not connect. The connection itself gets the error only
/// behind its change of state (`__mptcp_error_report`, net/mptcp/protocol.c).
#[inline(always)]
fn note_stream_error(stream: u64) {
    if is_missing!(sock_socket) || is_missing!(sock_err) {
        return;
    }
    if let Some(sock) = multipath(stream)
        && let Some(entry) = connection(sock)
    {
        let error = read::<i32>(stream + offset!(sock_err) as u64).unwrap_or(0);
        entry
            .connect_error
            .set(if error == 0 { without_error(stream) } else { error });
    }
}

/// Opens the connection that the current thread begins, in the family `sock`. A connect that fails before this has no
/// event.
#[inline(always)]
fn open_connecting(sock: u64) {
    if !is_target() {
        return;
    }
    // The connection has begun before its first stream. Further streams begin in the kernel's own threads.
    if let Some(connection) = multipath(sock) {
        report_connecting(connection, sock);
        return;
    }
    // An entry at this address is a former socket's, or a former try's.
    if connection(sock).is_some() {
        socket::remove(sock);
    }
    let Some(socket) = with_file(sock) else { return };
    let Some(stream) = socket::stream(sock) else { return };
    note_send(Task::current());
    if !enter() {
        return;
    }
    if let Some(connection) = socket::insert(socket, stream, Role::Client) {
        // SAFETY: the helper has no preconditions.
        connection.connect_ns.set(unsafe { bpf_ktime_get_ns() });
        connection.opener.set(bpf_get_current_pid_tgid());
        connection.add(CONNECT_RETURNED);
        if stream.multipath {
            forget_accepted(sock);
        } else {
            report_connecting(sock, sock);
        }
    }
    leave();
}

/// Reports the beginning of a connect, with the address that `stream` has by then: the socket, or the first stream of a
/// Multipath TCP connection, which gets its address later. A global function, as [`super::opening::report_connect`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_connecting(sock: u64, stream: u64) -> u32 {
    let Some(entry) = connection(sock) else { return 0 };
    let mut connect = Connect {
        header: submit::header(Kind::Connect, 0, submit::take_flags(bpf_get_current_pid_tgid() as u32)),
        conn: entry.id.get(),
        start_ns: entry.connect_ns.get(),
        result: -EINPROGRESS,
        ..Connect::default()
    };
    connect.family = read::<u16>(stream + offset!(sock_family) as u64).unwrap_or(0) as u8;
    (connect.remote_port, connect.remote) = socket::remote(stream, connect.family);
    if !submit::submit(connect) {
        submit::note_loss(connect.header.tid, connect.header.flags);
    }
    1
}

/// Describes a connection that is established, mostly in an interrupt: the other end may answer before the first call
/// that moves bytes returns, and must find this one.
#[inline(always)]
fn describe_established(sock: u64) {
    if let Some(entry) = connection(sock)
        && entry.opener.get() != 0
    {
        entry.add(socket::ESTABLISHED);
        socket::describe(sock, Moved::NONE);
    }
}

/// Returns the socket, its state before, and its new state.
#[inline(always)]
fn transition(ctx: &RawTracePointContext) -> (u64, u32, u32) {
    // TRACE_EVENT(inet_sock_set_state, TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)).
    // SAFETY: the kernel passes three words.
    unsafe {
        let words = ctx.as_ptr().cast::<u64>();
        (*words, *words.add(1) as u32, *words.add(2) as u32)
    }
}

/// Returns the change that a new TCP state means; `None` for states that end nothing. `again`: the state was the same before.
#[inline(always)]
fn change(new: u32, again: bool) -> Option<StateChange> {
    Some(match new {
        FIN_WAIT2 | CLOSING if again => StateChange::LocalFin,
        FIN_WAIT1 | LAST_ACK => StateChange::LocalFin,
        CLOSE_WAIT | CLOSING => StateChange::RemoteFin,
        CLOSE if !again => StateChange::Closed,
        _ => return None,
    })
}

/// Returns `sk_shutdown` of a socket; 0 if this kernel lacks the field.
#[inline(always)]
fn shutdown(sock: u64) -> u8 {
    if is_missing!(sock_shutdown) {
        0
    } else {
        read(sock + offset!(sock_shutdown) as u64).unwrap_or(0) & 3
    }
}

/// Reports how far the streams have come at a change.
#[inline(always)]
fn report_streams(sock: u64, entry: &Connection, change: StateChange, again: bool) {
    match change {
        // The FIN has its sequence number by now, so `write_seq` is one too high for the bytes.
        StateChange::LocalFin if again => {}
        StateChange::LocalFin => report_last(sock, entry),
        StateChange::Closed => report_ends(entry),
        _ => {}
    }
}

/// Returns whether a socket that closes with `error` from the state `old` has received the other end's FIN.
#[inline(always)]
fn fin_received(old: u32, error: i32) -> bool {
    match old {
        CLOSE_WAIT | LAST_ACK | CLOSING => true,
        // The socket goes from here to CLOSE with a FIN (tcp_time_wait), and with a reset.
        FIN_WAIT2 => error == 0,
        _ => false,
    }
}

/// Returns whether a process still has the socket of a connection, as `STATE_*`. A socket has one file. Its reference
/// count is 0 when the last close reaches the socket, and the file is freed only after that.
#[inline(always)]
fn owner(connection: &Connection) -> u8 {
    if connection.has(RELEASED) {
        return STATE_RELEASED;
    }
    let file = connection.file.get();
    if is_missing!(file_count) || file == 0 {
        return 0;
    }
    let Some(references) = read::<u64>(file + offset!(file_count) as u64) else {
        return 0;
    };
    // `FILE_REF_DEAD` sets the highest bit.
    match references.wrapping_add(offset!(file_count_bias) as u64) {
        0 | 0x8000_0000_0000_0000.. => STATE_RELEASED,
        _ => STATE_OPEN,
    }
}

/// Makes the process a target if a rule names the port that it listens on. listen(2) fires this in the caller.
#[inline(always)]
fn report_listening(sock: u64) {
    if is_missing!(sock_num) {
        return;
    }
    let Some(port) = read::<u16>(sock + offset!(sock_num) as u64) else {
        return;
    };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_marked(&PORTS, port as u32) {
        return;
    }
    if CONTROL
        .get(0)
        .is_some_and(|control: &Control| control.agent_tgid.get() == tgid)
    {
        return;
    }
    // Servers in the kernel listen in threads of its own, which have no memory.
    if !is_missing!(task_mm) && read::<u64>(Task::current().field(offset!(task_mm))) == Some(0) {
        return;
    }
    // Reported for a target too: it may be a provisional one, which this port selects.
    mark(&TARGETS, tgid, true);
    submit::submit(Listen {
        header: submit::header(Kind::Listen, 0, 0),
        port: port as u32,
        pad: 0,
    });
}
