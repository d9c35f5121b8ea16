//! Heads of messages: httparse does the grammar, this file picks out what frames the body and what spans need.

use std::mem::MaybeUninit;

use super::{Cause, Config, Header, RequestHead, ResponseHead};

/// Longest head that is followed.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What the versions that are followed begin with.
const VERSION: &[u8] = b"HTTP/1.";

/// Header lines for which there is room on the stack: more than any usual head has.
const USUAL_HEADERS: usize = 100;

/// Header lines above which a head is malformed. Servers stop earlier (nginx and Apache at about 100).
const MAX_HEADERS: usize = 1000;

/// A `Content-Length` above this is nonsense: offsets of sockets do not get that far.
const MAX_CONTENT_LENGTH: u64 = i64::MAX as u64;

/// A head that can be parsed from bytes: a request's or a response's.
pub(super) trait Head: Sized {
    /// Parses a head at the start of `bytes`. No empty line may come first.
    fn parse(bytes: &[u8], config: &Config) -> Parse<Self>;

    /// Why `bytes`, which are more than a head may be long and no whole head, are given up.
    fn oversize(bytes: &[u8]) -> Cause;
}

/// What parsing the beginning of some bytes as a head gave.
pub(super) enum Parse<H> {
    Complete {
        head: Box<H>,
        framing: Framing,
        length: usize,
        many_headers: bool,
    },
    Partial,
    Failed(Cause),
}

/// What a head says of the bytes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub transfer: Transfer,
    /// There is an `Upgrade` header.
    pub upgrade: bool,
    /// No other exchange follows on the connection (RFC 9112 section 9.3): it says so, it is of HTTP/1.0, or its length was
    /// said in two ways (section 6.1).
    pub closes: bool,
}

/// What a head says of the length of the body (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Neither `Transfer-Encoding` nor `Content-Length`.
    Unsaid,
    /// `Content-Length`
    Length(u64),
    /// `Transfer-Encoding` that ends with `chunked`.
    Chunked,
    /// `Transfer-Encoding` that ends with something else.
    OtherCoding,
}

impl Head for RequestHead {
    fn parse(bytes: &[u8], config: &Config) -> Parse<Self> {
        let mut room = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        match parse_request(bytes, config, &mut room, false) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut room = vec![MaybeUninit::uninit(); MAX_HEADERS];
                parse_request(bytes, config, &mut room, true).unwrap_or(Parse::Failed(Cause::Malformed))
            }
            Err(_) => parse_foreign_request(bytes, config),
            Ok(parse) => parse,
        }
    }

    fn oversize(bytes: &[u8]) -> Cause {
        match request_line(bytes) {
            Line::Complete { .. } => Cause::HeadTooLarge,
            Line::Partial | Line::Failed(_) => Cause::NotHttp,
        }
    }
}

impl Head for ResponseHead {
    fn parse(bytes: &[u8], config: &Config) -> Parse<Self> {
        let mut room = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        match parse_response(bytes, config, &mut room, false) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut room = vec![MaybeUninit::uninit(); MAX_HEADERS];
                parse_response(bytes, config, &mut room, true).unwrap_or(Parse::Failed(Cause::Malformed))
            }
            Err(_) => Parse::Failed(Cause::Malformed),
            Ok(parse) => parse,
        }
    }

    fn oversize(_: &[u8]) -> Cause {
        Cause::HeadTooLarge
    }
}

fn parse_request<'b>(
    bytes: &'b [u8],
    config: &Config,
    room: &mut [MaybeUninit<httparse::Header<'b>>],
    many_headers: bool,
) -> Result<Parse<RequestHead>, httparse::Error> {
    let mut request = httparse::Request::new(&mut []);
    // As servers do (RFC 9112 section 3): hyper and llhttp both.
    let status = httparse::ParserConfig::default()
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .parse_request_with_uninit_headers(&mut request, bytes, room)?;
    let httparse::Status::Complete(length) = status else {
        return Ok(Parse::Partial);
    };
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Ok(Parse::Failed(Cause::Malformed));
    };
    let line = (method.as_bytes(), target.as_bytes(), minor_version);
    Ok(request_head(line, request.headers, config, length, many_headers))
}

