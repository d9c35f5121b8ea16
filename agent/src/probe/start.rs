//! Start of the kernel side: measure, create the maps, load and attach all programs.

use std::{
    mem::offset_of,
    sync::{Arc, Mutex},
};

use agent_ebpf::abi::{CPU_LIMIT, Control, HINT_SLOTS, MARKS};
use aya::{Ebpf, programs::ProgramError};

use super::{
    Attachment, PLAN, Probe, ProbeError, Settings, Shared, When,
    btf::Btf,
    calibrate::{calibrate, typed_loads},
    load::{PROCESS_MARKS, attach, install_reporter, load, mapped, object, reason, take},
    lost::{Lost, WITHHELD},
    offsets::{Found, offsets},
    ring::Ring,
    skipped::Skipped,
};

impl Probe {
    /// Loads and attaches all programs. No process is a target yet.
    ///
    /// # Errors
    /// If the kernel lacks or refuses something that all tracing depends on. The rest is in [`Probe::lost`].
    pub fn load(settings: Settings) -> Result<Self, ProbeError> {
        let btf = Btf::of_kernel()?;
        let Found {
            mut offsets,
            mut lost,
            essential,
        } = offsets(&btf, &settings.withheld.fields);
        drop(btf);
        if !essential.is_empty() {
            return Err(ProbeError::Fields { missing: essential });
        }
        if let Err(reason) = typed_loads(&mut offsets) {
            tracing::debug!("typed loads are refused, helpers read instead: {reason}");
        }
        calibrate(&mut offsets)?;

        let mut programs = object(&offsets, &settings)?;
        let shared = Shared {
            targets: mapped(&mut programs, "TARGETS", PROCESS_MARKS)?,
            ports: mapped(&mut programs, "PORTS", 65536 / MARKS as u32)?,
            control: mapped(&mut programs, "CONTROL", 1)?,
            hints: mapped(&mut programs, "HINTS", HINT_SLOTS)?,
            counters: mapped(&mut programs, "COUNTERS", CPU_LIMIT)?,
        };
        shared
            .control
            .set(0, offset_of!(Control, agent_tgid), std::process::id());
        let ring = Ring::new(take(&mut programs, "EVENTS")?)?;
        let next = install_reporter(&mut programs, &settings.withheld)?;
        for attachment in PLAN {
            let result = if settings.withheld.has_program(attachment.program) {
                Err(WITHHELD.to_owned())
            } else {
                let started = start(&mut programs, attachment).or_else(|error| attachment.unless_unknown(error));
                started.map_err(|error| reason(&error))
            };
            if let Err(reason) = result {
                lost.push(attachment.without(reason)?);
            }
        }
        lost.iter().for_each(Lost::tell);
        Ok(Self {
            ring,
            shared,
            lost,
            skipped: Skipped::of(&programs),
            programs: Arc::new(Mutex::new(programs)),
            _next: next,
        })
    }
}

/// Loads a program, and attaches it unless that is for later.
fn start(programs: &mut Ebpf, attachment: &Attachment) -> Result<(), ProgramError> {
    load(programs, attachment)?;
    match attachment.when {
        When::Always => attach(programs, attachment),
        When::UnixHttp => Ok(()),
    }
}

/// Gives memory back to the system that loading the programs took and does not need again.
pub fn give_back_memory() {
    // SAFETY: the allocator's own function takes no pointer and may be called at any time, by any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
