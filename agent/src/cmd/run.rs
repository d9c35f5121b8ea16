//! `spoor run`: traces, and prints or exports the spans.

use std::sync::Arc;

use super::{
    agent::{self, Agent},
    status_line,
};
use crate::{
    config::RunSettings,
    launch::Stop,
    metrics::Metrics,
    probe::Withheld,
    screen::{SCREEN, Stream, Unread},
    serve::{ServeError, Server},
    session::{self, Published, Sink},
    sink::{Destination, SpanSink},
};

/// Traces until a signal or the end of the command that was launched; without a command, also until nobody reads its output.
/// Returns the exit code.
///
/// # Errors
/// If nothing can be traced, or spans cannot go where they should.
pub(super) fn run(settings: &RunSettings) -> anyhow::Result<i32> {
    run_without(settings, Withheld::default())
}

/// Runs as on a kernel that lacks something, for tests.
///
/// # Errors
/// If nothing can be traced, or spans cannot go where they should.
pub fn run_without(settings: &RunSettings, withheld: Withheld) -> anyhow::Result<i32> {
    let launched = settings.trace.launch.is_some();
    // The command's own output goes to standard output.
    let console = if launched { Stream::Stderr } else { Stream::Stdout };
    let destination = Destination::new(&settings.output, console, settings.queue_bytes)?;
    let metrics = Arc::new(Metrics::default());
    let published = Arc::<Published>::default();
    session::register(&published, &metrics);
    agent::prepare_system()?;
    let stop = Stop::default();
    let spans = SpanSink::start(destination, unread(launched, &stop), Arc::clone(&metrics))?;
    let status = status_line::place(launched, &settings.output);
    if status.is_some() {
        SCREEN.reserve();
    }
    let server = serve(settings, &metrics, &published)?;
    let code = agent::run(Agent {
        settings: &settings.trace,
        verb: "traces",
        sink: Sink::Spans(spans),
        stop,
        published,
        status: status.map(|stream| (stream, metrics)),
        withheld,
    })?;
    drop(server);
    Ok(code)
}

/// Returns the reaction to an output that nobody reads: the end. A launched command goes on, and Spoor with it.
fn unread(launched: bool, stop: &Stop) -> Unread {
    if launched {
        return Unread::Log;
    }
    let stop = stop.clone();
    Unread::End(Box::new(move || stop.nobody_reads()))
}

/// Serves metrics and health, if the settings name an address.
fn serve(
    settings: &RunSettings,
    metrics: &Arc<Metrics>,
    published: &Arc<Published>,
) -> Result<Option<Server>, ServeError> {
    let Some(address) = settings.metrics_listen else {
        return Ok(None);
    };
    let published = Arc::clone(published);
    match Server::start(address, Arc::clone(metrics), move || published.health()) {
        Ok(server) => {
            tracing::info!("metrics at http://{}/metrics", server.address());
            Ok(Some(server))
        }
        // Another Spoor may run here. Tracing goes on without metrics.
        Err(error @ ServeError::Taken(_)) => {
            tracing::warn!("{error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
