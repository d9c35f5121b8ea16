//! Reference programs of the benchmarks: one copies 256 bytes of user memory and submits them, others do nothing.
//! Absolute times differ from machine to machine and from hour to hour, so costs are multiples of theirs. The agent
//! never attaches them.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::bpf_probe_read_user,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};

use crate::maps::EVENTS;

/// Size of the copy, in bytes.
const BYTES: usize = 256;

/// Offset of recvfrom's second argument, the buffer, in `struct syscall_trace_enter { struct trace_entry ent; int nr;
/// unsigned long args[]; }`.
const ADDRESS: usize = 24;

/// Copies and submits 256 bytes at sys_enter_recvfrom, which a server calls for each request.
#[tracepoint]
pub fn reference(ctx: TracePointContext) -> u32 {
    // SAFETY: a field of the tracepoint's record.
    let Ok(address) = (unsafe { ctx.read_at::<u64>(ADDRESS) }) else {
        return 0;
    };
    let Some(mut entry) = EVENTS.reserve::<[u8; BYTES]>(0) else {
        return 0;
    };
    // SAFETY: the entry has this many writable bytes; a user address that cannot be read leaves zeros.
    unsafe { bpf_probe_read_user(entry.as_mut_ptr().cast(), BYTES as u32, address as *const _) };
    entry.submit(BPF_RB_NO_WAKEUP as u64);
    0
}

/// Does nothing at a system call: the cost of the hook alone.
#[tracepoint]
pub fn empty(_ctx: TracePointContext) -> u32 {
    0
}

/// Does nothing at a raw tracepoint.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn empty_raw(_ctx: RawTracePointContext) -> u32 {
    0
}
