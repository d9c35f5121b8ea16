//! Protocols: passive, sans-IO parsers of what two ends say to each other.

pub mod http1;
pub mod opaque;

/// Which half of a connection's talk some bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Response,
}

/// A stretch of one half's stream.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// What was captured.
    Bytes(&'a [u8]),
    /// So many bytes passed that were not captured.
    Gap(u64),
}
