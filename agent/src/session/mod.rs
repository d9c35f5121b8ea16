//! `spoor run` and `spoor record`: from a command line to a running agent, and back to an exit code.

mod announce;
mod driver;
mod facts;
mod losses;
mod pulse;
mod second_look;
mod shown;
mod signals;
mod status;
mod undecided;
mod unix_ends;
mod whys;

use std::{
    fs::File,
    io::{BufWriter, IsTerminal},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;

use crate::{
    config::{RecordSettings, RunSettings, TraceSettings},
    launch::{Launch, survivors},
    metrics::Metrics,
    preflight,
    probe::{Probe, Settings, Withheld},
    process::{ProcRoot, Selection},
    screen::{Log, SCREEN, Stream, say},
    serve::{ServeError, Server},
    sink::{Destination, SpanSink},
    tape::{self, TapeWriter},
};
use driver::{Session, Sink};
use status::StatusLine;

/// How long the end may take: what is finished is sent.
const FLUSH: Duration = Duration::from_secs(5);

/// Runs the agent until a signal, or the end of the command that it started. Returns the exit code.
///
/// # Errors
/// If nothing can be traced, or spans cannot go where they should.
pub fn run(settings: &RunSettings) -> anyhow::Result<i32> {
    run_without(settings, Withheld::default())
}

/// [`run`] as on a kernel that lacks something, for tests.
///
/// # Errors
/// As [`run`].
pub fn run_without(settings: &RunSettings, withheld: Withheld) -> anyhow::Result<i32> {
    let launched = settings.trace.launch.is_some();
    // The command's own output goes to stdout.
    let console = if launched { Stream::Stderr } else { Stream::Stdout };
    let destination = Destination::new(&settings.output, console, settings.queue_bytes)?;
    let metrics = Arc::new(Metrics::default());
    let shown = Arc::new(shown::Shown::default());
    shown::register(&shown, &metrics);
    preflight()?;
    let spans = SpanSink::start(destination, Arc::clone(&metrics))?;
    let status = status::place(launched, &settings.output);
    if status.is_some() {
        SCREEN.reserve();
    }
    let status_metrics = Arc::clone(&metrics);
    let health = Arc::clone(&shown);
    let server = match settings
        .metrics_listen
        .map(|address| Server::start(address, metrics, move || health.health()))
    {
        None => None,
        Some(Ok(server)) => {
            tracing::info!("metrics at http://{}/metrics", server.address());
            Some(server)
        }
        // Tracing goes on without: another Spoor may run here.
        Some(Err(error @ ServeError::Taken(_))) => {
            tracing::warn!("{error}");
            None
        }
        Some(Err(error)) => return Err(error.into()),
    };
    let line = status.map(|stream| (stream, status_metrics));
    let sink = Sink::Export(spans);
    let code = trace(&settings.trace, sink, shown, line, withheld)?;
    drop(server);
    Ok(code)
}

/// Records a tape until a signal, or the end of the command that it started. Returns the exit code.
///
/// # Errors
/// If nothing can be traced, or the tape cannot be written.
pub fn record(settings: &RecordSettings) -> anyhow::Result<i32> {
    preflight()?;
    let file: BufWriter<File> = BufWriter::with_capacity(1 << 20, tape::create(&settings.file)?);
    let tape = if settings.redact {
        TapeWriter::redacted(file)?
    } else {
        tracing::warn!("{}", tape::WARNING);
        TapeWriter::new(file)?
    };
    trace(
        &settings.trace,
        Sink::Tape(Box::new(tape)),
        Arc::default(),
        None,
        Withheld::default(),
    )
}

fn preflight() -> anyhow::Result<()> {
    preflight::check()?;
    if let preflight::TracefsState::Mounted(at) = preflight::mount_tracefs()? {
        tracing::info!("tracefs was not mounted: mounted it at {}", at.display());
    }
    preflight::raise_memlock()?;
    Ok(())
}

/// `line`: where the status line is, and what of the export it shows.
fn trace(
    settings: &TraceSettings,
    sink: Sink,
    shown: Arc<shown::Shown>,
    line: Option<(Stream, Arc<Metrics>)>,
    withheld: Withheld,
) -> anyhow::Result<i32> {
    // What is done with what is selected.
    let verb = match &sink {
        Sink::Export(_) => "traces",
        Sink::Tape(_) => "records",
    };
    let root = ProcRoot::of_host();
    if let Some(readers) = root.readers() {
        shown.watch(Arc::clone(readers));
    }
    let rules = &settings.selection;
    let selection = Selection::of_rules(root.clone(), rules)?;
    let probe = Probe::load(Settings {
        ring_bytes: settings.ring_bytes,
        connections: settings.core.max_connections,
        withheld,
    })?;
    give_back();
    let only_command = rules.is_empty() && settings.launch.is_some();
    let desk = Arc::clone(&shown.desk);
    let of_session = Arc::clone(&shown);
    let mut session = Session::new(probe, &settings.core, root, selection, sink, of_session, only_command)?;
    let announced = announce::announce(settings, verb, desk, session.waker());
    let stop = signals::install(session.waker())?;
    let launch = match &settings.launch {
        Some(launch) => Some(Launch::spawn(&launch.command, launch.as_root).map_err(anyhow::Error::new)?),
        None => None,
    };
    // Not before: the command would inherit it.
    avoid_huge_pages();
    let pid = launch.as_ref().map(Launch::pid);
    session.begin(pid);
    let command = match launch {
        Some(launch) => Some(signals::watch(launch.release()?, session.waker())?),
        None => None,
    };
    ready(&session, only_command);
    let line = line.and_then(|(stream, metrics)| {
        StatusLine::start(stream, shown, metrics)
            .inspect_err(|error| tracing::warn!("there is no status line: {error}"))
            .ok()
    });
    session.work(&stop, command.as_ref());
    let code = match &command {
        Some(command) => command.exit_code().unwrap_or(0),
        None => 0,
    };
    let descendants = session.descendants();
    let left = pid.map(|_| survivors(descendants)).unwrap_or_default();
    // A second signal ends at once.
    stop.end_at_once_from_now_on();
    drop(line);
    // Nobody answers while the end is under way.
    drop(announced);
    session.finish(FLUSH)?;
    if !left.is_empty() {
        let names: Vec<String> = left.iter().map(ToString::to_string).collect();
        say(format_args!("still running, no longer traced: {}", names.join(", ")));
    }
    Ok(code)
}

/// Loading the programs took tens of megabytes that are not needed again.
fn give_back() {
    // SAFETY: the allocator's own function, callable at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Where the system uses huge pages unasked, what little is left of 2 MiB after a burst would keep all of it resident.
fn avoid_huge_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!("huge pages stay allowed, which takes more memory: {error}");
    }
}

/// Says that all is in place: to people, and to scripts that wait for it.
fn ready(session: &Session, only_command: bool) {
    let what = match (only_command, session.targets()) {
        (true, _) => "the command".to_owned(),
        (false, 0) => "0 processes: nothing that runs fits so far, and `spoor ps` says why".to_owned(),
        (false, 1) => "1 process".to_owned(),
        (false, count) => format!("{count} processes"),
    };
    let hint = if std::io::stderr().is_terminal() && !only_command {
        "; Ctrl-C ends it"
    } else {
        ""
    };
    say(format_args!("ready, tracing {what}{hint}"));
}

/// The subscriber for our own logs: on stderr, without the noise of libraries.
///
/// # Errors
/// If another one is installed.
pub fn log_to_stderr(level: crate::config::LogLevel) -> anyhow::Result<()> {
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
