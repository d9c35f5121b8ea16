//! OTLP JSON lines: one `ExportTraceServiceRequest` a line, as OpenTelemetry's file exporter writes them.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use bytes::{Buf, Bytes};

use super::{
    encode::Payload,
    worker::{Outcome, Transport},
};
use crate::screen::Unread;

/// Upper bound on the pieces of one write: Linux's `UIO_MAXIOV`. A line of no more is written at once, so that programs that
/// append to one file do not mix their lines.
const MAX_PIECES: usize = 1024;

/// Writes requests as lines.
pub struct JsonTransport<W> {
    writer: W,
    unread: Unread,
    /// The last line may have been written in part.
    torn: bool,
}

impl<W: Write> JsonTransport<W> {
    /// Writes to `writer`.
    pub fn new(writer: W, unread: Unread) -> Self {
        Self {
            writer,
            unread,
            torn: false,
        }
    }

    fn write(&mut self, mut line: Payload) -> io::Result<()> {
        if self.torn {
            line.push_front(Bytes::from_static(b"\n"));
        }
        line.push(Bytes::from_static(b"\n"));
        self.torn = true;
        while line.has_remaining() {
            let mut slices = vec![IoSlice::new(&[]); line.pieces().min(MAX_PIECES)];
            line.chunks_vectored(&mut slices);
            match self.writer.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => line.advance(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.writer.flush()?;
        self.torn = false;
        Ok(())
    }
}

impl<W: Write> Transport for JsonTransport<W> {
    async fn send(&mut self, request: Payload) -> Outcome {
        match self.write(request) {
            Ok(()) => Outcome::Taken {
                rejected: 0,
                message: String::new(),
            },
            Err(error) => match &self.unread {
                Unread::End(end) if error.kind() == io::ErrorKind::BrokenPipe => {
                    end();
                    Outcome::Unread
                }
                Unread::End(_) | Unread::Log => Outcome::NotWritten {
                    reason: error.to_string(),
                },
            },
        }
    }
}

/// Opens the file to append to. A new file is readable for its owner only, because spans show the requests of users.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
