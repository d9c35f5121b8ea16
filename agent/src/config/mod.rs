//! The command line and the environment, parsed once: settings that exist are valid, and no other room parses their text.

mod args;
mod environment;
mod settings;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use environment::Environment;

pub use args::Cli;
pub use settings::{
    Asked, Command, CoreSettings, DoctorSettings, LaunchSettings, PsSettings, RecordSettings, RedactSettings,
    ReplaySettings, RunSettings, Selection, TraceSettings,
};
pub use values::{
    CONTAINER_ID_DIGITS, CONTROL_SOCKET, CgroupGlob, ExeGlob, HeaderName, Hooks, IgnoreRule, KnownMethods, LogLevel,
    METRICS_ADDRESS, Output, Route, RouteError, Sampler, SamplerError, SecretName, SecretNames, SpanNames,
};
pub(crate) use values::{IgnoredRequests, RouteSegment};

/// A call of `spoor`: the subcommand, and what holds for all of them.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The subcommand with its settings.
    pub command: Command,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Variables that are set without effect, to be logged once logs are on.
    pub warnings: Vec<String>,
}

impl Invocation {
    /// Reads the arguments and the environment of this process.
    ///
    /// # Errors
    /// If a value cannot be used, and for `--help`: print the error's text, as [`clap::Error::exit`] does.
    pub fn from_process() -> Result<Self, clap::Error> {
        Self::new(std::env::args_os(), |name| std::env::var_os(name))
    }

    /// Reads these arguments (the first is the program's name) and this environment.
    ///
    /// # Errors
    /// As [`Invocation::from_process`].
    pub fn new(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let cli = Cli::try_parse_from(arguments)?;
        let environment = Environment(environment);
        let mut warnings = Vec::new();
        let log_level = match cli.log_level {
            Some(level) => level,
            None => environment.log_level(&mut warnings),
        };
        Ok(Self {
            command: command(cli.command, &environment, &mut warnings)?,
            log_level,
            warnings,
        })
    }
}

/// Returns the subcommand with its settings. The environment decides where its options leave something open.
fn command(
    arguments: args::Subcommand,
    environment: &Environment<impl Fn(&str) -> Option<OsString>>,
    warnings: &mut Vec<String>,
) -> Result<Command, clap::Error> {
    let output = |option: Option<Output>| match option {
        Some(output) => output,
        None if environment.names_collector() => Output::Otlp,
        None => Output::Console,
    };
    Ok(match arguments {
        args::Subcommand::Run(run) => Command::Run(RunSettings {
            trace: run.trace.into_settings(environment.spans(warnings)?),
            output: output(run.output),
            queue_bytes: run.queue.queue_bytes,
            metrics_listen: run.metrics_listen.0,
        }),
        args::Subcommand::Record(record) => Command::Record(RecordSettings {
            trace: record.trace.into_settings(environment.spans(warnings)?),
            file: record.file,
            redact: record.redact,
        }),
        args::Subcommand::Ps(ps) => Command::Ps(PsSettings {
            selection: ps.selection.into_selection(),
            asked: match ps.control.map(|control| control.0) {
                None => Asked::Usual,
                Some(None) => Asked::Nobody,
                Some(Some(path)) => Asked::At(path),
            },
            json: ps.json,
            watch: ps.watch,
            all: ps.all,
        }),
        args::Subcommand::Replay(replay) => Command::Replay(ReplaySettings {
            file: replay.file,
            output: output(replay.output),
            queue_bytes: replay.queue.queue_bytes,
        }),
        args::Subcommand::Redact(redact) => Command::Redact(RedactSettings {
            file: redact.file,
            output: redact.output,
        }),
        args::Subcommand::Completions(completions) => Command::Completions(completions.shell),
        args::Subcommand::Doctor(doctor) => Command::Doctor(DoctorSettings {
            json: doctor.json,
            hooks: doctor.hooks.hooks,
        }),
    })
}

/// Returns the script that completes spoor's command line in this shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spoor", &mut script);
    script
}

#[cfg(test)]
mod tests;
