//! What the cost of programs is compared with, as absolute times differ from machine to machine and from hour to hour: one
//! that copies 256 bytes of user memory and submits them, and some that do nothing. The benchmarks attach them, the agent
//! never does.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::bpf_probe_read_user,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};

use crate::maps::EVENTS;

/// Bytes that are copied.
const BYTES: usize = 256;

/// `struct syscall_trace_enter { struct trace_entry ent; int nr; unsigned long args[]; }`: recvfrom's second argument,
/// the buffer.
const ADDRESS: usize = 24;

/// sys_enter_recvfrom: what a server calls for each request.
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

/// What a hook of a system call costs that nobody needs.
#[tracepoint]
pub fn empty(_ctx: TracePointContext) -> u32 {
    0
}

/// The same of a raw tracepoint.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn empty_raw(_ctx: RawTracePointContext) -> u32 {
    0
}
