//! `OTEL_EXPORTER_OTLP_COMPRESSION=gzip`.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};

/// The name in `content-encoding` and `grpc-encoding`.
pub const GZIP: &str = "gzip";

/// A request, compressed. At the fastest level: spans repeat each other so much that the others gain little.
pub fn compress(request: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(request.len() / 8), Compression::fast());
    let compressed = encoder.write_all(request).and_then(|()| encoder.finish());
    compressed.expect("memory can be written to").into()
}

/// An answer, of which at most `limit` bytes are taken.
pub fn decompress(answer: &[u8], limit: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    GzDecoder::new(answer).take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let request: Vec<u8> = (0..200_000u32).flat_map(|number| (number / 16).to_be_bytes()).collect();
        let compressed = compress(&request);
        assert!(compressed.len() < request.len() / 8, "{} bytes", compressed.len());
        assert_eq!(decompress(&compressed, request.len()).unwrap(), request);
        assert_eq!(decompress(&compressed, 7).unwrap(), request[..7]);
        assert_eq!(decompress(&compress(&[]), 7).unwrap(), Bytes::new());
        assert!(decompress(b"no gzip", 7).is_err());
    }
}
