//! Marks the PROXY protocol's binary header, which a proxy may send before anything else on a connection
//! ([`http1::proxy`](super::super::proxy) has its layout). The other form, a line, is marked as the first line of a head.

use crate::engine::proto::{
    http1::proxy::SIGNATURE,
    structure::{Marks, Shape, Words},
};

/// First word of the other form, the line.
pub(super) const PROXY: &[u8] = b"PROXY";

/// Words of the line.
pub(super) const LINE_WORDS: Words<'_> = Words::usual(&[b"TCP4", b"TCP6", b"UNKNOWN"]);

/// The place of the next byte in the binary header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    /// This many bytes of the signature have come.
    Signature(usize),
    /// In version, family and length: the number of bytes that have come, and the length so far.
    Fixed(usize, u16),
    /// In addresses: this many bytes are to come.
    Addresses(u16),
}

impl Binary {
    /// Marks a byte, and returns the place behind it: `Some(None)` at the header's end. `None`: the byte is not of a header, and
    /// has no mark.
    pub fn next(self, byte: u8, marks: &mut Marks<'_>) -> Option<Option<Self>> {
        let next = match self {
            Self::Signature(at) if SIGNATURE.get(at) != Some(&byte) => return None,
            Self::Signature(at) if at + 1 == SIGNATURE.len() => Some(Self::Fixed(0, 0)),
            Self::Signature(at) => Some(Self::Signature(at + 1)),
            Self::Fixed(at @ (0 | 1), _) => Some(Self::Fixed(at + 1, 0)),
            Self::Fixed(2, _) => Some(Self::Fixed(3, byte.into())),
            Self::Fixed(_, high) => match high << 8 | u16::from(byte) {
                0 => None,
                length => Some(Self::Addresses(length)),
            },
            Self::Addresses(left) => left.checked_sub(1).filter(|&left| left > 0).map(Self::Addresses),
        };
        match self {
            Self::Signature(_) | Self::Fixed(..) => marks.keep(1),
            Self::Addresses(_) => marks.word(1, Shape::Octets, Words::NONE),
        }
        Some(next)
    }
}
