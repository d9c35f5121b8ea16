//! The PROXY protocol's header, which a proxy may send before anything else on a connection
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>): version 1 is a line, version 2 is binary.
//!
//! ```text
//! PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n
//!
//!  0            12        13         14      16
//! +------------+---------+----------+-------+-----------+- - -
//! | signature  | version | family   | bytes | addresses | TLVs
//! |            | command | protocol | behind|           |
//! +------------+---------+----------+-------+-----------+- - -
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Cause, Piece};
use crate::engine::{execution::Stamp, proto::Data};

const LINE: &[u8] = b"PROXY ";
/// Longest line behind `PROXY `, with its end.
const LINE_BYTES: usize = 107 - LINE.len();
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Number of bytes behind these among which the source's address is.
const KEPT_BYTES: usize = 16;
/// Version 2, for a client's connection (not the proxy's own, as health checks are).
const PROXIED: u8 = 0x21;
const VERSION_2: u8 = 2;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Search for the header at the beginning of a connection.
#[derive(Debug)]
pub(super) struct ProxyHeader {
    state: State,
    /// Call that moved the first byte.
    first: Stamp,
}

#[derive(Debug)]
enum State {
    /// A pattern, and how many of its bytes have come.
    Prefix(&'static [u8], usize),
    /// The part of a line that has come.
    Line(Vec<u8>),
    /// The part of version, family and length that has come.
    Fixed(Vec<u8>),
    /// Rest of the header: the family of the client's address, its bytes so far, and the number of bytes to come.
    Rest(u8, Vec<u8>, u64),
}

/// Change of the state by some bytes.
enum Step {
    /// More bytes of the same part come.
    Stay,
    Enter(State),
    /// The header is whole: the client's address, if it has one.
    End(Option<IpAddr>),
}

/// Verdict on the beginning of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The bytes belong to a header, or may do so.
    More,
    /// A whole header: the client's address, if it has one.
    Header(Option<IpAddr>),
    /// No header. These bytes, moved by that call, had seemed to begin one.
    Nothing(&'static [u8], Stamp),
}

impl ProxyHeader {
    pub fn new() -> Self {
        Self {
            state: State::Prefix(LINE, 0),
            first: Stamp::default(),
        }
    }

    /// Returns the call that moved the header's first byte.
    pub fn first(&self) -> Stamp {
        self.first
    }

