//! From the bytes of one system call to records.

use agent_ebpf::{
    abi::{
        Counter, Direction, Kind, PIECE_BYTES, PIECES, Role, SEGMENT_EOF, SEGMENT_MORE, SEGMENT_NOT_HTTP,
        SEGMENT_OPAQUE, Segment,
    },
    classify::{self, Looks},
    framing,
};
use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::tracepoint, programs::TracePointContext};

use crate::{
    body::{SMALL_BYTES, contradicted, frame, walk_chunks},
    connection::{self, Moved},
    emit,
    kernel::{self, Socket, offset, read},
    maps::{
        self, BUFFERS, CARRY_BYTES, CHUNKED, CONNECTIONS, COUNTED, Connection, FROM_BIRTH, HEAD_SEEN, NEXT, OPAQUE,
        SCRATCH, Scratch, Words, count, work,
    },
};

/// Bytes that are copied before anything is known of a segment: heads are shorter, mostly.
const FIRST_BYTES: u64 = 1024;

/// Bytes that tell a protocol which is not HTTP/1.
const OPENING_BYTES: u64 = 64;

/// Bytes at the end of a call that is too large to be copied whole.
const TAIL_BYTES: u64 = 1024;

/// Where the bytes of a call lie in user memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One buffer.
    Buffer = 0,
    /// An array of `struct iovec`.
    Vector = 1,
    /// Nowhere: the kernel moved them itself (sendfile, splice), or threw them away (MSG_TRUNC).
    Nowhere = 2,
    /// As [`Source::Vector`], and the array is in the scratch area already.
    Gathered = 3,
}

/// A system call that moved bytes.
#[derive(Clone, Copy)]
pub struct Call {
    /// [`Direction`] as a number (the verifier does not know an enum's range).
    pub way: u64,
    /// [`Source`] as a number: what `address` is.
    pub source: u64,
    /// How many bytes were moved.
    pub bytes: u64,
    /// Address of the buffer, or of the array.
    pub address: u64,
    /// Entries of the array.
    pub count: u64,
}

/// Makes the records of a call on a socket.
#[inline(always)]
pub fn report(ctx: &TracePointContext, socket: &Socket, call: &Call) -> u32 {
    if maps::enter() {
        report_entered(ctx, socket, call);
    }
    0
}

/// [`report`], by a program that has taken the scratch area. It is given back.
#[inline(always)]
pub fn report_entered(ctx: &TracePointContext, socket: &Socket, call: &Call) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the scratch area is this program's until it ends.
    unsafe {
        (*scratch).socket = *socket;
        (*scratch).call = *call;
    }
    // SAFETY: a tail call of a tracepoint program into another one. It returns only if that is not there.
    unsafe { NEXT.tail_call(ctx, 0) };
    maps::leave();
    count(Counter::NoReporter, 1);
    0
}

/// Makes the records of the call that the scratch area holds. A program of its own: the verifier walks it once, not for
/// each system call.
#[tracepoint]
pub fn report_call(ctx: TracePointContext) -> u32 {
    maps::on_own_stack(&ctx);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as above.
    let (socket, call) = unsafe { ((*scratch).socket, &(*scratch).call) };
    work!(scratch.dead = 0);
    let _ = records(scratch, socket, call);
    if work!(scratch.dead) != 0 {
        // The key is where it is: on the stack it would be a word more, and older kernels count them.
        // SAFETY: as above.
        let _ = CONNECTIONS.remove(unsafe { &(*scratch).socket.sock });
    }
    maps::leave();
    0
}

