//! Maps that are shared with the programs as memory: reading and writing them is no system call, and makes the kernel
//! skip no program.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
};

use agent_ebpf::abi::{COUNTER_COLUMNS, Calibration, Control, Hints, MARKS, WayState};
use aya::maps::{Map, MapData};

/// Types that the agent and the programs may share as memory.
///
/// # Safety
/// Any bytes must be a value of the type: an integer, or a `repr(C)` or `repr(transparent)` type of integers.
pub unsafe trait Shareable {}

// SAFETY: an integer.
unsafe impl Shareable for u8 {}
// SAFETY: an integer.
unsafe impl Shareable for u32 {}
// SAFETY: an integer.
unsafe impl Shareable for u64 {}
// SAFETY: an array of integers.
unsafe impl Shareable for [u8; MARKS] {}
// SAFETY: an array of integers.
unsafe impl Shareable for [u64; COUNTER_COLUMNS] {}
// SAFETY: `repr(C)`, of integers.
unsafe impl Shareable for Calibration {}
// SAFETY: `repr(C)`, of integers.
unsafe impl Shareable for Control {}
// SAFETY: `repr(C)`, of integers.
unsafe impl Shareable for Hints {}
// SAFETY: `repr(transparent)` over an integer.
unsafe impl Shareable for WayState {}

/// A BPF array map of `T`, mapped into memory.
///
/// Programs write the same memory at any time, so all access is by volatile copies. A torn value is possible, and the ABI
/// is made so that none does harm.
pub struct Mapped<T> {
    /// `entries` values, readable and writable until `drop` unmaps them.
    memory: NonNull<T>,
    entries: usize,
    /// Keeps the map alive.
    _map: MapData,
    plain: PhantomData<T>,
}

// SAFETY: no reference to the memory is ever handed out. `get` and `set` copy shareable values by volatile accesses, and
// are as sound from any thread as beside the programs, which access the same memory at any time.
unsafe impl<T: Shareable> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for Mapped<T> {}

impl<T: Shareable> Mapped<T> {
    /// Maps an array map of `entries` values of `T`. The kernel lays values out at multiples of 8 bytes, so the size of
    /// `T` must be one.
    ///
    /// # Errors
    /// If the map is no array, or smaller than that, or the kernel refuses the mapping.
    pub fn new(map: Map, entries: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let Map::Array(map) = map else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an array map"));
        };
        let length = size_of::<T>() * entries as usize;
        // SAFETY: the kernel chooses the address, so no memory of ours is overwritten.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            memory,
            entries: entries as usize,
            _map: map,
            plain: PhantomData,
        })
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Copies an entry out; `None` if there is none with this index.
    pub fn get(&self, index: usize) -> Option<T>
    where
        T: Copy,
    {
        if index >= self.entries {
            return None;
        }
        // SAFETY: the entry is within the mapping, which is aligned to a page, and any bytes are a value of `T`.
        Some(unsafe { self.memory.add(index).read_volatile() })
    }

    /// Writes `value` at a byte offset within an entry (`offset_of!`). Returns false, and writes nothing, if there is no
    /// such entry, or the value would not lie aligned within it.
    pub fn set<F: Shareable + Copy>(&self, index: usize, offset: usize, value: F) -> bool {
        let fits = offset.is_multiple_of(align_of::<F>())
            && offset
                .checked_add(size_of::<F>())
                .is_some_and(|end| end <= size_of::<T>());
        if index >= self.entries || !fits {
            return false;
        }
        // SAFETY: the entry is within the mapping, and the field within the entry. Entries begin at multiples of 8 bytes, so
        // the field is aligned. Any bytes that it leaves are a value of `T`.
        unsafe {
            let field = self.memory.add(index).cast::<u8>().add(offset);
            field.cast::<F>().write_volatile(value);
        }
        true
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: `new` mapped so many bytes at this address. No pointer into them outlives `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<T>() * self.entries) };
    }
}
