//! The ends of a connection's streams.

use agent_ebpf::{
    abi::{Counter, Direction, Header, Kind, Mode, SEGMENT_EOF, SEGMENT_OPAQUE, Segment},
    plan::Wanted,
};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use super::{COUNTED, Connection, DESCRIBED};
use crate::{
    counters::count,
    kernel::{half_word, offset, read},
    submit,
};

/// Reports that a Unix socket's other end has closed.
#[inline(always)]
pub fn report_end_of_file(connection: &Connection) {
    report_ends(connection);
    let way = &connection.wire[Direction::Read as usize];
    let at = way.offset.get();
    let submitted = submit::submit(Segment {
        header: submit::header(Kind::Segment, Direction::Read as u8, SEGMENT_EOF),
        conn: connection.id.get(),
        offset: at,
        end: at,
        until: way.claim(),
        ..Segment::default()
    });
    // Core looks for no gap before this record, so an earlier loss stays noted.
    if !submitted {
        connection.submitted(Direction::Read as usize, false);
    }
}

/// Reports how far the streams have come, where a body ends with the connection: none of its bytes made a record. Works
/// in interrupts, so the record names no execution.
#[inline(always)]
pub fn report_ends(connection: &Connection) {
    report_end(connection, Direction::Read, 0);
    report_end(connection, Direction::Write, 0);
}

/// Reports the same where the process itself ends its side. Includes the bytes of calls that the kernel ran no program
/// for: this is the last occasion to notice them, and without them the connection would seem to end early.
#[inline(always)]
pub fn report_last(sock: u64, connection: &Connection) {
    let [read, written] = [pass_unseen(sock, connection, 0), pass_unseen(sock, connection, 1)];
    report_end(connection, Direction::Read, read);
    report_end(connection, Direction::Write, written);
}

/// Returns whether the sequence number of the bytes read includes the other end's FIN, which comes last.
#[inline(always)]
pub fn fin_read(sock: u64, copied: u32) -> bool {
    const ESTABLISHED: u8 = 1;
    const FIN_WAIT1: u8 = 4;
    const FIN_WAIT2: u8 = 5;
    let received = !matches!(
        read::<u8>(sock + offset!(sock_state) as u64),
        Some(ESTABLISHED | FIN_WAIT1 | FIN_WAIT2)
    );
    received && read::<u32>(sock + offset!(tcp_rcv_nxt) as u64) == Some(copied)
}

/// Returns the number of bytes behind the last seen one, from the socket's own sequence numbers; 0 if it has none. Called
/// before this end's FIN has a number, while the socket has its former state; a received FIN may have been read.
#[inline(always)]
pub fn unseen(sock: u64, connection: &Connection, way: usize) -> u64 {
    if connection.has(COUNTED) || !connection.has(DESCRIBED) {
        return 0;
    }
    let field = if way == 0 {
        offset!(tcp_copied_seq)
    } else {
        offset!(tcp_write_seq)
    };
    let Some(now) = read::<u32>(sock + field as u64) else {
        return 0;
    };
    let mut ahead = now
        .wrapping_sub(connection.base[way].get())
        .wrapping_sub(connection.wire[way].offset.get() as u32) as i32;
    if ahead > 0 && way == 0 && fin_read(sock, now) {
        ahead -= 1;
    }
    if ahead > 0 { ahead as u64 } else { 0 }
}

/// Passes the unseen bytes of a direction (counted). Returns their number.
#[inline(always)]
fn pass_unseen(sock: u64, connection: &Connection, way: usize) -> u64 {
    let bytes = unseen(sock, connection, way);
    if bytes > 0 {
        count(Counter::Unreported, bytes);
        let way = &connection.wire[way];
        way.pass(way.offset.get() + bytes);
    }
    bytes
}

