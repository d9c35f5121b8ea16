//! Memory of this processor in which a record is put together: on the stack, which has 512 bytes, there is no room.

use agent_ebpf::{
    abi::{CPU_LIMIT, Counter, PIECE_BYTES, Segment},
    frame::head::Scan,
    plan::FIRST_BYTES,
    slot::Slot,
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::bpf_get_smp_processor_id,
    macros::map,
    maps::{HashMap, PerCpuArray},
    programs::TracePointContext,
};

use crate::{copy::Buffers, counters::count, kernel::offset, maps::NEXT, report::Reported, socket::Connection};

/// A processor's memory, a part for each user.
#[repr(C)]
pub struct Scratch {
    /// copy.rs and submit.rs: the record that is put together.
    pub record: Record,
    /// copy.rs: where the call's bytes lie.
    pub buffers: Buffers,
    /// report.rs: the call that is reported, from its hook to its records.
    pub call: Reported,
    /// plan: the scan of a head.
    pub scan: Scan,
    /// plan: a loop variable.
    pub at: Slot<u64>,
    /// plan: the size in the chunk line that was read last.
    pub line_size: Slot<u64>,
    /// socket/: a new entry of the table of connections.
    pub connection: Connection,
}

/// The beginning of a record; its payload follows without a gap.
#[repr(C)]
pub struct Record {
    /// The beginning.
    pub segment: Slot<Segment>,
    /// Twice as long as any copy, and what may lie before it, so that start and length can be bounded apart.
    pub payload: Slot<[u64; (2 * PIECE_BYTES + FIRST_BYTES as usize) / 8]>,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Processors whose memory is in use, where programs can preempt one another.
#[map]
static BUSY: HashMap<u32, u32> = HashMap::with_max_entries(CPU_LIMIT, 0);

/// This processor's memory. Between [`enter`] and [`leave`] no other program of a system call uses it.
#[inline(always)]
pub fn scratch() -> Option<&'static Scratch> {
    SCRATCH.get(0)
}

/// Takes this processor's memory; to be given back by [`leave`]. False: the program that was preempted has it
/// (counted). Where no program can be preempted, this costs nothing.
#[inline(always)]
pub fn enter() -> bool {
    offset!(preemptible) == 0 || take() == 1
}

/// Gives the memory back.
#[inline(always)]
pub fn leave() {
    if offset!(preemptible) != 0 {
        give_back();
    }
}

/// By an insertion that fails if there is an entry: Linux 5.10 has no other instruction that takes and tells.
#[inline(never)]
fn take() -> u32 {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if BUSY.insert(cpu, 1, BPF_NOEXIST as u64).is_ok() {
        return 1;
    }
    count(Counter::Preempted, 1);
    0
}

#[inline(never)]
fn give_back() {
    // SAFETY: as above.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let _ = BUSY.remove(cpu);
}

/// A tail call that is never made. A program that has one keeps its variables on the task's own stack: others get a stack
/// for each processor on newer kernels, which two of them would share where one can preempt the other (seen on 7.3: the
/// kernel then reads through pointers that are another program's numbers, and dies).
#[inline(always)]
pub fn on_own_stack(ctx: &TracePointContext) {
    if offset!(preemptible) > 1 {
        // SAFETY: a tail call of a tracepoint program, to an entry that there is not.
        unsafe { NEXT.tail_call(ctx, 1) };
    }
}
