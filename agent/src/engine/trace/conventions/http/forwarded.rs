//! Headers in which proxies describe the original request: `Forwarded` (RFC 7239) first, then `X-Forwarded-*`, then the
//! PROXY protocol.
//!
//! If there are several values, the first one counts: it is from the proxy next to the client.

use std::{
    net::{IpAddr, SocketAddr},
    str,
};

use super::target::{host_and_port, is_scheme, split_once};
use crate::engine::{
    proto::http1::{Header, Headers},
    trace::Text,
};

/// Returns whether any of these headers is there.
pub(super) fn is_any(headers: &Headers) -> bool {
    headers.iter().any(|(header, _)| match header {
        Header::Forwarded
        | Header::XForwardedFor
        | Header::XForwardedProto
        | Header::XForwardedHost
        | Header::ProxiedFor => true,
        Header::Host | Header::UserAgent | Header::Traceparent | Header::Tracestate | Header::Captured(_) => false,
    })
}

/// Returns the original client's address, if a proxy gave one. A value that is no IP address (`unknown`, `_hidden`) is
/// none.
pub(super) fn client(headers: &Headers) -> Option<IpAddr> {
    parameter(headers, b"for")
        .and_then(ip_address)
        .or_else(|| first_of(headers, Header::XForwardedFor).and_then(ip_address))
        .or_else(|| first_of(headers, Header::ProxiedFor).and_then(ip_address))
}

/// Returns the original `Host`.
pub(super) fn host(headers: &Headers) -> Option<(&[u8], Option<u16>)> {
    parameter(headers, b"host")
        .and_then(host_and_port)
        .or_else(|| first_of(headers, Header::XForwardedHost).and_then(host_and_port))
}

/// Returns the original scheme, in lower case.
pub(super) fn scheme(headers: &Headers) -> Option<Text> {
    parameter(headers, b"proto")
        .and_then(scheme_name)
        .or_else(|| first_of(headers, Header::XForwardedProto).and_then(scheme_name))
}

/// Returns a scheme in lower case.
pub(super) fn scheme_name(scheme: &[u8]) -> Option<Text> {
    if scheme.eq_ignore_ascii_case(b"http") {
        return Some(Text::new_static("http"));
    }
    if scheme.eq_ignore_ascii_case(b"https") {
        return Some(Text::new_static("https"));
    }
    // No registered scheme is near as long: this is noise.
    if scheme.len() > 32 || !is_scheme(scheme) {
        return None;
    }
    Some(str::from_utf8(scheme).ok()?.to_ascii_lowercase().into())
}

fn ip_address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    let address = node
        .parse()
        .or_else(|_| node.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| node.trim_matches(['[', ']']).parse())
        // The port may be an obfuscated name, such as `_x` (RFC 7239, section 6).
        .or_else(|_| {
            node.rsplit_once(':')
                .map_or("", |(host, _)| host)
                .trim_matches(['[', ']'])
                .parse()
        });
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// Returns the first member of a header that is a list.
fn first_of(headers: &Headers, wanted: Header) -> Option<&[u8]> {
    let value = headers.first(wanted)?;
    let first = split_once(value, b',').map_or(value, |(first, _)| first);
    Some(first.trim_ascii()).filter(|first| !first.is_empty())
}

/// Returns the first value of a parameter of `Forwarded`, unquoted.
fn parameter<'a>(headers: &'a Headers, name: &[u8]) -> Option<&'a [u8]> {
    headers
        .values(Header::Forwarded)
        .flat_map(pairs)
        .filter_map(|pair| split_once(pair, b'='))
        .find(|(key, _)| key.trim_ascii().eq_ignore_ascii_case(name))
        .and_then(|(_, value)| unquoted(value.trim_ascii()))
}

/// Splits a value at each `;` and `,` that is not in quotes.
fn pairs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    value.split(move |&byte| {
        let skip = escaped;
        escaped = quoted && !skip && byte == b'\\';
        if byte == b'"' && !skip {
            quoted = !quoted;
        }
        !quoted && matches!(byte, b';' | b',')
    })
}

/// Returns the content of a token or quoted string. No address, host or scheme needs an escape: with one it is none of
/// them.
fn unquoted(value: &[u8]) -> Option<&[u8]> {
    let inner = match value.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"")?,
        None => value,
    };
    Some(inner).filter(|inner| !inner.is_empty() && !inner.contains(&b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected<'a> = (Option<&'a str>, Option<(&'a str, Option<u16>)>, Option<&'a str>);

    #[test]
    fn what_proxies_say() {
        use Header::{Forwarded, XForwardedFor, XForwardedHost, XForwardedProto};
        let cases: &[(&[(Header, &str)], Expected<'_>)] = &[
            (&[], (None, None, None)),
            (
                &[(
                    Forwarded,
                    "for=192.0.2.60;proto=https;by=203.0.113.43;host=shop.example:8443",
                )],
                (Some("192.0.2.60"), Some(("shop.example", Some(8443))), Some("https")),
            ),
            (
                &[(
                    Forwarded,
                    "For=\"[2001:db8:cafe::17]:4711\", for=192.0.2.43; Proto=HTTP",
                )],
                (Some("2001:db8:cafe::17"), None, Some("http")),
            ),
            (
                &[(Forwarded, "for=\"192.0.2.1:_port\"")],
                (Some("192.0.2.1"), None, None),
            ),
            (&[(Forwarded, "for=\"[::1]\"")], (Some("::1"), None, None)),
            (
                &[(Forwarded, "for=\"a;host=evil,b\\\";host=evil\";host=good")],
                (None, Some(("good", None)), None),
            ),
            (&[(Forwarded, "host=\"unterminated")], (None, None, None)),
            (
                &[(Forwarded, "for=_hidden"), (XForwardedFor, "192.0.2.7, 10.0.0.1")],
                (Some("192.0.2.7"), None, None),
            ),
            (&[(XForwardedFor, "unknown, 10.0.0.1")], (None, None, None)),
            (&[(XForwardedFor, "192.0.2.7:80")], (Some("192.0.2.7"), None, None)),
            (&[(XForwardedFor, "2001:db8::1")], (Some("2001:db8::1"), None, None)),
            (&[(XForwardedFor, "::ffff:192.0.2.7")], (Some("192.0.2.7"), None, None)),
            (
                &[(XForwardedHost, " a.example:81 , b.example")],
                (None, Some(("a.example", Some(81))), None),
            ),
            (
                &[(Forwarded, "host=f.example"), (XForwardedHost, "x.example")],
                (None, Some(("f.example", None)), None),
            ),
            (
                &[(Forwarded, "proto=https"), (XForwardedProto, "http")],
                (None, None, Some("https")),
            ),
            (&[(XForwardedProto, "HTTPS,http")], (None, None, Some("https"))),
            (&[(XForwardedProto, "WSS")], (None, None, Some("wss"))),
            (&[(XForwardedProto, "ht tp")], (None, None, None)),
            (&[(XForwardedProto, "")], (None, None, None)),
        ];
        for (headers, (address, authority, proto)) in cases {
            let headers: Headers = headers
                .iter()
                .map(|(header, value)| (*header, value.as_bytes()))
                .collect();
            assert_eq!(
                client(&headers),
                address.map(|address| address.parse().unwrap()),
                "{headers:?}"
            );
            assert_eq!(
                host(&headers),
                authority.map(|(host, port)| (host.as_bytes(), port)),
                "{headers:?}"
            );
            assert_eq!(scheme(&headers).as_deref(), *proto, "{headers:?}");
        }
    }
}