#[inline(always)]
fn records(scratch: *mut Scratch, socket: Socket, call: &Call) -> Option<()> {
    let way = call.way as usize & 1;
    let moved = Moved {
        read: if way == 0 { call.bytes } else { 0 },
        written: if way == 0 { 0 } else { call.bytes },
    };
    let known = CONNECTIONS.get_ptr_mut(&socket.sock);
    if known.is_some_and(|connection| connection::is_opaque(connection, socket)) {
        return None;
    }
    let mut connection = connection::of(socket, known, moved)?;
    // SAFETY: the pointer is to a map value, live while the program runs. Two programs may write the same entry; each
    // field is one word, and a wrong offset is found by the sequence numbers.
    let mut start = unsafe { place(socket, &mut *connection, call) };
    if start == Place::OtherLife {
        let _ = CONNECTIONS.remove(&socket.sock);
        connection = connection::open(socket, Role::Unknown, moved)?;
        // SAFETY: as above.
        start = unsafe { place(socket, &mut *connection, call) };
    }
    // SAFETY: as above.
    let connection = unsafe { &mut *connection };
    let start = match start {
        Place::At(start) => start,
        // What the bytes were is not known, but that they have passed.
        Place::Before(end) => {
            let start = connection.offset[way];
            connection.offset[way] = end;
            return segment(scratch, connection, call, start, end, 0, SEGMENT_OPAQUE);
        }
        Place::Unknown | Place::OtherLife => return None,
    };
    let end = start + call.bytes;
    connection.offset[way] = end;
    if connection.flags & OPAQUE != 0 {
        return None;
    }

    let words = Words::of(connection.id)?;
    let told = words.until(way);
    let followed = told != 0;
    if told == u64::MAX && words.give_up() {
        connection.flags |= OPAQUE;
        return None;
    }
    let mut from = 0;
    // 1 says that the connection is followed and no more: no body ends there, but the first byte lies below it.
    let until = if told > 1 { told } else { 0 }.max(connection.body_until[way]);
    if until > start {
        if end < until && !contradicted(connection, call, told) {
            return None;
        }
        from = if until < end { until - start } else { call.bytes };
        if from == call.bytes {
            return segment(scratch, connection, call, end, end, 0, 0);
        }
    }
    if call.source == Source::Nowhere as u64 {
        return segment(scratch, connection, call, start + from, end, 0, SEGMENT_OPAQUE);
    }
    if call.source == Source::Vector as u64 && !buffers(scratch, call) {
        return segment(scratch, connection, call, start + from, end, 0, SEGMENT_OPAQUE);
    }
    let chunked = connection.flags & if way == 0 { CHUNKED[0] } else { CHUNKED[1] } != 0;
    let mut within = false;
    if chunked {
        // Core knows where the data of a chunk ends, if the programs lost their way.
        if connection.chunk_at[way] == 0 && told > start {
            connection.chunk_at[way] = told;
        }
        let at = connection.chunk_at[way];
        // The line may have begun in the call before.
        if at != 0 && at + (CARRY_BYTES as u64) > start {
            if call.bytes > SMALL_BYTES || at >= end {
                walk_chunks(start, start);
                return Some(());
            }
            within = true;
        } else {
            connection.chunk_at[way] = 0;
        }
    }
    pieces(scratch, connection, call, start, from, followed, within)
}

/// Where a call's bytes lie in the stream.
#[derive(PartialEq, Eq)]
enum Place {
    At(u64),
    /// Somewhere before this offset, which the stream has reached.
    Before(u64),
    Unknown,
    OtherLife,
}

/// Compares the bytes of the call with how far the socket's own sequence number moved. At the exit of a call that can
/// block, the descriptor may name another socket than the call used, and two threads may be at work at once.
#[inline(always)]
fn place(socket: Socket, connection: &mut Connection, call: &Call) -> Place {
    let way = call.way as usize & 1;
    let start = connection.offset[way];
    if connection.flags & COUNTED != 0 {
        return Place::At(start);
    }
    let field = if way == Direction::Read as usize {
        offset!(tcp_copied_seq)
    } else {
        offset!(tcp_write_seq)
    };
    let Some(now) = read::<u32>(socket.sock + field as u64) else {
        return Place::Unknown;
    };
    let mut ahead = now
        .wrapping_sub(connection.base[way])
        .wrapping_sub((start + call.bytes) as u32) as i32;
    // A read that met the FIN has one more.
    if ahead > 0 && way == Direction::Read as usize && connection::fin_read(socket.sock, now) {
        ahead -= 1;
    }
    if ahead == 0 {
        return Place::At(start);
    }
    if kernel::inode(socket.file) != Some(connection.inode) {
        return Place::OtherLife;
    }
    if connection.flags & OPAQUE != 0 {
        return Place::Unknown;
    }
    if connection::upper_layer(socket.sock) == Some(true) {
        connection.flags |= OPAQUE;
        return Place::Unknown;
    }
    count(Counter::SequenceMismatch, call.bytes);
    if ahead > 0 {
        count(Counter::Unreported, ahead as u64);
        return Place::Before(start + call.bytes + ahead as u64);
    }
    Place::Unknown
}

