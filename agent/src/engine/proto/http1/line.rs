//! The lines of a head, and what may stand in them.

use agent_ebpf::classify::is_token;

/// A word with 1 in each of its bytes.
const ONES: u64 = u64::MAX / 0xff;

/// A word with the highest bit of each of its bytes.
const HIGH_BITS: u64 = ONES << 7;

/// A line of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Offset at which the line begins.
    pub start: usize,
    /// The line without its end: CR LF, or LF alone (RFC 9112 section 2.2).
    pub text: &'a [u8],
    /// There is a NUL or a bare CR in it: peers refuse it, replace it, or end the line there.
    pub torn: bool,
}

impl Line<'_> {
    /// Returns the place of the first colon in the text.
    #[inline]
    pub fn colon(&self) -> Option<usize> {
        first(self.text, |word| below(word ^ (ONES * u64::from(b':')), 1))
    }
}

/// The whole lines of some bytes, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// Returns the lines that begin at `at`.
    pub fn from(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Returns the offset at which the next line begins.
    pub fn at(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    #[inline]
    fn next(&mut self) -> Option<Line<'a>> {
        let start = self.at;
        let (mut at, mut torn) = (start, false);
        let (end, next) = loop {
            // One look at each byte: CR, LF and NUL are the only ones below 14 in a usual line.
            at += first(self.bytes.get(at..)?, |word| below(word, b'\r' + 1))?;
            match self.bytes.get(at..)? {
                [b'\r', b'\n', ..] => break (at, at + 2),
                [b'\n', ..] => break (at, at + 1),
                [b'\r' | 0, ..] => torn = true,
                _ => {}
            }
            at += 1;
        };
        self.at = next;
        let text = self.bytes.get(start..end)?;
        Some(Line { start, text, torn })
    }
}

/// Returns the place of the first byte that `marks` finds in a word of eight bytes: it sets the highest bit of that byte, and
/// perhaps bits of those behind.
///
/// Lines and names are so short that a call of [`memchr`] takes longer to begin than to search.
#[inline]
fn first(bytes: &[u8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let mut rest = bytes;
    loop {
        let (word, behind) = match rest.split_first_chunk() {
            Some((word, behind)) => (*word, behind),
            None if rest.is_empty() => return None,
            None => (padded(rest), [].as_slice()),
        };
        let marks = marks(u64::from_le_bytes(word));
        if marks != 0 {
            return Some(bytes.len() - rest.len() + marks.trailing_zeros() as usize / 8);
        }
        rest = behind;
    }
}

/// Marks the first byte of a word that is below a limit, which is at most 128. Bytes behind it may be marked by mistake, as the
/// subtraction borrows from them.
#[inline]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH_BITS
}

/// Fills the last bytes up to a word, with bytes that no search is for.
#[inline(never)]
fn padded(bytes: &[u8]) -> [u8; size_of::<u64>()] {
    let mut word = [0xff; size_of::<u64>()];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    word
}

/// Takes the blanks off that may surround a header's value (`OWS`, RFC 9110 section 5.6.3). No other white space: a form
/// feed before `chunked` makes it another word to some peers.
pub(super) fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Returns whether a line that is no plain header line may frame the body to some peer.
///
/// Such a peer skips blanks, control characters or other bytes between the letters of `Content-Length` or
/// `Transfer-Encoding`.
pub(super) fn may_frame(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let contains = |word: &[u8]| {
        let mut letters = name.iter().filter(|byte| byte.is_ascii_alphabetic());
        loop {
            let here = letters.clone().take(word.len()).map(u8::to_ascii_lowercase);
            if here.eq(word.iter().copied()) {
                return true;
            }
            if letters.next().is_none() {
                return false;
            }
        }
    };
    contains(b"contentlength") || contains(b"transferencoding")
}

/// Returns whether HTTP allows a name (RFC 9110 section 5.1).
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| is_token(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_line_feeds() {
        // Bytes, their lines and which are torn, and the rest.
        type Case<'a> = (&'a [u8], &'a [(&'a [u8], bool)], &'a [u8]);
        let table: &[Case<'_>] = &[
            (b"a\r\nb\nc", &[(b"a", false), (b"b", false)], b"c"),
            (b"a\r\n\r\n", &[(b"a", false), (b"", false)], b""),
            (b"a\n\n", &[(b"a", false), (b"", false)], b""),
            (b"a\r", &[], b"a\r"),
            (b"a\rb", &[], b"a\rb"),
            (b"a\rb\r\nc\n", &[(b"a\rb", true), (b"c", false)], b""),
            (b"a\0b\n\r\n", &[(b"a\0b", true), (b"", false)], b""),
            (b"a\r\r\n", &[(b"a\r", true)], b""),
            (b"", &[], b""),
        ];
        for (bytes, expected, rest) in table {
            let mut lines = Lines::from(bytes, 0);
            let found: Vec<_> = lines.by_ref().map(|line| (line.text, line.torn)).collect();
            assert_eq!(found, *expected, "{}", bytes.escape_ascii());
            assert_eq!(&bytes[lines.at()..], *rest, "{}", bytes.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn lines_are_those_of_a_search_byte_by_byte(
            bytes in proptest::collection::vec(proptest::sample::select(b"\r\n\0:\x0e\x0f;ab\x8d\xff".as_slice()), 0..60),
            at in 0..20usize,
        ) {
            let whole = bytes.get(at..).unwrap_or_default();
            let ends = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let mut start = at;
            let colon = |text: &[u8]| text.iter().position(|byte| *byte == b':');
            let expected: Vec<_> = whole[..ends].split_inclusive(|byte| *byte == b'\n').map(|line| {
                let text = line.strip_suffix(b"\n").unwrap();
                let text = text.strip_suffix(b"\r").unwrap_or(text);
                let line = Line {
                    start,
                    text,
                    torn: text.iter().any(|byte| matches!(byte, b'\r' | 0)),
                };
                start += text.len() + if bytes.get(start + text.len()) == Some(&b'\r') { 2 } else { 1 };
                line
            }).collect();
            assert_eq!(Lines::from(&bytes, at).collect::<Vec<_>>(), expected);
            for line in expected {
                assert_eq!(line.colon(), colon(line.text));
            }
        }
    }

    #[test]
    fn odd_spellings_of_what_frames() {
        let frames: &[&str] = &[
            "Content-Length : 5",
            " content-length: 5",
            "Content\tLength: 5",
            "CONTENT LENGTH 5",
            "Content-Length\x0b: 5",
            "Transfer-Encoding : chunked",
            "\x01Transfer-Enc\x01oding: chunked",
            "xTransfer-Encoding",
        ];
        let not: &[&str] = &[
            "Content-Len: 5",
            "X: Content-Length",
            "b c d",
            "",
            "Transfer: encoding",
            "contentlengt",
        ];
        for (lines, expected) in [(frames, true), (not, false)] {
            for line in lines {
                assert_eq!(may_frame(line.as_bytes()), expected, "{line:?}");
            }
        }
    }
}
