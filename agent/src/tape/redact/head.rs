//! A message's head, byte by byte: what is structure stays, all else becomes stand-ins.
//!
//! Structure are: separators and line ends, known methods, versions, status codes, the names of known headers and of those
//! that the tape's settings name, and of values what frames a body (numbers and the words that HTTP gives a meaning to).

use super::standin::{Key, Shape, Word};

/// Longest head that is looked at, as Core does.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Methods of RFC 9110 and PATCH (RFC 5789), QUERY, and the preface of HTTP/2, by which Core knows it.
const METHODS: &[&[u8]] = &[
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY", b"PRI",
];
/// No word is known.
const NONE: &[&[u8]] = &[];
/// How a proxy may begin a connection (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>): a line, or binary.
const PROXY: &[u8] = b"PROXY";
const PROXY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Words of the line.
const PROXY_WORDS: &[&[u8]] = &[b"TCP4", b"TCP6", b"UNKNOWN"];
const VERSIONS: &[&[u8]] = &[b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0"];
const SCHEMES: &[&[u8]] = &[b"https", b"wss", b"http", b"ws"];
/// Segments of paths that decide something: where telemetry is sent, versions of interfaces, JSON Web Tokens.
const SEGMENTS: &[&[u8]] = &[
    b"v1development",
    b"v1",
    b"traces",
    b"metrics",
    b"logs",
    b"profiles",
    b"eyJ",
];
/// An `@`, percent-encoded: what has it may be an e-mail address.
const ESCAPES: &[&[u8]] = &[b"40"];
/// Words of the headers whose words have a meaning to HTTP.
const WORDS: &[&[u8]] = &[
    b"chunked",
    b"identity",
    b"gzip",
    b"deflate",
    b"compress",
    b"br",
    b"close",
    b"keep-alive",
    b"upgrade",
    b"websocket",
    b"h2c",
    b"http2-settings",
    b"te",
    b"trailers",
    b"100-continue",
];
/// Media types that decide something: telemetry's.
const MEDIA_TYPES: &[&[u8]] = &[b"application/x-protobuf", b"application/json"];
/// How Spoor's own exports begin: they give no spans.
const AGENTS: &[&[u8]] = &[b"spoor/"];
/// Parameters of `Forwarded`.
const FORWARDED: &[&[u8]] = &[b"for", b"by", b"host", b"proto", b"https", b"http"];

/// Headers whose names stay, in lower case: those that everybody sends.
const HEADERS: &[&[u8]] = &[
    b"accept",
    b"accept-charset",
    b"accept-encoding",
    b"accept-language",
    b"accept-ranges",
    b"access-control-allow-origin",
    b"age",
    b"allow",
    b"alt-svc",
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-disposition",
    b"content-encoding",
    b"content-language",
    b"content-length",
    b"content-location",
    b"content-range",
    b"content-security-policy",
    b"content-type",
    b"cookie",
    b"date",
    b"etag",
    b"expect",
    b"expires",
    b"forwarded",
    b"host",
    b"http2-settings",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"keep-alive",
    b"last-modified",
    b"location",
    b"origin",
    b"pragma",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"referer",
    b"retry-after",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
    b"te",
    b"traceparent",
    b"tracestate",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"user-agent",
    b"vary",
    b"via",
    b"www-authenticate",
    b"x-content-type-options",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-frame-options",
    b"x-powered-by",
    b"x-real-ip",
    b"x-request-id",
];

/// The methods and headers whose names stay.
#[derive(Debug)]
pub struct Named {
    headers: Vec<Vec<u8>>,
    methods: Vec<Vec<u8>>,
}

impl Named {
    /// Those that everybody uses, and these of the tape's settings.
    pub fn new<'a>(headers: impl Iterator<Item = &'a str>, methods: impl Iterator<Item = &'a str>) -> Self {
        let together = |known: &[&[u8]], more: &mut dyn Iterator<Item = &'a str>| {
            let more = more.map(|name| name.trim().as_bytes());
            known.iter().copied().chain(more).map(<[u8]>::to_vec).collect()
        };
        Self {
            headers: together(HEADERS, &mut headers.into_iter()),
            methods: together(METHODS, &mut methods.into_iter()),
        }
    }
}

/// A head of which bytes have come, or none yet.
#[derive(Debug)]
pub struct Head {
    at: At,
    word: Word,
    /// All of it as it was: it tells how long the body is.
    raw: Vec<u8>,
    /// The name of the header line, in lower case.
    name: Vec<u8>,
    /// Bytes of the line but for its end.
    line_bytes: usize,
    /// Digits of the status code.
    digits: usize,
    /// Bytes of an escape that are to come.
    escape: usize,
    /// What a proxy may have sent before it.
    proxy: Proxy,
    /// A proxy's line may come before it.
    may_be_proxied: bool,
}

/// Where in a proxy's binary header the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    /// There is none, or it is over.
    None,
    /// So many bytes of the signature were there.
    Signature(usize),
    /// In version, family and length: so many bytes were there, and the length as far as it goes.
    Fixed(usize, u16),
    /// In addresses: so many bytes are to come.
    Addresses(u16),
}

