//! From the bytes of one system call to records: locate, plan, copy, submit.
//!
//! The hook finds the socket and leaves the call in this processor's memory ([`report`]). One program for all hooks
//! continues ([`report_call`]): it *locates* the bytes in the stream, and carries out the *plan*
//! ([`agent_ebpf::plan`]), which is tested on the host.

use agent_ebpf::{
    abi::{Counter, Mode, POLLED, Role, SEGMENT_NOT_HTTP, SEGMENT_OPAQUE, WATCHED},
    classify::{self, Looks},
    frame::{
        chunk::{LINE_BYTES, Line},
        head::Scan,
    },
    plan::{Call, Way},
    slot::Slot,
};
use aya_ebpf::{
    EbpfContext,
    macros::{raw_tracepoint, tracepoint},
    maps::ProgramArray,
    programs::{RawTracePointContext, TracePointContext},
};

use crate::{
    copy,
    counters::count,
    hooks::splice::is_uncounted,
    kernel::offset,
    maps::{NEXT, NEXT_RAW, REPORTER, UNIX_LOSERS, mark, unix_user},
    scratch::{Scratch, enter, leave, on_own_stack, scratch},
    socket::{self, Connection, FOLLOWED, FROM_BIRTH, Moved, OPAQUE, Place, Socket, UNIX, place, remove_at},
    submit,
};

/// Bytes of a connection's opening that a record of another protocol carries.
const OPENING_BYTES: u64 = 64;

/// A system call that moved bytes.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// Thread of the call: process id in the upper half, thread id in the lower.
    pub thread: u64,
    /// [`Direction`](agent_ebpf::abi::Direction) as a number (the verifier does not know an enum's range).
    pub way: u64,
    /// [`Source`](copy::Source) as a number: the kind of `address`.
    pub source: u64,
    /// Number of bytes that the call moved.
    pub bytes: u64,
    /// Address of the buffer, or of the array.
    pub address: u64,
    /// Entries of the array.
    pub count: u64,
    /// Flags of all its records.
    pub flags: u16,
}

/// Hook of a call that moves bytes.
pub trait Hook: EbpfContext + Sized {
    /// Programs that such hooks can go on in: a program can only go on in one of its own kind.
    fn next(&self) -> &'static ProgramArray;
}

impl Hook for TracePointContext {
    #[inline(always)]
    fn next(&self) -> &'static ProgramArray {
        &NEXT
    }
}

impl Hook for RawTracePointContext {
    #[inline(always)]
    fn next(&self) -> &'static ProgramArray {
        &NEXT_RAW
    }
}

/// The call that is reported. Its hook writes it, the program that makes its records reads it.
#[repr(C)]
pub struct Reported {
    /// Thread of the call: process id in the upper half, thread id in the lower.
    pub thread: Slot<u64>,
    /// Key of the connection.
    pub sock: Slot<u64>,
    /// File of the descriptor that the call named.
    pub file: Slot<u64>,
    pub way: Slot<u64>,
    pub source: Slot<u64>,
    pub bytes: Slot<u64>,
    pub address: Slot<u64>,
    pub count: Slot<u64>,
    pub flags: Slot<u16>,
    /// Stream offset of the first byte, once it is known.
    pub start: Slot<u64>,
    /// 1: the described connection is closed already, and no event will report its end.
    pub dead: Slot<u64>,
}

/// Makes the records of a call on a socket.
#[inline(always)]
pub fn report(ctx: &impl Hook, socket: &Socket, call: &Bytes) -> u32 {
    if enter() {
        report_entered(ctx, socket, call);
    }
    0
}

/// Makes the records of a call for a program that has taken this processor's memory, and gives the memory back.
#[inline(always)]
pub fn report_entered(ctx: &impl Hook, socket: &Socket, call: &Bytes) {
    let Some(scratch) = scratch() else { return };
    let reported = &scratch.call;
    reported.thread.set(call.thread);
    reported.sock.set(socket.sock);
    reported.file.set(socket.file);
    reported.way.set(call.way);
    reported.source.set(call.source);
    reported.bytes.set(call.bytes);
    reported.address.set(call.address);
    reported.count.set(call.count);
    reported.flags.set(call.flags);
    // SAFETY: a tail call into a program of the same kind. It returns only if that program is missing.
    unsafe { ctx.next().tail_call(ctx, REPORTER) };
    leave();
    count(Counter::NoReporter, 1);
}

/// Makes the records of the call in this processor's memory. A program of its own, so that the verifier walks it once
/// and not for each system call.
#[tracepoint]
pub fn report_call(ctx: TracePointContext) -> u32 {
    on_own_stack(&ctx);
    report_records()
}