/// A request whose line httparse refuses: it insists on UTF-8 in the target, which servers do not.
fn parse_foreign_request(bytes: &[u8], config: &Config) -> Parse<RequestHead> {
    let (method, target, minor_version, line_length) = match request_line(bytes) {
        Line::Partial => return Parse::Partial,
        Line::Failed(cause) => return Parse::Failed(cause),
        Line::Complete {
            method,
            target,
            minor_version,
            length,
        } => (method, target, minor_version, length),
    };
    if target.is_ascii() {
        return Parse::Failed(Cause::Malformed);
    }
    let mut room = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(bytes.get(line_length..).unwrap_or_default(), &mut room) {
        Ok(httparse::Status::Complete((length, headers))) => {
            let many_headers = headers.len() > USUAL_HEADERS;
            request_head(
                (method, target, minor_version),
                headers,
                config,
                line_length + length,
                many_headers,
            )
        }
        Ok(httparse::Status::Partial) => Parse::Partial,
        Err(_) => Parse::Failed(Cause::Malformed),
    }
}

fn request_head(
    (method, target, minor_version): (&[u8], &[u8], u8),
    headers: &[httparse::Header<'_>],
    config: &Config,
    length: usize,
    many_headers: bool,
) -> Parse<RequestHead> {
    let Some(scan) = Scan::of(headers, &config.capture_request, minor_version, true) else {
        return Parse::Failed(Cause::Malformed);
    };
    // Where such a body ends nobody can say (RFC 9112 section 6.3, rule 4).
    if scan.framing.transfer == Transfer::OtherCoding {
        return Parse::Failed(Cause::Malformed);
    }
    let head = RequestHead {
        method: method.into(),
        target: target.into(),
        minor_version,
        content_length: scan.content_length,
        headers: scan.kept,
    };
    Parse::Complete {
        head: Box::new(head),
        framing: scan.framing,
        length,
        many_headers,
    }
}

fn parse_response<'b>(
    bytes: &'b [u8],
    config: &Config,
    room: &mut [MaybeUninit<httparse::Header<'b>>],
    many_headers: bool,
) -> Result<Parse<ResponseHead>, httparse::Error> {
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room)?;
    let httparse::Status::Complete(length) = status else {
        return Ok(Parse::Partial);
    };
    let (Some(status @ 100..), Some(minor_version)) = (response.code, response.version) else {
        return Ok(Parse::Failed(Cause::Malformed));
    };
    let Some(scan) = Scan::of(response.headers, &config.capture_response, minor_version, false) else {
        return Ok(Parse::Failed(Cause::Malformed));
    };
    let head = ResponseHead {
        status,
        minor_version,
        content_length: scan.content_length,
        headers: scan.kept,
    };
    Ok(Parse::Complete {
        head: Box::new(head),
        framing: scan.framing,
        length,
        many_headers,
    })
}

/// What one pass over the header lines finds.
struct Scan {
    content_length: Option<u64>,
    framing: Framing,
    kept: Vec<(Header, Box<[u8]>)>,
}

impl Scan {
    /// `None`: the lines contradict each other about the body's length, or say nonsense.
    fn of(headers: &[httparse::Header<'_>], captured: &[String], minor_version: u8, request: bool) -> Option<Self> {
        let mut lengths = Lengths::Absent;
        let mut last_coding: Option<&[u8]> = None;
        let mut upgrade = false;
        let (mut close, mut keep_alive) = (false, false);
        let mut kept = Vec::new();
        for header in headers {
            match header.name.len() {
                7 if header.name.eq_ignore_ascii_case("upgrade") => upgrade = true,
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    close |= names(header.value, b"close");
                    keep_alive |= names(header.value, b"keep-alive");
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => lengths = lengths.and(header.value),
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    last_coding = final_coding(header.value).or(last_coding);
                }
                _ => {}
            }
            if request && let Some(name) = known(header.name) {
                kept.push((name, header.value.into()));
            }
            for (index, name) in captured.iter().enumerate() {
                if header.name.eq_ignore_ascii_case(name) {
                    kept.push((Header::Captured(u16::try_from(index).ok()?), header.value.into()));
                }
            }
        }
        // Transfer-Encoding overrides Content-Length, even one that makes no sense (RFC 9112 section 6.3, rule 3).
        let transfer = match (last_coding, lengths) {
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Transfer::Chunked,
            (Some(_), _) => Transfer::OtherCoding,
            (None, Lengths::Absent) => Transfer::Unsaid,
            (None, Lengths::Valid(length)) => Transfer::Length(length),
            (None, Lengths::Invalid) => return None,
        };
        let content_length = match lengths {
            Lengths::Valid(length) => Some(length),
            Lengths::Absent | Lengths::Invalid => None,
        };
        Some(Self {
            content_length,
            framing: Framing {
                transfer,
                upgrade,
                closes: close
                    || minor_version == 0 && !keep_alive
                    || transfer == Transfer::Chunked && !matches!(lengths, Lengths::Absent),
            },
            kept,
        })
    }
}

