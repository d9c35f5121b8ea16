//! Tools of the benchmarks: the kernel's statistics of programs, and programs to compare costs with.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::RingBuf,
    programs::{Program, ProgramError, RawTracePoint, TracePoint, loaded_programs},
    sys::{Stats, enable_stats},
};

use super::{
    Family, Hook, ProbeError, When,
    load::{OBJECT, take},
    plan,
};

/// Size of the ring: room for 15 ms of the fastest server that we know.
const RING_BYTES: u32 = 8 * 1024 * 1024;
/// Period at which the ring is emptied.
const PERIOD: Duration = Duration::from_millis(2);

/// Makes the kernel count runs and run time of all programs until the result is dropped. Unlike a sysctl, that ends with the
/// process, however it dies.
pub fn enable_run_statistics() -> Result<OwnedFd, ProbeError> {
    enable_stats(Stats::RunTime).map_err(|error| failed(&error))
}

/// Returns whether the kernel holds a program of this name, loaded by this process or another.
pub fn is_loaded(name: &str) -> bool {
    // The kernel cuts names to BPF_OBJ_NAME_LEN.
    const NAME_BYTES: usize = 15;
    let wanted = name.get(..NAME_BYTES.min(name.len()));
    // Programs that are unloaded meanwhile are skipped.
    loaded_programs()
        .flatten()
        .any(|program| program.name_as_str() == wanted)
}

/// Reference program on each recvfrom(2) of the host: it copies 256 bytes of the caller's buffer and submits them.
///
/// A program costs several times more between the misses of a busy server than in a loop of its own, so it is measured
/// in the same place as what it is compared with.
pub struct Reference {
    programs: Ebpf,
    ended: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Reference {
    /// Attaches the program, and empties its ring in a thread.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn attach() -> Result<Self, ProbeError> {
        let mut programs = object()?;
        let mut ring = RingBuf::try_from(take(&mut programs, "EVENTS")?).map_err(|error| failed(&error))?;
        let program: &mut TracePoint = programs
            .program_mut("reference")
            .ok_or_else(|| failed(&"it is not in the object"))?
            .try_into()
            .map_err(|error| failed(&error))?;
        program.load().map_err(|error| failed(&error))?;
        program
            .attach("syscalls", "sys_enter_recvfrom")
            .map_err(|error| failed(&error))?;
        let ended = Arc::new(AtomicBool::new(false));
        let reader = spawn({
            let ended = Arc::clone(&ended);
            move || {
                while !ended.load(Ordering::Relaxed) {
                    while ring.next().is_some() {}
                    sleep(PERIOD);
                }
            }
        });
        Ok(Self {
            programs,
            ended,
            reader: Some(reader),
        })
    }

    /// Returns the average cost of a run. Needs [`enable_run_statistics`].
    ///
    /// # Errors
    /// If the program never ran.
    pub fn cost(&self) -> Result<Duration, ProbeError> {
        let program = self.programs.program("reference");
        let program = program.ok_or_else(|| failed(&"it is not in the object"))?;
        let program: &TracePoint = program.try_into().map_err(|error| failed(&error))?;
        let info = program.info().map_err(|error| failed(&error))?;
        if info.run_count() == 0 {
            return Err(failed(
                &"it never ran: are the run statistics on, and does anybody receive?",
            ));
        }
        Ok(info.run_time().div_f64(info.run_count() as f64))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::warn!("the reader of the reference program's ring panicked");
        }
    }
}

/// Programs that do nothing: they measure what the hooks themselves cost.
pub struct Empty {
    _programs: Ebpf,
}

impl Empty {
    /// Attaches programs to all hooks that an agent of this family takes at its start. A hook that this kernel lacks is left
    /// out: the agent does not have it either.
    ///
    /// # Errors
    /// If the kernel refuses a program.
    pub fn attach(family: Family) -> Result<Self, ProbeError> {
        let mut programs = object()?;
        let hooks = || plan(family).filter(|attachment| attachment.when == When::Always);
        let raw: &mut RawTracePoint = empty(&mut programs, "empty_raw")?;
        raw.load().map_err(|error| failed(&error))?;
        for attachment in hooks() {
            if let Hook::Raw(name) = attachment.hook
                && let Err(error) = raw.attach(name)
            {
                tracing::warn!("no empty program on {name}: {error}");
            }
        }
        let syscall: &mut TracePoint = empty(&mut programs, "empty")?;
        syscall.load().map_err(|error| failed(&error))?;
        for attachment in hooks() {
            if let Hook::Syscall(name) = attachment.hook
                && let Err(error) = syscall.attach("syscalls", name)
            {
                tracing::warn!("no empty program on {name}: {error}");
            }
        }
        Ok(Self { _programs: programs })
    }

    /// Attaches programs to the events that fire for each send and each receive of a socket, since Linux 6.3.
    ///
    /// # Errors
    /// If the kernel refuses a program, or lacks the events.
    pub fn on_socket_events() -> Result<Self, ProbeError> {
        let mut programs = object()?;
        let program: &mut RawTracePoint = empty(&mut programs, "empty_raw")?;
        program.load().map_err(|error| failed(&error))?;
        for event in ["sock_send_length", "sock_recv_length"] {
            program
                .attach(event)
                .map_err(|error| failed(&format!("{event}: {error}")))?;
        }
        Ok(Self { _programs: programs })
    }
}

/// Returns a program that does nothing.
fn empty<'a, P>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProbeError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = programs.program_mut(name);
    let program = program.ok_or_else(|| failed(&"it is not in the object"))?;
    program.try_into().map_err(|error| failed(&error))
}

fn object() -> Result<Ebpf, ProbeError> {
    Ok(EbpfLoader::new()
        .map_max_entries("EVENTS", RING_BYTES)
        .map_max_entries("CONNECTIONS", 1)
        .map_max_entries("TARGETS", 1)
        .load(OBJECT)?)
}

fn failed(reason: &dyn std::fmt::Display) -> ProbeError {
    ProbeError::Program {
        program: "reference",
        reason: reason.to_string(),
    }
}
