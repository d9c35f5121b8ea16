//! `spoor replay`: feeds a tape to Core. A tape gives the same spans on any machine, without privileges.

use std::{fs::File, io::BufReader, path::Path, process, sync::Arc, time::Duration};

use anyhow::Context;

use crate::{
    config::{CoreSettings, ReplaySettings},
    engine::{Core, trace::Span},
    launch::BROKEN_PIPE,
    metrics::Metrics,
    record::Tgid,
    screen::{Stream, Unread},
    sink::{Destination, SpanSink},
    tape::{Frame, TapeReader},
};

/// Longest wait for room in the export's queue, and for its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Replays a tape to where the settings say. Ends the process when nobody reads standard output: there is nothing else to do.
///
/// # Errors
/// If the tape cannot be read to its end (what it gave until then has left), or not all of its spans could leave.
pub(super) fn replay(settings: &ReplaySettings) -> anyhow::Result<()> {
    let destination = Destination::new(&settings.output, Stream::Stdout, settings.queue_bytes)?;
    let metrics = Arc::new(Metrics::default());
    let unread = Unread::End(Box::new(|| process::exit(BROKEN_PIPE)));
    let sink = SpanSink::start(destination, unread, Arc::clone(&metrics))?;
    let result = play(&settings.file, |spans| {
        sink.wait_for_room(PATIENCE);
        sink.push(spans);
    });
    sink.shutdown(PATIENCE);
    result?;
    // A replay that loses spans is of no use.
    match metrics.export.lost() {
        0 => Ok(()),
        lost => anyhow::bail!("{lost} spans of {} are lost: the log says why", settings.file.display()),
    }
}

/// Feeds a tape to a Core, and gives the spans to `take` as they come.
///
/// # Errors
/// If the tape cannot be read to its end.
pub fn play(file: &Path, mut take: impl FnMut(Vec<Span>)) -> anyhow::Result<()> {
    let name = || format!("cannot replay {}", file.display());
    let input = BufReader::new(File::open(file).with_context(name)?);
    let mut tape = TapeReader::new(input).with_context(name)?;
    let mut player = Player::default();
    while let Some(frame) = tape.next_frame().with_context(name)? {
        take(player.feed(frame).with_context(name)?);
    }
    if let Some(core) = player.core() {
        take(core.flush());
    }
    Ok(())
}

/// Core, fed with the frames of a tape.
#[derive(Default)]
pub struct Player {
    settings: Option<CoreSettings>,
    core: Option<Core>,
}

impl Player {
    /// Feeds a frame. Returns the spans that left Core with it.
    ///
    /// # Errors
    /// If the tape's settings cannot be read, or something comes before the settings and the seed.
    pub fn feed(&mut self, frame: Frame<'_>) -> anyhow::Result<Vec<Span>> {
        match (frame, &mut self.core) {
            (Frame::Config(json), _) => {
                self.settings = Some(serde_json::from_str(&json).context("the tape's settings cannot be read")?);
            }
            (Frame::Seed(seed), core) => {
                let settings = self.settings.as_ref();
                let settings = settings.context("the tape has no configuration before its seed")?;
                *core = Some(Core::new(settings, seed));
            }
            (Frame::Clock { monotonic_ns, unix_ns }, Some(core)) => core.clock(monotonic_ns, unix_ns),
            (Frame::Record(record), Some(core)) => core.raw_record(record),
            (Frame::Tick { now_ns }, Some(core)) => {
                core.tick(now_ns);
                // There is no kernel side that takes hints, and no inspector that answers.
                core.take_hints();
                core.take_wanted();
                return Ok(core.drain());
            }
            (Frame::Process(facts), Some(core)) => core.process(facts.into_owned()),
            (Frame::Selected { tgid, selected }, Some(core)) => core.selected(Tgid(tgid), selected),
            (_, None) => anyhow::bail!("the tape has records before its configuration and seed"),
        }
        Ok(Vec::new())
    }

    /// Returns Core, once the tape has given its settings and its seed.
    pub fn core(&mut self) -> Option<&mut Core> {
        self.core.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_tape() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", play(folder.path(), |_| {}).unwrap_err());
        assert!(
            error.contains("name a tape") && !error.contains("free space"),
            "{error}"
        );
    }
}
