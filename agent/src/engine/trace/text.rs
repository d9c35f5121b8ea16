//! Bytes from the wire as attribute values: valid UTF-8, of bounded length.

use std::{borrow::Cow, fmt::Write};

/// Upper bound on the length of a value in bytes, the mark of a cut included.
pub(super) const MAX_VALUE_BYTES: usize = 4096;

/// Mark at the end of a value that was cut.
const CUT_MARK: char = '…';

/// Returns a part of a URL as text: bytes that are not UTF-8 are percent-encoded.
pub(super) fn url_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(bytes.len() * 2);
    for chunk in bytes.utf8_chunks() {
        encoded.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// Returns any other bytes as text: U+FFFD stands for those that are not UTF-8.
pub(super) fn lossy_text(bytes: &[u8]) -> Cow<'_, str> {
    // For bytes that are UTF-8, which nearly all are, this takes half as long as the look at their chunks.
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Cuts a value at a character's boundary, and marks it, if it is too long.
pub(super) fn cut(value: &str) -> Option<String> {
    if value.len() <= MAX_VALUE_BYTES {
        return None;
    }
    let end = value.floor_char_boundary(MAX_VALUE_BYTES - CUT_MARK.len_utf8());
    let mut cut = value.get(..end).unwrap_or_default().to_owned();
    cut.push(CUT_MARK);
    Some(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf8() {
        for (input, url, other) in [
            (&b"/plain"[..], "/plain", "/plain"),
            ("/ü/€".as_bytes(), "/ü/€", "/ü/€"),
            (b"/\xff/\xc3(", "/%FF/%C3(", "/\u{fffd}/\u{fffd}("),
            (b"\xe2\x82", "%E2%82", "\u{fffd}"),
        ] {
            assert_eq!(url_text(input), url);
            assert_eq!(lossy_text(input), other);
        }
    }

    #[test]
    fn long_values_are_cut_at_a_boundary() {
        assert_eq!(cut(&"x".repeat(MAX_VALUE_BYTES)), None);
        let ascii = cut(&"x".repeat(MAX_VALUE_BYTES + 1));
        assert_eq!(ascii, Some("x".repeat(MAX_VALUE_BYTES - 3) + "…"));
        let wide = cut(&"🦀".repeat(2000));
        assert_eq!(wide, Some("🦀".repeat(1023) + "…"));
    }
}
