//! Says which bytes follow a head.

use super::{
    Config, RequestHead, ResponseHead,
    chunked::Chunked,
    head::{Framing, Head, Parse, Transfer},
    stream::{Body, Found},
};

/// The part of a request's method that frames its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Head,
    Connect,
    Other,
}

impl Method {
    pub(super) fn of(method: &[u8]) -> Self {
        match method {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

impl Found<RequestHead> {
    /// Returns whether the response to this request may switch protocols (RFC 9110 sections 7.8 and 9.3.6).
    pub(super) fn may_switch(&self) -> bool {
        self.framing.upgrade || Method::of(self.head.method()) == Method::Connect
    }
}

/// Returns the body of a request (RFC 9112 section 6.3).
pub(super) fn request_body(framing: Framing) -> Body {
    match framing.transfer {
        Transfer::Length(length) => Body::Length(length),
        Transfer::Chunked => Body::chunked(),
        Transfer::Unsaid | Transfer::OtherCoding => Body::None,
    }
}

/// Returns the body of a final response (RFC 9112 section 6.3).
pub(super) fn response_body(status: u16, method: Method, framing: Framing) -> Body {
    if method == Method::Head || matches!(status, 204 | 304) {
        return Body::None;
    }
    match framing.transfer {
        Transfer::Length(length) => Body::Length(length),
        Transfer::Chunked => Body::chunked(),
        Transfer::Unsaid | Transfer::OtherCoding => Body::UntilClose,
    }
}

/// The bytes that follow a head, for redaction, which follows boundaries only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// The next head.
    Head,
    /// A body of this many bytes, more than 0.
    Length(u64),
    /// A body in chunks.
    Chunked(Chunked),
    /// A body that ends with its half.
    UntilClose,
    /// Another protocol.
    Opaque,
}

impl From<Body> for Follow {
    fn from(body: Body) -> Self {
        match body {
            Body::None | Body::Length(0) => Self::Head,
            Body::Length(length) => Self::Length(length),
            Body::Chunked(chunked) => Self::Chunked(chunked),
            Body::UntilClose => Self::UntilClose,
        }
    }
}

/// Returns the framing behind a whole request head, and the method by which its response is read; `None`: the head is
/// malformed or in doubt.
pub(super) fn follow_request(head: &[u8]) -> Option<(Follow, Method)> {
    match RequestHead::parse(head, &Config::default()) {
        Parse::Complete { head, framing, .. } if framing.doubt.is_none() => {
            Some((request_body(framing).into(), Method::of(head.method())))
        }
        Parse::Complete { .. } | Parse::Partial | Parse::Failed(_) => None,
    }
}

/// Returns the framing behind a whole response head, and whether it is the final one; `None`: the head is malformed or
/// in doubt.
pub(super) fn follow_response(head: &[u8], asked_by: Method) -> Option<(Follow, bool)> {
    match ResponseHead::parse(head, &Config::default()) {
        Parse::Complete { head, framing, .. } => Some(match head.status {
            100 | 102..=199 => (Follow::Head, false),
            101 => (Follow::Opaque, true),
            200..=299 if asked_by == Method::Connect => (Follow::Opaque, true),
            status => match response_body(status, asked_by, framing) {
                Body::None => (Follow::Head, true),
                _ if framing.doubt.is_some() => return None,
                body => (body.into(), true),
            },
        }),
        Parse::Partial | Parse::Failed(_) => None,
    }
}
