//! Processes: children of targets are targets before their first system call, and new programs are captured
//! provisionally.

use agent_ebpf::abi::{Counter, Exec, Exit, Fork, Kind, LOST, STRINGS_BYTES, Unseen, UnseenCause};
use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_comm, bpf_probe_read_user},
    },
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};

use super::{is_target, returned};
use crate::{
    counters::count,
    kernel::{Task, is_missing, offset, read},
    maps::{CONTROL, EVENTS, TARGETS, THREADS, UNIX_LOSERS, UNIX_USERS, is_marked, mark, unix_user},
    scratch::on_own_stack,
    socket::forget_poller,
    submit,
};

/// Makes the child of a target a target, before the child runs. TRACE_EVENT(sched_process_fork, TP_PROTO(struct
/// task_struct *parent, struct task_struct *child)).
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_marked(&TARGETS, tgid) {
        return 0;
    }
    if is_missing!(task_tgid) {
        return 0;
    }
    // SAFETY: the kernel passes two words.
    let child = unsafe { *ctx.as_ptr().cast::<u64>().add(1) };
    let Some(child) = read::<u32>(child + offset!(task_tgid) as u64) else {
        return 0;
    };
    if child == tgid {
        return 0;
    }
    forget_poller(child);
    mark(&TARGETS, child, true);
    if is_marked(&UNIX_USERS, unix_user(tgid)) {
        mark(&UNIX_USERS, unix_user(child), true);
    }
    let submitted = submit::submit(Fork {
        header: submit::header(Kind::Fork, 0, 0),
        child,
        pad: 0,
    });
    // Without the record Core never learns of the child. The agent looks for it in /proc once the ring has room again.
    if !submitted {
        mark(&TARGETS, child, false);
    }
    0
}

/// Record of an exec with the longest strings.
#[repr(C)]
struct LongExec {
    exec: Exec,
    strings: [u8; STRINGS_BYTES],
}

/// Reports a new program before its first instruction, and captures it provisionally. TRACE_EVENT(sched_process_exec,
/// …).
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(_ctx: RawTracePointContext) -> u32 {
    let Some(control) = CONTROL.get(0) else { return 0 };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let was = is_marked(&TARGETS, tgid);
    if tgid == control.agent_tgid.get() || !was && control.capture_new.get() == 0 {
        return 0;
    }
    forget_poller(tgid);
    let wanted = strings();
    let Some(mut entry) = EVENTS.reserve::<LongExec>(0) else {
        // Without the record nothing would decide whether it is selected. The agent looks for it in /proc once the ring
        // has room again.
        count(Counter::RingFull, 1);
        return 0;
    };
    if !was {
        mark(&TARGETS, tgid, true);
    }
    let record = entry.as_mut_ptr();
    // SAFETY: the record is reserved; its strings have STRINGS_BYTES bytes, which bounds the length.
    unsafe {
        let mut length = 0;
        let mut cmdline = 0;
        if let Some(Strings {
            start,
            bytes,
            cmdline_bytes,
        }) = wanted
            && bpf_probe_read_user((&raw mut (*record).strings).cast(), bytes, start as *const _) == 0
        {
            length = bytes;
            cmdline = cmdline_bytes;
        }
        (*record).exec.header = submit::header(Kind::Exec, 0, 0);
        (*record).exec.strings_len = length;
        (*record).exec.cmdline_len = cmdline;
        (*record).exec.provisional = !was as u32;
        (*record).exec.pad = 0;
        bpf_get_current_comm((&raw mut (*record).exec.comm).cast(), 16);
    }
    submit::submit_entry(entry);
    0
}

/// Memory of the current process with its command line and environment: adjacent, in pages that the exec has just
/// filled.
struct Strings {
    start: u64,
    bytes: u32,
    cmdline_bytes: u32,
}

#[inline(always)]
fn strings() -> Option<Strings> {
    if is_missing!(mm_arg_start) {
        return None;
    }
    let mm: u64 = read(Task::current().field(offset!(task_mm)))?;
    let [start, cmdline_end, _, end] = read::<[u64; 4]>(mm + offset!(mm_arg_start) as u64)?;
    let bytes = end.wrapping_sub(start);
    let cmdline = cmdline_end.wrapping_sub(start);
    let bytes = if bytes > STRINGS_BYTES as u64 {
        STRINGS_BYTES as u32
    } else {
        bytes as u32
    };
    let cmdline_bytes = if cmdline > bytes as u64 { bytes } else { cmdline as u32 };
    Some(Strings {
        start,
        bytes,
        cmdline_bytes,
    })
}

/// Ends the target when its last thread ends. TRACE_EVENT(sched_process_exit, …).
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(_ctx: RawTracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_marked(&TARGETS, tgid) {
        return 0;
    }
    // The next thread with this id starts without flags.
    mark(&THREADS, bpf_get_current_pid_tgid() as u32, false);
    let _ = end_process(tgid);
    0
}

#[inline(always)]
fn end_process(tgid: u32) -> Option<()> {
    if is_missing!(signal_live) {
        return None;
    }
    let signal: u64 = read(Task::current().field(offset!(task_signal)))?;
    let live: i32 = read(signal + offset!(signal_live) as u64)?;
    if live > 0 {
        return None;
    }
    let exit_code = if is_missing!(task_exit_code) {
        0
    } else {
        read(Task::current().field(offset!(task_exit_code)))?
    };
    mark(&TARGETS, tgid, false);
    let lost = is_marked(&UNIX_LOSERS, unix_user(tgid));
    if lost {
        mark(&UNIX_LOSERS, unix_user(tgid), false);
    }
    submit::submit(Exit {
        header: submit::header(Kind::Exit, 0, if lost { LOST } else { 0 }),
        exit_code,
        pad: 0,
    });
    Some(())
}

#[tracepoint]
pub fn io_uring_setup_exit(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    if returned(&ctx) >= 0 && is_target() {
        submit::submit(Unseen {
            header: submit::header(Kind::Unseen, 0, 0),
            cause: UnseenCause::IoUring as u32,
            pad: 0,
        });
    }
    0
}
