//! Submission of records to the ring buffer.

use agent_ebpf::abi::{Counter, Header, Kind, LOST, Layer, PIECE_BYTES, Segment, TURNED, WAITED};
use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_ringbuf_output, bpf_ringbuf_query},
    },
    maps::ring_buf::RingBufEntry,
};

use crate::{
    counters::count,
    maps::{CONTROL, EVENTS, THREADS, mark, marked, note_flags},
    scratch::Scratch,
};

/// Fill level of the ring at which a large record wakes the reader, in bytes.
const PRESSING_BYTES: u64 = 2 * 1024 * 1024;

/// Payload size from which on a record checks the fill level: the query costs a helper call.
const LARGE_BYTES: u64 = 2048;

/// Returns the header of a record that the current thread causes now.
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
        tgid: (id >> 32) as u32,
        tid: id as u32,
    }
}

/// Returns the flags of a submission. A wake-up costs the sender 12 µs instead of 0.85, so only a sleeping reader is
/// woken; a working one polls by a timer.
#[inline(always)]
fn wakeup() -> u64 {
    if let Some(control) = CONTROL.get(0) {
        // Two programs may both see the flag: one wake-up too many.
        if control.reader_sleeps.get() != 0 {
            control.reader_sleeps.set(0);
            count(Counter::Wakeups, 1);
            return BPF_RB_FORCE_WAKEUP as u64;
        }
    }
    BPF_RB_NO_WAKEUP as u64
}

/// Returns the flags of the submission of a large record, which wakes the reader if the ring fills.
#[inline(always)]
fn wakeup_of_large() -> u64 {
    let flags = wakeup();
    // SAFETY: a ring buffer map; 0 asks for the number of bytes that wait.
    let waiting = unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), 0) };
    if waiting > PRESSING_BYTES {
        BPF_RB_FORCE_WAKEUP as u64
    } else {
        flags
    }
}

/// Submits a record of fixed size; works in interrupts, too. Returns false if the ring is full (counted).
#[inline(always)]
pub fn submit<T: 'static>(record: T) -> bool {
    // Called before the reservation: Linux 5.10 forgets that a value is a reserved entry once it is on the stack, so it
    // must stay in a register. If the ring is full, a sleeping reader has now been woken, or looks into the ring at its
    // time limit.
    let flags = wakeup();
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count(Counter::RingFull, 1);
        return false;
    };
    entry.write(record);
    entry.submit(flags);
    true
}

/// Fields of a segment that neither the connection nor the call in this processor's memory has.
pub struct Fields {
    /// [`Segment::offset`]
    pub offset: u64,
    /// Bytes of the payload that the record carries.
    pub captured: u64,
    /// [`Segment::until`]
    pub until: u64,
    /// `SEGMENT_*`
    pub flags: u16,
}

/// Submits a segment of the connection `conn` with the first bytes of the payload.
#[inline(always)]
pub fn segment(scratch: &Scratch, conn: u64, fields: Fields) -> Option<()> {
    let Fields {
        offset,
        captured,
        until,
        flags,
    } = fields;
    let record = scratch.record.segment.as_ptr();
    let call = &scratch.call;
    // Field by field: the struct would take a third of the 512 bytes of stack that nested calls share.
    macro_rules! put {
        ($($field:ident).+, $value:expr) => {
            // SAFETY: a field of the record, which nobody else writes between `enter` and `leave`.
            unsafe { (&raw mut (*record).$($field).+).write_volatile($value) }
        };
    }
    let id = call.thread.get();
    // SAFETY: the helpers have no preconditions.
    let (cpu, time_ns) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_ns()) };
    put!(header.kind, Kind::Segment as u8);
    put!(header.direction, call.way.get() as u8);
    put!(header.flags, flags | take_flags(id as u32));
    put!(header.cpu, cpu);
    // Not together with the others: one more value that lives so long is one more word of stack.
    // SAFETY: as in `put`.
    let with = unsafe { (&raw const (*record).header.flags).read_volatile() };
    put!(header.flags, with | call.flags.get());
    put!(header.time_ns, time_ns);
    put!(header.tgid, (id >> 32) as u32);
    put!(header.tid, id as u32);
    put!(conn, conn);
    put!(offset, offset);
    let bytes = call.bytes.get();
    put!(end, call.start.get() + bytes);
    put!(until, until);
    put!(captured, captured as u32);
    let most = u32::MAX as u64;
    put!(call_bytes, if bytes > most { most } else { bytes } as u32);
    put!(layer, Layer::Wire as u8);
    put!(slices, 0);
    // The padding is never written, and the memory of a new map is zero.
    let flags = if captured > LARGE_BYTES {
        wakeup_of_large()
    } else {
        wakeup()
    };
    // Read back and bounded right here: older verifiers forget the bounds of a value that the compiler spills to the
    // stack.
    // SAFETY: a field of the record.
    let captured = unsafe { (&raw const (*record).captured).read_volatile() } as u64;
    let bytes = size_of::<Segment>() as u64 + (captured & (2 * PIECE_BYTES as u64 - 1));
    // SAFETY: the payload behind the segment has 2 * PIECE_BYTES bytes and more.
    let result = unsafe { bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), record.cast(), bytes, flags) };
    if result != 0 {
        count(Counter::RingFull, 1);
        // SAFETY: a field of the record.
        note_loss(id as u32, unsafe {
            (&raw const (*record).header.flags).read_volatile()
        });
        return None;
    }
    Some(())
}

/// Takes the flags of a thread's events since its last record.
#[inline(always)]
pub fn take_flags(tid: u32) -> u16 {
    let flags = marked(&THREADS, tid);
    if flags == 0 {
        return 0;
    }
    mark(&THREADS, tid, false);
    (flags as u16) << 8
}

/// Notes that a record found no room in the ring. The thread's next record has [`LOST`], and the flags of this one.
#[inline(always)]
pub fn note_loss(tid: u32, flags: u16) {
    // The other flags are about the lost record itself.
    note_flags(tid, flags & (WAITED | TURNED) | LOST);
}

/// Submits a reserved record that has been filled in.
#[inline(always)]
pub fn submit_entry<T: 'static>(entry: RingBufEntry<T>) {
    entry.submit(wakeup());
}
