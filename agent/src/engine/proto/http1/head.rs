//! Heads of messages: their framing of the body, and the fields that spans need.

use super::{
    Cause, Config, RequestHead, ResponseHead,
    fields::Fields,
    start_line::{RequestLine, StartLine, StatusLine, request_line, status_line},
};

/// Longest head that is followed.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Longest method or target that is kept whole. Attributes are shorter.
const MAX_WORD_BYTES: usize = 8 * 1024;

/// A head that can be parsed from bytes: a request's or a response's.
pub(super) trait Head: Sized {
    /// Parses a head at the start of `bytes`. No empty line may come first.
    fn parse(bytes: &[u8], config: &Config) -> Parse<Self>;

    /// Reads the beginning of a head whose end never comes, or comes too late; `None` if not even its first line is
    /// there. `cause` is the reason why its end is not known.
    fn parse_cut(bytes: &[u8], config: &Config, cause: Cause) -> Option<(Box<Self>, Framing)>;
}

/// Result of parsing the beginning of some bytes as a head.
pub(super) enum Parse<H> {
    Complete {
        head: Box<H>,
        framing: Framing,
        length: usize,
    },
    Partial,
    Failed(Cause),
}

/// Framing that a head states for the bytes behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    pub transfer: Transfer,
    /// Peers differ on where the body ends, or the head itself: no boundary behind this head is believed.
    pub doubt: Option<Cause>,
    /// There is an `Upgrade` header.
    pub upgrade: bool,
    /// No other exchange follows on the connection (RFC 9112 section 9.3): it says so, it is of HTTP/1.0, or its length was
    /// said in two ways (section 6.1).
    pub closes: bool,
}

/// Length of the body that a head states (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Neither `Transfer-Encoding` nor `Content-Length`.
    #[default]
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
        let (line, begin) = match request_line(bytes) {
            StartLine::Complete { line, length } => (line, length),
            StartLine::Partial => return Parse::Partial,
            StartLine::Failed(cause) => return Parse::Failed(cause),
        };
        let mut fields = Fields::new(bytes, true);
        fields.read(begin, &config.capture_request);
        let Some(length) = fields.end() else {
            return Parse::Partial;
        };
        let framing = fields.framing(line.minor_version);
        Parse::Complete {
            head: Box::new(request_head(line, &fields)),
            framing,
            length,
        }
    }

    fn parse_cut(bytes: &[u8], config: &Config, cause: Cause) -> Option<(Box<Self>, Framing)> {
        let StartLine::Complete { line, length } = request_line(bytes) else {
            return None;
        };
        let mut fields = Fields::new(bytes, true);
        fields.read(length, &config.capture_request);
        let framing = fields.framing(line.minor_version).doubted(cause);
        Some((Box::new(request_head(line, &fields)), framing))
    }
}

impl Head for ResponseHead {
    fn parse(bytes: &[u8], config: &Config) -> Parse<Self> {
        let (line, begin) = match status_line(bytes) {
            StartLine::Complete { line, length } => (line, length),
            StartLine::Partial => return Parse::Partial,
            StartLine::Failed(cause) => return Parse::Failed(cause),
        };
        let mut fields = Fields::new(bytes, false);
        fields.read(begin, &config.capture_response);
        let Some(length) = fields.end() else {
            return Parse::Partial;
        };
        let framing = fields.framing(line.minor_version);
        Parse::Complete {
            head: Box::new(response_head(line, &fields)),
            framing,
            length,
        }
    }

    fn parse_cut(bytes: &[u8], config: &Config, cause: Cause) -> Option<(Box<Self>, Framing)> {
        let StartLine::Complete { line, length } = status_line(bytes) else {
            return None;
        };
        let mut fields = Fields::new(bytes, false);
        fields.read(length, &config.capture_response);
        let framing = fields.framing(line.minor_version).doubted(cause);
        Some((Box::new(response_head(line, &fields)), framing))
    }
}

impl Framing {
    fn doubted(self, cause: Cause) -> Self {
        Self {
            doubt: Some(cause),
            ..self
        }
    }
}

fn request_head(line: RequestLine<'_>, fields: &Fields<'_>) -> RequestHead {
    let (method, target) = (kept(line.method), kept(line.target));
    RequestHead {
        minor_version: line.minor_version,
        content_length: fields.content_length(),
        method_bytes: method.len() as u32,
        headers: fields.headers(&[method, target]),
    }
}

/// Returns the beginning of a method or a target, as much of it as is kept.
fn kept(word: &[u8]) -> &[u8] {
    word.get(..MAX_WORD_BYTES).unwrap_or(word)
}

fn response_head(line: StatusLine, fields: &Fields<'_>) -> ResponseHead {
    ResponseHead {
        status: line.status,
        minor_version: line.minor_version,
        content_length: fields.content_length(),
        headers: fields.headers(&[]),
    }
}
