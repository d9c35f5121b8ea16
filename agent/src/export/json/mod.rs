//! OTLP JSON lines: one `ExportTraceServiceRequest` a line, as OpenTelemetry's file exporter writes them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::worker::{Outcome, Transport};

/// Encodes an `ExportTraceServiceRequest` as OTLP's JSON.
pub fn request(protobuf: &Bytes) -> io::Result<Vec<u8>> {
    let request = ExportTraceServiceRequest::decode(protobuf.clone()).map_err(io::Error::other)?;
    Ok(serde_json::to_vec(&request)?)
}

/// Writes requests as lines.
#[derive(Debug)]
pub struct JsonTransport<W> {
    writer: W,
    /// The last line may have been written in part.
    torn: bool,
}

impl<W: Write> JsonTransport<W> {
    /// Writes to `writer`.
    pub fn new(writer: W) -> Self {
        Self { writer, torn: false }
    }

    fn write(&mut self, request: &Bytes) -> io::Result<()> {
        let mut line = if self.torn { b"\n".to_vec() } else { Vec::new() };
        line.extend(self::request(request)?);
        line.push(b'\n');
        self.torn = true;
        self.writer.write_all(&line)?;
        self.writer.flush()?;
        self.torn = false;
        Ok(())
    }
}

impl<W: Write> Transport for JsonTransport<W> {
    async fn send(&mut self, request: Bytes) -> Outcome {
        match self.write(&request) {
            Ok(()) => Outcome::Taken {
                rejected: 0,
                message: String::new(),
            },
            Err(error) => Outcome::NotWritten {
                reason: error.to_string(),
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
