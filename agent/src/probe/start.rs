//! Start of the kernel side: measure, create the maps, load and attach all programs.

use std::{
    mem::offset_of,
    sync::{Arc, Mutex},
};

use agent_ebpf::abi::{CPU_LIMIT, Control, HINT_SLOTS, MARKS, Offsets};
use aya::{Ebpf, programs::ProgramError, util::KernelVersion};

use super::{
    Attachment, Family, Probe, ProbeError, Settings, Shared, When,
    btf::Btf,
    calibrate::{calibrate, typed_loads},
    family::{Obstacle, choose, obstacle},
    load::{PROCESS_MARKS, attach, install_reporter, load, mapped, object, reason, take},
    lost::{Lost, WITHHELD},
    offsets::{Found, offsets},
    plan,
    ring::Ring,
    skipped::Skipped,
};

impl Probe {
    /// Loads and attaches all programs of the family that the settings ask for, or of the best one that this kernel takes.
    /// No process is a target yet.
    ///
    /// # Errors
    /// If the kernel lacks or refuses something that all tracing depends on. The rest is in [`Probe::lost`].
    pub fn load(settings: Settings) -> Result<Self, ProbeError> {
        let btf = Btf::of_kernel()?;
        let Found {
            mut offsets,
            mut lost,
            essential,
            events,
        } = offsets(&btf, &settings.withheld.fields);
        drop(btf);
        if !essential.is_empty() {
            return Err(ProbeError::Fields { missing: essential });
        }
        let casts = typed_loads(&mut offsets);
        if let Err(reason) = &casts {
            tracing::debug!("typed loads are refused, helpers read instead: {reason}");
        }
        calibrate(&mut offsets)?;

        let obstacle = obstacle(settings.hooks, &events, &casts);
        let (mut probe, obstacle) = choose(settings.hooks, obstacle, |family| {
            Self::of_family(family, offsets, &settings)
        })?;
        match obstacle {
            Some(Obstacle::Refused(without)) => lost.push(without),
            Some(Obstacle::Unwanted | Obstacle::Absent) => {}
            None => lost.extend(events.into_lost()),
        }
        lost.append(&mut probe.lost);
        lost.iter().for_each(Lost::tell);
        tracing::debug!(hooks = probe.family.name(), "the programs are attached");
        probe.lost = lost;
        Ok(probe)
    }

    /// Loads and attaches all programs of a family.
    fn of_family(family: Family, offsets: Offsets, settings: &Settings) -> Result<Self, ProbeError> {
        let mut programs = object(&of_family(family, offsets), settings)?;
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
        let next = install_reporter(&mut programs, family, &settings.withheld)?;
        let mut lost = Vec::new();
        for attachment in plan(family) {
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
        Ok(Self {
            ring,
            shared,
            lost,
            family,
            skipped: Skipped::of(&programs),
            programs: Arc::new(Mutex::new(programs)),
            _next: next,
        })
    }
}

/// Returns the facts for the programs of a family.
pub(super) fn of_family(family: Family, offsets: Offsets) -> Offsets {
    match family {
        Family::Sock => Offsets {
            by_events: 1,
            preemptible: offsets.preemptible
                | u64::from(are_raw_tracepoints_preemptible(KernelVersion::current().ok())),
            ..offsets
        },
        Family::Syscall => offsets,
    }
}

/// Returns whether a kernel runs the programs of raw tracepoints with preemption on, as it does since 7.0. A kernel whose
/// version is not known may do so: to guard a program that is never preempted only costs time.
fn are_raw_tracepoints_preemptible(version: Option<KernelVersion>) -> bool {
    version.is_none_or(|version| version >= KernelVersion::new(7, 0, 0))
}

/// Loads a program, and attaches it unless that is for later.
fn start(programs: &mut Ebpf, attachment: &Attachment) -> Result<(), ProgramError> {
    load(programs, attachment)?;
    match attachment.when {
        When::Always => attach(programs, attachment),
        When::UnixHttp | When::Splice => Ok(()),
    }
}

/// Gives memory back to the system that loading the programs took and does not need again.
pub fn give_back_memory() {
    // SAFETY: the allocator's own function takes no pointer and may be called at any time, by any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_unknown_version_may_preempt_programs() {
        assert!(are_raw_tracepoints_preemptible(None));
        for (major, minor, may) in [(6, 3, false), (6, 18, false), (7, 0, true), (8, 1, true)] {
            let version = KernelVersion::new(major, minor, 0);
            assert_eq!(are_raw_tracepoints_preemptible(Some(version)), may, "{major}.{minor}");
        }
    }
}
