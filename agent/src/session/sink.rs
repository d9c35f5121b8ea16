//! Destination of a session's outcome: spans to the export, or everything that Core was fed to a tape.

use std::{fs::File, io::BufWriter, time::Duration};

use anyhow::Context;

use crate::{
    engine::trace::Span,
    sink::SpanSink,
    tape::{Frame, TapeError, TapeWriter},
};

/// Destination of a session's outcome.
pub enum Sink {
    /// Spans leave.
    Spans(SpanSink),
    /// Everything that Core is fed goes to a tape.
    Tape(Box<Recorder>),
}

/// Tape that is being written. After an error, nothing more is written: a tape with a hole would replay to other spans.
pub struct Recorder {
    tape: TapeWriter<BufWriter<File>>,
    broken: Option<TapeError>,
}

impl Recorder {
    /// Records to this tape.
    pub fn new(tape: TapeWriter<BufWriter<File>>) -> Self {
        Self { tape, broken: None }
    }

    fn record(&mut self, frame: &Frame<'_>) {
        if self.broken.is_none()
            && let Err(error) = self.tape.write(frame)
        {
            tracing::error!("cannot write the tape: {error}");
            self.broken = Some(error);
        }
    }
}

impl Sink {
    /// Records what Core is fed, if there is a tape.
    pub(super) fn record(&mut self, frame: &Frame<'_>) {
        if let Self::Tape(recorder) = self {
            recorder.record(frame);
        }
    }

    /// Hands spans to the export, if there is one.
    pub(super) fn export(&self, spans: Vec<Span>) {
        if let Self::Spans(way_out) = self {
            way_out.push(spans);
        }
    }

    /// Ends the export, within this time, or the tape.
    ///
    /// # Errors
    /// If the tape is not whole.
    pub(super) fn finish(self, spans: Vec<Span>, within: Duration) -> anyhow::Result<()> {
        match self {
            Self::Spans(way_out) => {
                way_out.push(spans);
                way_out.shutdown(within);
            }
            Self::Tape(recorder) => {
                let Recorder { tape, broken } = *recorder;
                if let Some(error) = broken {
                    return Err(error).context("the tape is not whole");
                }
                tape.finish().context("cannot end the tape")?;
            }
        }
        Ok(())
    }
}
