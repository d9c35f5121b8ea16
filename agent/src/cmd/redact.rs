//! `spoor redact`: copies a tape with stand-ins for what the services said.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
};

use anyhow::Context;

use crate::{
    config::RedactSettings,
    tape::{self, TapeError, TapeReader, TapeWriter},
};

/// Copies a tape with stand-ins for what the services said.
///
/// # Errors
/// If the tape cannot be read to its end, or its copy cannot be written.
pub(super) fn redact(settings: &RedactSettings) -> anyhow::Result<()> {
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
    // A killed agent leaves a tape with an incomplete last frame; the rest may be enough.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Frame;

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
}
