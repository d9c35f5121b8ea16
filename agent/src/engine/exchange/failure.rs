//! How an exchange, or a connect, ends that does not end well.

use libc::c_int;

/// Why there is no (whole) response. The name is the value of `error.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The peer, or something between, reset the connection (`ECONNRESET`, `EPIPE`).
    ConnectionReset,
    /// Nobody listens there (`ECONNREFUSED`).
    ConnectionRefused,
    /// The peer closed before the exchange was whole.
    ConnectionClosed,
    /// The connection was torn down on this host (`ECONNABORTED`).
    ConnectionAborted,
    /// This end closed before the exchange was whole: given up, or its own time limit. The conventions ask for no error
    /// where the caller cancelled *intentionally*; a closed socket does not tell that from a time limit.
    Cancelled,
    /// The network stack gave up waiting (`ETIMEDOUT`).
    Timeout,
    /// No way to that host (`EHOSTUNREACH`, `EHOSTDOWN`).
    HostUnreachable,
    /// No way to that network (`ENETUNREACH`, `ENETDOWN`, `ENETRESET`).
    NetworkUnreachable,
    /// No local address or port to connect from (`EADDRNOTAVAIL`, `EADDRINUSE`).
    AddressNotAvailable,
    /// A firewall or the permissions of a Unix socket forbid it (`EACCES`, `EPERM`).
    PermissionDenied,
    /// No Unix socket of that path (`ENOENT`, `ENOTDIR`).
    SocketNotFound,
    /// Out of memory, buffers or room in the listener's queue (`ENOBUFS`, `ENOMEM`, `EAGAIN`).
    ResourceExhausted,
    /// The process of this end ended.
    ProcessExit,
    /// Anything else.
    Other,
}

impl Failure {
    /// Returns the failure that a system call's error number stands for; its sign does not matter.
    pub fn from_errno(errno: c_int) -> Self {
        match errno.saturating_abs() {
            libc::ECONNRESET | libc::EPIPE => Self::ConnectionReset,
            libc::ECONNREFUSED => Self::ConnectionRefused,
            libc::ECONNABORTED => Self::ConnectionAborted,
            libc::ETIMEDOUT => Self::Timeout,
            libc::EHOSTUNREACH | libc::EHOSTDOWN => Self::HostUnreachable,
            libc::ENETUNREACH | libc::ENETDOWN | libc::ENETRESET => Self::NetworkUnreachable,
            libc::EADDRNOTAVAIL | libc::EADDRINUSE => Self::AddressNotAvailable,
            libc::EACCES | libc::EPERM => Self::PermissionDenied,
            libc::ENOENT | libc::ENOTDIR => Self::SocketNotFound,
            libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN => Self::ResourceExhausted,
            _ => Self::Other,
        }
    }

    /// Returns the value of `error.type`.
    pub fn error_type(self) -> &'static str {
        match self {
            Self::ConnectionReset => "connection_reset",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionClosed => "connection_closed",
            Self::ConnectionAborted => "connection_aborted",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::HostUnreachable => "host_unreachable",
            Self::NetworkUnreachable => "network_unreachable",
            Self::AddressNotAvailable => "address_not_available",
            Self::PermissionDenied => "permission_denied",
            Self::SocketNotFound => "socket_not_found",
            Self::ResourceExhausted => "resource_exhausted",
            Self::ProcessExit => "process_exit",
            Self::Other => "_OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers() {
        for (errno, expected) in [
            (libc::ECONNRESET, "connection_reset"),
            (-libc::ECONNRESET, "connection_reset"),
            (libc::EPIPE, "connection_reset"),
            (libc::ECONNREFUSED, "connection_refused"),
            (libc::ECONNABORTED, "connection_aborted"),
            (libc::ETIMEDOUT, "timeout"),
            (libc::EHOSTUNREACH, "host_unreachable"),
            (libc::ENETUNREACH, "network_unreachable"),
            (libc::EADDRNOTAVAIL, "address_not_available"),
            (libc::EACCES, "permission_denied"),
            (libc::ENOENT, "socket_not_found"),
            (libc::EAGAIN, "resource_exhausted"),
            (libc::EBADF, "_OTHER"),
            (0, "_OTHER"),
            (c_int::MIN, "_OTHER"),
        ] {
            assert_eq!(Failure::from_errno(errno).error_type(), expected, "{errno}");
        }
    }
}
