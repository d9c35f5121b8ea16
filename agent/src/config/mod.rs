//! The command line, and the settings that come out of it: what exists here is valid.

mod args;
mod values;

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use serde::{Deserialize, Serialize};

pub use args::Cli;
pub use values::{
    CONTAINER_ID_DIGITS, CgroupGlob, ExeGlob, HeaderName, IgnoreRule, KnownMethods, LogLevel, Output, Route,
    RouteError, Sampler, SamplerError, SecretName, SecretNames, SpanNames,
};
pub(crate) use values::{IgnoredRequests, RouteSegment};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The subcommand with its settings.
    pub command: Command,
    /// What to log.
    pub log_level: LogLevel,
    /// What was set and has no effect, to be logged once logs are on.
    pub warnings: Vec<String>,
}

/// The subcommand with its settings.
#[derive(Clone, Debug)]
pub enum Command {
    /// Trace, and print or export.
    Run(RunSettings),
    /// Store what Core is fed.
    Record(RecordSettings),
    /// Feed a tape to Core.
    Replay(ReplaySettings),
    /// Say what works here.
    Doctor(DoctorSettings),
    /// List workloads.
    Ps(PsSettings),
    /// Replace what a tape must not show.
    Redact(RedactSettings),
    /// Print a shell's completions.
    Completions(clap_complete::Shell),
}

/// Settings of `spoor run`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSettings {
    /// What is traced and how.
    pub trace: TraceSettings,
    /// Where spans go.
    pub output: Output,
    /// Most bytes of spans that wait for export.
    pub queue_bytes: usize,
    /// Where `/metrics` and the health endpoint listen; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// Settings of `spoor record`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordSettings {
    /// What is traced and how.
    pub trace: TraceSettings,
    /// The tape, see [`crate::tape::create`].
    pub file: PathBuf,
    /// Whether stand-ins are recorded: see [`crate::tape::redact`].
    pub redact: bool,
}

/// Settings of `spoor replay`. All else is on the tape.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplaySettings {
    /// The tape.
    pub file: PathBuf,
    /// Where spans go.
    pub output: Output,
    /// Most bytes of spans that wait for export.
    pub queue_bytes: usize,
}

/// Settings of `spoor redact`.
#[derive(Clone, Debug, PartialEq)]
pub struct RedactSettings {
    /// The tape.
    pub file: PathBuf,
    /// The redacted one, see [`crate::tape::create`].
    pub output: PathBuf,
}

/// Settings of `spoor doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoctorSettings {
    /// The report is for programs.
    pub json: bool,
}

/// Settings of `spoor ps`.
#[derive(Clone, Debug, PartialEq)]
pub struct PsSettings {
    /// What would be selected, where no agent runs.
    pub selection: Selection,
    /// The agent's control socket; `None`: ask nobody.
    pub control: Option<PathBuf>,
    /// JSON instead of a table.
    pub json: bool,
    /// Again every second.
    pub watch: bool,
    /// Also processes that do nothing that would be of interest.
    pub all: bool,
}

/// What is traced and how: what `run` and `record` share.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Which processes.
    pub selection: Selection,
    /// Where others may ask what is traced; `None`: nowhere.
    pub control: Option<PathBuf>,
    /// The command to start, which is traced with its children.
    pub launch: Option<LaunchSettings>,
    /// What Core decides by.
    pub core: CoreSettings,
    /// Size of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
}

/// Which processes are traced: those that any of the rules names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Process ids, in the initial namespace.
    pub pids: Vec<u32>,
    /// Programs.
    pub exes: Vec<ExeGlob>,
    /// Local ports of server connections.
    pub ports: Vec<u16>,
    /// Names of containers, or beginnings of their ids.
    pub containers: Vec<String>,
    /// Control groups.
    pub cgroups: Vec<CgroupGlob>,
}

impl Selection {
    /// True if there is no rule: every process on the host is meant, unless a command is launched.
    pub fn is_empty(&self) -> bool {
        let Self {
            pids,
            exes,
            ports,
            containers,
            cgroups,
        } = self;
        pids.is_empty() && exes.is_empty() && ports.is_empty() && containers.is_empty() && cgroups.is_empty()
    }

