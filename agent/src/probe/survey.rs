//! What this kernel takes, found by trying: every program is loaded, attached and detached again. Where the agent stops
//! at the first thing that it cannot go without, the survey goes on and tells all.

use super::{
    Hook, PLAN, ProbeError, Settings,
    btf::Btf,
    load::{REPORTER, attach, calibrate, install_reporter, load, object, reason, small_object, typed_loads},
    lost::{Lost, Withheld},
    offsets::{Found, offsets},
};

/// What was found. `Err` has the kernel's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Fields that the kernel's BTF does not have, and what does not work without them.
    pub missing_fields: Result<Vec<Lost>, String>,
    /// Programs can be loaded at all, and where system calls keep their arguments was measured.
    pub registers: Result<(), String>,
    /// Fields are read by their types, which costs less than by helpers.
    pub typed_loads: Result<(), String>,
    /// The maps in their full size, the ring buffer among them.
    pub maps: Result<(), String>,
    /// Every program, in the order of attaching. Empty if the above left nothing to try.
    pub programs: Vec<Trial>,
}

/// A program that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its name.
    pub program: &'static str,
    /// The tracepoint that it was attached to; `None`: other programs call it.
    pub tracepoint: Option<&'static str>,
    /// What does not work without it; `None`: nothing works without it.
    pub feature: Option<&'static str>,
    /// What the kernel said.
    pub outcome: Result<(), String>,
}

/// Tries all, for an agent with such settings. Nothing stays loaded. Needs what tracing needs.
pub fn survey(settings: &Settings) -> Survey {
    let mut survey = Survey {
        missing_fields: Ok(Vec::new()),
        registers: Err("not tried: the kernel's types are not known".to_owned()),
        typed_loads: Err("not tried: the kernel's types are not known".to_owned()),
        maps: Err("not tried: the kernel's types are not known".to_owned()),
        programs: Vec::new(),
    };
    let mut offsets = match Btf::of_kernel() {
        Ok(btf) => {
            let Found {
                offsets,
                lost,
                essential,
            } = offsets(&btf, &Withheld::default().fields);
            survey.missing_fields = if essential.is_empty() {
                Ok(lost)
            } else {
                Err(ProbeError::Fields { missing: essential }.to_string())
            };
            offsets
        }
        Err(error) => {
            survey.missing_fields = Err(error.to_string());
            return survey;
        }
    };
    survey.typed_loads = typed_loads(&mut offsets);
    survey.registers = calibrate(&mut offsets).map_err(|error| error.to_string());
    let full = object(&offsets, settings);
    survey.maps = full.as_ref().map(drop).map_err(|error| reason(error));
    // Programs are the same with the smallest maps, and their own verdicts are worth having.
    let Ok(mut programs) = full.or_else(|_| small_object(&offsets)) else {
        return survey;
    };

    // Held until all are tried: the programs of system calls go on in it.
    let reporter = install_reporter(&mut programs, &Withheld::default());
    survey.programs.push(Trial {
        program: REPORTER,
        tracepoint: None,
        feature: None,
        outcome: reporter.as_ref().map(drop).map_err(|error| match error {
            ProbeError::Program { reason, .. } => reason.clone(),
            other => other.to_string(),
        }),
    });
    survey.programs.extend(PLAN.iter().map(|attachment| {
        Trial {
            program: attachment.program,
            tracepoint: Some(match attachment.hook {
                Hook::Syscall(name) | Hook::Raw(name) => name,
            }),
            feature: attachment.feature,
            outcome: load(&mut programs, attachment)
                .and_then(|()| attach(&mut programs, attachment))
                .or_else(|error| attachment.unless_unknown(error))
                .map_err(|error| reason(&error)),
        }
    }));
    survey
}
