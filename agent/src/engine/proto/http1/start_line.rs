//! The first line of a head (RFC 9112 sections 3 and 4), read as the laxest of usual servers and clients read it.
//!
//! ```text
//! request-line = method SP request-target SP HTTP-version
//! status-line  = HTTP-version SP status-code SP [ reason-phrase ]
//! ```
//! Several blanks count as one, also behind the version. In a target any byte may stand but white space and NUL, in a reason
//! phrase any but NUL and a bare CR. Each `HTTP/1.x` with x > 0 is read as HTTP/1.1 (RFC 9110 section 2.5).

use super::{
    Cause,
    line::{Line, Lines, is_name, trim_blanks},
};

/// Beginning of the versions that are followed.
const VERSION: &[u8] = b"HTTP/1.";

/// First line, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartLine<L> {
    Complete {
        line: L,
        /// Length of the line in bytes, with its end.
        length: usize,
    },
    Partial,
    /// Malformed, or not HTTP/1.
    Failed(Cause),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestLine<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub minor_version: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    pub minor_version: u8,
    pub status: u16,
}

/// Reads a request line. The verdict does not depend on the pieces in which the line comes.
///
/// Bytes that are no method, or another protocol's version, are known at once. A line with another fault shows only at
/// its end whether it was meant as HTTP/1.
pub(super) fn request_line(bytes: &[u8]) -> StartLine<RequestLine<'_>> {
    let mut lines = Lines::from(bytes, 0);
    let whole = lines.next();
    if let Some(line) = whole.and_then(|line| usual_request_line(line.text)) {
        return StartLine::Complete {
            line,
            length: lines.at(),
        };
    }
    let text = whole.map_or(bytes, |line| line.text);
    let mut words = text.splitn(3, |byte| *byte == b' ');
    let (method, rest) = (words.next().unwrap_or_default(), words.nth(1));
    if !is_name(method) {
        return StartLine::Failed(Cause::OtherProtocol);
    }
    let version = trim_blanks(rest.unwrap_or_default());
    if version.starts_with(b"HTTP/") && !VERSION.starts_with(version) && !version.starts_with(VERSION) {
        return StartLine::Failed(Cause::OtherProtocol);
    }
    let Some(Line { text, torn, .. }) = whole else {
        return StartLine::Partial;
    };
    match split_request_line(method, trim_blanks(text)) {
        Some(line) if !torn => StartLine::Complete {
            line,
            length: lines.at(),
        },
        _ if text.windows(8).any(|window| window == b" HTTP/1.") => StartLine::Failed(Cause::Malformed),
        _ => StartLine::Failed(Cause::OtherProtocol),
    }
}

/// Reads a request line of HTTP/1.1 as nearly all clients write it: one blank between the words, no other white space and no
/// control character. [`split_request_line`] reads it in the same way, and takes longer.
fn usual_request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    let words = line.strip_suffix(b" HTTP/1.1")?;
    let (method, rest) = words.split_at_checked(words.iter().position(|byte| *byte == b' ')?)?;
    let target = rest.strip_prefix(b" ")?;
    let is_usual = is_name(method) && target.iter().copied().min().is_some_and(|least| least > b' ');
    is_usual.then_some(RequestLine {
        method,
        target,
        minor_version: 1,
    })
}

fn split_request_line<'a>(method: &'a [u8], line: &'a [u8]) -> Option<RequestLine<'a>> {
    let version_at = line.iter().rposition(|byte| *byte == b' ')? + 1;
    let target = trim_blanks(line.get(method.len()..version_at)?);
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    if target.is_empty() || target.iter().any(is_blank) {
        return None;
    }
    Some(RequestLine {
        method,
        target,
        minor_version: minor_version(line.get(version_at..)?)?,
    })
}

/// Reads a status line.
pub(super) fn status_line(bytes: &[u8]) -> StartLine<StatusLine> {
    if !bytes.starts_with(VERSION) && !VERSION.starts_with(bytes) {
        return StartLine::Failed(Cause::OtherProtocol);
    }
    let mut lines = Lines::from(bytes, 0);
    let Some(Line { text, torn, .. }) = lines.next() else {
        return StartLine::Partial;
    };
    match usual_status_line(text).or_else(|| split_status_line(text)) {
        Some(line) if !torn => StartLine::Complete {
            line,
            length: lines.at(),
        },
        _ => StartLine::Failed(Cause::Malformed),
    }
}

/// Reads a status line of HTTP/1.1 as nearly all servers write it: see [`usual_request_line`].
fn usual_status_line(line: &[u8]) -> Option<StatusLine> {
    let digit = |byte: u8| u16::from(byte - b'0');
    match *line.strip_prefix(b"HTTP/1.1 ")? {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => Some(StatusLine {
            minor_version: 1,
            status: digit(a) * 100 + digit(b) * 10 + digit(c),
        }),
        _ => None,
    }
}

fn split_status_line(line: &[u8]) -> Option<StatusLine> {
    let blank = line.iter().position(|byte| matches!(byte, b' ' | b'\t'))?;
    let (version, rest) = line.split_at_checked(blank)?;
    // Behind the digits a reason phrase may follow, which is not looked at.
    let rest = trim_blanks(rest);
    let status = rest
        .first_chunk::<3>()
        .filter(|status| status.iter().all(u8::is_ascii_digit))?;
    if !matches!(rest.get(3), None | Some(b' ' | b'\t')) {
        return None;
    }
    let status = status.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (status >= 100).then_some(StatusLine {
        minor_version: minor_version(version)?,
        status,
    })
}

/// Returns 0 for HTTP/1.0, 1 for all later versions.
fn minor_version(version: &[u8]) -> Option<u8> {
    let digits = version.strip_prefix(VERSION)?;
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| u8::from(digits.iter().any(|digit| *digit != b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(begin: &'static str, bytes: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => prop::sample::select(bytes), 1 => any::<u8>()];
        (prop::collection::vec(byte, 0..12), any::<bool>(), any::<bool>()).prop_map(
            move |(middle, has_begin, has_end)| {
                let begin = if has_begin { begin } else { "" };
                let end: &[u8] = if has_end { b" HTTP/1.1" } else { b"" };
                [begin.as_bytes(), &middle, end].concat()
            },
        )
    }

    proptest! {
        #[test]
        fn usual_request_lines_are_read_alike(line in line("GET ", b"G /a?= \t\0\r")) {
            if let Some(usual) = usual_request_line(&line) {
                let torn = line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
                prop_assert!(!torn);
                let method = line.split(|byte| *byte == b' ').next().unwrap();
                prop_assert_eq!(split_request_line(method, trim_blanks(&line)), Some(usual));
            }
        }

        #[test]
        fn usual_status_lines_are_read_alike(line in line("HTTP/1.1 ", b"0123459 \tOK")) {
            if let Some(usual) = usual_status_line(&line) {
                prop_assert_eq!(split_status_line(&line), Some(usual));
            }
        }
    }
}