#[inline(always)]
fn report_end(connection: &Connection, direction: Direction, unseen: u64) {
    let way = &connection.wire[direction as usize];
    let at = way.offset.get();
    // Core may have sent the hint that the body ends with the connection after the last call.
    let is_awaited = || {
        connection.adopt(direction as usize, at);
        way.is(Mode::Close)
    };
    // Unseen bytes are reported even without that hint: Core may not have come so far.
    if unseen == 0 && !is_awaited() {
        return;
    }
    let submitted = submit::submit(Segment {
        header: by_nobody(direction, 0),
        conn: connection.id.get(),
        offset: at,
        end: at,
        until: way.claim(),
        ..Segment::default()
    });
    connection.submitted(direction as usize, submitted);
}

/// Returns how far a connection was read: stream offset and sequence number. `None`: it has no sequence numbers.
#[inline(always)]
pub fn read_to(connection: &Connection) -> Option<(u64, u32)> {
    let at = connection.wire[Direction::Read as usize].offset.get();
    let sequence = connection.base[Direction::Read as usize].get().wrapping_add(at as u32);
    (connection.has(DESCRIBED) && !connection.has(COUNTED)).then_some((at, sequence))
}

/// Reports the end of the received bytes, if some were not read when the connection ended: later reads of them come
/// under another name.
#[inline(always)]
pub fn report_unread(sock: u64, id: u64, read_to: (u64, u32), fin_received: bool) {
    let (offset, sequence) = read_to;
    let Some(received) = read::<u32>(sock + offset!(tcp_rcv_nxt) as u64) else {
        return;
    };
    let ahead = received.wrapping_sub(fin_received as u32).wrapping_sub(sequence) as i32;
    if ahead <= 0 {
        return;
    }
    let at = offset + ahead as u64;
    submit::submit(Segment {
        header: by_nobody(Direction::Read, SEGMENT_EOF),
        conn: id,
        offset: at,
        end: at,
        ..Segment::default()
    });
}

/// Reports the end of a body that was read without an event, as splice(2) does: the present call is the first to show it.
/// Another thread may have read it, so the record names none. `moved`: bytes that this call has read.
#[inline(always)]
pub fn catch_up(sock: u64, connection: &Connection, moved: u64) {
    let read = Direction::Read as usize;
    let way = &connection.wire[read];
    let at = way.offset.get();
    connection.adopt(read, at);
    let until = way.claim();
    // Only of the end of a body is it known what it is: another thread may be reading just now.
    if until <= at || connection.has(COUNTED) || !way.is(Mode::Head) {
        return;
    }
    let Some(now) = half_word(sock + offset!(tcp_copied_seq) as u64) else {
        return;
    };
    let passed = now.wrapping_sub(connection.base[read].get()).wrapping_sub(at as u32);
    if passed as u64 != until - at + moved {
        return;
    }
    way.offset.set(until);
    let submitted = submit::submit(Segment {
        header: by_nobody(Direction::Read, 0),
        conn: connection.id.get(),
        offset: until,
        end: until,
        until,
        ..Segment::default()
    });
    connection.submitted(read, submitted);
}

/// Passes bytes that the current thread has read without user memory, and makes their record, if one is wanted.
#[inline(always)]
pub fn pass_read(connection: &Connection, bytes: u64) {
    let read = Direction::Read as usize;
    let way = &connection.wire[read];
    let start = way.offset.get();
    let end = start + bytes;
    way.offset.set(end);
    connection.adopt(read, start);
    if way.is_ignored() {
        return;
    }
    let (offset, flags) = match way.wanted(start, end) {
        Wanted::Nothing => return,
        Wanted::End => (end, 0),
        Wanted::From(from) => {
            way.lose();
            (from, SEGMENT_OPAQUE)
        }
    };
    let tid = bpf_get_current_pid_tgid() as u32;
    let flags = flags | submit::take_flags(tid);
    let submitted = submit::submit(Segment {
        header: submit::header(Kind::Segment, Direction::Read as u8, flags),
        conn: connection.id.get(),
        offset,
        end,
        until: way.claim(),
        ..Segment::default()
    });
    connection.submitted(read, submitted);
    if !submitted {
        submit::note_loss(tid, flags);
    }
}

/// Returns the header of a segment that no execution moved.
#[inline(always)]
fn by_nobody(direction: Direction, flags: u16) -> Header {
    Header {
        tgid: 0,
        tid: 0,
        ..submit::header(Kind::Segment, direction as u8, flags)
    }
}
