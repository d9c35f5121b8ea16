//! Memory of each processor, in which a program puts a record together: the stack has only 512 bytes.

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
};

use crate::{
    copy::Buffers,
    counters::count,
    kernel::offset,
    report::{Hook, Reported},
    socket::Connection,
};

/// Memory of one processor, with a part for each user.
#[repr(C)]
pub struct Scratch {
    /// Record that is put together, for copy.rs and submit.rs.
    pub record: Record,
    /// Places of the call's bytes, for copy.rs.
    pub buffers: Buffers,
    /// Call from its hook to its records, for report.rs.
    pub call: Reported,
    /// Scan of a head, for the plan.
    pub scan: Scan,
    /// Loop variable of the plan.
    pub at: Slot<u64>,
    /// Size in the last chunk line that was read, for the plan.
    pub line_size: Slot<u64>,
    /// New entry of the table of connections, for socket/.
    pub connection: Connection,
}

/// Fixed part of a record, and its payload without a gap.
#[repr(C)]
pub struct Record {
    /// Fixed part of a segment's record.
    pub segment: Slot<Segment>,
    /// Payload. Longer than twice the largest copy, because the verifier bounds start and length of a copy separately.
    pub payload: Slot<[u64; (2 * PIECE_BYTES + FIRST_BYTES as usize) / 8]>,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Processors whose memory is in use. Only used where programs can preempt one another.
#[map]
static BUSY: HashMap<u32, u32> = HashMap::with_max_entries(CPU_LIMIT, 0);

/// Returns this processor's memory. Between [`enter`] and [`leave`] no other program that sees bytes uses it.
#[inline(always)]
pub fn scratch() -> Option<&'static Scratch> {
    SCRATCH.get(0)
}

/// Takes this processor's memory, until [`leave`]. Returns false if the preempted program has it (counted). Costs
/// nothing where no program can be preempted.
#[inline(always)]
pub fn enter() -> bool {
    offset!(preemptible) == 0 || take() == 1
}

/// Gives this processor's memory back.
#[inline(always)]
pub fn leave() {
    if offset!(preemptible) != 0 {
        give_back();
    }
}

/// Marks the memory as taken. An insertion that fails on an existing entry is the only atomic test-and-set for programs
/// of Linux 5.10.
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

/// Makes the kernel run the program on the task's own stack, by a tail call that is never made. Newer kernels give
/// other programs a stack for each processor. Two programs would share it where one can preempt the other: on 7.3 the
/// kernel then read through pointers that were numbers of the other program, and died.
#[inline(always)]
pub fn on_own_stack(ctx: &impl Hook) {
    if offset!(preemptible) > 1 {
        // SAFETY: a tail call to an index without a program.
        unsafe { ctx.next().tail_call(ctx, 1) };
    }
}
