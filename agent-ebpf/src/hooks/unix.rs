//! Ends of Unix connections, at the system calls that close and shut down: there is no event for them.

use agent_ebpf::abi::{Counter, Kind, STATE_OPEN, STATE_RELEASED, State, StateChange};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::tracepoint, programs::TracePointContext};

use super::{argument, is_target, returned};
use crate::{
    counters::count,
    kernel::{Args, Task, is_missing, offset, read},
    maps::{UNIX_USERS, is_marked, unix_user},
    scratch::on_own_stack,
    socket::{self, OPAQUE, UNIX, connection, inode, report_ends, socket},
    submit,
};

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
    if last && !entry.has(OPAQUE) {
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
    if !entry.has(UNIX) || entry.has(OPAQUE) || args.second() == SHUT_RD {
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
