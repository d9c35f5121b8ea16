//! Copies of a call's bytes from the process that made it.

use agent_ebpf::{
    abi::{Counter, PIECE_BYTES},
    plan::FIRST_BYTES,
    slot::Slot,
};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::{
    counters::count,
    kernel,
    scratch::{Scratch, scratch},
};

/// Upper bound of the buffers of one call that a walk visits. A head that is written line by line has a dozen or two.
/// Only existing buffers cost time.
pub const BUFFERS: usize = 64;

/// Kind of memory that holds a call's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One buffer.
    Buffer = 0,
    /// An array of `struct iovec`.
    Vector = 1,
    /// No user memory: the kernel moved the bytes itself (sendfile, splice), or discarded them (MSG_TRUNC).
    Nowhere = 2,
    /// As [`Source::Vector`], with the array already in [`Buffers`].
    Gathered = 3,
}

/// The buffers of a call.
#[repr(C)]
pub struct Buffers {
    /// Address and length of each.
    pub entries: Slot<[[u64; 2]; BUFFERS]>,
    /// Number of entries, while a walk over an array of messages adds them.
    pub filled: Slot<u64>,
    /// Bytes of all messages that the walk visited.
    pub bytes: Slot<u64>,
    /// Bytes to skip, or to distribute over the next buffers.
    left: Slot<u64>,
    /// Bytes that the payload holds.
    done: Slot<u64>,
}

impl Buffers {
    /// Returns a buffer, by an index below [`BUFFERS`].
    #[inline(always)]
    fn entry(&self, index: usize) -> [u64; 2] {
        let entries = self.entries.as_ptr().cast::<[u64; 2]>();
        // SAFETY: the index is within the array; nobody else writes it between `enter` and `leave`.
        unsafe { entries.add(index & (BUFFERS - 1)).read_volatile() }
    }

    /// Appends a buffer. Returns false if there is no room.
    #[inline(always)]
    fn push(&self, entry: [u64; 2]) -> bool {
        let at = self.filled.get();
        if at >= BUFFERS as u64 {
            return false;
        }
        let entries = self.entries.as_ptr().cast::<[u64; 2]>();
        // SAFETY: as above.
        unsafe { entries.add(at as usize & (BUFFERS - 1)).write_volatile(entry) };
        self.filled.set(at + 1);
        true
    }
}

/// Returns whether the call's bytes lie in readable memory. Loads the call's array of buffers if it has one.
#[inline(always)]
pub fn is_visible(scratch: &Scratch) -> bool {
    match scratch.call.source.get() {
        source if source == Source::Nowhere as u64 => false,
        source if source == Source::Vector as u64 => load_buffers(scratch),
        _ => true,
    }
}

#[inline(always)]
fn load_buffers(scratch: &Scratch) -> bool {
    let count = scratch.call.count.get();
    let entries = if count > BUFFERS as u64 { BUFFERS as u64 } else { count };
    // SAFETY: at most BUFFERS entries of 16 bytes go into an array of that size.
    let failed = unsafe {
        bpf_probe_read_user(
            scratch.buffers.entries.as_ptr().cast(),
            (entries as u32 & (2 * BUFFERS as u32 - 1)) * 16,
            kernel::user(scratch.call.address.get()),
        )
    } != 0;
    if failed {
        self::count(Counter::UserFault, 1);
    }
    !failed
}

/// Copies bytes `from..from + bytes` of the call to a place of the payload, 0 or [`FIRST_BYTES`]. Returns the number of
/// bytes copied: fewer if memory faults or if there are too many buffers (counted).
#[inline(always)]
pub fn copy(scratch: &Scratch, from: u64, bytes: u64, place: u64) -> u64 {
    const PIECE: u64 = PIECE_BYTES as u64;
    let bytes = if bytes > PIECE { PIECE } else { bytes };
    if scratch.call.source.get() == Source::Buffer as u64 {
        let payload = scratch.record.payload.as_ptr().cast::<u8>();
        // SAFETY: `bytes` is at most half of the payload, and the place lies in the first half.
        let failed = unsafe {
            bpf_probe_read_user(
                payload.add((place & FIRST_BYTES) as usize).cast(),
                bytes as u32,
                kernel::user(scratch.call.address.get() + from),
            )
        } != 0;
        if failed {
            count(Counter::UserFault, 1);
            return 0;
        }
        return bytes;
    }
    let outcome = gather(from, bytes, place);
    if outcome & FAULTED != 0 {
        count(Counter::UserFault, 1);
    }
    if outcome & TRUNCATED != 0 {
        count(Counter::TooManyBuffers, 1);
    }
    let done = scratch.buffers.done.get();
    if done > PIECE { PIECE } else { done }
}

/// Bit of [`gather`]'s result: memory faulted.
const FAULTED: u32 = 1;
/// Bit of [`gather`]'s result: there are more buffers than the walk visits.
const TRUNCATED: u32 = 2;

