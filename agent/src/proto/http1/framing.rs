//! What follows a head, for those who only follow messages and do not read them.

use super::{
    Config, RequestHead, ResponseHead,
    chunked::Chunked,
    connection::{Method, request_body, response_body},
    head::{Head, Parse},
    stream::Body,
};

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// The next head.
    Head,
    /// So many bytes of a body, more than 0.
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

/// What follows a whole request head, and the method that its response is read by; `None` if it is malformed.
pub(crate) fn follow_request(head: &[u8]) -> Option<(Follow, Method)> {
    match RequestHead::parse(head, &Config::default()) {
        Parse::Complete { head, framing, .. } => Some((request_body(framing).into(), Method::of(&head.method))),
        Parse::Partial | Parse::Failed(_) => None,
    }
}

/// What follows a whole response head, and whether it was the final one; `None` if it is malformed.
pub(crate) fn follow_response(head: &[u8], asked_by: Method) -> Option<(Follow, bool)> {
    match ResponseHead::parse(head, &Config::default()) {
        Parse::Complete { head, framing, .. } => Some(match head.status {
            100 | 102..=199 => (Follow::Head, false),
            101 => (Follow::Opaque, true),
            200..=299 if asked_by == Method::Connect => (Follow::Opaque, true),
            status => (response_body(status, asked_by, framing).into(), true),
        }),
        Parse::Partial | Parse::Failed(_) => None,
    }
}
