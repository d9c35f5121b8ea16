//! Kernel's table of connections, read as a whole: it tells which connections live after records were lost.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
};

use aya::{Ebpf, maps::Map};

/// `BPF_MAP_LOOKUP_BATCH`, since Linux 5.6
/// (<https://github.com/torvalds/linux/blob/v5.10/include/uapi/linux/bpf.h>).
const LOOKUP_BATCH: libc::c_long = 24;

/// Entries that one call reads. The table has as many buckets as entries: so many in one bucket do not happen, and would be an
/// error (`ENOSPC`).
const BATCH: u32 = 1024;

/// Handle that reads the table.
pub struct Connections {
    pub(super) programs: Arc<Mutex<Ebpf>>,
}

/// `union bpf_attr` of the commands on batches.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    /// Address of the place that the call before left in `out_batch`; 0: the beginning.
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// Room for entries, and then the number of entries.
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

impl Connections {
    /// Returns the names of the connections that have been in the table the whole time, and some of the others. The kernel
    /// may skip programs meanwhile, which it counts.
    ///
    /// # Errors
    /// If the kernel refuses to read the table.
    pub fn living(&self) -> io::Result<Vec<u64>> {
        // Not locked while the table is read: programs may have to be attached meanwhile.
        let (map, value_bytes) = {
            let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(Map::HashMap(map)) = programs.map("CONNECTIONS") else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let value_bytes = map.info().map_err(io::Error::other)?.value_size() as usize;
            (map.fd().as_fd().try_clone_to_owned()?, value_bytes)
        };
        read(map.as_fd(), value_bytes)
    }
}

/// Reads the first eight bytes of all values of a hash table whose keys have eight bytes.
fn read(map: BorrowedFd<'_>, value_bytes: usize) -> io::Result<Vec<u64>> {
    // The kernel pads values to multiples of eight bytes inside, and copies `value_size` bytes each.
    let mut keys = vec![0u64; BATCH as usize];
    let mut values = vec![0u8; BATCH as usize * value_bytes];
    let mut place = 0u32;
    let mut names = Vec::new();
    let mut is_first = true;
    loop {
        let out = &raw mut place as u64;
        let mut attributes = Attributes {
            in_batch: if is_first { 0 } else { out },
            out_batch: out,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH,
            map: map.as_raw_fd() as u32,
            ..Attributes::default()
        };
        // SAFETY: the attributes live through the call, and name memory that has room for `BATCH` keys and values of this
        // map, and for the place in a hash table, four bytes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        let error = (result != 0).then(io::Error::last_os_error);
        // The end of the table: the last entries come with this error.
        let is_last = error.as_ref().and_then(io::Error::raw_os_error) == Some(libc::ENOENT);
        if let Some(error) = error.filter(|_| !is_last) {
            return Err(error);
        }
        // The name is the first field (`Connection` in agent-ebpf/src/socket/mod.rs).
        let read = values.chunks_exact(value_bytes).take(attributes.count as usize);
        names.extend(
            read.filter_map(|value| value.first_chunk().copied())
                .map(u64::from_ne_bytes),
        );
        if is_last {
            return Ok(names);
        }
        is_first = false;
    }
}
