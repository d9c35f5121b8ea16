//! Maps that are shared with the programs as memory: reading and writing them is no system call, and makes the kernel
//! skip no program.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
};

use aya::maps::{Map, MapData};

/// A BPF array map of `T`, mapped into memory.
///
/// `T` must be plain data of the array's value type (the ABI's structs). Programs write the same memory at any time, so
/// all access is by volatile copies: a torn value is possible, and the ABI is made so that none does harm.
pub struct Mapped<T> {
    memory: NonNull<T>,
    entries: usize,
    /// Keeps the map alive.
    _map: MapData,
    plain: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel anyway, and reached only by volatile copies of plain data.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps an array map of `entries` values. The kernel lays values out at multiples of 8 bytes, so `T` must have such
    /// a size.
    pub fn new(map: Map, entries: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let map = match map {
            Map::Array(data) => data,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an array map")),
        };
        let length = size_of::<T>() * entries as usize;
        // SAFETY: a new mapping of a file descriptor; nothing is overwritten.
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

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Copies an entry out; `None` if there is none with this index.
    pub fn get(&self, index: usize) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: in bounds, and plain data.
        (index < self.entries).then(|| unsafe { self.memory.add(index).read_volatile() })
    }

    /// Changes a part of an entry: `field` picks it by pointer. False if there is no entry with this index.
    pub fn set<F: Copy>(&self, index: usize, field: impl FnOnce(*mut T) -> *mut F, value: F) -> bool {
        if index >= self.entries {
            return false;
        }
        // SAFETY: in bounds; `field` derives a pointer into the entry.
        unsafe { field(self.memory.add(index).as_ptr()).write_volatile(value) };
        true
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and not used after.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<T>() * self.entries) };
    }
}
