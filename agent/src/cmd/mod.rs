//! Commands of the `spoor` program, one file each.
//!
//! `agent.rs` holds what `run` and `record` share: the agent's life from settings to an exit code.

mod agent;
mod announce;
mod completions;
pub mod doctor;
pub mod ps;
mod record;
mod redact;
pub mod replay;
mod run;
mod status_line;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context;

pub use run::run_without;

use crate::{
    config::{Command, Hooks, Invocation, LogLevel},
    launch::LaunchError,
    probe::Family,
    screen::{Log, say},
};

/// Exit code of a command that failed.
const FAILURE: i32 = 1;

/// Executes a command. Says on standard error why it failed.
pub fn execute(invocation: &Invocation) -> ExitCode {
    let code = dispatch(invocation).unwrap_or_else(|error| {
        say(with_causes(&error));
        error
            .downcast_ref::<LaunchError>()
            .map_or(FAILURE, LaunchError::exit_code)
    });
    // The kernel keeps eight bits, too (exit(3)).
    ExitCode::from(code as u8)
}

/// Executes a command. Returns its exit code.
fn dispatch(invocation: &Invocation) -> anyhow::Result<i32> {
    log_to_stderr(invocation.log_level)?;
    for warning in &invocation.warnings {
        tracing::warn!("{warning}");
    }
    match &invocation.command {
        Command::Run(settings) => run::run(settings),
        Command::Record(settings) => record::record(settings),
        Command::Replay(settings) => replay::replay(settings).map(|()| 0),
        Command::Redact(settings) => redact::redact(settings).map(|()| 0),
        Command::Doctor(settings) => doctor::doctor(settings.json, wanted_family(settings.hooks)),
        Command::Ps(settings) => ps::ps(settings).map(|()| 0),
        Command::Completions(shell) => completions::print(*shell).map(|()| 0),
    }
}

/// Returns the family of hooks that the user chose; `None`: the best that the kernel takes.
fn wanted_family(hooks: Hooks) -> Option<Family> {
    match hooks {
        Hooks::Auto => None,
        Hooks::Sock => Some(Family::Sock),
        Hooks::Syscall => Some(Family::Syscall),
    }
}

/// Installs the subscriber for our own logs: on standard error, without the noise of libraries.
///
/// # Errors
/// If another one is installed.
pub fn log_to_stderr(level: LogLevel) -> anyhow::Result<()> {
    use tracing_subscriber::filter::LevelFilter;
    let level: LevelFilter = level.name().parse().context("cannot set the log level")?;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Log::to_stderr())
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .with_max_level(level)
        // It would say so on the stream that could not be written to, and panic when that fails too.
        .log_internal_errors(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("cannot install the log")
}

/// Formats an error with its causes, each once: many errors name their cause in the middle of their text.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.contains(&cause) {
            said
        } else if said.is_empty() {
            cause
        } else {
            format!("{said}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        let full = anyhow!("disk full")
            .context("cannot write t.tape: disk full; free some space")
            .context("the tape is not whole");
        assert_eq!(
            with_causes(&full),
            "the tape is not whole: cannot write t.tape: disk full; free some space"
        );
        assert_eq!(
            with_causes(&anyhow!("disk full").context("cannot write")),
            "cannot write: disk full"
        );
    }
}