/// Where in a head the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Method,
    /// In a proxy's line.
    Proxy,
    /// In a target, before its path: an absolute one, or an authority.
    Authority,
    Path,
    Version,
    StatusVersion,
    Status,
    Reason,
    Name,
    Value(Value),
}

/// What a header's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Text,
    /// `Content-Length`: digits and commas stay.
    Length,
    /// Words that HTTP gives a meaning to stay.
    Words(&'static [&'static [u8]], Shape),
    /// `traceparent`: in which of its fields.
    Traceparent(u8),
    Tracestate,
}

impl Head {
    /// Before the first byte of a request's head, or a response's.
    pub fn new(key: &Key, is_request: bool) -> Self {
        Self {
            at: if is_request { At::Method } else { At::StatusVersion },
            word: key.word(),
            raw: Vec::new(),
            name: Vec::new(),
            line_bytes: 0,
            digits: 0,
            escape: 0,
            proxy: Proxy::None,
            may_be_proxied: false,
        }
    }

    /// Before the first byte of a connection, which a proxy may have accepted from somebody else.
    pub fn first(key: &Key, is_request: bool) -> Self {
        Self {
            proxy: if is_request { Proxy::Signature(0) } else { Proxy::None },
            may_be_proxied: is_request,
            ..Self::new(key, is_request)
        }
    }

    /// The byte of a proxy's binary header; `None` if it is none.
    fn of_proxy(&mut self, byte: u8) -> Option<u8> {
        let (next, standin) = match self.proxy {
            Proxy::None => return None,
            Proxy::Signature(at) if PROXY_SIGNATURE.get(at) != Some(&byte) => {
                self.proxy = Proxy::None;
                return None;
            }
            Proxy::Signature(at) if at + 1 == PROXY_SIGNATURE.len() => (Proxy::Fixed(0, 0), byte),
            Proxy::Signature(at) => (Proxy::Signature(at + 1), byte),
            Proxy::Fixed(at, length) => {
                let length = length << 8 | u16::from(byte);
                let next = match (at, length) {
                    (0 | 1, _) => Proxy::Fixed(at + 1, 0),
                    (2, _) => Proxy::Fixed(3, length),
                    (_, 0) => Proxy::None,
                    (_, length) => Proxy::Addresses(length),
                };
                (next, byte)
            }
            Proxy::Addresses(left) => {
                let next = if left <= 1 {
                    Proxy::None
                } else {
                    Proxy::Addresses(left - 1)
                };
                (next, if byte == 1 { 2 } else { 1 })
            }
        };
        self.proxy = next;
        Some(standin)
    }

    /// Takes the next byte; gives what stands for it, and whether the head ends with it.
    pub fn next(&mut self, byte: u8, key: &Key, named: &Named) -> (u8, bool) {
        if let Some(standin) = self.of_proxy(byte) {
            return (standin, false);
        }
        // Empty lines may come first (RFC 9112 section 2.2).
        if self.raw.is_empty() && matches!(byte, b'\r' | b'\n') {
            return (byte, false);
        }
        self.raw.push(byte);
        match byte {
            b'\n' if self.at == At::Proxy => {
                *self = Self::new(key, true);
                return (byte, false);
            }
            b'\n' => {
                let ends = self.line_bytes == 0;
                self.line_bytes = 0;
                self.begin(At::Name, key);
                return (byte, ends);
            }
            b'\r' => return (byte, false),
            _ => self.line_bytes += 1,
        }
        (self.standin(byte, key, named), false)
    }

