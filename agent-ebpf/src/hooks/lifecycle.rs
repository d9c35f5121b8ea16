//! Birth and end of connections: accept, connect, TCP's states, and the last close of a Unix socket.

use agent_ebpf::abi::{
    Connect, Control, Counter, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, Kind, Listen, Role, STATE_OPEN, STATE_RELEASED,
    State, StateChange, UNIX_PATH_BYTES,
};
use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_probe_read_user},
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};

use super::{
    argument, is_target, returned,
    sock::{note_send, with_file},
};
use crate::{
    counters::count,
    kernel::{self, Args, Task, is_missing, offset, read},
    maps::{CONTROL, EVENTS, PORTS, TARGETS, UNIX_USERS, is_marked, mark, unix_user},
    scratch::{enter, leave, on_own_stack},
    socket::{
        self, CONNECT_RETURNED, Connection, DESCRIBED, Moved, OPAQUE, RELEASED, UNIX, connection, inode, is_given_up,
        read_to, report_ends, report_last, report_unread, socket,
    },
    submit,
};

const EINTR: i64 = 4;
const EALREADY: i64 = 114;
const EISCONN: i64 = 106;
const EINPROGRESS: i64 = 115;

// TCP's states: include/net/tcp_states.h.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;
const CLOSING: u32 = 11;

#[tracepoint]
pub fn accept_exit(ctx: TracePointContext) -> u32 {
    open_accepted(&ctx)
}

#[tracepoint]
pub fn accept4_exit(ctx: TracePointContext) -> u32 {
    open_accepted(&ctx)
}

#[inline(always)]
fn open_accepted(ctx: &TracePointContext) -> u32 {
    on_own_stack(ctx);
    let fd = returned(ctx);
    if fd < 0 || !is_target() {
        return 0;
    }
    let Some(socket) = socket(Task::current(), fd as u32) else {
        return 0;
    };
    if is_reported_by_events(socket.sock) {
        return 0;
    }
    // An accepted socket is new, so an entry at this address is a former socket's.
    if connection(socket.sock).is_some() {
        socket::remove(socket.sock);
    }
    if enter() {
        socket::open(socket, Role::Server, Moved::NONE);
        leave();
    }
    0
}

/// Returns whether the events of TCP's states report the beginning of a socket's connection. In the family `sock`, the
/// hooks of connect(2) and accept(2) are attached for Unix sockets alone.
#[inline(always)]
fn is_reported_by_events(sock: u64) -> bool {
    offset!(by_events) == 1 && read::<u16>(sock + offset!(sock_family) as u64) != Some(FAMILY_UNIX as u16)
}

/// Notes the start of a connect: one that fails after two minutes began two minutes ago.
#[tracepoint]
pub fn connect_enter(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    if !is_target() {
        return 0;
    }
    let Some(socket) = socket(Task::current(), argument(&ctx, 0) as u32) else {
        return 0;
    };
    if is_reported_by_events(socket.sock) {
        return 0;
    }
    if let Some(connection) = connection(socket.sock) {
        // A second connect(2) on the same socket asks for the result of the first.
        if Some(connection.inode.get()) == inode(socket.file) {
            return 0;
        }
        socket::remove(socket.sock);
    }
    let Some(stream) = socket::stream(socket.sock) else {
        return 0;
    };
    if !enter() {
        return 0;
    }
    if let Some(connection) = socket::insert(socket, stream, Role::Client) {
        // SAFETY: the helper has no preconditions.
        connection.connect_ns.set(unsafe { bpf_ktime_get_ns() });
    }
    leave();
    0
}

#[tracepoint]
pub fn connect_exit(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    let result = returned(&ctx);
    if result == -EALREADY || result == -EISCONN || !is_target() {
        return 0;
    }
    let _ = report_connected(result);
    0
}