/// Makes the records of a call, for the events of sockets. Attached to no event: they go on in it.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn report_moved(ctx: RawTracePointContext) -> u32 {
    on_own_stack(&ctx);
    report_records()
}

#[inline(always)]
fn report_records() -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    scratch.call.dead.set(0);
    if let Some(reporter) = locate(scratch) {
        let _ = reporter.report();
    }
    if scratch.call.dead.get() != 0 {
        remove_at(&scratch.call.sock);
    }
    leave();
    0
}

/// Finds the connection of the call, and the place of its bytes in the stream. `None`: nothing is left to report.
#[inline(always)]
fn locate(scratch: &'static Scratch) -> Option<Reporter> {
    let call = &scratch.call;
    let socket = Socket {
        sock: call.sock.get(),
        file: call.file.get(),
    };
    let way = call.way.get() as usize & 1;
    let bytes = call.bytes.get();
    let moved = Moved {
        read: if way == 0 { bytes } else { 0 },
        written: if way == 0 { 0 } else { bytes },
    };
    let known = socket::connection(socket.sock);
    if known.is_some_and(|connection| socket::is_opaque(connection, socket)) {
        return None;
    }
    let mut connection = socket::of(socket, known, moved)?;
    if offset!(by_events) == 1 {
        if is_uncounted(connection) {
            connection.give_up();
            return None;
        }
        if connection.role.get() == Role::Client as u32 && connection.is_watched(call.flags.get() & WATCHED != 0) {
            call.flags.set(call.flags.get() | WATCHED);
        }
        socket::catch_up(socket.sock, connection, moved.read);
    }
    let mut found = place(socket, connection, way, bytes);
    if found == Place::OtherLife {
        socket::remove(socket.sock);
        connection = socket::open(socket, Role::Unknown, moved)?;
        found = place(socket, connection, way, bytes);
    }
    let reporter = Reporter { scratch, connection };
    let direction = &connection.wire[way];
    let start = match found {
        Place::At(start) => start,
        // The bytes have passed, and which of them the call moved is unknown.
        Place::Before(end) => {
            call.start.set(direction.offset.get());
            call.bytes.set(end - direction.offset.get());
            direction.pass(end);
            return reporter.submit(call.start.get(), 0, SEGMENT_OPAQUE).and(None);
        }
        Place::Unknown | Place::OtherLife => {
            direction.lose();
            return None;
        }
    };
    call.start.set(start);
    direction.offset.set(start + bytes);
    if connection.has(OPAQUE) {
        return None;
    }
    connection.adopt(way, start);
    if direction.is_ignored() {
        // If only one direction is ignored, a server of HTTP may still answer the other with a refusal.
        if direction.is_given_up() || connection.wire[1 - way].is_ignored() {
            connection.add(OPAQUE);
        }
        return None;
    }
    if offset!(by_events) == 1
        && connection.role.get() != Role::Client as u32
        && socket::is_polled(connection, socket.file, call.thread.get())
    {
        call.flags.set(call.flags.get() | POLLED);
    }
    Some(reporter)
}

/// The call that this processor's memory holds, and its connection.
#[derive(Clone, Copy)]
struct Reporter {
    scratch: &'static Scratch,
    connection: &'static Connection,
}

impl Reporter {
    /// Finds the same call and connection again, in a function that the verifier walks separately.
    #[inline(always)]
    fn again() -> Option<Self> {
        let scratch = scratch()?;
        let connection = socket::connection(scratch.call.sock.get())?;
        Some(Self { scratch, connection })
    }
}

impl Call for Reporter {
    #[inline(always)]
    fn ways(&self) -> (&Way, &Way) {
        let way = self.scratch.call.way.get() as usize & 1;
        let ways = &self.connection.wire;
        (&ways[way], &ways[1 - way])
    }

    #[inline(always)]
    fn start(&self) -> u64 {
        self.scratch.call.start.get()
    }

    #[inline(always)]
    fn end(&self) -> u64 {
        self.scratch.call.start.get() + self.scratch.call.bytes.get()
    }

    #[inline(always)]
    fn scan(&self) -> &Scan {
        &self.scratch.scan
    }

    #[inline(always)]
    fn copy(&self, from: u64, bytes: u64, place: u64) -> u64 {
        copy::copy(self.scratch, from - self.start(), bytes, place)
    }

    #[inline(always)]
    fn scan_to(&self, length: u64) {
        scan_head(length as u32);
    }

    #[inline(always)]
    fn first(&self) -> [u64; 2] {
        let payload = self.scratch.record.payload.as_ptr().cast::<u64>();
        // SAFETY: the payload is longer; no other program writes it between `enter` and `leave`.
        unsafe { [payload.read_volatile(), payload.add(1).read_volatile()] }
    }

