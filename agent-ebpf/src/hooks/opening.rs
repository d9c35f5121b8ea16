//! Beginnings of connections, at accept(2) and connect(2): of all in the family `syscall`, of Unix sockets alone in the
//! family `sock`, where the changes of TCP's states tell the others ([`super::states`]).

use agent_ebpf::abi::{Connect, Counter, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, Kind, Role, UNIX_PATH_BYTES};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_probe_read_user},
    macros::tracepoint,
    programs::TracePointContext,
};

use super::{argument, is_target, returned};
use crate::{
    counters::count,
    kernel::{self, Args, Task, offset, read},
    maps::EVENTS,
    scratch::{enter, leave, on_own_stack},
    socket::{self, CONNECT_RETURNED, DESCRIBED, Moved, connection, inode, socket},
    submit,
};

const EINTR: i64 = 4;
const EALREADY: i64 = 114;
const EISCONN: i64 = 106;
const EINPROGRESS: i64 = 115;

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
