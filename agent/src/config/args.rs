//! The command line, for clap. The doc comments of commands and options are the help texts.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser};

use super::{
    CoreSettings, Hooks, LaunchSettings, LogLevel, Output, Selection, SpanNames, TraceSettings,
    environment::SpanSettings,
    values::{
        CgroupGlob, ControlSocket, ExeGlob, HeaderName, IgnoreRule, Listen, Route, SecretName, limits, selection,
    },
};

/// Zero-code distributed tracing: shows which service called which, without touching the services
///
/// Spoor watches, with eBPF, what services say to each other at their sockets, and turns it into
/// OpenTelemetry traces: no code change, no restart, no sidecar, no proxy. It needs root, or capabilities that it names.
#[derive(Debug, Parser)]
#[command(name = "spoor", version, after_help = MAIN_EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Subcommand,

    /// Log level: off, error, warn, info, debug or trace [env: OTEL_LOG_LEVEL] [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(super) log_level: Option<LogLevel>,
}

const MAIN_EXAMPLES: &str = "\
Examples:
  sudo spoor run                      trace every service of this host, print the traces
  sudo spoor run -- python3 app.py    start a program and trace it from its first byte
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 sudo -E spoor run
                                      send the spans to a collector";

const RUN_EXAMPLES: &str = "\
Examples:
  sudo spoor run                                  every process that speaks HTTP or Redis
  sudo spoor run --port 8080 --exe nginx          the service on port 8080, and every nginx
  sudo spoor run --exe '/opt/shop/**'             every program below /opt/shop
  sudo spoor run -- ./start-all.sh                a command and its children; its exit code is spoor's
  sudo spoor run --output otlp-json=spans.jsonl   OTLP as JSON lines into a file
  sudo spoor run --route '/users/{id}' --capture-request-header x-request-id

Environment:
  OTEL_EXPORTER_OTLP_ENDPOINT   the collector, as http://localhost:4318
  OTEL_EXPORTER_OTLP_PROTOCOL   http/protobuf (the default), http/json, or grpc, then with port 4317
  OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE   name=value,name=value; a PEM file of the CAs to trust
  OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG   which traces leave, as parentbased_traceidratio and 0.1
  docs/configuration.md has the others";

/// Usage of `spoor run`. Beside an "unexpected argument", clap shows nothing but the usage: so it says where a command goes.
const RUN_USAGE: &str = "\
spoor run [OPTIONS] [-- <CMD>...]
A command goes behind `--`: sudo spoor run -- python3 app.py";

const RECORD_USAGE: &str = "\
spoor record [OPTIONS] --output <FILE> [-- <CMD>...]
A command goes behind `--`: sudo spoor record -o bug.tape -- python3 app.py";

const RECORD_EXAMPLES: &str = "\
A tape holds what the services said, cookies and tokens included: keep it safe, or record it with --redact.

Examples:
  sudo spoor record -o bug.tape --port 8080       until Ctrl-C
  sudo spoor record -o bug.tape -- ./reproduce.sh
  sudo spoor record --redact -o bug.tape --port 8080   safe to attach to a bug report
  spoor replay bug.tape                           anywhere, without root";

const REPLAY_EXAMPLES: &str = "\
Examples:
  spoor replay bug.tape
  spoor replay bug.tape --output otlp-json > spans.jsonl";

const PS_EXAMPLES: &str = "\
Examples:
  sudo spoor ps                                   what the running agent traces
  sudo spoor ps --watch
  sudo spoor ps --json | jq '.workloads[] | select(.missed > 0)'
  sudo spoor ps --control off --exe 'python3*'    what these options would select";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Trace services and print or export their spans
    ///
    /// Without a selection and without a command, every process on the host that speaks HTTP or Redis is traced, spoor
    /// itself excepted. With several rules, a process that fits any of them is traced; with a command, it and its children
    /// are traced too. Ctrl-C ends it.
    #[command(override_usage = RUN_USAGE, after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// List workloads: which are traced and why, and which of their traffic is not visible
    ///
    /// Asks the running agent. Without one, shows which processes the given options would select.
    #[command(after_help = PS_EXAMPLES)]
    Ps(PsArgs),
    /// Record a tape, from which the spans can be made again later
    #[command(override_usage = RECORD_USAGE, after_help = RECORD_EXAMPLES)]
    Record(RecordArgs),
    /// Print or export the spans of a tape, the same ones each time
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
    /// Make a tape safe to show, as `record --redact` does
    Redact(RedactArgs),
    /// Report what works on this kernel and machine, what does not, what that costs and what to do
    ///
    /// Exits with 1 if nothing can be traced. Without root, the report names what it could not look at.
    Doctor(DoctorArgs),
    /// Print a shell's completions of spoor's command line
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Where spans go: console (trees), otlp (a collector) or otlp-json[=FILE] (a request a line)
    ///
    /// Default: otlp if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, else console.
    /// Beside a launched command, the console's trees go to stderr.
    #[arg(long, value_name = "WHERE")]
    pub(super) output: Option<Output>,

    /// Where /metrics and the health endpoint listen, or off
    #[arg(long, value_name = "ADDR:PORT", default_value_t = Listen::default())]
    pub(super) metrics_listen: Listen,

    #[command(flatten)]
    pub(super) trace: TraceArgs,

    // Last, as all limits: help has its headings in the order in which they first come.
    #[command(flatten)]
    pub(super) queue: QueueArgs,
}

