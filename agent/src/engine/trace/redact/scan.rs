//! One pass over a URL, or a part of it, that replaces its secrets.

use std::borrow::Cow;

use memchr::memchr;

use super::{REDACTED, REDACTED_USERINFO, SecretNames};

/// Part of a URL with which a text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// A whole URL, or a reference to one.
    Url,
    /// A path.
    Path,
    /// A query or a fragment, without its mark.
    Query,
}

/// Returns the text with its secrets replaced.
pub(super) fn scan<'t>(text: &'t str, begin: Begin, names: &SecretNames) -> Cow<'t, str> {
    let mut output = Output {
        text,
        copied: 0,
        redacted: String::new(),
    };
    let bytes = text.as_bytes();
    let mut in_path = begin != Begin::Query;
    // A reference may begin with its authority (RFC 3986, section 4.2). In a path, two slashes are two slashes.
    let (mut at, mut authority) = match begin {
        Begin::Url if text.starts_with("//") => (2, Authority::Open { at: 2, encoded: false }),
        _ => (0, Authority::None),
    };
    // Offset at which the name of a parameter may begin.
    let mut name_at = at;
    while let Some(Unit { byte, encoded, width }) = unit(bytes, at) {
        let end = at + width;
        if let Authority::Open {
            at: begin,
            encoded: outer,
        } = authority
        {
            match byte {
                // An encoded `@` or `/` belongs to a password, unless the whole URL is encoded.
                b'@' if outer || !encoded => output.replace_userinfo(begin, at),
                b'/' | b'?' | b'#' if outer || !encoded => authority = Authority::None,
                _ => {}
            }
        } else {
            authority = authority.next(byte, encoded, end);
        }
        match byte {
            b'=' if names.matches(bytes.get(name_at..at).unwrap_or_default()) => {
                let rest = bytes.get(end..).unwrap_or_default();
                let secret = if in_path {
                    rest.iter().position(|byte| matches!(byte, b'/' | b'?'))
                } else {
                    memchr(b'&', rest)
                };
                at = end + secret.unwrap_or(rest.len());
                output.replace(end, at, REDACTED);
                name_at = at;
                authority = Authority::None;
                continue;
            }
            b'?' | b'#' if !encoded => {
                in_path = false;
                name_at = end;
            }
            b'=' | b'&' | b';' | b'?' | b'#' => name_at = end,
            b'/' if in_path => name_at = end,
            _ => {}
        }
        if byte == b'&' && !encoded {
            authority = Authority::None;
        }
        at = end;
    }
    output.finish()
}

/// Percent-decoded byte of a text.
struct Unit {
    byte: u8,
    encoded: bool,
    /// Length of the byte in the text: 3 if it is encoded, else 1.
    width: usize,
}

fn unit(bytes: &[u8], at: usize) -> Option<Unit> {
    let byte = *bytes.get(at)?;
    let digit = |offset: usize| char::from(*bytes.get(at + offset)?).to_digit(16);
    if byte == b'%'
        && let (Some(high), Some(low)) = (digit(1), digit(2))
    {
        return Some(Unit {
            byte: (high << 4 | low) as u8,
            encoded: true,
            width: 3,
        });
    }
    Some(Unit {
        byte,
        encoded: false,
        width: 1,
    })
}

/// Progress in `://authority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    None,
    /// The colon was read, percent-encoded or not.
    Colon {
        encoded: bool,
    },
    /// The first slash was read. `encoded`: the colon or this slash was percent-encoded.
    Slash {
        encoded: bool,
    },
    /// Inside an authority that begins at `at`. `encoded`: the colon or a slash was percent-encoded.
    Open {
        at: usize,
        encoded: bool,
    },
}

impl Authority {
    fn next(self, byte: u8, encoded: bool, end: usize) -> Self {
        match (self, byte) {
            (_, b':') => Self::Colon { encoded },
            (Self::Colon { encoded: before }, b'/') => Self::Slash {
                encoded: before || encoded,
            },
            (Self::Slash { encoded: before }, b'/') => Self::Open {
                at: end,
                encoded: before || encoded,
            },
            _ => Self::None,
        }
    }
}

/// Copy of a text with replaced secrets. Nothing is copied before the first secret.
struct Output<'t> {
    text: &'t str,
    /// Bytes of the text that are done: copied to `redacted`, or replaced there.
    copied: usize,
    redacted: String,
}

impl<'t> Output<'t> {
    fn replace(&mut self, begin: usize, end: usize, standin: &str) {
        self.redacted
            .push_str(self.text.get(self.copied..begin).unwrap_or_default());
        self.redacted.push_str(standin);
        self.copied = end;
    }

    /// Replaces user and password, which begin at `begin` and end before the `@` at `at`. If a password has an `@` itself, the
    /// stand-in is there already.
    fn replace_userinfo(&mut self, begin: usize, at: usize) {
        if at == begin {
            // Neither user nor password.
            return;
        }
        if self.copied <= begin {
            self.replace(begin, at, REDACTED_USERINFO);
        } else {
            self.copied = at;
        }
    }

    fn finish(mut self) -> Cow<'t, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.redacted.push_str(self.text.get(self.copied..).unwrap_or_default());
        Cow::Owned(self.redacted)
    }
}