    #[inline(always)]
    fn byte(&self, index: u64) -> u8 {
        // Through memory, so that the verifier sees the bound.
        self.scratch.at.set(index);
        let index = self.scratch.at.get() & (LINE_BYTES - 1);
        let payload = self.scratch.record.payload.as_ptr().cast::<u8>();
        // SAFETY: as above.
        unsafe { payload.add(index as usize).read_volatile() }
    }

    #[inline(always)]
    fn submit(&self, offset: u64, captured: u64, flags: u16) -> Option<()> {
        let (way, _) = self.ways();
        let fields = submit::Fields {
            offset,
            captured,
            until: way.claim(),
            flags,
        };
        let submitted = submit::segment(self.scratch, self.connection.id.get(), fields);
        self.connection
            .submitted(self.scratch.call.way.get() as usize, submitted.is_some());
        if submitted.is_none() && self.connection.has(UNIX) {
            let tgid = (self.scratch.call.thread.get() >> 32) as u32;
            mark(&UNIX_LOSERS, unix_user(tgid), true);
        }
        submitted
    }

    #[inline(always)]
    fn chunks(&self, known: u64) {
        walk_chunks(known);
    }

    #[inline(always)]
    fn whole(&self, from: u64) {
        copy_whole(from);
    }

    #[inline(always)]
    fn line(&self) -> Line {
        Line {
            bytes: chunk_line() as u64,
            size: self.scratch.line_size.get(),
        }
    }

    #[inline(always)]
    fn at(&self) -> &Slot<u64> {
        &self.scratch.at
    }

    #[inline(always)]
    fn count_too_large(&self, bytes: u64) {
        count(Counter::TooLarge, bytes);
    }

    #[inline(always)]
    fn is_recognised(&self) -> bool {
        self.connection.has(FOLLOWED)
            || self.connection.has(FROM_BIRTH) && self.start() != 0
            // Bytes read after the end of their connection, under a name that is new to Core.
            || self.scratch.call.dead.get() != 0
    }

    #[inline(always)]
    fn is_worth(&self, from: u64, copied: u64) -> bool {
        let [first, _] = self.first();
        let known = if copied > 8 { 8 } else { copied as usize };
        let request = classify::looks_like_request(first.to_le_bytes(), known);
        let response = classify::looks_like_response(first.to_le_bytes(), known);
        if self.connection.has(FROM_BIRTH) {
            let resp = classify::looks_like_resp_command(first.to_le_bytes(), known);
            if response != Looks::No || request != Looks::No || resp != Looks::No {
                return true;
            }
            let (way, other) = self.ways();
            // What answers bytes that were copied and not framed: not HTTP/1 that is plain, nor anything that is ignored.
            if other.offset.get() != 0 && other.is(Mode::Unknown) && classify::may_be_resp_reply(first as u8) {
                return true;
            }
            if !other.is_ignored() {
                count(Counter::NotHttp, 1);
            }
            if other.offset.get() == 0 {
                // A server of HTTP may answer it with a refusal, so the other direction stays visible.
                way.ignore();
            } else {
                self.connection.add(OPAQUE);
            }
            let opening = if copied > OPENING_BYTES { OPENING_BYTES } else { copied };
            let _ = self.submit(from, opening, SEGMENT_NOT_HTTP);
            return false;
        }
        if response != Looks::Yes && request != Looks::Yes {
            // Older than the agent, and not yet picked up: only a possible boundary is worth its bytes.
            let _ = self.submit(from, 0, SEGMENT_OPAQUE);
            return false;
        }
        self.connection.add(FOLLOWED);
        true
    }

    #[inline(always)]
    fn is_visible(&self) -> bool {
        copy::is_visible(self.scratch)
    }
}

/// Scans the head in the payload. A global function: the verifier walks its loops once, and not for each path of the
/// caller.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn scan_head(bytes: u32) -> u32 {
    if let Some(scratch) = scratch() {
        // SAFETY: the payload is aligned, and longer than what is read.
        unsafe { scratch.scan.scan(scratch.record.payload.as_ptr().cast(), bytes) };
    }
    0
}

/// Runs [`Call::read_line`]. Returns the length of the line and leaves its size in this processor's memory. A global
/// function, as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn chunk_line() -> u32 {
    let Some(reporter) = Reporter::again() else { return 0 };
    let line = reporter.read_line();
    reporter.scratch.line_size.set(line.size);
    line.bytes as u32
}

/// Runs [`Call::walk_chunks`]. A global function, as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_chunks(known: u64) -> u32 {
    if let Some(reporter) = Reporter::again() {
        let _ = reporter.walk_chunks(known);
    }
    0
}

/// Runs [`Call::copy_whole`]. A global function, as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_whole(from: u64) -> u32 {
    if let Some(reporter) = Reporter::again() {
        let _ = reporter.copy_whole(from);
    }
    0
}
