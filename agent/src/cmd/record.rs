//! `spoor record`: writes everything that Core is fed to a tape.

use std::{fs::File, io::BufWriter, sync::Arc};

use super::agent::{self, Agent};
use crate::{
    config::RecordSettings,
    launch::Stop,
    probe::Withheld,
    session::{Recorder, Sink},
    tape::{self, TapeWriter},
};

/// Bytes that are written to the tape at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Records a tape until a signal, or the end of the command that was launched. Returns the exit code.
///
/// # Errors
/// If nothing can be traced, or the tape cannot be written.
pub(super) fn record(settings: &RecordSettings) -> anyhow::Result<i32> {
    agent::prepare_system()?;
    let file: BufWriter<File> = BufWriter::with_capacity(BUFFER_BYTES, tape::create(&settings.file)?);
    let tape = if settings.redact {
        TapeWriter::redacted(file)?
    } else {
        tracing::warn!("{}", tape::WARNING);
        TapeWriter::new(file)?
    };
    agent::run(Agent {
        settings: &settings.trace,
        verb: "records",
        sink: Sink::Tape(Box::new(Recorder::new(tape))),
        stop: Stop::default(),
        published: Arc::default(),
        status: None,
        withheld: Withheld::default(),
    })
}
