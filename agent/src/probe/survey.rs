//! Survey of the programs that this kernel accepts: every program is loaded, attached and detached again. The agent
//! stops at the first program that it needs and cannot load; the survey goes on and reports all.

use agent_ebpf::abi::Offsets;
use aya::Ebpf;

use super::{
    Hook, PLAN, ProbeError, Settings,
    btf::Btf,
    calibrate::{calibrate, typed_loads},
    load::{REPORTER, attach, install_reporter, load, object, reason, small_object},
    lost::{Lost, Withheld},
    offsets::{Found, offsets},
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
    /// Creating the maps in their full size, the ring buffer among them.
    pub maps: Result<(), String>,
    /// Every program, in the order of attaching. Empty if no maps could be created.
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
        maps: untried(),
        programs: Vec::new(),
    };
    let mut offsets = match fields() {
        Ok((offsets, missing)) => {
            survey.missing_fields = missing;
            offsets
        }
        Err(reason) => {
            survey.missing_fields = Err(reason);
            return survey;
        }
    };
    survey.typed_loads = typed_loads(&mut offsets);
    survey.registers = calibrate(&mut offsets).map_err(|error| error.to_string());
    let full = object(&offsets, settings);
    survey.maps = full.as_ref().map(drop).map_err(|error| reason(error));
    // Programs are the same with the smallest maps, and their own verdicts are worth having.
    if let Ok(mut programs) = full.or_else(|_| small_object(&offsets)) {
        survey.programs = trials(&mut programs);
    }
    survey
}

/// Returns the offsets, and the fields that are missing. Fails if the kernel's BTF cannot be read.
fn fields() -> Result<(Offsets, Result<Vec<Lost>, String>), String> {
    let btf = Btf::of_kernel().map_err(|error| error.to_string())?;
    let Found {
        offsets,
        lost,
        essential,
    } = offsets(&btf, &Withheld::default().fields);
    let missing = if essential.is_empty() {
        Ok(lost)
    } else {
        Err(ProbeError::Fields { missing: essential }.to_string())
    };
    Ok((offsets, missing))
}

/// Loads and attaches every program.
fn trials(programs: &mut Ebpf) -> Vec<Trial> {
    // Held until all are tried: the programs of system calls go on in it.
    let reporter = install_reporter(programs, &Withheld::default());
    let mut trials = vec![Trial {
        program: REPORTER,
        tracepoint: None,
        feature: None,
        outcome: reporter.as_ref().map(drop).map_err(|error| match error {
            ProbeError::Program { reason, .. } => reason.clone(),
            other => other.to_string(),
        }),
    }];
    trials.extend(PLAN.iter().map(|attachment| {
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
