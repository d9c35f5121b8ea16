//! Settings that are valid: the outcome of the command line and the environment.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::values::{
    CgroupGlob, ExeGlob, HeaderName, Hooks, IgnoreRule, KnownMethods, Output, Route, Sampler, SecretNames, SpanNames,
};

/// The subcommand with its settings.
#[derive(Clone, Debug)]
pub enum Command {
    /// Trace, and print or export.
    Run(RunSettings),
    /// Record a tape: everything that Core is fed.
    Record(RecordSettings),
    /// Feed a tape to Core.
    Replay(ReplaySettings),
    /// Report what works on this kernel and machine.
    Doctor(DoctorSettings),
    /// List workloads.
    Ps(PsSettings),
    /// Copy a tape with stand-ins for its secrets.
    Redact(RedactSettings),
    /// Print a shell's completions.
    Completions(clap_complete::Shell),
}

/// Settings of `spoor run`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSettings {
    /// Which processes are traced, and how.
    pub trace: TraceSettings,
    /// Destination of spans.
    pub output: Output,
    /// Upper bound on the bytes of spans that wait for export.
    pub queue_bytes: usize,
    /// Address at which `/metrics` and the health endpoint listen; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// Settings of `spoor record`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordSettings {
    /// Which processes are traced, and how.
    pub trace: TraceSettings,
    /// The tape, see [`crate::tape::create`].
    pub file: PathBuf,
    /// Stand-ins are recorded, see [`crate::tape::redact`].
    pub redact: bool,
}

/// Settings of `spoor replay`. All other settings are on the tape.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplaySettings {
    /// The tape.
    pub file: PathBuf,
    /// Destination of spans.
    pub output: Output,
    /// Upper bound on the bytes of spans that wait for export.
    pub queue_bytes: usize,
}

/// Settings of `spoor redact`.
#[derive(Clone, Debug, PartialEq)]
pub struct RedactSettings {
    /// The tape.
    pub file: PathBuf,
    /// The redacted tape, see [`crate::tape::create`].
    pub output: PathBuf,
}

/// Settings of `spoor doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoctorSettings {
    /// The report is JSON instead of text.
    pub json: bool,
    /// Family of hooks that an agent would be asked to use.
    pub hooks: Hooks,
}

/// Settings of `spoor ps`.
#[derive(Clone, Debug, PartialEq)]
pub struct PsSettings {
    /// The selection to try where no agent runs.
    pub selection: Selection,
    /// The agent to ask.
    pub asked: Asked,
    /// The list is JSON instead of a table.
    pub json: bool,
    /// The list is printed again every second.
    pub watch: bool,
    /// Processes that neither listen nor communicate are listed, too.
    pub all: bool,
}

/// Agent that `spoor ps` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// No agent: the list shows what would be selected.
    Nobody,
    /// The agent at the default control socket, if one runs.
    Usual,
    /// The agent at this control socket, which must answer.
    At(PathBuf),
}

/// Settings that `run` and `record` share: which processes are traced, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Rules that select processes.
    pub selection: Selection,
    /// Control socket, at which `spoor ps` asks; `None`: there is none.
    pub control: Option<PathBuf>,
    /// The command to start, which is traced with its children.
    pub launch: Option<LaunchSettings>,
    /// Settings of Core.
    pub core: CoreSettings,
    /// Family of hooks.
    pub hooks: Hooks,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
}

/// Rules that select processes: a process that any of the rules names is traced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Process ids, in the initial namespace.
    pub pids: Vec<u32>,
    /// Patterns of executables.
    pub exes: Vec<ExeGlob>,
    /// Local ports of server connections.
    pub ports: Vec<u16>,
    /// Names of containers, or beginnings of their ids.
    pub containers: Vec<String>,
    /// Patterns of control groups.
    pub cgroups: Vec<CgroupGlob>,
}

impl Selection {
    /// Returns whether there is no rule. Then every process on the host is selected, unless a command is launched.
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

    /// Returns the rules as options of the command line.
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
    /// The command runs as root, not as the user who called sudo.
    pub as_root: bool,
}

/// Settings of Core. Part of each tape: the text of a value there is the text that the user gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreSettings {
    /// Names of spans where no route fits.
    pub span_names: SpanNames,
    /// Rules that give `http.route`; the first that fits counts.
    pub routes: Vec<Route>,
    /// Requests that give no span. Older tapes have no such rules.
    #[serde(default)]
    pub ignore: Vec<IgnoreRule>,
    /// Request headers that become attributes, in order and each once.
    pub request_headers: Vec<HeaderName>,
    /// Response headers that become attributes, in order and each once.
    pub response_headers: Vec<HeaderName>,
    /// Query parameters whose values are not exported. Older tapes lack the field: the default names apply.
    #[serde(default)]
    pub secrets: SecretNames,
    /// Sizes of bodies become attributes. Older tapes lack the field: the sizes do.
    #[serde(default = "yes")]
    pub body_sizes: bool,
    /// Request methods that are known; `None`: the conventions' own.
    pub known_methods: Option<KnownMethods>,
    /// Telemetry of other programs (OTLP exports) is traced, too.
    pub include_telemetry: bool,
    /// Which traces leave. Older tapes lack the field: all but those that their callers did not sample.
    #[serde(default)]
    pub sampler: Sampler,
    /// Upper bound on the connections that are followed at one time.
    pub max_connections: u32,
    /// Upper bound on the time that a span is held because its parent is open.
    pub hold: Duration,
    /// Upper bound on the bytes of spans that are held.
    pub hold_bytes: u64,
    /// Time without traffic after which a connection is forgotten.
    pub idle_timeout: Duration,
}

fn yes() -> bool {
    true
}
