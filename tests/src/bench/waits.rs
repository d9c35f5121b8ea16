//! Number of a process's epoll_wait(2) calls, from the kernel's performance events. They count entries, because at the
//! exit the agent's program keeps the event from perf.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::FromRawFd as _,
};

use anyhow::{Context as _, Result};

use super::proc::threads;

/// `PERF_TYPE_TRACEPOINT` of perf_event_open(2).
const TRACEPOINT: u32 = 2;
/// `PERF_ATTR_SIZE_VER0`: only the first fields are needed.
const ATTRIBUTES_BYTES: usize = 64;

/// Counters of the calls, for each thread of a process.
pub struct Waits(Vec<File>);

impl Waits {
    /// Counts from now on, in the threads that exist now.
    pub fn count(process: u32) -> Result<Self> {
        let folder = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
        let paths = folder.map(|folder| format!("{folder}/events/syscalls/sys_enter_epoll_wait/id"));
        let id = paths.iter().find_map(|path| fs::read_to_string(path).ok());
        let id: u64 = id
            .with_context(|| format!("cannot read {}", paths[0]))?
            .trim()
            .parse()?;
        let counters = threads(process)?.into_iter().map(|thread| {
            let name = thread.file_name().unwrap_or_default().to_string_lossy();
            open(id, name.parse()?).with_context(|| format!("cannot count the calls of thread {name}"))
        });
        Ok(Self(counters.collect::<Result<_>>()?))
    }

    /// Returns the number of calls so far.
    pub fn calls(&mut self) -> Result<u64> {
        let mut sum = 0;
        for counter in &mut self.0 {
            let mut count = [0; 8];
            counter.read_exact(&mut count).context("cannot read a counter")?;
            sum += u64::from_ne_bytes(count);
        }
        Ok(sum)
    }
}

/// Opens a counter of a tracepoint in a thread, on every processor.
fn open(tracepoint: u64, thread: i32) -> Result<File> {
    let mut attributes = [0u8; ATTRIBUTES_BYTES];
    attributes[..4].copy_from_slice(&TRACEPOINT.to_ne_bytes());
    attributes[4..8].copy_from_slice(&(ATTRIBUTES_BYTES as u32).to_ne_bytes());
    attributes[8..16].copy_from_slice(&tracepoint.to_ne_bytes());
    const ANY_PROCESSOR: i32 = -1;
    const NO_GROUP: i32 = -1;
    const CLOSE_ON_EXEC: u64 = 1 << 3;
    // SAFETY: the kernel reads as many bytes of the attributes as their size field says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            thread,
            ANY_PROCESSOR,
            NO_GROUP,
            CLOSE_ON_EXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}
