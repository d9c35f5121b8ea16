//! Counters of losses.

use agent_ebpf::{
    abi::{COUNTER_COLUMNS, CPU_LIMIT, Counter},
    slot::Slot,
};
use aya_ebpf::{bindings::BPF_F_MMAPABLE, helpers::bpf_get_smp_processor_id, macros::map, maps::Array};

/// A row for each processor; processors from [`CPU_LIMIT`] on share the last one.
#[map]
static COUNTERS: Array<[Slot<u64>; COUNTER_COLUMNS]> = Array::with_max_entries(CPU_LIMIT, BPF_F_MMAPABLE);

/// Adds to a counter. This compiler emits no atomic add that Linux 5.10 accepts, so an addition may be lost when a
/// program interrupts another one on its processor, or when processors share the last row.
#[inline(never)]
pub fn count(counter: Counter, amount: u64) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let row = if cpu < CPU_LIMIT { cpu } else { CPU_LIMIT - 1 };
    if let Some(row) = COUNTERS.get(row) {
        // The mask keeps the index within the row. The ABI asserts that a row has room for all counters.
        let sum = &row[counter as usize & (COUNTER_COLUMNS - 1)];
        sum.set(sum.get() + amount);
    }
}
