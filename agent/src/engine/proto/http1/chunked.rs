//! The chunked transfer coding (RFC 9112 section 7.1):
//!
//! ```text
//! chunked-body   = *chunk last-chunk trailer-section CRLF
//! chunk          = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
//! last-chunk     = 1*("0") [ chunk-ext ] CRLF
//! ```
//!
//! A bare LF ends a line here, too, as it does for nginx before 1.29.3, HAProxy 2.6, curl and PHP. Others (hyper, llhttp) refuse
//! it or read on to the CR LF, so it is noted: no boundary behind such a body is believed.

use super::{Cause, head::MAX_HEAD_BYTES};

/// A chunk larger than this is nonsense: offsets of sockets do not get that far.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Finds the end of a chunked body. Feed it with all that follows the head until it says that the body is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    /// Framing bytes since the last data: bounds extensions and trailers.
    framing_bytes: u32,
    /// A line ended in a bare LF.
    bare_lf: bool,
}

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a chunk's line: a digit must follow.
    Start,
    /// In a chunk's size.
    Size(u64),
    /// Behind the size, in white space or an extension.
    Extension(u64),
    /// Behind the CR of a chunk's line.
    LineEnd(u64),
    /// So many bytes of data are left.
    Data(u64),
    /// Behind the data: CR LF.
    DataEnd,
    /// Behind the CR that follows the data.
    DataCr,
    /// At the start of a trailer line or of the empty line that ends the body.
    Trailer,
    /// In a trailer line.
    TrailerLine,
    /// Behind a CR in a trailer line.
    TrailerLineEnd,
    /// Behind a CR at the start of a trailer line.
    TrailerCr,
    Done,
}

impl Chunked {
    pub fn new() -> Self {
        Self {
            state: State::Start,
            framing_bytes: 0,
            bare_lf: false,
        }
    }

    /// Returns whether a line so far ended in a bare LF: peers differ on where such a body ends.
    pub fn has_bare_lf(&self) -> bool {
        self.bare_lf
    }

