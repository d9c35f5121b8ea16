//! Maps that several modules use. Maps that user space writes at message rate are memory-mapped: each bpf(2) map
//! operation raises `bpf_prog_active` on its processor, and the kernel skips perf-attached programs meanwhile. Measured
//! with a process that updates a map all the time, on 6.1 to 6.18 with preempt=full: 36 to 51 % of another process's
//! programs did not run.

use agent_ebpf::{
    abi::{Control, HINT_SLOTS, Hint, Hints, MARKS, PID_LIMIT, SealedHint, StreamName},
    slot::Slot,
};
use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, ProgramArray, RingBuf},
};

/// An entry of a map of marks. Several processors may write a byte at once, each writes it whole. Bits would need an
/// atomic `or`, which Linux 5.10 lacks.
pub type Marks = [Slot<u8>; MARKS];

/// Marks of processes that are targets, one byte for each process id: the cheapest filter (9 ns; a hash look-up takes
/// 37).
#[map]
pub static TARGETS: Array<Marks> = Array::with_max_entries(PID_LIMIT / MARKS as u32, BPF_F_MMAPABLE);

/// Bytes by thread: the upper half of the flags of its next record. Only the thread itself writes its byte.
#[map]
pub static THREADS: Array<Marks> = Array::with_max_entries(PID_LIMIT / MARKS as u32, 0);

/// Marks of processes with a Unix connection: the hook of close(2) has nothing to do for others. Process ids share
/// bytes, so a mark may be another process's; that costs a look-up.
#[map]
pub static UNIX_USERS: Array<Marks> = Array::with_max_entries(UNIX_USERS_PAGES, 0);

/// Marks of processes that lost a record of a Unix connection to a full ring, by [`unix_user`].
#[map]
pub static UNIX_LOSERS: Array<Marks> = Array::with_max_entries(UNIX_USERS_PAGES, 0);

/// Marks of ports. A process that listens on one becomes a target.
#[map]
pub static PORTS: Array<Marks> = Array::with_max_entries(65536 / MARKS as u32, BPF_F_MMAPABLE);

/// Switches that the agent sets.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Core's hints, by [`StreamName::slot`].
#[map]
static HINTS: Array<[Slot<u64>; HINT_WORDS]> = Array::with_max_entries(HINT_SLOTS, BPF_F_MMAPABLE);

const HINT_WORDS: usize = size_of::<Hints>() / size_of::<u64>();
const WORDS_EACH: usize = size_of::<SealedHint>() / size_of::<u64>();

/// The ring buffer.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);

/// Programs that other programs end in by a tail call: [`REPORTER`].
#[map]
pub static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Programs that raw tracepoints end in, as [`NEXT`].
#[map]
pub static NEXT_RAW: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Index in [`NEXT`] and [`NEXT_RAW`] of the program that makes records.
pub const REPORTER: u32 = 0;

const UNIX_USERS_PAGES: u32 = 16;

/// Returns the index of a process in [`UNIX_USERS`] and [`UNIX_LOSERS`].
#[inline(always)]
pub fn unix_user(tgid: u32) -> u32 {
    tgid % (UNIX_USERS_PAGES * MARKS as u32)
}

/// Returns the byte of a process, thread or port; 0 if the map has none.
#[inline(always)]
pub fn marked(map: &Array<Marks>, id: u32) -> u8 {
    map.get(id / MARKS as u32)
        .map_or(0, |marks| marks[id as usize % MARKS].get())
}

/// Returns whether the byte of a process, thread or port is set.
#[inline(always)]
pub fn is_marked(map: &Array<Marks>, id: u32) -> bool {
    marked(map, id) != 0
}

/// Sets or clears the byte of a process, thread or port.
#[inline(always)]
pub fn mark(map: &Array<Marks>, id: u32, on: bool) {
    if let Some(marks) = map.get(id / MARKS as u32) {
        marks[id as usize % MARKS].set(on as u8);
    }
}

/// Adds flags to the thread's next record.
#[inline(always)]
pub fn note_flags(tid: u32, flags: u16) {
    if let Some(marks) = THREADS.get(tid / MARKS as u32) {
        let byte = &marks[tid as usize % MARKS];
        byte.set(byte.get() | (flags >> 8) as u8);
    }
}

/// Returns the hint for a direction of a stream, if its slot holds a whole one for it.
#[inline(always)]
pub fn hint(stream: StreamName, way: usize) -> Option<Hint> {
    let words = HINTS.get(stream.slot())?;
    let at = (way & 1) * WORDS_EACH;
    SealedHint::from_words([words[at].get(), words[at + 1].get(), words[at + 2].get()]).open(stream)
}