/// The headers that spans need, by name.
fn known(name: &str) -> Option<Header> {
    let (candidate, header) = match name.len() {
        4 => ("host", Header::Host),
        9 => ("forwarded", Header::Forwarded),
        10 if name.starts_with(['u', 'U']) => ("user-agent", Header::UserAgent),
        10 => ("tracestate", Header::Tracestate),
        11 => ("traceparent", Header::Traceparent),
        15 => ("x-forwarded-for", Header::XForwardedFor),
        16 => ("x-forwarded-host", Header::XForwardedHost),
        17 => ("x-forwarded-proto", Header::XForwardedProto),
        _ => return None,
    };
    name.eq_ignore_ascii_case(candidate).then_some(header)
}

/// Whether a header's list has this member.
fn names(list: &[u8], member: &[u8]) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(member))
}

/// The last transfer coding that a header line names. `identity` (RFC 2616) means none.
fn final_coding(value: &[u8]) -> Option<&[u8]> {
    let codings = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    codings
        .into_iter()
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// What the `Content-Length` lines say together.
#[derive(Clone, Copy)]
enum Lengths {
    Absent,
    Valid(u64),
    Invalid,
}

impl Lengths {
    /// One more line: a number, or a list of equal ones (RFC 9110 section 8.6).
    fn and(self, value: &[u8]) -> Self {
        value
            .split(|byte| *byte == b',')
            .fold(self, |lengths, item| match (lengths, decimal(item.trim_ascii())) {
                (Lengths::Absent, Some(length)) => Lengths::Valid(length),
                (Lengths::Valid(one), Some(other)) if one == other => lengths,
                _ => Lengths::Invalid,
            })
    }
}

/// Digits only: `str::parse` would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter()
        .try_fold(0u64, |number, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
        .filter(|number| *number <= MAX_CONTENT_LENGTH)
}

/// A request line: `method SP request-target SP HTTP/1.x` (RFC 9112 section 3), any byte above 0x7f in the target.
enum Line<'a> {
    Complete {
        method: &'a [u8],
        target: &'a [u8],
        minor_version: u8,
        length: usize,
    },
    Partial,
    /// Malformed, or not HTTP/1.
    Failed(Cause),
}

/// However the line comes in pieces, the verdict is the same: what is no method, or another protocol's version, is known at
/// once; whether a line with another fault was meant as HTTP/1, its end tells.
fn request_line(bytes: &[u8]) -> Line<'_> {
    let line = first_line(bytes);
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (words.next().unwrap_or_default(), words.next(), words.next());
    let whole = bytes.get(line.len()) == Some(&b'\n');
    if !method.iter().all(|byte| agent_ebpf::classify::is_token(*byte)) || method.is_empty() {
        return Line::Failed(Cause::NotHttp);
    }
    let version = version.unwrap_or_default();
    if version.starts_with(b"HTTP/") && !VERSION.starts_with(version) && !version.starts_with(VERSION) {
        return Line::Failed(Cause::NotHttp);
    }
    if !whole {
        return Line::Partial;
    }
    let target = target.unwrap_or_default();
    let minor_version = match version.strip_suffix(b"\r").unwrap_or(version) {
        b"HTTP/1.0" => Some(0),
        b"HTTP/1.1" => Some(1),
        _ => None,
    };
    let good_target = !target.is_empty() && target.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..));
    match minor_version {
        Some(minor_version) if good_target => Line::Complete {
            method,
            target,
            minor_version,
            length: line.len() + 1,
        },
        _ if line.windows(8).any(|window| window == b" HTTP/1.") => Line::Failed(Cause::Malformed),
        _ => Line::Failed(Cause::NotHttp),
    }
}

/// The bytes before the first LF.
fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == b'\n').next().unwrap_or_default()
}
