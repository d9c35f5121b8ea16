//! The maps. What user space writes at message rate is memory-mapped, never behind bpf(2): each bpf(2) map operation
//! makes the kernel skip programs on that processor.

use agent_ebpf::abi::{
    COUNTER_COLUMNS, CPU_LIMIT, Control, Counter, FOLLOW_SLOTS, Follow, MARKS, PID_LIMIT, PIECE_BYTES, Segment,
    follow_slot,
};
use agent_ebpf::framing::{Found, Framing};
use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf},
    programs::TracePointContext,
};

use crate::{
    kernel::{Socket, offset},
    segment::Call,
};

/// Is this process a target? A byte for each process id: the cheapest filter there is, and bytes can be written by
/// everybody at once, which bits cannot (Linux 5.10 has no atomic `or`).
#[map]
pub static TARGETS: Array<Marks> = Array::with_max_entries(PID_LIMIT / MARKS as u32, BPF_F_MMAPABLE);

/// Has this target a Unix connection? Only then the hook of close(2) has work. Process ids share bytes: a wrong yes
/// costs a look-up.
#[map]
pub static UNIX_USERS: Array<Marks> = Array::with_max_entries(UNIX_USERS_PAGES, 0);

/// Ports by a byte each: who listens on one becomes a target.
#[map]
pub static PORTS: Array<Marks> = Array::with_max_entries(65536 / MARKS as u32, BPF_F_MMAPABLE);

/// Switches.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What Core tells of connections.
#[map]
static FOLLOW: Array<Follow> = Array::with_max_entries(FOLLOW_SLOTS, BPF_F_MMAPABLE);

/// A row of counters for each processor.
#[map]
pub static COUNTERS: Array<[u64; COUNTER_COLUMNS]> = Array::with_max_entries(CPU_LIMIT, BPF_F_MMAPABLE);

/// The records.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);

/// Connections by the address of their socket.
#[map]
pub static CONNECTIONS: HashMap<u64, Connection> = HashMap::with_max_entries(65536, 0);

/// How many connections this processor has named.
#[map]
pub static NAMED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The program that all programs of system calls end in.
#[map]
pub static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where a record is put together.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Processors whose scratch area is in use, where programs can preempt one another.
#[map]
static BUSY: HashMap<u32, u32> = HashMap::with_max_entries(CPU_LIMIT, 0);

/// Takes this processor's scratch area; to be given back by [`leave`]. False: the program that was preempted has it
/// (counted). Where no program can be preempted, this costs nothing.
#[inline(always)]
pub fn enter() -> bool {
    offset!(preemptible) == 0 || take_scratch() == 1
}

/// Gives the scratch area back.
#[inline(always)]
pub fn leave() {
    if offset!(preemptible) != 0 {
        give_scratch_back();
    }
}

/// By an insertion that fails if there is an entry: Linux 5.10 has no other instruction that takes and tells.
#[inline(never)]
fn take_scratch() -> u32 {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if BUSY.insert(cpu, 1, BPF_NOEXIST as u64).is_ok() {
        return 1;
    }
    count(Counter::Preempted, 1);
    0
}

#[inline(never)]
fn give_scratch_back() {
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

/// A run of bytes in a map of marks.
pub type Marks = [u8; MARKS];

const UNIX_USERS_PAGES: u32 = 16;

/// Where the byte of a process is in [`UNIX_USERS`].
#[inline(always)]
pub fn unix_user(tgid: u32) -> u32 {
    tgid % (UNIX_USERS_PAGES * MARKS as u32)
}

/// What the programs know of a connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Connection {
    /// Its name in records.
    pub id: u64,
    /// Inode number of the socket.
    pub inode: u64,
    /// Address of its file, for a comparison that needs no read. It may be used again sooner than the inode number.
    pub file: u64,
    /// When connect(2) was called; 0 if it was not.
    pub connect_ns: u64,
    /// Next stream offset, by direction.
    pub offset: [u64; 2],
    /// All below this stream offset is body, as the head that was sent says; by direction.
    pub body_until: [u64; 2],
    /// Where the next boundary of chunks is, by direction: the stream offset behind a chunk's data. 0: not known.
    pub chunk_at: [u64; 2],
    /// The begin of a chunk's line that the last call cut off, by direction: the bytes from `chunk_at` on.
    pub carry: [[u8; CARRY_BYTES]; 2],
    /// Sequence number of stream offset 0, by direction.
    pub base: [u32; 2],
    /// `OPAQUE` and following.
    pub flags: u32,
    /// Role as a number.
    pub role: u32,
    /// Why the connect failed, positive errno, if it did before connect(2) returned.
    pub connect_error: i32,
    /// Always 0.
    pub pad: u32,
}

/// Most bytes of a line that are carried from one call to the next.
pub const CARRY_BYTES: usize = 16;