#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// The tape; an older tape is replaced, any other file is not
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(super) file: PathBuf,

    /// Replace what the services said by stand-ins of the same length: the tape is safe to show, and gives the same spans
    /// but for their values
    #[arg(long)]
    pub(super) redact: bool,

    #[command(flatten)]
    pub(super) trace: TraceArgs,
}

#[derive(Debug, Args)]
pub(super) struct RedactArgs {
    /// The tape, which stays as it is
    pub(super) file: PathBuf,

    /// The redacted tape; an older tape is replaced, any other file is not
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(super) output: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The tape
    pub(super) file: PathBuf,

    /// Where spans go: console (trees), otlp (a collector) or otlp-json[=FILE] (a request a line)
    ///
    /// Default: otlp if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, else console.
    #[arg(long, value_name = "WHERE")]
    pub(super) output: Option<Output>,

    #[command(flatten)]
    pub(super) queue: QueueArgs,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) hooks: HooksArgs,
}

#[derive(Debug, Args)]
pub(super) struct HooksArgs {
    /// Which kernel hooks capture traffic
    #[arg(long, value_enum, default_value_t)]
    pub(super) hooks: Hooks,
}

#[derive(Debug, Args)]
pub(super) struct QueueArgs {
    /// Most bytes of spans that wait for export; beyond, the oldest is dropped
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = limits::queue_bytes, help_heading = "Limits")]
    pub(super) queue_bytes: usize,
}

#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Trace the process with this id, and its children; repeatable
    #[arg(
        long = "pid", value_name = "N", value_parser = selection::pid, allow_negative_numbers = true,
        help_heading = "Selection"
    )]
    pids: Vec<u32>,

    /// Trace programs whose executable fits, as nginx, 'python3*' or '/opt/shop/**'; repeatable
    ///
    /// The executable is the file that runs, links followed: python3 may be python3.11, php may be php8.2. A pattern
    /// without a slash is compared with the file's name, one with a slash with the whole path.
    #[arg(long = "exe", value_name = "GLOB", help_heading = "Selection")]
    exes: Vec<ExeGlob>,

    /// Trace the process that serves this local port, and its children; repeatable
    #[arg(
        long = "port", value_name = "N", value_parser = selection::port, allow_negative_numbers = true,
        help_heading = "Selection"
    )]
    ports: Vec<u16>,

    /// Trace processes in the container with this name, or with an id that begins so; repeatable
    ///
    /// Names are those of Docker, containerd, CRI-O and Podman.
    #[arg(long = "container", value_name = "NAME|ID", value_parser = selection::container, help_heading = "Selection")]
    containers: Vec<String>,

    /// Trace processes in or below this control group, as /system.slice/nginx.service; repeatable
    ///
    /// A path or pattern below /sys/fs/cgroup; * does not go over a slash, ** does.
    #[arg(long = "cgroup", value_name = "GLOB", help_heading = "Selection")]
    cgroups: Vec<CgroupGlob>,
}