#[inline(always)]
fn report_connected(result: i64) -> Option<()> {
    let task = Task::current();
    let args = Args::of(task)?;
    let socket = socket(task, args.first() as u32)?;
    if is_reported_by_events(socket.sock) {
        return None;
    }
    let entry = connection(socket.sock)?;
    let connect_error = entry.connect_error.get();
    let result = if connect_error > 0 {
        -(connect_error as i64)
    } else {
        result
    };
    if entry.connect_ns.get() == 0 {
        return None;
    }
    // On one host the connection is established by now, even if a call that does not wait returns EINPROGRESS. It is
    // described here, because the server may answer before the client's first write returns, and its end must find this
    // one.
    if (result == 0 || result == -EINPROGRESS) && !entry.has(DESCRIBED) && enter() {
        socket::describe(socket.sock, Moved::NONE);
        leave();
    }
    report_connect(socket.sock, result as i32, args.second(), args.third());
    Some(())
}

/// Reports the result of a connect to this address. A global function: its record is not on the stack while the
/// connection is described, which takes most of the 512 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_connect(sock: u64, result: i32, address: u64, length: u64) -> u32 {
    let Some(entry) = connection(sock) else { return 0 };
    let mut connect = Connect {
        header: submit::header(Kind::Connect, 0, submit::take_flags(bpf_get_current_pid_tgid() as u32)),
        conn: entry.id.get(),
        start_ns: entry.connect_ns.get(),
        result,
        ..Connect::default()
    };
    peer_address(address, &mut connect);
    let submitted = if connect.family == FAMILY_UNIX {
        connect_unix(&connect, address, length)
    } else {
        submit::submit(connect)
    };
    if !submitted {
        submit::note_loss(connect.header.tid, connect.header.flags);
    }
    if result != 0 && result as i64 != -EINPROGRESS && result as i64 != -EINTR {
        socket::remove(sock);
    } else {
        entry.add(CONNECT_RETURNED);
    }
    1
}

