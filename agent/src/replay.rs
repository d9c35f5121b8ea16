//! `spoor replay`: a tape gives the same spans on any machine, without privileges.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;

use crate::{
    config::{CoreSettings, RedactSettings, ReplaySettings},
    engine::{Core, trace::Span},
    metrics::Metrics,
    screen::Stream,
    sink::{Destination, SpanSink},
    tape::{self, Frame, TapeError, TapeReader, TapeWriter},
};

/// So long is waited for whoever takes the spans.
const PATIENCE: Duration = Duration::from_secs(5);

/// Replays a tape to where the settings say.
///
/// # Errors
/// If the tape cannot be read to its end (what it gave until then has left), or not all of its spans could leave.
pub fn replay(settings: &ReplaySettings) -> anyhow::Result<()> {
    let destination = Destination::new(&settings.output, Stream::Stdout, settings.queue_bytes)?;
    let metrics = Arc::new(Metrics::default());
    let sink = SpanSink::start(destination, Arc::clone(&metrics))?;
    let result = play(&settings.file, |spans| {
        sink.wait_for_room(PATIENCE);
        sink.push(spans);
    });
    sink.shutdown(PATIENCE);
    result?;
    // Nobody replays the tape for what is lost of it.
    match metrics.export.lost() {
        0 => Ok(()),
        lost => anyhow::bail!("{lost} spans of {} are lost: the log says why", settings.file.display()),
    }
}

/// Copies a tape, with stand-ins for what the services said.
///
/// # Errors
/// If the tape cannot be read to its end, or the other one not be written.
pub fn redact(settings: &RedactSettings) -> anyhow::Result<()> {
    let name = || format!("cannot redact {}", settings.file.display());
    let input = BufReader::new(File::open(&settings.file).with_context(name)?);
    let mut tape = TapeReader::new(input).with_context(name)?;
    if settings
        .output
        .canonicalize()
        .is_ok_and(|output| settings.file.canonicalize().is_ok_and(|file| file == output))
    {
        anyhow::bail!(
            "{} is the tape itself, which stays as it is: name another file",
            settings.output.display()
        );
    }
    let output = BufWriter::new(tape::create(&settings.output)?);
    // Of a tape that a killed agent left, what there is may be what is looked for.
    copy(&mut tape, output).with_context(|| {
        format!(
            "{}; {} is cut, it has what came before",
            name(),
            settings.output.display()
        )
    })
}

fn copy(tape: &mut TapeReader<impl Read>, output: impl Write) -> Result<(), TapeError> {
    let mut redacted = TapeWriter::redacted(output)?;
    while let Some(frame) = tape.next_frame()? {
        redacted.write(&frame)?;
    }
    redacted.finish()?;
    Ok(())
}

/// Feeds a tape to Core. `take` gets the spans as they come.
///
/// # Errors
/// If the tape cannot be read to its end.
pub fn play(file: &Path, mut take: impl FnMut(Vec<Span>)) -> anyhow::Result<()> {
    let name = || format!("cannot replay {}", file.display());
    let input = BufReader::new(File::open(file).with_context(name)?);
    let mut tape = TapeReader::new(input).with_context(name)?;
    let mut settings: Option<CoreSettings> = None;
    let mut core: Option<Core> = None;
    while let Some(frame) = tape.next_frame().with_context(name)? {
        match (frame, &mut core) {
            (Frame::Config(json), _) => {
                settings = Some(serde_json::from_str(&json).context("the tape's configuration is malformed")?);
            }
            (Frame::Seed(seed), core) => {
                let settings = settings
                    .as_ref()
                    .context("the tape has no configuration before its seed")?;
                *core = Some(Core::new(settings, seed));
            }
            (Frame::Clock { monotonic_ns, unix_ns }, Some(core)) => core.clock(monotonic_ns, unix_ns),
            (Frame::Record(record), Some(core)) => core.record(record),
            (Frame::Tick { now_ns }, Some(core)) => {
                core.tick(now_ns);
                // Nobody is there to be advised, or asked.
                core.take_hints();
                core.take_wanted();
                take(core.drain());
            }
            (Frame::Process(facts), Some(core)) => core.process(facts.into_owned()),
            (Frame::Selected { tgid, selected }, Some(core)) => core.selected(tgid, selected),
            (_, None) => anyhow::bail!(
                "{}: the tape has records before its configuration and seed",
                file.display()
            ),
        }
    }
    if let Some(core) = &mut core {
        take(core.flush());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_that_is_cut_is_redacted_as_far_as_it_goes_and_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tape");
        let output = folder.path().join("b.tape");
        let mut bytes = Vec::new();
        TapeWriter::new(&mut bytes).unwrap().write(&Frame::Seed(7)).unwrap();
        std::fs::write(&file, &bytes).unwrap();
        let settings = RedactSettings {
            file,
            output: output.clone(),
        };
        let error = format!("{:#}", redact(&settings).unwrap_err());
        assert!(error.contains("b.tape is cut, it has what came before"), "{error}");
        assert_eq!(std::fs::read(&output).unwrap(), bytes);
    }

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