impl SelectionArgs {
    pub(super) fn into_selection(self) -> Selection {
        let Self {
            pids,
            exes,
            ports,
            containers,
            cgroups,
        } = self;
        Selection {
            pids,
            exes,
            ports,
            containers,
            cgroups,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    #[command(flatten)]
    pub(super) selection: SelectionArgs,

    /// The control socket of the agent to ask; off: ask none, show what would be selected [default: /run/spoor/control.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<ControlSocket>,

    /// Print JSON: one object, with --watch one a line
    #[arg(long)]
    pub(super) json: bool,

    /// Print again every second, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,

    /// Show also processes that neither listen on TCP nor were seen to communicate
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    selection: SelectionArgs,

    /// Where `spoor ps` finds this agent, or off
    #[arg(long, value_name = "PATH", default_value_t)]
    control: ControlSocket,

    /// Start and trace this command with its children; spoor ends with it and gives its exit code
    ///
    /// It runs as the user who called sudo.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,

    /// Start CMD as root, not as the user who called sudo
    #[arg(long, requires = "command")]
    as_root: bool,

    #[command(flatten)]
    hooks: HooksArgs,

    /// Name spans `GET /users/{id}`, as far as the path shows a template, or by the method alone
    #[arg(long, value_name = "HOW", value_enum, default_value_t, help_heading = "Spans")]
    span_names: SpanNames,

    /// Give http.route to requests that fit this template, as '/users/{id}'; repeatable, the first that fits counts
    #[arg(long = "route", value_name = "PATTERN", help_heading = "Spans")]
    routes: Vec<Route>,

    /// Give no span to requests with this path, method and path, or user agent, as 'GET /healthz'; repeatable
    ///
    /// '/static/**', 'GET /healthz' or 'user-agent: kube-probe/*'; * does not go over a slash of a path, ** does.
    /// Calls that are made for an ignored request have no parent. Ignored requests are counted.
    #[arg(long = "ignore", value_name = "RULE", help_heading = "Spans")]
    ignore: Vec<IgnoreRule>,

    /// Export this request header as http.request.header.<name>; repeatable
    #[arg(long = "capture-request-header", value_name = "NAME", help_heading = "Spans")]
    request_headers: Vec<HeaderName>,

    /// Export this response header as http.response.header.<name>; repeatable
    #[arg(long = "capture-response-header", value_name = "NAME", help_heading = "Spans")]
    response_headers: Vec<HeaderName>,

    /// Do not export the values of query parameters with this name, as session_key; repeatable
    ///
    /// In any case of letters, with _ or - or without. They become REDACTED, as those of signatures, tokens and passwords
    /// do anyway: docs/spans.md lists them.
    #[arg(long = "redact-query", value_name = "NAME", help_heading = "Spans")]
    redact_query: Vec<SecretName>,

    /// Export the sizes of bodies as http.request.body.size and http.response.body.size
    #[arg(long = "capture-body-sizes", help_heading = "Spans")]
    body_sizes: bool,

    /// Trace the telemetry exports of other programs too
    #[arg(long, help_heading = "Spans")]
    include_telemetry: bool,

    /// Size of the ring buffer between kernel and spoor, a power of two
    #[arg(
        long, value_name = "SIZE", default_value = "8MiB", value_parser = limits::ring_bytes, help_heading = "Limits"
    )]
    ring_bytes: u32,

    /// Most connections that are followed at one time
    #[arg(
        long, value_name = "N", default_value_t = 65_536, value_parser = limits::max_connections,
        allow_negative_numbers = true, help_heading = "Limits"
    )]
    max_connections: u32,

    /// Longest time that a span waits for its parent to be known
    #[arg(
        long, value_name = "N", default_value_t = 10, value_parser = limits::hold_seconds, allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    hold_seconds: u64,

    /// Most bytes of spans that wait for their parents
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = limits::bytes, help_heading = "Limits")]
    hold_bytes: u64,

    /// Forget connections without traffic for so long; they are picked up again at their next request
    #[arg(
        long, value_name = "TIME", default_value = "15m", value_parser = limits::idle_timeout,
        help_heading = "Limits"
    )]
    idle_timeout: Duration,
}

impl TraceArgs {
    pub(super) fn into_settings(self, environment: SpanSettings) -> TraceSettings {
        let SpanSettings {
            sampler,
            mut secrets,
            known_methods,
        } = environment;
        let Self {
            selection,
            control,
            command,
            as_root,
            hooks,
            span_names,
            routes,
            ignore,
            request_headers,
            response_headers,
            redact_query,
            body_sizes,
            include_telemetry,
            ring_bytes,
            max_connections,
            hold_seconds,
            hold_bytes,
            idle_timeout,
        } = self;
        secrets.add(redact_query);
        TraceSettings {
            selection: selection.into_selection(),
            control: control.0,
            launch: (!command.is_empty()).then_some(LaunchSettings { command, as_root }),
            core: CoreSettings {
                span_names,
                routes,
                ignore,
                request_headers: without_repetition(request_headers),
                response_headers: without_repetition(response_headers),
                secrets,
                body_sizes,
                known_methods,
                include_telemetry,
                sampler,
                max_connections,
                hold: Duration::from_secs(hold_seconds),
                hold_bytes,
                idle_timeout,
            },
            hooks: hooks.hooks,
            ring_bytes,
        }
    }
}

/// Sorts names and removes repetitions: attribute keys must be unique within a span.
fn without_repetition(mut names: Vec<HeaderName>) -> Vec<HeaderName> {
    names.sort();
    names.dedup();
    names
}
