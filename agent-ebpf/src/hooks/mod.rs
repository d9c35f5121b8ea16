//! Hooks: the programs that the kernel runs, and how each reads its arguments.

mod buffers;
mod messages;
pub mod opening;
pub mod sock;
pub mod splice;
pub mod states;
pub mod syscall;
pub mod task;
pub mod unix;
pub mod uring;

use aya_ebpf::{EbpfContext, helpers::bpf_get_current_pid_tgid, programs::TracePointContext};

use crate::{
    kernel::Task,
    maps::{TARGETS, is_marked},
};

/// Returns whether the current process is a target.
#[inline(always)]
pub fn is_target() -> bool {
    is_marked(&TARGETS, (bpf_get_current_pid_tgid() >> 32) as u32)
}

/// Returns the current task, if its process is a target. For the family `sock`: [`Task::ids`] is cheap in it.
#[inline(always)]
pub fn target() -> Option<Task> {
    let task = Task::current();
    is_marked(&TARGETS, (task.ids() >> 32) as u32).then_some(task)
}

/// Returns the result of the system call (`sys_exit_*`: `long ret` at byte 16).
#[inline(always)]
pub fn returned(ctx: &TracePointContext) -> i64 {
    // SAFETY: the tracepoint's record is 24 bytes long, and its words are loaded without a helper.
    unsafe { ctx.as_ptr().cast::<i64>().add(2).read() }
}

/// Returns an argument at the system call's entry (`sys_enter_*`: words from byte 16 on).
#[inline(always)]
pub fn argument(ctx: &TracePointContext, index: usize) -> u64 {
    // SAFETY: the tracepoint's record holds all arguments of the call.
    unsafe { ctx.as_ptr().cast::<u64>().add(2 + index).read() }
}
