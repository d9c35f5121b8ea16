//! Announcement of a running agent to other agents and to commands such as `ps`. Tracing does not need it: a failure is
//! a warning.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    config::TraceSettings,
    control::{Control, ControlError, Desk, Neighbours, Registration, Status},
    probe::{Family, Waker},
    process::ProcRoot,
};

/// Announcement, taken back when it is dropped.
pub struct Announced {
    _control: Option<Control>,
    _registration: Option<Registration>,
}

/// Warns of other agents, registers this one, and opens its control socket. `verb` says what the agent does with its
/// targets: `traces`.
pub fn announce(settings: &TraceSettings, verb: &str, hooks: Family, desk: Arc<Desk>, waker: Waker) -> Announced {
    let neighbours = Neighbours::of_host(&ProcRoot::default());
    let others = neighbours.others();
    for other in &others {
        tracing::warn!(
            "another spoor runs on this host: process {}, which {}; processes traced by both are reported twice",
            other.pid,
            other.doing
        );
    }
    let mut status = status(settings, verb, hooks);
    let control =
        settings
            .control
            .as_deref()
            .and_then(|path| match Control::start(path, status.clone(), desk, waker) {
                Ok(control) => Some(control),
                // The warning above names the other agent.
                Err(error @ ControlError::Taken(_)) if !others.is_empty() => {
                    tracing::info!("{error}");
                    None
                }
                Err(error) => {
                    tracing::warn!("{error}; tracing goes on without a control socket");
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
            .inspect_err(|error| tracing::debug!("cannot register this agent for others to see: {error}"))
            .ok(),
    }
}

fn status(settings: &TraceSettings, verb: &str, hooks: Family) -> Status {
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
        // Absolute, for readers with another working directory.
        control: settings.control.as_ref().map(|path| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            absolute.display().to_string()
        }),
        hooks: Some(hooks),
    }
}
