//! The agent's life, as `run` and `record` share it: from settings to a running session, and back to an exit code.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use anyhow::Context;

use super::{announce::announce, status_line::StatusLine, wanted_family};
use crate::{
    config::TraceSettings,
    launch::{Launch, Stop, survivors},
    metrics::Metrics,
    preflight,
    probe::{self, Probe, Settings, Withheld},
    process::ProcRoot,
    record::Tgid,
    screen::{Stream, say},
    session::{LaunchedCommand, Parts, Published, Session, Sink},
    targets::rules::Rules,
};

/// Longest time for the end of the agent, in which finished spans are sent.
const FLUSH: Duration = Duration::from_secs(5);

/// An agent to run.
pub(super) struct Agent<'a> {
    /// Settings of tracing.
    pub(super) settings: &'a TraceSettings,
    /// Activity of the agent, for people: `traces`, `records`.
    pub(super) verb: &'a str,
    /// Destination of the spans, or of everything that Core is fed.
    pub(super) sink: Sink,
    /// Request to end the agent, which the sink may make. Signals make it too.
    pub(super) stop: Stop,
    /// Counters and workloads for other threads.
    pub(super) published: Arc<Published>,
    /// The terminal of the status line, and the metrics that it shows; `None`: there is no status line.
    pub(super) status: Option<(Stream, Arc<Metrics>)>,
    /// Programs and fields that the kernel should seem to lack, for tests.
    pub(super) withheld: Withheld,
}

/// Checks that the system allows tracing, and prepares it: tracefs is mounted, the limit on locked memory raised.
///
/// # Errors
/// If nothing can be traced here.
pub(super) fn prepare_system() -> anyhow::Result<()> {
    preflight::check()?;
    if let preflight::TracefsState::Mounted(at) = preflight::mount_tracefs()? {
        tracing::info!("tracefs was not mounted: mounted it at {}", at.display());
    }
    preflight::raise_memlock()?;
    Ok(())
}

/// Runs an agent until its end is asked for, or the end of the command that it launches. Returns the exit code.
///
/// # Errors
/// If nothing can be traced, the command cannot be launched, or the tape is not whole.
pub(super) fn run(agent: Agent<'_>) -> anyhow::Result<i32> {
    let Agent {
        settings,
        verb,
        sink,
        stop,
        published,
        status,
        withheld,
    } = agent;
    let mut session = start(settings, sink, &published, withheld)?;
    let announced = announce(
        settings,
        verb,
        session.hooks(),
        Arc::clone(&published.desk),
        session.waker(),
    );
    stop.on_signals(&session.waker()).context("cannot handle signals")?;
    let launch = match &settings.launch {
        Some(launch) => Some(Launch::spawn(&launch.command, launch.as_root)?),
        None => None,
    };
    // Not before: the command would inherit it.
    avoid_huge_pages();
    session.begin(launch.as_ref().map(|launch| Tgid(launch.pid())));
    let command = match launch {
        Some(launch) => Some(LaunchedCommand::watch(launch.release()?, session.waker())?),
        None => None,
    };
    say(ready(&session, is_only_command(settings)));
    let status_line = status.and_then(|(stream, metrics)| {
        StatusLine::start(stream, published, metrics)
            .inspect_err(|error| tracing::warn!("cannot draw the status line: {error}"))
            .ok()
    });
    session.work(&stop, command.as_ref());
    let left = match &command {
        Some(_) => survivors(session.running_targets().into_iter().map(|tgid| tgid.0)),
        None => Vec::new(),
    };
    // A second signal ends at once.
    stop.end_at_once_from_now_on();
    drop(status_line);
    // Nobody answers while the end is under way.
    drop(announced);
    session.finish(FLUSH)?;
    // Not before: perhaps nobody reads the last spans.
    let of_command = command.as_ref().and_then(LaunchedCommand::exit_code);
    let code = of_command.or(stop.exit_code()).unwrap_or(0);
    if !left.is_empty() {
        let names: Vec<String> = left.iter().map(ToString::to_string).collect();
        say(format_args!("still running, no longer traced: {}", names.join(", ")));
    }
    Ok(code)
}

/// Loads the programs, and prepares the session around them.
fn start(
    settings: &TraceSettings,
    sink: Sink,
    published: &Arc<Published>,
    withheld: Withheld,
) -> anyhow::Result<Session> {
    let root = ProcRoot::of_host();
    if let Some(readers) = root.readers() {
        published.watch(Arc::clone(readers));
    }
    let rules = Rules::new(root.clone(), &settings.selection)?;
    let probe = Probe::load(Settings {
        ring_bytes: settings.ring_bytes,
        connections: settings.core.max_connections,
        hooks: wanted_family(settings.hooks),
        withheld,
    })?;
    // Loading takes tens of megabytes that are not needed again.
    probe::give_back_memory();
    Session::new(Parts {
        probe,
        settings: &settings.core,
        root,
        rules,
        sink,
        published: Arc::clone(published),
        only_command: is_only_command(settings),
    })
}

/// Returns true if only the launched command and its descendants are traced.
fn is_only_command(settings: &TraceSettings) -> bool {
    settings.selection.is_empty() && settings.launch.is_some()
}

/// Forbids huge pages. Where the system uses them unasked, a few objects that are left after a burst would keep whole
/// pages of 2 MiB resident.
fn avoid_huge_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!("huge pages stay allowed, which takes more memory: {error}");
    }
}

/// Returns the line that tells people, and scripts that wait for it, that tracing has begun.
fn ready(session: &Session, only_command: bool) -> String {
    let what = match (only_command, session.targets()) {
        (true, _) => "the command".to_owned(),
        (false, 0) => "0 processes: no running process matches the rules so far, `spoor ps` shows why".to_owned(),
        (false, 1) => "1 process".to_owned(),
        (false, count) => format!("{count} processes"),
    };
    let hint = if std::io::stderr().is_terminal() && !only_command {
        "; Ctrl-C ends it"
    } else {
        ""
    };
    format!("ready, tracing {what}{hint}")
}
