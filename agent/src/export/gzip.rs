//! `OTEL_EXPORTER_OTLP_COMPRESSION=gzip`.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};

/// The name in `content-encoding` and `grpc-encoding`.
pub const GZIP: &str = "gzip";

/// Compresses a request, at the fastest level: spans repeat each other so much that higher levels gain little.
pub fn compress(request: impl Buf) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(request.remaining() / 8), Compression::fast());
    let compressed = io::copy(&mut request.reader(), &mut encoder).and_then(|_| encoder.finish());
    compressed.expect("memory can be written to").into()
}

/// Decompresses an answer, to at most `limit` bytes.
///
/// # Errors
/// If it is no gzip, or longer: then of the kind [`io::ErrorKind::FileTooLarge`].
pub fn decompress(answer: &[u8], limit: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    let beyond = limit as u64 + 1;
    GzDecoder::new(answer).take(beyond).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let request: Vec<u8> = (0..200_000u32).flat_map(|number| (number / 16).to_be_bytes()).collect();
        let compressed = compress(request.as_slice());
        assert!(compressed.len() < request.len() / 8, "{} bytes", compressed.len());
        assert_eq!(decompress(&compressed, request.len()).unwrap(), request);
        let error = decompress(&compressed, request.len() - 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(decompress(&compress([].as_slice()), 7).unwrap(), Bytes::new());
        assert!(decompress(b"no gzip", 7).is_err());
    }
}
