//! The way in which a span's parent was found.

/// Way in which a span's parent was found: the attribute `spoor.parent.method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParentMethod {
    /// A `traceparent` header named it.
    Header,
    /// Both ends of the connection are on this host.
    SameHost,
    /// The first request on a connection belongs to the request that the connect was made for.
    Opener,
    /// The thread that read the request made the call before it wrote the response.
    Thread,
    /// The thread that wrote the response made the call while it worked for nothing else.
    Family,
    /// Content of the request appears again in the call.
    Content,
}

impl ParentMethod {
    /// Returns the attribute's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::SameHost => "same-host",
            Self::Opener => "opener",
            Self::Thread => "thread",
            Self::Family => "family",
            Self::Content => "content",
        }
    }
}