    /// Bytes of data that are left of the current chunk: what may be missed without losing the boundary.
    pub fn left_of_chunk(&self) -> u64 {
        match self.state {
            State::Data(left) => left,
            _ => 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns whether this byte, if it comes next, is framing: the end of a line, or a part of a chunk's size.
    pub fn is_framing(&self, byte: u8) -> bool {
        match self.state {
            State::Start | State::Size(_) => {
                byte.is_ascii_hexdigit() || matches!(byte, b'\r' | b'\n' | b';' | b' ' | b'\t')
            }
            _ => matches!(byte, b'\r' | b'\n'),
        }
    }

    /// Takes `n` bytes of the current chunk's data, at most [`Self::left_of_chunk`].
    pub fn pass_data(&mut self, n: u64) {
        if let State::Data(left) = self.state {
            self.state = after_data(left.saturating_sub(n));
        }
    }

    /// Takes framing up to the next data or the end. Returns how many bytes it took.
    pub fn frame(&mut self, bytes: &[u8]) -> Result<usize, Cause> {
        let mut taken = 0;
        for byte in bytes {
            if matches!(self.state, State::Data(_) | State::Done) {
                break;
            }
            let before = self.state;
            self.state = before.after(*byte).ok_or(Cause::Malformed)?;
            self.bare_lf |= *byte == b'\n' && !before.is_behind_cr();
            taken += 1;
            self.framing_bytes += 1;
            if self.framing_bytes as usize > MAX_HEAD_BYTES {
                return Err(Cause::HeadTooLarge);
            }
        }
        if matches!(self.state, State::Data(_)) {
            self.framing_bytes = 0;
        }
        Ok(taken)
    }
}

impl State {
    fn is_behind_cr(self) -> bool {
        matches!(
            self,
            State::LineEnd(_) | State::DataCr | State::TrailerLineEnd | State::TrailerCr
        )
    }

    /// Returns the state behind a byte; `None`: the coding does not allow this byte here.
    fn after(self, byte: u8) -> Option<State> {
        Some(match (self, byte) {
            (State::Start, _) => State::Size(hex(byte)?),
            (State::LineEnd(size) | State::Size(size) | State::Extension(size), b'\n') => after_line(size),
            (State::Size(size) | State::Extension(size), b'\r') => State::LineEnd(size),
            (State::Size(size), b';' | b' ' | b'\t') => State::Extension(size),
            (State::Size(size), _) => State::Size(
                size.checked_mul(16)?
                    .checked_add(hex(byte)?)
                    .filter(|size| *size <= MAX_SIZE)?,
            ),
            (State::Extension(size), _) => State::Extension(size),
            (State::LineEnd(_), _) => return None,
            (State::DataEnd, b'\r') => State::DataCr,
            (State::DataEnd | State::DataCr, b'\n') => State::Start,
            (State::DataEnd | State::DataCr, _) => return None,
            (State::Trailer, b'\r') => State::TrailerCr,
            (State::Trailer | State::TrailerCr, b'\n') => State::Done,
            (State::TrailerCr, _) => return None,
            (State::TrailerLine, b'\r') => State::TrailerLineEnd,
            (State::TrailerLine | State::TrailerLineEnd, b'\n') => State::Trailer,
            (State::TrailerLineEnd, _) => return None,
            (State::Trailer | State::TrailerLine, _) => State::TrailerLine,
            (State::Data(_) | State::Done, _) => return None,
        })
    }
}

fn after_line(size: u64) -> State {
    if size == 0 { State::Trailer } else { State::Data(size) }
}

fn after_data(left: u64) -> State {
    if left == 0 { State::DataEnd } else { State::Data(left) }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `step`; (bytes of data, bytes behind the end) or why not, `None` for an open end.
    fn decode(bytes: &[u8], step: usize) -> Result<Option<(u64, usize)>, Cause> {
        let mut chunked = Chunked::new();
        let mut data = 0;
        let mut taken = 0;
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() && !chunked.is_done() {
                let n = match chunked.left_of_chunk() {
                    0 => chunked.frame(piece)?,
                    left => {
                        let n = (left as usize).min(piece.len());
                        chunked.pass_data(n as u64);
                        data += n as u64;
                        n
                    }
                };
                piece = &piece[n..];
                taken += n;
            }
        }
        Ok(chunked.is_done().then_some((data, bytes.len() - taken)))
    }

    #[test]
    fn ends_where_it_ends() {
        type Outcome = Result<Option<(u64, usize)>, Cause>;
        let table: &[(&str, Outcome)] = &[
            ("0\r\n\r\n", Ok(Some((0, 0)))),
            ("0\r\n\r\nHTTP", Ok(Some((0, 4)))),
            ("0000\r\n\r\n", Ok(Some((0, 0)))),
            ("5\r\nhello\r\n0\r\n\r\n", Ok(Some((5, 0)))),
            ("5\r\n0\r\n\r\n\r\n0\r\n\r\nX", Ok(Some((5, 1)))),
            ("a;ext=\"q;x\";y\r\n0123456789\r\n0;last\r\n\r\n", Ok(Some((10, 0)))),
            ("A \r\n0123456789\r\n0\r\n\r\n", Ok(Some((10, 0)))),
            ("1\r\nx\r\n0\r\nGrpc-Status: 0\r\nX: \r\n\r\nrest", Ok(Some((1, 4)))),
            ("1\r\nx\r\n0\r\nA: b\n\r\n", Ok(Some((1, 0)))),
            ("1\r\nx\r\n0\r\nA: b\rC\r\n\r\n", Err(Cause::Malformed)),
            ("1\nx\r\n0\r\n\r\n", Ok(Some((1, 0)))),
            ("1;a\nx\r\n0\r\n\r\n", Ok(Some((1, 0)))),
            ("1\r\nx\n0\r\n\r\n", Ok(Some((1, 0)))),
            ("1\r\nx\r\n0\r\n\n", Ok(Some((1, 0)))),
            // Too large by one: the LF that ends its data seems to be bare.
            ("2\r\nx\r\n0\r\n\r\n", Ok(Some((2, 0)))),
            ("3\r\nx\r\n0\r\n\r\n", Err(Cause::Malformed)),
            ("5\r\nhello\r\n0\r\n", Ok(None)),
            ("5\r\nhello\r\n0\r\n\r", Ok(None)),
            ("5\r\nhelloX", Err(Cause::Malformed)),
            ("\r\n", Err(Cause::Malformed)),
            ("-1\r\n", Err(Cause::Malformed)),
            ("0x5\r\n", Err(Cause::Malformed)),
            ("5\rX", Err(Cause::Malformed)),
            ("ffffffffffffffff\r\n", Err(Cause::Malformed)),
            ("10000000000000000\r\n", Err(Cause::Malformed)),
            ("0\r\n\rX", Err(Cause::Malformed)),
        ];
        for (text, outcome) in table {
            for step in 1..=text.len() {
                assert_eq!(decode(text.as_bytes(), step), *outcome, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn endless_extensions_and_trailers_are_given_up() {
        let extension = format!("5;{}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(decode(extension.as_bytes(), 4096), Err(Cause::HeadTooLarge));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(MAX_HEAD_BYTES / 6 + 1));
        assert_eq!(decode(trailers.as_bytes(), 4096), Err(Cause::HeadTooLarge));
        let many_chunks = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(MAX_HEAD_BYTES));
        assert_eq!(
            decode(many_chunks.as_bytes(), 4096),
            Ok(Some((MAX_HEAD_BYTES as u64, 0)))
        );
    }
}