/// Submits a record whose payload is in place.
#[inline(always)]
pub fn segment(
    scratch: *mut Scratch,
    connection: &Connection,
    call: &Call,
    offset: u64,
    end: u64,
    captured: u64,
    flags: u16,
) -> Option<()> {
    // SAFETY: the scratch area is this program's until it ends.
    unsafe {
        (*scratch).segment = Segment {
            header: emit::header(Kind::Segment, call.way as u8, flags),
            conn: connection.id,
            offset,
            end,
            captured: captured as u32,
            call_bytes: if call.bytes > u32::MAX as u64 {
                u32::MAX
            } else {
                call.bytes as u32
            },
        };
    }
    emit::submit_scratch(scratch).then_some(())
}

/// Tells that a Unix socket's other end has closed.
#[inline(always)]
pub fn end_of_file(connection: &Connection) -> Option<()> {
    connection::tell_ends(connection);
    let scratch = SCRATCH.get_ptr_mut(0)?;
    let call = Call {
        way: Direction::Read as u64,
        source: Source::Nowhere as u64,
        bytes: 0,
        address: 0,
        count: 0,
    };
    let at = connection.offset[Direction::Read as usize];
    if !maps::enter() {
        return None;
    }
    let told = segment(scratch, connection, &call, at, at, 0, SEGMENT_EOF);
    maps::leave();
    told
}

/// Copies the call's array of buffers into the scratch area.
#[inline(always)]
fn buffers(scratch: *mut Scratch, call: &Call) -> bool {
    let entries = if call.count > BUFFERS as u64 {
        BUFFERS as u64
    } else {
        call.count
    };
    // SAFETY: at most BUFFERS entries of 16 bytes go into an array of that size.
    let failed = unsafe {
        bpf_probe_read_user(
            (&raw mut (*scratch).buffers).cast(),
            (entries as u32 & (2 * BUFFERS as u32 - 1)) * 16,
            kernel::user(call.address),
        )
    } != 0;
    if failed {
        count(Counter::UserFault, 1);
    }
    !failed
}

/// Copies bytes `from..from + bytes` of the call to the payload's begin. Returns how many came: fewer where memory
/// faults or there are too many buffers (counted).
#[inline(always)]
pub fn copy(scratch: *mut Scratch, call: &Call, from: u64, bytes: u64) -> u64 {
    // SAFETY: the scratch area is this program's until it ends.
    let payload = unsafe { (&raw mut (*scratch).payload).cast::<u8>() };
    let bytes = if bytes > PIECE_BYTES as u64 {
        PIECE_BYTES as u64
    } else {
        bytes
    };
    if call.source == Source::Buffer as u64 {
        // SAFETY: `bytes` is at most half of the payload.
        let failed =
            unsafe { bpf_probe_read_user(payload.cast(), bytes as u32, kernel::user(call.address + from)) } != 0;
        if failed {
            count(Counter::UserFault, 1);
            return 0;
        }
        return bytes;
    }
    gather(from, bytes);
    let done = work!(scratch.done);
    if done > PIECE_BYTES as u64 {
        PIECE_BYTES as u64
    } else {
        done
    }
}

/// Copies bytes `from..from + bytes` of the call's buffers to the payload's begin, and leaves in `done` how many came. A
/// global function, as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gather(from: u64, bytes: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the scratch area is this program's until it ends.
    let payload = unsafe { (&raw mut (*scratch).payload).cast::<u8>() };
    work!(scratch.skip = from);
    work!(scratch.done = 0);
    let mut index = 0usize;
    while index < BUFFERS {
        let done = work!(scratch.done);
        // SAFETY: as above. Not kept: the stack is short.
        let buffers = unsafe { (*scratch).call.count };
        if index as u64 >= buffers || done >= bytes {
            break;
        }
        // SAFETY: index is below BUFFERS.
        let [address, length] = unsafe { (*scratch).buffers[index] };
        index += 1;
        let skip = work!(scratch.skip);
        if length <= skip {
            work!(scratch.skip = skip - length);
            continue;
        }
        let rest = bytes - done;
        let part = if length - skip > rest { rest } else { length - skip };
        if part > PIECE_BYTES as u64 || done >= PIECE_BYTES as u64 {
            break;
        }
        // SAFETY: the payload has room for PIECE_BYTES from any place below PIECE_BYTES.
        let failed = unsafe {
            bpf_probe_read_user(
                payload.add(done as usize).cast(),
                part as u32,
                kernel::user(address + skip),
            )
        } != 0;
        if failed {
            count(Counter::UserFault, 1);
            break;
        }
        work!(scratch.done = done + part);
        work!(scratch.skip = 0);
    }
    let done = work!(scratch.done);
    // SAFETY: as above.
    if done < bytes && unsafe { (*scratch).call.count } > BUFFERS as u64 {
        count(Counter::TooManyBuffers, 1);
    }
    0
}

