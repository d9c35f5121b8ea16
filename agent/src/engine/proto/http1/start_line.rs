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

/// A first line, as far as it is there.
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
    if bytes.iter().zip(VERSION).any(|(byte, expected)| byte != expected) {
        return StartLine::Failed(Cause::OtherProtocol);
    }
    let mut lines = Lines::from(bytes, 0);
    let Some(Line { text, torn, .. }) = lines.next() else {
        return StartLine::Partial;
    };
    match split_status_line(text) {
        Some(line) if !torn => StartLine::Complete {
            line,
            length: lines.at(),
        },
        _ => StartLine::Failed(Cause::Malformed),
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
