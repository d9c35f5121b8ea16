//! How long a message's body is, as the programs see it themselves: from the head's `Content-Length`, and from the lines
//! between chunks. What is known to be body is not copied. Core knows better and says so, but later.

use agent_ebpf::{
    abi::SEGMENT_MORE,
    classify::{self, Looks},
    framing::{self, Framing, SCAN_BYTES},
};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::{
    kernel,
    maps::{CARRY_BYTES, CHUNKED, CONNECTIONS, Connection, FIRST_CHUNK, FRAMED, HEAD_SEEN, SCRATCH, Scratch, work},
    segment::{Call, Source, copy, copy_whole, segment},
};

/// Calls up to this size are copied whole, if there is a line in them: a record for each line would be no less.
pub const SMALL_BYTES: u64 = 2048;

/// Bytes of a chunk line that are read: CR LF of the chunk before, eight digits, CR LF, and what shows it to be longer.
const LONGEST_LINE: u64 = 16;

/// Most lines of chunks that are walked in one call. Of shorter chunks the bytes are copied.
const LINES: usize = 16;

/// Reads a head for how long its body is, so that what follows it need not be copied.
#[inline(always)]
pub fn frame(scratch: *mut Scratch, connection: &mut Connection, call: &Call, at: u64, copied: u64, response: bool) {
    end_of_chunks(connection, call.way as usize & 1);
    if connection.flags & HEAD_SEEN != 0 {
        return;
    }
    // SAFETY: the payload is larger than what is scanned.
    let payload = unsafe { (&raw const (*scratch).payload).cast::<u8>() };
    if response {
        // "HTTP/1.1 200": 1xx, 204 and 304 have no body whatever they say.
        // SAFETY: as above.
        let (class, tens, ones) = unsafe { (*payload.add(9), *payload.add(10), *payload.add(11)) };
        if class == b'1' || tens == b'0' && ones == b'4' && (class == b'2' || class == b'3') {
            return;
        }
    }
    scan_head(copied as u32);
    // SAFETY: as above.
    let Framing {
        head_bytes,
        transfer_encoding,
        content_length,
    } = unsafe { (*scratch).framing };
    if head_bytes == 0 {
        return;
    }
    let body = at + head_bytes as u64;
    let way = call.way as usize & 1;
    if transfer_encoding != 0 {
        connection.flags |= if way == 0 {
            CHUNKED[0] | FIRST_CHUNK[0]
        } else {
            CHUNKED[1] | FIRST_CHUNK[1]
        };
        connection.chunk_at[way] = body;
        return;
    }
    if content_length > 1 << 60 {
        return;
    }
    if copied >= head_bytes as u64 + 8 {
        // What follows begins like a head: this one has no body (an answer to HEAD, pipelined).
        let next = (head_bytes as usize) & 0x7ff;
        // SAFETY: as above.
        let next = unsafe { framing::word_at(payload, next) }.to_le_bytes();
        if classify::looks_like_response(next, 8) == Looks::Yes {
            return;
        }
    }
    connection.body_until[way] = body + content_length;
    connection.flags |= if way == 0 { FRAMED[0] } else { FRAMED[1] };
}

/// Scans the head that lies in the payload. A function of its own to the verifier (a global one): it walks its loops once,
/// not for each way by which the caller came.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn scan_head(bytes: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let length = if bytes > SCAN_BYTES as u32 {
        SCAN_BYTES as u32
    } else {
        bytes
    };
    // SAFETY: the scratch area is this program's until it ends, and its payload is longer than what is read.
    unsafe {
        let framing = framing::scan(
            (&raw const (*scratch).payload).cast(),
            length,
            &raw mut (*scratch).found,
        );
        (*scratch).framing = framing;
    }
    0
}

/// Whether the programs' own reading of a head is wrong: what follows it begins like a head (it was the answer to HEAD,
/// say). Asked once for each head, of the first call behind it. Core's word is never doubted.
#[inline(always)]
pub fn contradicted(connection: &mut Connection, call: &Call, told: u64) -> bool {
    let framed = if call.way & 1 == 0 { FRAMED[0] } else { FRAMED[1] };
    if connection.flags & framed == 0 {
        return false;
    }
    connection.flags &= !framed;
    if told != 0 || call.source != Source::Buffer as u64 {
        return false;
    }
    let mut first = 0u64;
    // SAFETY: the destination has 8 bytes.
    let failed = unsafe { bpf_probe_read_user((&raw mut first).cast(), 8, kernel::user(call.address)) } != 0;
    if failed || classify::looks_like_response(first.to_le_bytes(), 8) != Looks::Yes {
        return false;
    }
    connection.body_until = [0; 2];
    connection.flags |= HEAD_SEEN;
    true
}

/// The message's chunks have ended, or are not followed any more.
#[inline(always)]
fn end_of_chunks(connection: &mut Connection, way: usize) {
    connection.flags &= !if way == 0 {
        CHUNKED[0] | FIRST_CHUNK[0]
    } else {
        CHUNKED[1] | FIRST_CHUNK[1]
    };
    connection.chunk_at[way] = 0;
}