    /// All bytes of it so far, as they were.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn begin(&mut self, at: At, key: &Key) {
        self.at = at;
        self.word = key.word();
        self.name.clear();
        self.escape = 0;
    }

    fn standin(&mut self, byte: u8, key: &Key, named: &Named) -> u8 {
        match self.at {
            At::Method if byte == b' ' => {
                let is_proxy = std::mem::take(&mut self.may_be_proxied) && self.word.prefix() == PROXY;
                self.begin(if is_proxy { At::Proxy } else { At::Authority }, key);
                byte
            }
            At::Method if self.may_be_proxied && PROXY.starts_with(self.word.prefix()) => {
                let listed: Vec<&[u8]> = named.methods.iter().map(Vec::as_slice).chain([PROXY]).collect();
                self.word.next(byte, Shape::Token, &listed)
            }
            At::Method => self.word.next(byte, Shape::Token, &named.methods),
            At::Proxy if byte == b' ' => {
                self.begin(At::Proxy, key);
                byte
            }
            At::Proxy => self.word.next(byte, Shape::Address, PROXY_WORDS),
            At::Authority | At::Path if byte == b' ' => {
                self.begin(At::Version, key);
                byte
            }
            At::Authority => {
                let begins_path = match byte {
                    b'/' => !self.word.prefix().ends_with(b":") && !self.word.prefix().ends_with(b":/"),
                    byte => byte == b'?',
                };
                if begins_path {
                    self.begin(At::Path, key);
                    return byte;
                }
                self.word.next(byte, Shape::Address, SCHEMES)
            }
            At::Path => self.in_path(byte, key),
            At::Version => self.word.next(byte, Shape::Text, VERSIONS),
            At::StatusVersion if byte == b' ' => {
                self.begin(At::Status, key);
                self.digits = 0;
                byte
            }
            At::StatusVersion => self.word.next(byte, Shape::Text, VERSIONS),
            At::Status if byte == b' ' => {
                self.begin(At::Reason, key);
                byte
            }
            At::Status => {
                self.digits += 1;
                if byte.is_ascii_digit() && self.digits <= 3 {
                    byte
                } else {
                    self.word.next(byte, Shape::Path, NONE)
                }
            }
            At::Reason => self.word.next(byte, Shape::Text, NONE),
            // The rest of a folded line.
            At::Name if self.line_bytes == 1 && matches!(byte, b' ' | b'\t') => {
                self.begin(At::Value(Value::Text), key);
                byte
            }
            At::Name if byte == b':' => {
                let value = Value::of(&self.name);
                self.begin(At::Value(value), key);
                byte
            }
            At::Name => {
                if self.name.len() < MAX_HEAD_BYTES {
                    self.name.push(byte.to_ascii_lowercase());
                }
                self.word.next(byte, Shape::Token, &named.headers)
            }
            At::Value(value) => self.in_value(value, byte, key),
        }
    }

    /// In a path or a query: each of their parts is a word of its own, since proxies cut paths between them.
    fn in_path(&mut self, byte: u8, key: &Key) -> u8 {
        match byte {
            b'/' | b'?' | b'&' | b'=' | b';' => {
                self.begin(At::Path, key);
                byte
            }
            b'%' => {
                self.word.next(byte, Shape::Path, NONE);
                self.word.begin_known();
                self.escape = 2;
                byte
            }
            _ if self.escape > 0 => {
                self.escape -= 1;
                self.word.next(byte, Shape::Path, ESCAPES)
            }
            _ => self.word.next(byte, Shape::Path, SEGMENTS),
        }
    }

    fn in_value(&mut self, value: Value, byte: u8, key: &Key) -> u8 {
        match value {
            Value::Text => self.word.next(byte, Shape::Text, NONE),
            Value::Length if byte.is_ascii_digit() || byte == b',' => byte,
            Value::Length => self.word.next(byte, Shape::Text, NONE),
            Value::Words(..) if matches!(byte, b' ' | b'\t' | b',' | b';' | b'=' | b'"') => {
                self.word = key.word();
                byte
            }
            Value::Words(words, shape) => self.word.next(byte, shape, words),
            Value::Traceparent(_) if matches!(byte, b' ' | b'\t') => byte,
            Value::Traceparent(field) if byte == b'-' => {
                self.at = At::Value(Value::Traceparent(field.saturating_add(1)));
                self.word = key.word();
                byte
            }
            // Version and flags.
            Value::Traceparent(0 | 3) if self.word.prefix().len() < 2 && byte.is_ascii_hexdigit() => {
                self.word.next(byte, Shape::Hex, NONE);
                byte
            }
            // What is all zeros means nothing, and still does.
            Value::Traceparent(_) => {
                let zeros = self.word.prefix().iter().all(|&digit| digit == b'0');
                let words: &[&[u8]] = if zeros { &[&[b'0'; 32]] } else { NONE };
                self.word.next(byte, Shape::Hex, words)
            }
            Value::Tracestate if matches!(byte, b',' | b'=') => {
                self.word = key.word();
                byte
            }
            Value::Tracestate => self.word.next(byte, Shape::Path, NONE),
        }
    }
}

impl Value {
    fn of(name: &[u8]) -> Self {
        match name {
            b"content-length" => Self::Length,
            b"transfer-encoding" | b"connection" | b"upgrade" | b"expect" | b"te" => Self::Words(WORDS, Shape::Text),
            b"host" | b"x-forwarded-host" | b"x-forwarded-for" => Self::Words(NONE, Shape::Address),
            b"x-forwarded-proto" => Self::Words(SCHEMES, Shape::Path),
            b"forwarded" => Self::Words(FORWARDED, Shape::Address),
            b"content-type" => Self::Words(MEDIA_TYPES, Shape::Text),
            b"content-encoding" => Self::Words(WORDS, Shape::Text),
            b"user-agent" => Self::Words(AGENTS, Shape::Text),
            b"traceparent" => Self::Traceparent(0),
            b"tracestate" => Self::Tracestate,
            _ => Self::Text,
        }
    }
}

/// A path's segment as [`Head`] makes it.
pub(super) fn path_segment(segment: &str, key: &Key) -> String {
    let mut head = Head::new(key, true);
    head.begin(At::Path, key);
    let bytes = segment.bytes().map(|byte| head.in_path(byte, key)).collect();
    // What was UTF-8 is so still.
    String::from_utf8(bytes).unwrap_or_default()
}
