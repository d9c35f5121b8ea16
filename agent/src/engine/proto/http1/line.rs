//! The lines of a head, and what may stand in them.

use agent_ebpf::classify::is_token;
use memchr::{memchr, memchr3};

/// A line of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Where it begins.
    pub start: usize,
    /// The line without its end: CR LF, or LF alone (RFC 9112 section 2.2).
    pub text: &'a [u8],
    /// There is a NUL or a bare CR in it: peers refuse it, replace it, or end the line there.
    pub torn: bool,
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

    fn next(&mut self) -> Option<Line<'a>> {
        let start = self.at;
        let rest = self.bytes.get(start..)?;
        // One look at each byte: a usual line has none of these before its end.
        let mut end = memchr3(b'\n', b'\r', 0, rest)?;
        let torn = !matches!(rest.get(end..)?, [b'\n', ..] | [b'\r', b'\n', ..]);
        if torn {
            end += memchr(b'\n', rest.get(end..)?)?;
        } else if rest.get(end) == Some(&b'\r') {
            end += 1;
        }
        self.at = start + end + 1;
        let text = rest.get(..end)?;
        Some(Line {
            start,
            text: text.strip_suffix(b"\r").unwrap_or(text),
            torn,
        })
    }
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
