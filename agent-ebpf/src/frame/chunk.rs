//! Lines between the chunks of a body (RFC 9112 section 7.1), in their plain form.

/// Bytes of a chunk line that are read: CR LF of the chunk before, eight digits, CR LF, and more to detect a longer
/// line.
pub const LINE_BYTES: u64 = 16;

/// Upper bound of the digits of a size: a chunk below 4 GiB.
const DIGITS: u32 = 8;

/// A chunk line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Length of the line, for the last chunk with the empty line behind it; 0: the line is cut off, or not plain.
    pub bytes: u64,
    /// Size of the chunk; 0: it is the last one, and no trailers follow.
    pub size: u64,
}

impl Line {
    /// Result for a line that is not plain.
    pub const NONE: Self = Self { bytes: 0, size: 0 };

    /// Reads the line that `byte` returns, of which `known` bytes are there, at most [`LINE_BYTES`]. Only the first
    /// chunk's line does not begin with the line end behind the data of the chunk before.
    #[inline(always)]
    pub fn read(is_first: bool, known: u64, byte: impl Fn(u64) -> u8) -> Self {
        let mut index = 0u64;
        if !is_first {
            if known < 2 || byte(0) != b'\r' || byte(1) != b'\n' {
                return Self::NONE;
            }
            index = 2;
        }
        let mut size = 0u64;
        let mut digits = 0;
        while digits <= DIGITS {
            if index + 1 >= known {
                return Self::NONE;
            }
            let digit = byte(index);
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                b'A'..=b'F' => digit - b'A' + 10,
                b'\r' if digits > 0 && byte(index + 1) == b'\n' => {
                    index += 2;
                    if size == 0 {
                        // Trailers are left to Core.
                        if index + 2 > known || byte(index) != b'\r' || byte(index + 1) != b'\n' {
                            return Self::NONE;
                        }
                        index += 2;
                    }
                    return Self { bytes: index, size };
                }
                _ => return Self::NONE,
            };
            size = size << 4 | value as u64;
            digits += 1;
            index += 1;
        }
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(is_first: bool, text: &[u8]) -> (u64, u64) {
        let line = Line::read(is_first, text.len().min(16) as u64, |index| text[index as usize]);
        (line.bytes, line.size)
    }

    #[test]
    fn lines() {
        for (is_first, text, bytes, size) in [
            (true, "5\r\nhello", 3, 5),
            (false, "\r\n1aF\r\n", 7, 0x1af),
            (false, "\r\nffffffff\r\n", 12, 0xffff_ffff),
            (false, "\r\n0\r\n\r\n", 7, 0),
            (true, "000\r\n\r\nHTTP", 7, 0),
        ] {
            assert_eq!(read(is_first, text.as_bytes()), (bytes, size), "{text:?}");
        }
        for (is_first, text) in [
            (true, ""),
            (true, "5"),
            (true, "5\r"),
            (true, "\r\n5\r\n"),
            (false, "5\r\n"),
            (true, "5\n"),
            (true, "5;x\r\n"),
            (true, "5 \r\n"),
            (true, "+5\r\n"),
            (true, "\r\n"),
            (true, "123456789\r\n"),
            (true, "0\r\nX: y\r\n"),
            (true, "0\r\n\r"),
            (true, "0\r\n"),
        ] {
            assert_eq!(read(is_first, text.as_bytes()), (0, 0), "{text:?}");
        }
    }
}