/// Walks the lines between chunks and makes a record of each; the data makes none. What lies before `known` is in
/// records already, which may be all. Where a line is not as it must be, all from there on is copied. A global function,
/// as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_chunks(start: u64, known: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // Not copied: the stack is short.
    // SAFETY: the scratch area is this program's until it ends.
    let (socket, call) = unsafe { (&(*scratch).socket, &(*scratch).call) };
    let _ = CONNECTIONS.get_ptr_mut(&socket.sock).and_then(|connection| {
        // SAFETY: a live map value.
        chunks(scratch, unsafe { &mut *connection }, call, start, known)
    });
    0
}

#[inline(always)]
fn chunks(scratch: *mut Scratch, connection: &mut Connection, call: &Call, start: u64, known: u64) -> Option<()> {
    let way = call.way as usize & 1;
    let end = start + call.bytes;
    let first_chunk = if way == 0 { FIRST_CHUNK[0] } else { FIRST_CHUNK[1] };
    work!(scratch.at = connection.chunk_at[way]);
    let mut turn = 0;
    while turn < LINES {
        turn += 1;
        let at = work!(scratch.at);
        if at >= end {
            connection.chunk_at[way] = at;
            // The data reaches beyond this call, and its line was told: nothing to say, but for a call whose begin was.
            return if known > start && known < end {
                segment(scratch, connection, call, known, end, 0, 0)
            } else {
                Some(())
            };
        }
        let first = connection.flags & first_chunk != 0;
        let carried = if at < start { start - at } else { 0 };
        if carried > 0 {
            // SAFETY: the scratch area is this program's until it ends.
            unsafe { (*scratch).carry = connection.carry[way] };
        }
        work!(scratch.done = chunk_line(at + carried - start, first as u32, carried as u32) as u64);
        // Through memory, so that the bound is the verifier's, too.
        let line = work!(scratch.done) & (2 * LONGEST_LINE - 1);
        let bytes = work!(scratch.chunk_bytes);
        let from = at + carried;
        if line == 0 && carried == 0 && end - at < LONGEST_LINE {
            // Cut off by the call's end: the rest comes with the next one.
            work!(scratch.done = end - at);
            let rest = work!(scratch.done) & (LONGEST_LINE - 1);
            // SAFETY: the payload is longer than what is read.
            connection.carry[way] = unsafe { (&raw const (*scratch).payload).cast::<[u8; CARRY_BYTES]>().read() };
            connection.chunk_at[way] = at;
            return if end > known {
                segment(scratch, connection, call, at, end, rest, 0)
            } else {
                Some(())
            };
        }
        // Malformed, or the last chunk, which trailers may follow: Core reads it.
        if line <= carried || bytes == 0 || at + line > end {
            break;
        }
        connection.flags &= !first_chunk;
        let next = at + line + bytes;
        if at + line > known {
            let last = next >= end;
            let captured = line - carried;
            segment(
                scratch,
                connection,
                call,
                from,
                end,
                captured,
                if last { 0 } else { SEGMENT_MORE },
            )?;
            if last {
                connection.chunk_at[way] = next;
                return Some(());
            }
        }
        work!(scratch.at = next);
    }
    connection.chunk_at[way] = 0;
    let at = work!(scratch.at);
    let from = if at > known { at } else { known };
    let from = if from > start { from } else { start };
    if from < end {
        copy_whole(start, from);
    }
    Some(())
}

/// Reads the line of a chunk at a position of the call, the first `carried` bytes of which came with an earlier one: its
/// length (0: it is none that is understood here) and, in
/// `chunk_bytes`, the size. But for the first one, the end of the chunk before it (CR LF) is a part of it. A global
/// function, as [`scan_head`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn chunk_line(position: u64, first: u32, carried: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the scratch area is this program's until it ends.
    let call = unsafe { &(*scratch).call };
    work!(scratch.chunk_bytes = 0);
    let left = call.bytes.wrapping_sub(position);
    let copied = copy(
        scratch,
        call,
        position,
        if left > LONGEST_LINE { LONGEST_LINE } else { left },
    );
    // SAFETY: the payload is longer than what is read.
    let payload = unsafe { (&raw const (*scratch).payload).cast::<u8>() };
    let carried = carried as u64 & (CARRY_BYTES as u64 - 1);
    // SAFETY: as above.
    let before = unsafe { (&raw const (*scratch).carry).cast::<u8>() };
    let byte = |index: u64| {
        if index < carried {
            // SAFETY: within the array.
            return unsafe { *before.add((index & (CARRY_BYTES as u64 - 1)) as usize) };
        }
        // Through memory, so that the bound is the verifier's, too.
        work!(scratch.skip = index - carried);
        let index = work!(scratch.skip) & 31;
        // SAFETY: as above.
        unsafe { *payload.add(index as usize) }
    };
    let copied = copied + carried;
    let mut index = 0u64;
    if first == 0 {
        if copied < 2 || byte(0) != b'\r' || byte(1) != b'\n' {
            return 0;
        }
        index = 2;
    }
    let mut size = 0u64;
    let mut digits = 0;
    // Eight digits: a chunk below 4 GiB.
    while digits < 9 {
        if index + 1 >= copied {
            return 0;
        }
        let digit = byte(index);
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            b'\r' if digits > 0 && byte(index + 1) == b'\n' => {
                work!(scratch.chunk_bytes = size);
                return index as u32 + 2;
            }
            _ => return 0,
        };
        size = size << 4 | value as u64;
        digits += 1;
        index += 1;
    }
    0
}
