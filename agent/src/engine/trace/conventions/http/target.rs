//! Request targets (RFC 9112, section 3.2) and authorities (RFC 3986, section 3.2).

use std::str;

/// A request target taken apart. Parts are as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) form: Form,
    /// Absolute form only.
    pub(super) scheme: Option<&'a [u8]>,
    /// Absolute and authority form.
    pub(super) authority: Option<&'a [u8]>,
    /// Empty for the authority form; `*` for the asterisk form.
    pub(super) path: &'a [u8],
    /// Without the `?`.
    pub(super) query: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `/path?query`, and any target that has no other form.
    Origin,
    /// `http://host/path?query`, to proxies.
    Absolute,
    /// `host:port`, of CONNECT.
    Authority,
    /// `*`, of OPTIONS.
    Asterisk,
}

impl<'a> Target<'a> {
    pub(super) fn parse(method: &[u8], target: &'a [u8]) -> Self {
        if !target.starts_with(b"/") {
            if target == b"*" {
                return Self::of(Form::Asterisk, None, None, target);
            }
            if method == b"CONNECT" {
                return Self::of(Form::Authority, None, Some(target), b"");
            }
            if let Some((scheme, rest)) = split_scheme(target) {
                let authority_len = rest
                    .iter()
                    .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
                    .unwrap_or(rest.len());
                let (authority, rest) = rest.split_at(authority_len);
                return Self::of(Form::Absolute, Some(scheme), Some(authority), rest);
            }
        }
        Self::of(Form::Origin, None, None, target)
    }

    fn of(form: Form, scheme: Option<&'a [u8]>, authority: Option<&'a [u8]>, rest: &'a [u8]) -> Self {
        let (path, query) = match split_once(rest, b'?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        Self {
            form,
            scheme,
            authority,
            path,
            query,
        }
    }
}

/// Splits `scheme://rest`, if it begins with a scheme (RFC 3986, section 3.1).
fn split_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let (scheme, rest) = split_once(target, b':')?;
    Some((scheme, rest.strip_prefix(b"//")?)).filter(|_| is_scheme(scheme))
}

/// Returns whether a text is a scheme (RFC 3986, section 3.1).
pub(super) fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Returns host and port of an authority, the host without the brackets of an IPv6 address; user and password are
/// skipped. `None` if there is no host.
pub(super) fn host_and_port(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let authority = authority.trim_ascii();
    // One look at each byte: each span has a host.
    let (mut begin, mut colon, mut colons) = (0, authority.len(), 0);
    for (at, byte) in authority.iter().enumerate() {
        match byte {
            b'@' => (begin, colon, colons) = (at + 1, authority.len(), 0),
            b':' => (colon, colons) = (at, colons + 1),
            _ => {}
        }
    }
    let end = match authority.get(begin) {
        Some(b'[') => return bracketed(authority.get(begin + 1..)?),
        // More than one colon and no brackets: an IPv6 address as careless clients write it.
        _ if colons > 1 => authority.len(),
        _ => colon,
    };
    let host = authority.get(begin..end).filter(|host| !host.is_empty())?;
    Some((host, authority.get(end + 1..).and_then(port_number)))
}

/// Returns host and port of an authority with an IPv6 address, behind its first bracket.
fn bracketed(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (host, rest) = split_once(authority, b']')?;
    (!host.is_empty()).then(|| (host, rest.strip_prefix(b":").and_then(port_number)))
}

/// Returns the port that a scheme implies.
pub(super) fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

fn port_number(digits: &[u8]) -> Option<u16> {
    // `parse` would take a sign too, and needs UTF-8.
    let number = |number: u16, &digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    let parsed = digits.iter().try_fold(0, number);
    parsed.filter(|_| !digits.is_empty())
}

pub(super) fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        type Parts<'a> = (Form, Option<&'a str>, Option<&'a str>, &'a str, Option<&'a str>);
        let cases: &[(&str, &str, Parts<'_>)] = &[
            ("GET", "/", (Form::Origin, None, None, "/", None)),
            ("GET", "/a?b?c", (Form::Origin, None, None, "/a", Some("b?c"))),
            ("GET", "/a?", (Form::Origin, None, None, "/a", Some(""))),
            ("GET", "/http://x/", (Form::Origin, None, None, "/http://x/", None)),
            ("GET", "a?b", (Form::Origin, None, None, "a", Some("b"))),
            (
                "GET",
                "http://h:1/a?b",
                (Form::Absolute, Some("http"), Some("h:1"), "/a", Some("b")),
            ),
            (
                "GET",
                "http://h?b",
                (Form::Absolute, Some("http"), Some("h"), "", Some("b")),
            ),
            ("GET", "http://h", (Form::Absolute, Some("http"), Some("h"), "", None)),
            ("GET", "1http://h", (Form::Origin, None, None, "1http://h", None)),
            ("CONNECT", "h:443", (Form::Authority, None, Some("h:443"), "", None)),
            ("CONNECT", "/x", (Form::Origin, None, None, "/x", None)),
            ("OPTIONS", "*", (Form::Asterisk, None, None, "*", None)),
        ];
        for &(method, target, (form, scheme, authority, path, query)) in cases {
            let expected = Target {
                form,
                scheme: scheme.map(str::as_bytes),
                authority: authority.map(str::as_bytes),
                path: path.as_bytes(),
                query: query.map(str::as_bytes),
            };
            assert_eq!(
                Target::parse(method.as_bytes(), target.as_bytes()),
                expected,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn authorities() {
        for (input, expected) in [
            ("example.com", Some(("example.com", None))),
            ("example.com:8080", Some(("example.com", Some(8080)))),
            (" user:pw@example.com:81 ", Some(("example.com", Some(81)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("[::1", None),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("h:", Some(("h", None))),
            ("h:+1", Some(("h", None))),
            ("h:99999", Some(("h", None))),
            (":80", None),
            ("", None),
        ] {
            let expected = expected.map(|(host, port): (&str, _)| (host.as_bytes(), port));
            assert_eq!(host_and_port(input.as_bytes()), expected, "{input}");
        }
    }
}