/// Copies bytes `from..from + bytes` of the call's buffers to a place of the payload, and leaves the number copied in
/// `done`. A global function, because the verifier then walks its loop once and not for each caller. Returns why bytes are
/// missing, for the caller to count: a call of [`count`] in here would be too deep for the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gather(from: u64, bytes: u64, place: u64) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let payload = scratch.record.payload.as_ptr().cast::<u8>();
    // SAFETY: the payload is longer.
    let payload = unsafe { payload.add((place & FIRST_BYTES) as usize) };
    let buffers = &scratch.buffers;
    buffers.left.set(from);
    buffers.done.set(0);
    let mut outcome = 0;
    let mut index = 0usize;
    while index < BUFFERS {
        let done = buffers.done.get();
        if index as u64 >= scratch.call.count.get() || done >= bytes {
            break;
        }
        let [address, length] = buffers.entry(index);
        index += 1;
        let skip = buffers.left.get();
        if length <= skip {
            buffers.left.set(skip - length);
            continue;
        }
        let rest = bytes - done;
        let part = if length - skip > rest { rest } else { length - skip };
        if part > PIECE_BYTES as u64 || done >= PIECE_BYTES as u64 {
            break;
        }
        // SAFETY: the payload has room for PIECE_BYTES from any place below PIECE_BYTES + FIRST_BYTES.
        let failed = unsafe {
            bpf_probe_read_user(
                payload.add(done as usize).cast(),
                part as u32,
                kernel::user(address + skip),
            )
        } != 0;
        if failed {
            outcome |= FAULTED;
            break;
        }
        buffers.done.set(done + part);
        buffers.left.set(0);
    }
    if buffers.done.get() < bytes && scratch.call.count.get() > BUFFERS as u64 {
        outcome |= TRUNCATED;
    }
    outcome
}

/// Size of user space's `struct msghdr`. The address of its array of buffers is at byte 16, the array's length at byte
/// 24.
const MSGHDR_BYTES: u64 = 56;
/// Size of `struct mmsghdr`: a message, and the number of its bytes that were moved.
const MMSGHDR_BYTES: u64 = 64;
/// Upper bound of the messages of one call (the kernel's `UIO_MAXIOV`).
pub const MESSAGES: u32 = 1024;

/// Returns address and length of the array of buffers of the `struct msghdr` at an address.
#[inline(always)]
pub fn message(header: u64) -> Option<[u64; 2]> {
    user_words(header + 16)
}

/// Returns the words of the `struct msghdr` at an address, up to its flags.
#[inline(always)]
pub fn message_words(header: u64) -> Option<[u64; 6]> {
    user_words(header)
}

/// Returns the length that the kernel has written into the `struct mmsghdr` at an address.
#[inline(always)]
pub fn message_length(message: u64) -> Option<u32> {
    const LENGTH_AT: u64 = 56;
    user_words::<1>(message + LENGTH_AT).map(|[length]| length as u32)
}

/// Returns the address of a message in an array of `struct mmsghdr`.
#[inline(always)]
pub fn message_at(first: u64, index: u64) -> u64 {
    first + index * MMSGHDR_BYTES
}

/// Returns the length of the `struct iovec` at an address.
#[inline(always)]
pub fn buffer_bytes(iovec: u64) -> Option<u64> {
    user_words::<1>(iovec + 8).map(|[bytes]| bytes)
}

/// Collects the filled part of the buffers of `messages` messages, an array of `struct mmsghdr`, and leaves the sum of
/// their bytes in [`Buffers::bytes`]. Returns the number of buffers, 0 if there are too many. A global function, as
/// [`gather`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gather_messages(first: u64, messages: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let buffers = &scratch.buffers;
    buffers.bytes.set(0);
    buffers.filled.set(0);
    let mut index = 0u32;
    while index < MESSAGES {
        if index >= messages {
            break;
        }
        if gather_message(message_at(first, index as u64)) == 0 {
            buffers.filled.set(TOO_MANY);
        }
        index += 1;
    }
    if buffers.filled.get() > BUFFERS as u64 {
        count(Counter::TooManyBuffers, 1);
        return 0;
    }
    buffers.filled.get() as u32
}

/// Value of [`Buffers::filled`]: more buffers than the walk visits.
const TOO_MANY: u64 = u32::MAX as u64;

/// Collects the buffers of one message for [`gather_messages`]. Returns 0 if there is no more room, or if memory
/// faulted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gather_message(header: u64) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let buffers = &scratch.buffers;
    let Some([length]) = user_words::<1>(header + MSGHDR_BYTES) else {
        return 0;
    };
    let length = length & 0xffff_ffff;
    buffers.bytes.set(buffers.bytes.get() + length);
    buffers.left.set(length);
    let Some([address, vectors]) = message(header) else {
        return 0;
    };
    let mut index = 0u64;
    while index < BUFFERS as u64 {
        let left = buffers.left.get();
        if index >= vectors || left == 0 {
            break;
        }
        let Some([start, bytes]) = user_words::<2>(address + index * 16) else {
            return 0;
        };
        index += 1;
        let bytes = if bytes > left { left } else { bytes };
        if !buffers.push([start, bytes]) {
            return 0;
        }
        buffers.left.set(left - bytes);
    }
    (buffers.left.get() == 0) as u32
}

/// Reads words of user memory.
#[inline(always)]
fn user_words<const N: usize>(address: u64) -> Option<[u64; N]> {
    let mut words = [0u64; N];
    // SAFETY: the destination has the size that is passed.
    let failed = unsafe {
        bpf_probe_read_user(
            words.as_mut_ptr().cast(),
            size_of::<[u64; N]>() as u32,
            kernel::user(address),
        )
    } != 0;
    if failed {
        count(Counter::UserFault, 1);
    }
    (!failed).then_some(words)
}
