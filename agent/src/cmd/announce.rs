//! Tells other Spoors, and those who ask, that this one runs. None of it is needed to trace: what fails is a warning.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    config::TraceSettings,
    control::{Control, ControlError, Desk, Neighbours, Registration, Status},
    probe::Waker,
    process::ProcRoot,
};

/// What is taken back when the agent ends.
pub struct Announced {
    _control: Option<Control>,
    _registration: Option<Registration>,
}

/// Warns of others, registers this agent, and opens its control socket. `verb`: what it does with what it selects.
pub fn announce(settings: &TraceSettings, verb: &str, desk: Arc<Desk>, waker: Waker) -> Announced {
    let neighbours = Neighbours::of_host(&ProcRoot::default());
    let others = neighbours.others();
    for other in &others {
        tracing::warn!(
            "another spoor runs on this host: process {}, which {}; processes traced by both are reported twice",
            other.pid,
            other.doing
        );
    }
    let mut status = status(settings, verb);
    let control =
        settings
            .control
            .as_deref()
            .and_then(|path| match Control::start(path, status.clone(), desk, waker) {
                Ok(control) => Some(control),
                // Named above, with what it does.
                Err(error @ ControlError::Taken(_)) if !others.is_empty() => {
                    tracing::info!("{error}");
                    None
                }
                Err(error) => {
                    tracing::warn!("{error}; tracing goes on without it");
                    None
                }
            });
    if control.is_none() {
        status.control = None;
    }
    let registration = neighbours.register(&status);
    Announced {
        _control: control,
        _registration: registration
            .inspect_err(|error| tracing::debug!("other spoors are not told of this one: {error}"))
            .ok(),
    }
}

fn status(settings: &TraceSettings, verb: &str) -> Status {
    let mut rules = settings.selection.rules();
    if let Some(launch) = &settings.launch {
        let command = launch.command.first().map(|program| program.to_string_lossy());
        rules.push(format!("-- {}", command.unwrap_or_default()));
    }
    let doing = match rules.as_slice() {
        [] => format!("{verb} every process"),
        rules => format!("{verb} {}", rules.join(" ")),
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        doing,
        rules,
        since_unix_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        control: settings.control.as_ref().map(|path| path.display().to_string()),
    }
}
