//! Survey of the programs that this kernel accepts: every program is loaded, attached and detached again. The agent
//! stops at the first program that it needs and cannot load; the survey goes on and reports all.

use agent_ebpf::abi::Offsets;
use aya::Ebpf;

use super::{
    Family, Hook, Obstacle, ProbeError, Settings,
    btf::Btf,
    calibrate::{calibrate, typed_loads},
    family::obstacle,
    load::{attach, install_reporter, load, object, reason, small_object},
    lost::{Lost, Withheld},
    offsets::{Found, offsets},
    plan,
    start::of_family,
};

/// Results of the survey. `Err` has the kernel's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Fields that the kernel's BTF does not have, and what does not work without them.
    pub missing_fields: Result<Vec<Lost>, String>,
    /// Loading programs at all, and measuring where system calls keep their arguments.
    pub registers: Result<(), String>,
    /// Reading fields by their types, which costs less than by helpers.
    pub typed_loads: Result<(), String>,
    /// Capture at the socket events, which costs less than at system calls.
    pub socket_events: Result<(), Obstacle>,
    /// Family of hooks that an agent with such settings uses, or fails to.
    pub family: Family,
    /// Creating the maps in their full size, the ring buffer among them.
    pub maps: Result<(), String>,
    /// Every program of the family, in the order of attaching. Empty if no maps could be created.
    pub programs: Vec<Trial>,
}

/// A program that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The program's name.
    pub program: &'static str,
    /// The tracepoint that it was attached to; `None`: other programs call it.
    pub tracepoint: Option<&'static str>,
    /// The feature that does not work without it; `None`: nothing works without it.
    pub feature: Option<&'static str>,
    /// The kernel's verdict.
    pub outcome: Result<(), String>,
}

/// Tries all that tracing needs, for an agent with such settings. Needs the same capabilities. Nothing stays loaded.
pub fn survey(settings: &Settings) -> Survey {
    let untried = || Err("not tried: the kernel's types are not known".to_owned());
    let mut survey = Survey {
        missing_fields: Ok(Vec::new()),
        registers: untried(),
        typed_loads: untried(),
        socket_events: Err(Obstacle::Absent),
        family: settings.hooks.unwrap_or(Family::Syscall),
        maps: untried(),
        programs: Vec::new(),
    };
    let btf = match Btf::of_kernel() {
        Ok(btf) => btf,
        Err(error) => {
            survey.missing_fields = Err(error.to_string());
            return survey;
        }
    };
    let Found {
        mut offsets,
        lost,
        essential,
        events,
    } = offsets(&btf, &[]);
    drop(btf);
    let rings = events.rings;
    survey.missing_fields = match essential.as_slice() {
        [] => Ok(lost),
        _ => Err(ProbeError::Fields { missing: essential }.to_string()),
    };
    survey.typed_loads = typed_loads(&mut offsets);
    survey.registers = calibrate(&mut offsets).map_err(|error| error.to_string());
    let obstacle = obstacle(settings.hooks, &events, &survey.typed_loads);
    if obstacle.is_none() || settings.hooks == Some(Family::Sock) {
        survey.family = Family::Sock;
        (survey.maps, survey.programs) = tried(Family::Sock, offsets, settings, rings);
    }
    let obstacle = obstacle.or_else(|| refused(&survey.programs));
    survey.socket_events = obstacle.map_or(Ok(()), Err);
    if survey.socket_events.is_ok()
        && let Ok(missing) = &mut survey.missing_fields
    {
        missing.extend(events.into_lost());
    }
    if survey.socket_events.is_err() && settings.hooks != Some(Family::Sock) {
        survey.family = Family::Syscall;
        (survey.maps, survey.programs) = tried(Family::Syscall, offsets, settings, rings);
    }
    survey
}

/// Returns the first program that was refused, and without which the socket events are of no use.
fn refused(trials: &[Trial]) -> Option<Obstacle> {
    let essential = trials.iter().filter(|trial| trial.feature.is_none());
    let mut refused = essential.filter_map(|trial| {
        let reason = trial.outcome.as_ref().err()?;
        Some(Obstacle::refused(trial.program, reason))
    });
    refused.next()
}

/// Tries the programs of a family. Returns also whether the maps could be created in full size. `rings`: the kernel has
/// io_urings.
fn tried(family: Family, offsets: Offsets, settings: &Settings, rings: bool) -> (Result<(), String>, Vec<Trial>) {
    let offsets = of_family(family, offsets);
    let full = object(&offsets, settings);
    let maps = full.as_ref().map(drop).map_err(|error| reason(error));
    // Programs are the same with the smallest maps, and their own verdicts are worth having.
    let programs = full.or_else(|_| small_object(&offsets));
    let trials = programs.map_or_else(|_| Vec::new(), |mut programs| trials(&mut programs, family, rings));
    (maps, trials)
}

/// Loads and attaches every program of a family.
fn trials(programs: &mut Ebpf, family: Family, rings: bool) -> Vec<Trial> {
    // Held until all are tried: the programs that see bytes move go on in it.
    let reporter = install_reporter(programs, family, &Withheld::default());
    let mut trials = vec![Trial {
        program: family.reporter(),
        tracepoint: None,
        feature: None,
        outcome: reporter.as_ref().map(drop).map_err(|error| match error {
            ProbeError::Program { reason, .. } => reason.clone(),
            other => other.to_string(),
        }),
    }];
    let wanted = plan(family).filter(|attachment| rings || !attachment.is_about_requests());
    trials.extend(wanted.map(|attachment| {
        Trial {
            program: attachment.program,
            tracepoint: Some(match attachment.hook {
                Hook::Syscall(name) | Hook::Raw(name) => name,
            }),
            feature: attachment.feature,
            outcome: load(programs, attachment)
                .and_then(|()| attach(programs, attachment))
                .or_else(|error| attachment.unless_unknown(error))
                .map_err(|error| reason(&error)),
        }
    }));
    trials
}
