//! Variants of calls, and their words in commands.

use std::{net::SocketAddr, str::FromStr};

/// Address to listen on or connect to.
pub enum Address {
    Ip(SocketAddr),
    /// Address for Multipath TCP.
    Multipath(SocketAddr),
    Unix(String),
}

/// Variant of sending.
#[derive(Clone, Copy)]
pub enum Sending {
    Write,
    SendTo,
    WriteV,
    PWriteV2,
    SendMsg,
    SendMMsg,
    SendFile,
    Splice,
    /// `MSG_MORE`: the kernel waits for more before it sends.
    More,
    /// `MSG_ZEROCOPY`.
    ZeroCopy,
    /// `MSG_OOB`: urgent data, which is not in the receiver's stream.
    Urgent,
}

/// Variant of receiving.
#[derive(Clone, Copy)]
pub enum Receiving {
    Read,
    RecvFrom,
    ReadV,
    PReadV2,
    RecvMsg,
    RecvMMsg,
    Splice,
    /// `MSG_PEEK`: the bytes remain in the socket.
    Peek,
    /// `MSG_TRUNC`: TCP drops the bytes and copies none.
    Truncate,
    /// `MSG_TRUNC` by recvmsg(2).
    TruncateMessage,
    /// `MSG_WAITALL`.
    WaitAll,
    /// `MSG_DONTWAIT`.
    DontWait,
}

/// Variant of duplicating a descriptor.
#[derive(Clone, Copy)]
pub enum Duplicate {
    Dup,
    Dup2,
    Dup3,
    Fcntl,
}

impl FromStr for Sending {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Ok(match word {
            "write" => Self::Write,
            "sendto" => Self::SendTo,
            "writev" => Self::WriteV,
            "pwritev2" => Self::PWriteV2,
            "sendmsg" => Self::SendMsg,
            "sendmmsg" => Self::SendMMsg,
            "sendfile" => Self::SendFile,
            "splice" => Self::Splice,
            "more" => Self::More,
            "zerocopy" => Self::ZeroCopy,
            "urgent" => Self::Urgent,
            _ => return Err(()),
        })
    }
}

impl FromStr for Receiving {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Ok(match word {
            "read" => Self::Read,
            "recvfrom" => Self::RecvFrom,
            "readv" => Self::ReadV,
            "preadv2" => Self::PReadV2,
            "recvmsg" => Self::RecvMsg,
            "recvmmsg" => Self::RecvMMsg,
            "splice" => Self::Splice,
            "peek" => Self::Peek,
            "truncate" => Self::Truncate,
            "recvmsg-truncate" => Self::TruncateMessage,
            "waitall" => Self::WaitAll,
            "dontwait" => Self::DontWait,
            _ => return Err(()),
        })
    }
}

impl FromStr for Duplicate {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Ok(match word {
            "dup" => Self::Dup,
            "dup2" => Self::Dup2,
            "dup3" => Self::Dup3,
            "fcntl" => Self::Fcntl,
            _ => return Err(()),
        })
    }
}
