//! The maps that several modules use. What user space writes at message rate is memory-mapped, never behind bpf(2): each
//! bpf(2) map operation makes the kernel skip programs on that processor.

use agent_ebpf::{
    abi::{Control, HINT_SLOTS, Hint, Hints, MARKS, PID_LIMIT, SealedHint, hint_slot},
    slot::Slot,
};
use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, ProgramArray, RingBuf},
};

/// A run of bytes in a map of marks. A byte is written whole, by everybody at once; bits could not be (Linux 5.10 has no
/// atomic `or`).
pub type Marks = [Slot<u8>; MARKS];

/// Is this process a target? A byte for each process id: the cheapest filter there is.
#[map]
pub static TARGETS: Array<Marks> = Array::with_max_entries(PID_LIMIT / MARKS as u32, BPF_F_MMAPABLE);

/// A byte for each thread: the upper half of the flags that its next record gets. Only the thread itself writes it.
#[map]
pub static THREADS: Array<Marks> = Array::with_max_entries(PID_LIMIT / MARKS as u32, 0);

/// Has this target a Unix connection? Only then the hook of close(2) has work. Process ids share bytes: a wrong yes
/// costs a look-up.
#[map]
pub static UNIX_USERS: Array<Marks> = Array::with_max_entries(UNIX_USERS_PAGES, 0);

/// Has a record of this process's Unix connections found no room in the ring? By [`unix_user`].
#[map]
pub static UNIX_LOSERS: Array<Marks> = Array::with_max_entries(UNIX_USERS_PAGES, 0);

/// Ports by a byte each: a process that listens on one becomes a target.
#[map]
pub static PORTS: Array<Marks> = Array::with_max_entries(65536 / MARKS as u32, BPF_F_MMAPABLE);

/// Switches that the agent turns.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Core's hints, by [`hint_slot`].
#[map]
static HINTS: Array<[Slot<u64>; HINT_WORDS]> = Array::with_max_entries(HINT_SLOTS, BPF_F_MMAPABLE);

const HINT_WORDS: usize = size_of::<Hints>() / size_of::<u64>();
const WORDS_EACH: usize = size_of::<SealedHint>() / size_of::<u64>();

/// The records.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);

/// The programs that others end in: [`REPORTER`].
#[map]
pub static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The place of the program that makes records, in [`NEXT`].
pub const REPORTER: u32 = 0;

const UNIX_USERS_PAGES: u32 = 16;

/// The place of a process in [`UNIX_USERS`] and [`UNIX_LOSERS`].
#[inline(always)]
pub fn unix_user(tgid: u32) -> u32 {
    tgid % (UNIX_USERS_PAGES * MARKS as u32)
}

/// The byte of a process, thread or port; 0 where there is none.
#[inline(always)]
pub fn marked(map: &Array<Marks>, id: u32) -> u8 {
    map.get(id / MARKS as u32)
        .map_or(0, |marks| marks[id as usize % MARKS].get())
}

/// Whether the byte of a process, thread or port is set.
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

/// Notes one of the flags of a thread's next record.
#[inline(always)]
pub fn befell(tid: u32, flags: u16) {
    if let Some(marks) = THREADS.get(tid / MARKS as u32) {
        let byte = &marks[tid as usize % MARKS];
        byte.set(byte.get() | (flags >> 8) as u8);
    }
}

/// The hint for a direction of a connection, if its slot holds one that is whole.
#[inline(always)]
pub fn hint(conn: u64, way: usize) -> Option<Hint> {
    let words = HINTS.get(hint_slot(conn))?;
    let at = (way & 1) * WORDS_EACH;
    SealedHint::from_words([words[at].get(), words[at + 1].get(), words[at + 2].get()]).open(conn)
}