/// Reads the address that connect(2) was given. Not from the socket, which forgets it when the connect fails.
#[inline(always)]
fn peer_address(address: u64, connect: &mut Connect) {
    // struct sockaddr_in6: family, port, flow, address; struct sockaddr_in: family, port, address.
    let mut bytes = [0u8; 24];
    // SAFETY: the destination has the size that is passed.
    if unsafe { bpf_probe_read_user(bytes.as_mut_ptr().cast(), 16, kernel::user(address)) } != 0 {
        count(Counter::UserFault, 1);
        return;
    }
    connect.family = bytes[0];
    if connect.family == FAMILY_INET {
        connect.remote_port = u16::from_be_bytes([bytes[2], bytes[3]]);
        connect.remote = [
            bytes[4], bytes[5], bytes[6], bytes[7], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
    } else if connect.family == FAMILY_INET6 {
        connect.remote_port = u16::from_be_bytes([bytes[2], bytes[3]]);
        // SAFETY: as above.
        let failed =
            unsafe { bpf_probe_read_user(connect.remote.as_mut_ptr().cast(), 16, kernel::user(address + 8)) } != 0;
        if failed {
            count(Counter::UserFault, 1);
        }
    }
}

/// Record of a connect with the longest address.
#[repr(C)]
struct UnixConnect {
    connect: Connect,
    path: [u8; 128],
}

/// Reports a connect to a Unix socket, with the address that it was given. Returns false if the ring is full (counted).
#[inline(always)]
fn connect_unix(connect: &Connect, address: u64, length: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve::<UnixConnect>(0) else {
        count(Counter::RingFull, 1);
        return false;
    };
    let record = entry.as_mut_ptr();
    let bytes = length.wrapping_sub(2);
    let bytes = if bytes > UNIX_PATH_BYTES as u64 { 0 } else { bytes };
    // SAFETY: the record is reserved, and the path has 128 bytes.
    unsafe {
        (*record).connect = *connect;
        let path = (&raw mut (*record).path).cast::<u8>();
        let failed = bpf_probe_read_user(path.cast(), bytes as u32 & 127, kernel::user(address + 2)) != 0;
        if failed {
            count(Counter::UserFault, 1);
        }
        (*record).connect.path_bytes = if failed { 0 } else { bytes as u8 };
    }
    submit::submit_entry(entry);
    true
}

/// Reports changes of TCP's states. A raw tracepoint, because it fires in interrupts (measured: the birth of an
/// accepted connection fires with the connecting client as `current`). So only the socket tells the owner, never the
/// thread.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_state(ctx: RawTracePointContext) -> u32 {
    let (sock, old, new) = transition(&ctx);
    if new == LISTEN {
        report_listening(sock);
        return 0;
    }
    if offset!(by_events) == 1 {
        match (old, new) {
            (CLOSE, SYN_SENT) => return open_connecting(sock),
            (SYN_SENT, ESTABLISHED) => return describe_established(sock),
            _ => {}
        }
    }
    let Some(entry) = connection(sock) else { return 0 };
    let id = entry.id.get();
    let owner = owner(entry);
    // close(2) after shutdown(2) sets the same state again.
    let again = new == old;
    if again && (owner != STATE_RELEASED || entry.has(RELEASED)) {
        return 0;
    }
    if owner == STATE_RELEASED {
        entry.add(RELEASED);
    }
    let Some(change) = change(new, again) else { return 0 };
    let mut error = 0i32;
    if new == CLOSE {
        if !is_missing!(sock_err) {
            error = read(sock + offset!(sock_err) as u64).unwrap_or(0);
        }
        if old == SYN_SENT && !entry.has(CONNECT_RETURNED) {
            // The connect failed within connect(2), whose exit reports it: a call that does not wait returns
            // EINPROGRESS nevertheless.
            entry.connect_error.set(error);
            return 0;
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
    0
}

/// Opens the connection that the current thread begins, in the family `sock`. A connect that fails before this has no
/// event.
#[inline(always)]
fn open_connecting(sock: u64) -> u32 {
    if !is_target() {
        return 0;
    }
    // An entry at this address is a former socket's, or a former try's.
    if connection(sock).is_some() {
        socket::remove(sock);
    }
    let Some(socket) = with_file(sock) else { return 0 };
    let Some(stream) = socket::stream(sock) else { return 0 };
    note_send(Task::current());
    if !enter() {
        return 0;
    }
    if let Some(connection) = socket::insert(socket, stream, Role::Client) {
        // SAFETY: the helper has no preconditions.
        connection.connect_ns.set(unsafe { bpf_ktime_get_ns() });
        connection.opener.set(bpf_get_current_pid_tgid());
        connection.add(CONNECT_RETURNED);
        report_connecting(sock);
    }
    leave();
    0
}

/// Reports the beginning of a connect, with the address that the socket has by then. A global function, as
/// [`report_connect`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_connecting(sock: u64) -> u32 {
    let Some(entry) = connection(sock) else { return 0 };
    let mut connect = Connect {
        header: submit::header(Kind::Connect, 0, submit::take_flags(bpf_get_current_pid_tgid() as u32)),
        conn: entry.id.get(),
        start_ns: entry.connect_ns.get(),
        result: -EINPROGRESS as i32,
        ..Connect::default()
    };
    connect.family = read::<u16>(sock + offset!(sock_family) as u64).unwrap_or(0) as u8;
    (connect.remote_port, connect.remote) = socket::remote(sock, connect.family);
    if !submit::submit(connect) {
        submit::note_loss(connect.header.tid, connect.header.flags);
    }
    1
}

/// Describes a connection that is established, mostly in an interrupt: the other end may answer before the first call
/// that moves bytes returns, and must find this one.
#[inline(always)]
fn describe_established(sock: u64) -> u32 {
    if let Some(entry) = connection(sock)
        && entry.opener.get() != 0
    {
        entry.add(socket::ESTABLISHED);
        socket::describe(sock, Moved::NONE);
    }
    0
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
    // Reported for a target too: it may be a provisional one, which this port selects.
    mark(&TARGETS, tgid, true);
    submit::submit(Listen {
        header: submit::header(Kind::Listen, 0, 0),
        port: port as u32,
        pad: 0,
    });
}

/// Reports the last close of a Unix socket. TCP's states report a connection's end; Unix sockets have no such event.
#[tracepoint]
pub fn close_enter(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    report_closing(argument(&ctx, 0) as u32)
}

#[tracepoint]
pub fn dup2_enter(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    report_closing(argument(&ctx, 1) as u32)
}

#[tracepoint]
pub fn dup3_enter(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    report_closing(argument(&ctx, 1) as u32)
}

/// Reports the closing of the first eight descriptors of a close_range(2).
#[tracepoint]
pub fn close_range_enter(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    let first = argument(&ctx, 0) as u32;
    let last = argument(&ctx, 1) as u32;
    // Not a loop: the compiler would count down from an unknown number, which no verifier walks.
    report_closing_at(first, last, 0);
    report_closing_at(first, last, 1);
    report_closing_at(first, last, 2);
    report_closing_at(first, last, 3);
    report_closing_at(first, last, 4);
    report_closing_at(first, last, 5);
    report_closing_at(first, last, 6);
    report_closing_at(first, last, 7);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if last.wrapping_sub(first) > 7 && last > first && is_marked(&UNIX_USERS, unix_user(tgid)) && is_target() {
        count(Counter::CloseRange, 1);
    }
    0
}

#[inline(always)]
fn report_closing_at(first: u32, last: u32, index: u32) {
    if first as u64 + index as u64 <= last as u64 {
        report_closing(first.wrapping_add(index));
    }
}

/// Reports the closing of a descriptor. A global function: the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_closing(fd: u32) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if is_marked(&UNIX_USERS, unix_user(tgid)) && is_target() {
        let _ = report_closed(fd);
    }
    0
}