    /// The rules as options.
    pub fn rules(&self) -> Vec<String> {
        let Self {
            pids,
            exes,
            ports,
            containers,
            cgroups,
        } = self;
        let pids = pids.iter().map(|pid| format!("--pid {pid}"));
        let exes = exes.iter().map(|exe| format!("--exe {}", exe.as_str()));
        let ports = ports.iter().map(|port| format!("--port {port}"));
        let containers = containers.iter().map(|container| format!("--container {container}"));
        let cgroups = cgroups.iter().map(|cgroup| format!("--cgroup {}", cgroup.as_str()));
        pids.chain(exes).chain(ports).chain(containers).chain(cgroups).collect()
    }
}

/// A command to start.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchSettings {
    /// The program and its arguments, at least one word.
    pub command: Vec<OsString>,
    /// Start it as root although sudo was called by someone else.
    pub as_root: bool,
}

/// What Core decides by. Part of each tape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreSettings {
    /// How spans are named.
    pub span_names: SpanNames,
    /// Rules that give `http.route`: path templates, the first that fits counts.
    pub routes: Vec<Route>,
    /// Requests that give no span. Tapes of earlier versions have none.
    #[serde(default)]
    pub ignore: Vec<IgnoreRule>,
    /// Request headers that become attributes, in order and each once.
    pub request_headers: Vec<HeaderName>,
    /// Response headers that become attributes, in order and each once.
    pub response_headers: Vec<HeaderName>,
    /// Query parameters whose values are not exported. Older tapes do not say: the default ones.
    #[serde(default)]
    pub secrets: SecretNames,
    /// Sizes of bodies become attributes. Older tapes do not say: they do.
    #[serde(default = "yes")]
    pub body_sizes: bool,
    /// Request methods that are known; `None`: the conventions' own.
    pub known_methods: Option<KnownMethods>,
    /// Trace telemetry of others (OTLP exports) too.
    pub include_telemetry: bool,
    /// Which traces leave. Older tapes do not say: all but those that their callers did not sample.
    #[serde(default)]
    pub sampler: Sampler,
    /// Most connections that are followed at one time.
    pub max_connections: u32,
    /// Longest time that a span is held because its parent is open.
    pub hold: Duration,
    /// Most bytes of spans that are held.
    pub hold_bytes: u64,
    /// A connection without traffic for so long is forgotten.
    pub idle_timeout: Duration,
}

fn yes() -> bool {
    true
}

impl Invocation {
    /// Reads the process's own arguments and environment. On an error, and for `--help`, the text of the returned
    /// error is what to print; [`clap::Error::exit`] does that.
    pub fn from_process() -> Result<Self, clap::Error> {
        Self::new(std::env::args_os(), |name| std::env::var_os(name))
    }

    /// Reads these arguments (the first is the program's name) and this environment.
    pub fn new(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let cli = Cli::try_parse_from(arguments)?;
        // OpenTelemetry: an empty value counts as none.
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());

        let mut warnings = Vec::new();
        let log_level = cli.log_level.unwrap_or_else(|| {
            let value = variable("OTEL_LOG_LEVEL");
            level_of_environment(value.as_deref(), &mut warnings)
        });
        let mut spans = || SpansOfEnvironment::new(variable, &mut warnings);
        let default_output = || {
            let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
            if endpoints.into_iter().any(|name| variable(name).is_some()) {
                Output::Otlp
            } else {
                Output::Console
            }
        };
        let command = match cli.command {
            args::Subcommand::Run(run) => Command::Run(RunSettings {
                trace: run.trace.into_settings(spans()?),
                output: run.output.output.unwrap_or_else(default_output),
                queue_bytes: run.output.queue_bytes,
                metrics_listen: run.metrics_listen.0,
            }),
            args::Subcommand::Record(record) => Command::Record(RecordSettings {
                trace: record.trace.into_settings(spans()?),
                file: record.file,
                redact: record.redact,
            }),
            args::Subcommand::Ps(ps) => Command::Ps(PsSettings {
                selection: ps.selection.into_selection(),
                control: ps.control.0,
                json: ps.json,
                watch: ps.watch,
                all: ps.all,
            }),
            args::Subcommand::Replay(replay) => Command::Replay(ReplaySettings {
                file: replay.file,
                output: replay.output.output.unwrap_or_else(default_output),
                queue_bytes: replay.output.queue_bytes,
            }),
            args::Subcommand::Redact(redact) => Command::Redact(RedactSettings {
                file: redact.file,
                output: redact.output,
            }),
            args::Subcommand::Completions(completions) => Command::Completions(completions.shell),
            args::Subcommand::Doctor(doctor) => Command::Doctor(DoctorSettings { json: doctor.json }),
        };
        Ok(Self {
            command,
            log_level,
            warnings,
        })
    }
}