/// Not looked at any more.
pub const OPAQUE: u32 = 1;
/// Offsets are counted: there are no sequence numbers (Unix, MPTCP).
pub const COUNTED: u32 = 2;
/// The record Open was submitted.
pub const DESCRIBED: u32 = 4;
/// Seen from its first byte.
pub const FROM_BIRTH: u32 = 8;
/// A HEAD request went over it: its responses' Content-Length is no body's.
pub const HEAD_SEEN: u32 = 16;
/// A Unix socket.
pub const UNIX: u32 = 32;
/// The message that is read (written) is chunked.
pub const CHUNKED: [u32; 2] = [128, 256];
/// Of its chunks the first one's line is next: no data's end is before it.
pub const FIRST_CHUNK: [u32; 2] = [512, 1024];
/// Nothing behind the head that the programs framed was seen yet, by direction.
pub const FRAMED: [u32; 2] = [2048, 4096];
/// connect(2) has returned.
pub const CONNECT_RETURNED: u32 = 64;

/// Most buffers of one call that are walked. Heads come in a dozen or two (a line each); a walk costs no more than there are.
pub const BUFFERS: usize = 64;

/// Where a record is put together, and what a call's arguments point at.
#[repr(C)]
pub struct Scratch {
    /// The record's beginning; the payload follows without a gap.
    pub segment: Segment,
    /// Twice as long as any copy, so that start and length can be bounded apart.
    pub payload: [u8; 2 * PIECE_BYTES],
    /// Buffers of the call: address and length.
    pub buffers: [[u64; 2]; BUFFERS],
    /// Bytes of the buffers that are still to be passed over.
    pub skip: u64,
    /// Bytes that are in the payload.
    pub done: u64,
    /// Stream offset of the payload.
    pub at: u64,
    /// The socket of the call.
    pub socket: Socket,
    /// The call.
    pub call: Call,
    /// The begin of the line that is read, from an earlier call.
    pub carry: [u8; CARRY_BYTES],
    /// 1: the connection that was described is closed already, and no event will tell its end.
    pub dead: u64,
    /// Size of the chunk whose line was read last.
    pub chunk_bytes: u64,
    /// What the last scan found.
    pub framing: Framing,
    /// Where a head is scanned.
    pub found: Found,
    /// Where a new entry of [`CONNECTIONS`] is put together.
    pub connection: Connection,
}

/// Counts a loss.
#[inline(never)]
pub fn count(counter: Counter, amount: u64) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let row = if cpu < CPU_LIMIT { cpu } else { CPU_LIMIT - 1 };
    if let Some(row) = COUNTERS.get_ptr_mut(row) {
        // SAFETY: the column is within the row (asserted in the ABI); a plain add, as nobody else writes this row.
        unsafe { (*row)[counter as usize & (COUNTER_COLUMNS - 1)] += amount };
    }
}

/// Whether the byte of a process is set.
#[inline(always)]
pub fn is_marked(map: &Array<Marks>, tgid: u32) -> bool {
    map.get(tgid / MARKS as u32)
        .is_some_and(|marks| marks[tgid as usize % MARKS] != 0)
}

/// Sets or clears the byte of a process.
#[inline(always)]
pub fn mark(map: &Array<Marks>, tgid: u32, on: bool) {
    if let Some(marks) = map.get_ptr_mut(tgid / MARKS as u32) {
        // SAFETY: a live map value, and the index is below its length; a byte is written whole.
        unsafe { (*marks)[tgid as usize % MARKS] = on as u8 };
    }
}

/// What Core tells of one connection.
#[derive(Clone, Copy)]
pub struct Words {
    entry: *const Follow,
    conn: u64,
}

impl Words {
    /// Of this one.
    #[inline(always)]
    pub fn of(conn: u64) -> Option<Self> {
        let entry = FOLLOW.get_ptr(follow_slot(conn))?;
        Some(Self { entry, conn })
    }

    /// Below which offset no record is needed; 0: nothing is said, Core does not follow it.
    #[inline(always)]
    pub fn until(self, way: usize) -> u64 {
        // SAFETY: a live map value, which the agent may be writing; a word is read whole, and the index is bounded.
        let (until, seal) = unsafe {
            (
                (&raw const (*self.entry).until[way & 1]).read_volatile(),
                (&raw const (*self.entry).seals[way & 1]).read_volatile(),
            )
        };
        Follow::told(self.conn, until, seal)
    }

    /// Whether Core follows it no more.
    #[inline(always)]
    pub fn give_up(self) -> bool {
        self.until(0) == u64::MAX && self.until(1) == u64::MAX
    }
}

/// A variable of a loop, in memory that the verifier does not follow: in a register, it would walk each of its values
/// through the rest of the loop.
macro_rules! work {
    ($scratch:ident.$field:ident) => {
        // SAFETY: the scratch area is this program's until it ends.
        unsafe { (&raw const (*$scratch).$field).read_volatile() }
    };
    ($scratch:ident.$field:ident = $value:expr) => {
        // SAFETY: as above.
        unsafe { (&raw mut (*$scratch).$field).write_volatile($value) }
    };
}
pub(crate) use work;
