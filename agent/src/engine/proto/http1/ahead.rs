//! The next boundary of a half, for the kernel programs, which skip bodies.

use agent_ebpf::abi::{IGNORED, Mode, UNTIL_CLOSE};

use super::{
    Http1,
    connection::Mode as Following,
    stream::{Body, Stream},
};
use crate::engine::proto::{Ahead, Half};

impl Http1 {
    /// Returns the next boundary of a half. Unknown in a head, after a loss, and where a half cannot be understood before the other
    /// one says more.
    pub fn ahead(&self, half: Half) -> Ahead {
        match self.mode {
            Following::Opaque => Ahead {
                until: IGNORED,
                mode: Mode::Ignored,
                exchange: 0,
            },
            Following::Searching => self.unknown(),
            Following::Following if self.is_doubted(half) || self.holds(half) => self.unknown(),
            Following::Following => match half {
                Half::Request => self.request_ahead(),
                Half::Response => self.response_ahead(),
            },
        }
    }

    /// Returns the hint for a half of which nothing is known. Its requests have a number all the same: the programs
    /// frame no response by one that they have not seen since.
    fn unknown(&self) -> Ahead {
        Ahead {
            exchange: self.next_exchange(),
            ..Ahead::UNKNOWN
        }
    }

    fn request_ahead(&self) -> Ahead {
        let exchange = self.next_exchange();
        match body_ahead(&self.request) {
            Some((until, mode)) => Ahead { until, mode, exchange },
            None if self.awaits_request() => Ahead {
                until: 0,
                mode: Mode::Head,
                exchange,
            },
            None => self.unknown(),
        }
    }

    fn response_ahead(&self) -> Ahead {
        let next = self.next_exchange();
        let pending = self.pending() as u64;
        match body_ahead(&self.response) {
            // Of requests that wait behind this one, the programs are not told the methods.
            Some((until, Mode::Head | Mode::Chunk)) if pending != 1 => Ahead {
                until,
                ..self.unknown()
            },
            Some((until, mode)) => Ahead {
                until,
                mode,
                exchange: next,
            },
            None if pending == 0 && !self.response.in_head() => Ahead {
                until: 0,
                mode: Mode::Head,
                exchange: next,
            },
            None => self.unknown(),
        }
    }
}

/// Returns the offset up to which the bytes of a half are body, and the kind of bytes there; `None`: the half is not in
/// a body.
fn body_ahead(stream: &Stream) -> Option<(u64, Mode)> {
    let until = stream.body_until();
    match stream.body_kind() {
        Body::None => None,
        Body::UntilClose => Some((UNTIL_CLOSE, Mode::Close)),
        Body::Length(_) => Some((until, Mode::Head)),
        // In the line between two chunks.
        Body::Chunked(_) if until == 0 => Some((0, Mode::Unknown)),
        Body::Chunked(_) => Some((until, Mode::Chunk)),
    }
}