/// What the environment says about spans.
#[derive(Debug)]
struct SpansOfEnvironment {
    sampler: Sampler,
    secrets: SecretNames,
    known_methods: Option<KnownMethods>,
}

impl SpansOfEnvironment {
    fn new(variable: impl Fn(&str) -> Option<OsString>, warnings: &mut Vec<String>) -> Result<Self, clap::Error> {
        let secrets = variable(SENSITIVE_PARAMETERS).map(|list| SecretNames::only(&list.to_string_lossy()));
        let known_methods = variable(KNOWN_METHODS).map(|list| {
            let Ok(methods) = list.to_string_lossy().parse();
            methods
        });
        Ok(Self {
            sampler: sampler_of_environment(&variable, warnings)?,
            secrets: secrets.unwrap_or_default(),
            known_methods,
        })
    }
}

/// The list that replaces the default one, as other instrumentations of OpenTelemetry read it.
const SENSITIVE_PARAMETERS: &str = "OTEL_INSTRUMENTATION_SANITIZATION_URL_EXPERIMENTAL_SENSITIVE_QUERY_PARAMETERS";

/// The list of request methods that are known, as other instrumentations of OpenTelemetry read it.
const KNOWN_METHODS: &str = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS";

/// `OTEL_TRACES_SAMPLER` with `OTEL_TRACES_SAMPLER_ARG`. A value that cannot be followed is an error: to ignore it, as
/// OpenTelemetry asks SDKs to, would send everything where a hundredth is wanted.
fn sampler_of_environment(
    variable: impl Fn(&str) -> Option<OsString>,
    warnings: &mut Vec<String>,
) -> Result<Sampler, clap::Error> {
    let [name, ratio] = ["OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"]
        .map(|name| variable(name).map(|value| value.to_string_lossy().into_owned()));
    let ratio = ratio.as_deref();
    let (sampler, takes_ratio) = match &name {
        Some(name) => {
            Sampler::new(name, ratio).map_err(|error| Cli::command().error(ErrorKind::InvalidValue, error))?
        }
        None => (Sampler::default(), false),
    };
    if let Some(ratio) = ratio.filter(|_| !takes_ratio) {
        let sampler = name.as_deref().unwrap_or("parentbased_always_on");
        warnings.push(format!(
            "OTEL_TRACES_SAMPLER_ARG={ratio} has no effect on the sampler {sampler}; \
             OTEL_TRACES_SAMPLER=parentbased_traceidratio takes a ratio"
        ));
    }
    Ok(sampler)
}

/// The script that completes spoor's command line in this shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spoor", &mut script);
    script
}

/// OpenTelemetry asks that a value of the environment that means nothing is told and otherwise ignored.
fn level_of_environment(value: Option<&OsStr>, warnings: &mut Vec<String>) -> LogLevel {
    let Some(value) = value else {
        return LogLevel::default();
    };
    let level = value.to_str().and_then(|text| text.parse().ok());
    level.unwrap_or_else(|| {
        warnings.push(format!(
            "OTEL_LOG_LEVEL={} is not a log level and is ignored; set one of {}",
            value.display(),
            LogLevel::NAMES
        ));
        LogLevel::default()
    })
}

#[cfg(test)]
mod tests;
