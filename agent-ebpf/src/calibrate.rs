//! Two facts that no version number and no BTF tells, measured on the agent itself before anything else is loaded.

use agent_ebpf::abi::Calibration;
use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_get_current_pid_tgid,
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};

use crate::{
    kernel::{Args, Task, offset, read},
    socket::file,
};

/// Question and answer of the calibration.
#[map]
static CALIBRATION: Array<Calibration> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// TRACE_EVENT_SYSCALLS sys_enter: `TP_PROTO(struct pt_regs *regs, long id)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn calibrate(ctx: RawTracePointContext) -> u32 {
    let Some(entry) = CALIBRATION.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a live map value.
    let entry = unsafe { &mut *entry };
    if bpf_get_current_pid_tgid() as u32 != entry.tid {
        return 0;
    }
    // SAFETY: the kernel passes two words.
    let (registers, id) = unsafe {
        let words = ctx.as_ptr().cast::<u64>();
        (*words, *words.add(1))
    };
    if id != entry.syscall as u64 {
        return 0;
    }
    let task = Task::current();
    if let Some(stack) = read::<u64>(task.field(offset!(task_stack))) {
        entry.stack_to_regs = registers.wrapping_sub(stack);
    }
    if let Some(operations) = file(task, entry.fd).and_then(|file| read::<u64>(file + offset!(file_op) as u64)) {
        entry.socket_file_ops = operations;
    }
    0
}

/// Walks to a file by typed loads. The agent only loads it, with `typed_task` set: a verifier that accepts it accepts
/// the other programs' loads as well.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn typed_walk(_ctx: RawTracePointContext) -> u32 {
    let task = Task::current();
    file(task, 0).is_some() as u32 + Args::of(task).is_some() as u32
}
