//! Calls of bpf(2) by its number: a process that makes them all the time, and a test for loaded objects.

use std::{
    io::Read,
    os::fd::RawFd,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

const MAP_CREATE: usize = 0;
const MAP_UPDATE_ELEM: usize = 2;
const PROG_GET_FD_BY_ID: usize = 13;
const MAP_GET_FD_BY_ID: usize = 14;
const LINK_GET_FD_BY_ID: usize = 30;

/// Kind of an object in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Program,
    Map,
    Link,
}

/// First 64 bytes of `union bpf_attr`.
type Attributes = [u64; 8];

fn bpf(command: usize, attributes: &Attributes) -> Result<RawFd, std::io::Error> {
    // SAFETY: the kernel reads as many bytes as the size argument says, and writes none for these commands.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result as RawFd)
}

/// Returns whether the kernel holds the object with this id.
pub fn exists(kind: Kind, id: u32) -> Result<bool> {
    let command = match kind {
        Kind::Program => PROG_GET_FD_BY_ID,
        Kind::Map => MAP_GET_FD_BY_ID,
        Kind::Link => LINK_GET_FD_BY_ID,
    };
    match bpf(command, &[id.into(), 0, 0, 0, 0, 0, 0, 0]) {
        Ok(fd) => {
            nix::unistd::close(fd)?;
            Ok(true)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot ask for the {kind:?} {id}")),
    }
}

/// Writes a map's entry on each processor until standard input ends.
pub fn hammer() -> Result<()> {
    // BPF_MAP_TYPE_ARRAY of one entry: type, key_size, value_size, max_entries.
    let map = bpf(MAP_CREATE, &[2 | 4 << 32, 8 | 1 << 32, 0, 0, 0, 0, 0, 0]).context("cannot make a map")?;
    let processors = std::thread::available_parallelism()?.get();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for processor in 0..processors {
            let ended = &ended;
            scope.spawn(move || -> Result<()> {
                let mut only = CpuSet::new();
                only.set(processor)?;
                sched_setaffinity(Pid::from_raw(0), &only)?;
                let (key, value) = (0u32, 0u64);
                let (key, value) = (std::ptr::from_ref(&key) as u64, std::ptr::from_ref(&value) as u64);
                while !ended.load(Ordering::Relaxed) {
                    bpf(MAP_UPDATE_ELEM, &[map as u64, key, value, 0, 0, 0, 0, 0])?;
                }
                Ok(())
            });
        }
        println!("ready");
        let read = std::io::stdin().read(&mut [0]);
        ended.store(true, Ordering::Relaxed);
        match read {
            Ok(_) => Ok(()),
            Err(error) => bail!("cannot read: {error}"),
        }
    })
}
