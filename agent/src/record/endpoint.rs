//! Addresses of sockets.

use std::{net::IpAddr, sync::Arc};

/// An address as a record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP. IPv4 in IPv6 is IPv4.
    Ip(IpAddr, u16),
    /// A Unix socket, whose path no record of this kind has.
    Unix,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP: IPv4 or IPv6, and the port. IPv4 in IPv6 is IPv4.
    Ip(IpAddr, u16),
    /// A Unix socket's path, or `@name` of an abstract one; `None` if it has no name, as clients' have.
    Unix(Option<Arc<str>>),
}

impl Endpoint {
    /// Creates a Unix socket at an address as connect(2) got it; `None` if that has none.
    pub fn unix(path: &[u8]) -> Option<Self> {
        let name = match path.split_first()? {
            (0, name) => [b"@", name].concat(),
            // What is behind a NUL is no part of a path.
            _ => path.split(|&byte| byte == 0).next()?.to_vec(),
        };
        Some(Self::Unix(Some(String::from_utf8_lossy(&name).into())))
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        match address {
            Address::Ip(address, port) => Self::Ip(address, port),
            Address::Unix => Self::Unix(None),
        }
    }
}
