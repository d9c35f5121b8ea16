//! The messages of one recvmmsg(2) or sendmmsg(2). An event fires for each, with the registers of the whole call, and
//! nothing tells which call it is, nor the message.
//!
//! The programs count the messages where it is certain that the call goes on with the next one. The end of a call is an event
//! only if it is an error or the last message. A call that may have ended otherwise leaves the thread's messages in this array unknown: the
//! next event may be of the same call, or of another one that began with the first message.

use agent_ebpf::slot::Slot;
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};

use super::buffers::Buffers;
use crate::{
    copy::{MESSAGES as MOST, buffer_bytes, message_at, message_length, message_words},
    kernel::Args,
};

/// Threads within such a call: address of the array of messages, index of the next one, bytes of the last one.
#[map]
static MESSAGES: LruHashMap<u32, Slot<[u64; 3]>> = LruHashMap::with_max_entries(1024, 0);

/// Index of a message when the number of those before it is not known.
const UNKNOWN: u64 = u64::MAX;

/// Ways in which a call ends before the last message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// With an error, which is an event.
    WithError,
    /// With an error, or with a message of which a part was sent.
    WithPart,
    /// Behind any message.
    Anywhere,
}

/// Returns the place of the next message of the thread's call, of which so many bytes were moved.
#[inline(always)]
pub fn next_message(args: &Args, bytes: u64, ends: Ends) -> Buffers {
    let tid = bpf_get_current_pid_tgid() as u32;
    let first = args.second();
    let index = index(tid, first);
    if index == UNKNOWN {
        note(tid, first, UNKNOWN, bytes);
        return Buffers::NOWHERE;
    }
    let buffers = Buffers::message(message_at(first, index));
    let next = index + 1;
    // The kernel looks at no more messages (`__sys_sendmmsg`, net/socket.c); recvmmsg(2) may.
    let count = args.third() as u32 as u64;
    let is_last = next >= count || ends == Ends::WithPart && next >= MOST as u64;
    let length = if ends == Ends::WithPart {
        length(&buffers)
    } else {
        bytes
    };
    if is_last || length != UNKNOWN && length > bytes {
        let _ = MESSAGES.remove(&tid);
    } else if length == bytes && ends != Ends::Anywhere && is_sound(first, next) {
        note(tid, first, next, bytes);
    } else {
        note(tid, first, UNKNOWN, bytes);
    }
    buffers
}

/// Returns the index of the message that an event is about.
#[inline(always)]
fn index(tid: u32, first: u64) -> u64 {
    // SAFETY: memory of a map lives longer than the programs that use it, and its values are slots.
    let Some(entry) = (unsafe { MESSAGES.get(&tid) }) else {
        return 0;
    };
    let [array, next, bytes] = entry.get();
    if array != first {
        return 0;
    }
    if next == UNKNOWN {
        return UNKNOWN;
    }
    // The kernel writes it behind each message, and ends the call if it cannot.
    match message_length(message_at(first, next - 1)) {
        Some(length) if length as u64 == bytes => next,
        _ => UNKNOWN,
    }
}

#[inline(always)]
fn note(tid: u32, first: u64, next: u64, bytes: u64) {
    let _ = MESSAGES.insert(&tid, &Slot::new([first, next, bytes]), 0);
}

/// Bytes of a `struct iovec`.
const IOVEC_BYTES: u64 = 16;

/// Upper bound on the buffers of a message whose length is looked at.
const FEW_BUFFERS: u64 = 8;

/// Returns the length of a message of a few buffers; [`UNKNOWN`] for others.
#[inline(always)]
fn length(buffers: &Buffers) -> u64 {
    if buffers.count > FEW_BUFFERS {
        return UNKNOWN;
    }
    let mut length = 0;
    for index in 0..FEW_BUFFERS {
        if index >= buffers.count {
            break;
        }
        let Some(bytes) = buffer_bytes(buffers.address + index * IOVEC_BYTES) else {
            return UNKNOWN;
        };
        length += bytes;
    }
    length
}

/// Returns whether the kernel can take a message: a call that meets one that it cannot take ends without an event.
#[inline(always)]
fn is_sound(first: u64, index: u64) -> bool {
    /// Bytes of the largest buffer that a call moves (`MAX_RW_COUNT`, less a page).
    const MOST_BYTES: u64 = 0x7fff_0000;
    let Some([name, _, buffers, count, control, ..]) = message_words(message_at(first, index)) else {
        return false;
    };
    if name != 0 || control != 0 || count == 0 || count > FEW_BUFFERS {
        return false;
    }
    match buffer_bytes(buffers + (count - 1) * IOVEC_BYTES) {
        Some(bytes) => bytes <= MOST_BYTES,
        None => false,
    }
}

/// Forgets the messages of a call that an error has ended.
#[inline(always)]
pub fn forget_messages() {
    let _ = MESSAGES.remove(&(bpf_get_current_pid_tgid() as u32));
}
