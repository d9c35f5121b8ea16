//! The ring buffer as memory: records are read where the programs wrote them.
//!
//! The kernel lets a reader map the data twice in a row, so that a record which goes round the end is in one piece. All of
//! it mapped twice would count twice in the agent's resident size, so the second time is no longer than a record.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use agent_ebpf::abi::{PIECE_BYTES, Segment};
use aya::maps::{Map, MapData};

/// Bytes in front of each record: its length with [`BUSY`] and [`DISCARDED`], and a word for the kernel.
const HEADER_BYTES: usize = 8;
/// The record is reserved, and not written yet (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// The record was given up (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARDED: u32 = 1 << 30;

/// Length of the longest record: one of a segment, as the programs bound it (`submit::segment`).
const LONGEST: usize = size_of::<Segment>() + 2 * PIECE_BYTES;

/// Upper bound of the bytes that are read before the programs get their room back. Each time costs the programs a cache miss.
const PORTION: usize = 64 * 1024;
/// Part of a small ring after which they get it back.
const PART: usize = 8;

/// Reader of the ring buffer, the only one.
///
/// Layout of the memory: include/uapi/linux/bpf.h and `bpf_ringbuf_alloc` in
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/ringbuf.c>. A page with the position of the reader, a page with
/// that of the programs, and the data. Positions only grow; modulo the size they are places in the data.
pub struct Records {
    reader: Pages,
    programs: Pages,
    /// Size of the ring: a power of two.
    bytes: usize,
    page: usize,
    /// Position of the next record.
    at: usize,
    /// Position that the programs know.
    told: usize,
    map: MapData,
}

impl Records {
    /// Maps a ring of so many bytes.
    ///
    /// # Errors
    /// If the map is no ring buffer, or the kernel refuses the mapping.
    pub fn new(map: Map, bytes: u32) -> io::Result<Self> {
        let Map::RingBuf(map) = map else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a ring buffer"));
        };
        let (bytes, page) = (bytes as usize, rustix::param::page_size());
        let again = (HEADER_BYTES + LONGEST).next_multiple_of(page).min(bytes);
        let fd = map.fd().as_fd();
        let reader = Pages::map(fd, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let programs = Pages::map(fd, page, page + bytes + again, libc::PROT_READ)?;
        let mut records = Self {
            reader,
            programs,
            bytes,
            page,
            at: 0,
            told: 0,
            map,
        };
        records.told = records.reader.position().load(Ordering::Relaxed);
        records.at = records.told;
        Ok(records)
    }

    /// Returns the next record, if there is one. It lies in the ring until this is called again, or [`Records::give_back`].
    pub fn next(&mut self) -> Option<&[u8]> {
        if self.at - self.told >= PORTION.min(self.bytes / PART) {
            self.give_back();
        }
        loop {
            if self.at == self.programs.position().load(Ordering::Acquire) {
                return None;
            }
            let place = self.page + (self.at & (self.bytes - 1));
            let header = self.programs.header(place).load(Ordering::Acquire);
            if header & BUSY != 0 {
                return None;
            }
            let length = (header & !DISCARDED) as usize;
            self.at += (HEADER_BYTES + length).next_multiple_of(HEADER_BYTES);
            if header & DISCARDED == 0 {
                return Some(self.programs.record(place + HEADER_BYTES, length));
            }
        }
    }

    /// Gives the room of the records that were read back to the programs.
    pub fn give_back(&mut self) {
        self.told = self.at;
        self.reader.position().store(self.at, Ordering::Release);
    }
}

impl AsRawFd for Records {
    fn as_raw_fd(&self) -> i32 {
        self.map.fd().as_fd().as_raw_fd()
    }
}

/// A mapping of the ring's memory that begins with a position.
struct Pages {
    /// `length` readable bytes, until `drop` unmaps them.
    memory: NonNull<u8>,
    length: usize,
}

impl Pages {
    fn map(fd: BorrowedFd<'_>, offset: usize, length: usize, access: i32) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no memory of ours is overwritten.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, length })
    }

    /// Returns the position at the beginning.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: a page begins with an aligned word, which the kernel, too, reads and writes by atomic accesses only.
        unsafe { self.memory.cast().as_ref() }
    }

    /// Returns the header at a place, which is aligned as the kernel aligns records.
    fn header(&self, place: usize) -> &AtomicU32 {
        assert!(place + HEADER_BYTES <= self.length && place.is_multiple_of(HEADER_BYTES));
        // SAFETY: an aligned word within the mapping, as above.
        unsafe { self.memory.add(place).cast().as_ref() }
    }

    /// Returns the bytes of a record, which the programs have submitted; none of a record that no program writes.
    fn record(&self, place: usize, length: usize) -> &[u8] {
        if length > LONGEST || place + length > self.length {
            return &[];
        }
        // SAFETY: within the mapping. Nobody writes a submitted record until its room is given back, for which
        // `Records::give_back` needs the borrow of this one to have ended.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(place), length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `map` mapped so many bytes at this address. No reference to them outlives `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.length) };
    }
}
