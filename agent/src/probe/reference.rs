//! For the benchmarks: the kernel's statistics of programs, and a reference program that costs are compared with.

use std::{os::fd::OwnedFd, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    programs::TracePoint,
    sys::{Stats, enable_stats},
};

use super::{ProbeError, load::OBJECT};

/// A ring with room for [`CALLS`] records, as nobody reads it.
const RING_BYTES: u32 = 8 * 1024 * 1024;

/// Runs of one measurement. Each takes 264 bytes of the ring.
pub const CALLS: u32 = 20_000;

/// Makes the kernel count runs and run time of all programs, as long as the result lives: it ends with the process,
/// however that dies, which a sysctl does not.
pub fn enable_run_statistics() -> Result<OwnedFd, ProbeError> {
    enable_stats(Stats::RunTime).map_err(|error| failed(&error))
}

/// What one run of the reference program costs now: it copies 256 bytes of user memory and submits them. Needs
/// [`enable_run_statistics`].
pub fn measure() -> Result<Duration, ProbeError> {
    let mut programs: Ebpf = EbpfLoader::new()
        .map_max_entries("EVENTS", RING_BYTES)
        .map_max_entries("CONNECTIONS", 1)
        .map_max_entries("TARGETS", 1)
        .load(OBJECT)?;
    let program = programs
        .program_mut("reference")
        .ok_or_else(|| failed(&"it is not in the object"))?;
    let program: &mut TracePoint = program.try_into().map_err(|error| failed(&error))?;
    program.load().map_err(|error| failed(&error))?;
    program
        .attach("syscalls", "sys_enter_getpeername")
        .map_err(|error| failed(&error))?;
    let bytes = [1u8; 256];
    let mut length: libc::socklen_t = 0;
    for _ in 0..CALLS {
        // SAFETY: there is no such descriptor, so the kernel writes nothing.
        unsafe { libc::getpeername(-1, bytes.as_ptr().cast_mut().cast(), &raw mut length) };
    }
    let info = program.info().map_err(|error| failed(&error))?;
    // Others may call getpeername(2) too; fewer runs than ours mean that nothing was counted.
    if info.run_count() < u64::from(CALLS) {
        return Err(failed(&format!(
            "it ran {} times in {CALLS} calls: are the run statistics on?",
            info.run_count()
        )));
    }
    Ok(info.run_time().div_f64(info.run_count() as f64))
}

fn failed(reason: &dyn std::fmt::Display) -> ProbeError {
    ProbeError::Program {
        program: "reference",
        reason: reason.to_string(),
    }
}
