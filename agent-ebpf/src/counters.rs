//! Counting what is lost.

use agent_ebpf::{
    abi::{COUNTER_COLUMNS, CPU_LIMIT, Counter},
    slot::Slot,
};
use aya_ebpf::{bindings::BPF_F_MMAPABLE, helpers::bpf_get_smp_processor_id, macros::map, maps::Array};

/// A row for each processor; processors from [`CPU_LIMIT`] on share the last one.
#[map]
static COUNTERS: Array<[Slot<u64>; COUNTER_COLUMNS]> = Array::with_max_entries(CPU_LIMIT, BPF_F_MMAPABLE);

/// Adds to a counter. Linux 5.10 offers programs no atomic add that this compiler emits: a program that interrupts another
/// one on its processor, or a processor that shares the last row, may lose an addition.
#[inline(never)]
pub fn count(counter: Counter, amount: u64) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let row = if cpu < CPU_LIMIT { cpu } else { CPU_LIMIT - 1 };
    if let Some(row) = COUNTERS.get(row) {
        // The mask keeps within the row, which the ABI asserts to have room for all counters.
        let sum = &row[counter as usize & (COUNTER_COLUMNS - 1)];
        sum.set(sum.get() + amount);
    }
}