/// Copies the call's bytes from `from` on in records of at most `PIECE_BYTES`, stopping where the rest is known to be
/// body. `within`: they belong to a chunked body that began earlier.
#[inline(always)]
fn pieces(
    scratch: *mut Scratch,
    connection: &mut Connection,
    call: &Call,
    start: u64,
    from: u64,
    followed: bool,
    within: bool,
) -> Option<()> {
    let way = call.way as usize & 1;
    let end = start + call.bytes;
    let left = call.bytes - from;
    let first = if left > FIRST_BYTES { FIRST_BYTES } else { left };
    let copied = copy(scratch, call, from, first);
    if copied == 0 {
        return segment(scratch, connection, call, start + from, end, 0, SEGMENT_OPAQUE);
    }
    // SAFETY: the payload is larger than 8 bytes.
    let begins = unsafe { (&raw const (*scratch).payload).cast::<u64>().read() }.to_le_bytes();
    let known = if copied > 8 { 8 } else { copied as usize };
    let response = classify::looks_like_response(begins, known);
    if connection.flags & FROM_BIRTH != 0 {
        if start == 0 && response == Looks::No && classify::looks_like_request(begins, known) == Looks::No {
            connection.flags |= OPAQUE;
            count(Counter::NotHttp, 1);
            let opening = if copied > OPENING_BYTES { OPENING_BYTES } else { copied };
            return segment(scratch, connection, call, start + from, end, opening, SEGMENT_NOT_HTTP);
        }
    } else if !followed && response != Looks::Yes && classify::looks_like_request(begins, known) != Looks::Yes {
        // Older than the agent, and not yet picked up: only what may be a boundary is worth its bytes.
        return segment(scratch, connection, call, start + from, end, 0, SEGMENT_OPAQUE);
    }
    if begins[0] == b'H' && begins[1] == b'E' {
        connection.flags |= HEAD_SEEN;
    }
    if !within && (response == Looks::Yes || framing::has_body(begins[0], begins[1])) {
        frame(scratch, connection, call, start + from, copied, response == Looks::Yes);
    }
    let behind = start + from + copied;
    let chunked = connection.flags & if way == 0 { CHUNKED[0] } else { CHUNKED[1] } != 0;
    let framed = connection.body_until[way] >= end;
    let walk = chunked && connection.chunk_at[way] != 0 && call.bytes > SMALL_BYTES;
    let last = behind >= end || framed;
    segment(
        scratch,
        connection,
        call,
        start + from,
        end,
        copied,
        if last { 0 } else { SEGMENT_MORE },
    )?;
    if walk && !last {
        walk_chunks(start, behind);
        return Some(());
    }
    if !last {
        copy_whole(start, behind);
    }
    // All is told. The lines are walked all the same: where the next one is matters to the next call.
    if chunked && connection.chunk_at[way] != 0 && connection.chunk_at[way] < end {
        walk_chunks(start, end);
    }
    Some(())
}

/// Copies the call's bytes from the stream offset `from` on, whatever they are. A global function, as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_whole(start: u64, from: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the scratch area is this program's until it ends.
    let (socket, call) = unsafe { (&(*scratch).socket, &(*scratch).call) };
    let _ = CONNECTIONS.get_ptr(&socket.sock).and_then(|connection| {
        // SAFETY: a live map value.
        whole(scratch, unsafe { &*connection }, call, start, from)
    });
    0
}

#[inline(always)]
fn whole(scratch: *mut Scratch, connection: &Connection, call: &Call, start: u64, from: u64) -> Option<()> {
    let end = start + call.bytes;
    work!(scratch.at = from);
    let mut turn = 0;
    while turn <= PIECES {
        turn += 1;
        let at = work!(scratch.at);
        let copied = copy(scratch, call, at - start, end - at);
        if copied == 0 {
            return segment(scratch, connection, call, at, end, 0, SEGMENT_OPAQUE);
        }
        let behind = at + copied;
        let last = behind >= end || turn > PIECES;
        segment(
            scratch,
            connection,
            call,
            at,
            end,
            copied,
            if last { 0 } else { SEGMENT_MORE },
        )?;
        if last {
            break;
        }
        // Of a call that is too large to be copied whole, the end: there a chunk's last bytes are.
        let mut next = behind;
        if turn == 1 && end - behind > ((PIECES - 1) * PIECE_BYTES) as u64 {
            next = end - TAIL_BYTES;
            count(Counter::TooLarge, next - behind);
        }
        work!(scratch.at = next);
    }
    Some(())
}
