//! Submitting records.

use agent_ebpf::abi::{Counter, Execution, Header, Kind, PIECE_BYTES, Segment};
use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_ringbuf_output, bpf_ringbuf_query},
    },
    maps::ring_buf::RingBufEntry,
};

use crate::maps::{CONTROL, EVENTS, Scratch, count};

/// Bytes waiting in the ring from which a record wakes the reader at once.
const PRESSING_BYTES: u64 = 2 * 1024 * 1024;

/// Records with a payload from this size on ask how full the ring is.
const LARGE_BYTES: u64 = 2048;

/// The header of a record that the current thread causes now.
#[inline(always)]
pub fn header(kind: Kind, direction: u8, flags: u16) -> Header {
    let id = bpf_get_current_pid_tgid();
    Header {
        kind: kind as u8,
        direction,
        flags,
        // SAFETY: the helpers have no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() },
        // SAFETY: as above.
        time_ns: unsafe { bpf_ktime_get_ns() },
        execution: Execution {
            tgid: (id >> 32) as u32,
            tid: id as u32,
            identity: 0,
            parent: 0,
            generation: 0,
            source: 0,
        },
    }
}

/// Flags for a submission: a wake-up costs the sender 12 µs instead of 0.85, so only a reader that sleeps is woken (one
/// that works polls by a timer).
#[inline(always)]
fn wakeup() -> u64 {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: a live map value; a race makes one wake-up too many at most.
        unsafe {
            if core::ptr::read_volatile(&raw const (*control).reader_sleeps) != 0 {
                core::ptr::write_volatile(&raw mut (*control).reader_sleeps, 0);
                count(Counter::Wakeups, 1);
                return BPF_RB_FORCE_WAKEUP as u64;
            }
        }
    }
    BPF_RB_NO_WAKEUP as u64
}

/// Submits a record of fixed size. Works in interrupts, too. False: the ring is full (counted).
#[inline(always)]
pub fn submit<T: 'static>(record: T) -> bool {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count(Counter::RingFull, 1);
        return false;
    };
    entry.write(record);
    entry.submit(wakeup());
    true
}

/// Submits the scratch area's segment with its payload.
#[inline(always)]
pub fn submit_scratch(scratch: *mut Scratch) -> bool {
    let mut flags = wakeup();
    // SAFETY: the scratch area is this program's until it ends.
    if unsafe { (*scratch).segment.captured } as u64 > LARGE_BYTES {
        // SAFETY: a ring buffer map; 0 asks for the bytes that wait.
        let waiting = unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), 0) };
        if waiting > PRESSING_BYTES {
            flags = BPF_RB_FORCE_WAKEUP as u64;
        }
    }
    // Read and bounded right here: older verifiers forget the bounds of what the compiler puts on the stack meanwhile.
    // SAFETY: as above.
    let captured = unsafe { (&raw const (*scratch).segment.captured).read_volatile() } as u64;
    let bytes = size_of::<Segment>() as u64 + (captured & (2 * PIECE_BYTES as u64 - 1));
    // SAFETY: the scratch area's payload has 2 * PIECE_BYTES bytes.
    let result = unsafe { bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), scratch.cast(), bytes, flags) };
    if result != 0 {
        count(Counter::RingFull, 1);
    }
    result == 0
}

/// Submits a record that was reserved and filled in.
#[inline(always)]
pub fn submit_entry<T: 'static>(entry: RingBufEntry<T>) {
    entry.submit(wakeup());
}