    /// Takes bytes of the header off, if they are.
    pub fn take(&mut self, piece: &mut Piece<'_>) -> Result<Taken, Cause> {
        while !piece.is_empty() {
            let Data::Bytes(bytes @ &[byte, ..]) = piece.data else {
                return Err(Cause::Gap);
            };
            let step = match &mut self.state {
                State::Prefix(pattern, at) => {
                    if *at == 0 {
                        self.first = piece.stamp;
                        if SIGNATURE.first() == Some(&byte) {
                            *pattern = SIGNATURE;
                        }
                    }
                    if pattern.get(*at) != Some(&byte) {
                        return Ok(Taken::Nothing(pattern.get(..*at).unwrap_or_default(), self.first));
                    }
                    piece.skip(1);
                    *at += 1;
                    behind_prefix(pattern, *at)
                }
                State::Line(line) => {
                    line.push(byte);
                    piece.skip(1);
                    behind_line(line)?
                }
                State::Fixed(fixed) => {
                    fixed.push(byte);
                    piece.skip(1);
                    behind_fixed(fixed)?
                }
                State::Rest(family, kept, left) => {
                    let taken = piece.len().min(*left);
                    kept.extend(bytes.iter().take(taken as usize).take(KEPT_BYTES - kept.len()));
                    piece.skip(taken);
                    *left -= taken;
                    match *left {
                        0 => Step::End(client_of_bytes(*family, kept)),
                        _ => Step::Stay,
                    }
                }
            };
            match step {
                Step::Stay => {}
                Step::Enter(state) => self.state = state,
                Step::End(client) => return Ok(Taken::Header(client)),
            }
        }
        Ok(Taken::More)
    }
}

/// Returns the step behind the first `at` bytes of a pattern.
fn behind_prefix(pattern: &[u8], at: usize) -> Step {
    if at < pattern.len() {
        Step::Stay
    } else if pattern == LINE {
        Step::Enter(State::Line(Vec::new()))
    } else {
        Step::Enter(State::Fixed(Vec::new()))
    }
}

/// Returns the step behind the bytes of a line that have come.
fn behind_line(line: &[u8]) -> Result<Step, Cause> {
    if line.ends_with(b"\r\n") {
        return Ok(Step::End(client_of_line(line)));
    }
    if line.len() >= LINE_BYTES {
        return Err(Cause::OtherProtocol);
    }
    Ok(Step::Stay)
}

/// Returns the step behind the bytes of version, family and length that have come.
fn behind_fixed(fixed: &[u8]) -> Result<Step, Cause> {
    let &[command, family, high, low] = fixed else {
        return Ok(Step::Stay);
    };
    if command >> 4 != VERSION_2 {
        return Err(Cause::OtherProtocol);
    }
    let left = u16::from_be_bytes([high, low]);
    if left == 0 {
        return Ok(Step::End(None));
    }
    let family = if command == PROXIED { family } else { 0 };
    let kept = Vec::with_capacity(KEPT_BYTES);
    Ok(Step::Enter(State::Rest(family, kept, left.into())))
}

/// Returns the client's address from a line such as `TCP4 192.0.2.1 …`; `UNKNOWN` has none.
fn client_of_line(line: &[u8]) -> Option<IpAddr> {
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    match words.next()? {
        "TCP4" | "TCP6" => words.next()?.parse().ok(),
        _ => None,
    }
}

fn client_of_bytes(family: u8, addresses: &[u8]) -> Option<IpAddr> {
    match family {
        TCP_OVER_IPV4 => addresses
            .first_chunk::<4>()
            .map(|&source| Ipv4Addr::from(source).into()),
        TCP_OVER_IPV6 => addresses
            .first_chunk::<16>()
            .map(|&source| Ipv6Addr::from(source).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header, taken in pieces of `size`, and what is behind it.
    fn taken(bytes: &[u8], size: usize) -> (Result<Taken, Cause>, Vec<u8>) {
        let mut header = ProxyHeader::new();
        for (index, part) in bytes.chunks(size).enumerate() {
            let stamp = Stamp {
                time_ns: index as u64,
                ..Stamp::default()
            };
            let mut piece = Piece {
                offset: (index * size) as u64,
                segment_start: true,
                data: Data::Bytes(part),
                stamp,
            };
            match header.take(&mut piece) {
                Ok(Taken::More) => {}
                end => {
                    let rest = bytes.get(piece.offset as usize..).unwrap_or_default();
                    return (end, rest.to_vec());
                }
            }
        }
        (Ok(Taken::More), Vec::new())
    }

    fn binary(command: u8, family: u8, behind: &[u8]) -> Vec<u8> {
        let length = (behind.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &length, behind, b"GET /"].concat()
    }

    #[test]
    fn headers_however_they_are_cut() {
        let (v4, v6) = ([192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 3, 4], [0x20; 36]);
        let long = [&v4[..], &[4; 300]].concat();
        let cases: Vec<(Vec<u8>, Option<&str>)> = vec![
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /".to_vec(),
                Some("192.0.2.1"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 56324 443\r\nGET /".to_vec(),
                Some("2001:db8::1"),
            ),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nGET /".to_vec(), None),
            (binary(0x21, 0x11, &v4), Some("192.0.2.1")),
            (binary(0x21, 0x21, &v6), Some("2020:2020:2020:2020:2020:2020:2020:2020")),
            (binary(0x21, 0x11, &long), Some("192.0.2.1")),
            // The proxy's own connection, a Unix socket's, and addresses that are cut off.
            (binary(0x20, 0x11, &v4), None),
            (binary(0x20, 0, &[]), None),
            (binary(0x21, 0x31, &[1; 216]), None),
            (binary(0x21, 0x11, &[1, 2, 3]), None),
        ];
        for (bytes, client) in cases {
            let client = client.map(|client| client.parse().unwrap());
            for size in 1..=bytes.len() {
                let expected = (Ok(Taken::Header(client)), b"GET /".to_vec());
                assert_eq!(taken(&bytes, size), expected, "{} by {size}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_none_is_given_back() {
        for (bytes, begin) in [
            ("GET / HTTP/1.1", ""),
            ("POST / HTTP/1.1", "P"),
            ("PROPFIND / HTTP/1.1", "PRO"),
            ("PROXYFOO / HTTP/1.1", "PROXY"),
            ("\r\nGET / HTTP/1.1", "\r\n"),
            ("\r\n\r\n\r\nGET / HTTP/1.1", "\r\n\r\n"),
            ("\nGET / HTTP/1.1", ""),
        ] {
            for size in 1..=bytes.len() {
                let expected = Ok(Taken::Nothing(begin.as_bytes(), Stamp::default()));
                let rest = bytes.strip_prefix(begin).unwrap().as_bytes().to_vec();
                assert_eq!(taken(bytes.as_bytes(), size), (expected, rest), "{bytes:?} by {size}");
            }
        }
    }

    #[test]
    fn what_only_begins_like_one_is_no_http() {
        let endless = [LINE, &[b'x'; 120]].concat();
        let other_version = binary(0x31, 0x11, &[1; 12]);
        for bytes in [endless, other_version] {
            assert_eq!(
                taken(&bytes, 7).0,
                Err(Cause::OtherProtocol),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(taken(b"PROXY TCP4", 3).0, Ok(Taken::More));
    }
}