#[inline(always)]
fn report_closed(fd: u32) -> Option<()> {
    if is_missing!(file_count) {
        return None;
    }
    let socket = socket(Task::current(), fd)?;
    let entry = connection(socket.sock)?;
    if !entry.has(UNIX) || inode(socket.file)? != entry.inode.get() {
        return None;
    }
    let id = entry.id.get();
    let references: u64 = read(socket.file + offset!(file_count) as u64)?;
    // A forked or duplicated descriptor remains: not the last close.
    let last = references.wrapping_add(offset!(file_count_bias) as u64) <= 1;
    if last {
        report_ends(entry);
    }
    let lost = entry.lost();
    if last {
        socket::remove(socket.sock);
    }
    submit::submit(State {
        header: submit::header(Kind::State, 0, 0),
        conn: id,
        error: 0,
        state: if last {
            StateChange::Closed
        } else {
            StateChange::Released
        } as u8,
        old: 0,
        shutdown: 3,
        flags: if last { STATE_RELEASED } else { STATE_OPEN } | lost,
    });
    Some(())
}

/// Reports shutdown(2) of a Unix socket's sending side. TCP's states report it for TCP.
#[tracepoint]
pub fn shutdown_exit(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    if returned(&ctx) != 0 || !is_target() {
        return 0;
    }
    let _ = report_shut();
    0
}

#[inline(always)]
fn report_shut() -> Option<()> {
    const SHUT_RD: u64 = 0;
    let task = Task::current();
    let args = Args::of(task)?;
    let socket = socket(task, args.first() as u32)?;
    let entry = connection(socket.sock)?;
    if !entry.has(UNIX) || args.second() == SHUT_RD {
        return None;
    }
    let id = entry.id.get();
    report_ends(entry);
    submit::submit(State {
        header: submit::header(Kind::State, 0, 0),
        conn: id,
        error: 0,
        state: StateChange::LocalFin as u8,
        old: 0,
        shutdown: 2,
        flags: STATE_OPEN | entry.lost(),
    });
    Some(())
}
