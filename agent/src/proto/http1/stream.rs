//! One half of a connection: heads and bodies in turn, from pieces of any size.

use super::chunked::Chunked;
use super::head::{Framing, Head, MAX_HEAD_BYTES, Parse};
use super::{Cause, Config};
use crate::event::Stamp;
use crate::proto::Data;

/// A head that is not longer than this is looked at again with each piece that comes, a longer one at line ends only:
/// what is no HTTP is recognised at once, and a long head in small pieces costs no square.
const EAGER_BYTES: usize = 64;

/// A stretch of a half's stream that one call of feed brought, or what is left of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub offset: u64,
    /// Its first byte is the first of a system call.
    pub segment_start: bool,
    pub data: Data<'a>,
    pub stamp: Stamp,
}

impl Piece<'_> {
    pub fn len(&self) -> u64 {
        match self.data {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Gap(n) => n,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `n` bytes off, at most all of them.
    pub fn skip(&mut self, n: u64) {
        let n = n.min(self.len());
        if n == 0 {
            return;
        }
        self.offset = self.offset.saturating_add(n);
        self.segment_start = false;
        self.data = match self.data {
            Data::Bytes(bytes) => Data::Bytes(bytes.get(n as usize..).unwrap_or_default()),
            Data::Gap(left) => Data::Gap(left - n),
        };
    }

    /// Takes empty lines off: they may come before a request line (RFC 9112 section 2.2).
    pub fn skip_empty_lines(&mut self) {
        if let Data::Bytes(bytes) = self.data {
            let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.skip(empty as u64);
        }
    }
}

/// A whole head, and where it was.
#[derive(Debug)]
pub(super) struct Found<H> {
    pub head: Box<H>,
    pub framing: Framing,
    /// The call that moved its first byte.
    pub first: Stamp,
    /// The call that moved its last byte.
    pub complete: Stamp,
    /// Stream offset of its first byte.
    pub offset: u64,
    /// It has more header lines than are usual.
    pub many_headers: bool,
}

/// How the body ends whose bytes come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// No body: a head comes next, or its rest.
    None,
    /// After so many bytes, more than 0.
    Length(u64),
    Chunked(Chunked),
    /// With the half.
    UntilClose,
}

/// Where one half stands.
#[derive(Debug)]
pub(super) struct Stream {
    body: Body,
    /// Size of the body so far, without framing.
    body_bytes: u64,
    /// Stream offset behind the last byte that was taken.
    position: u64,
    /// The beginning of a head that lies in several pieces. Few do: it takes a word where there is none.
    partial: Option<Box<Partial>>,
}

/// The beginning of a head, and where it was.
#[derive(Debug)]
struct Partial {
    /// At least one.
    bytes: Vec<u8>,
    /// The call that moved the first one.
    first: Stamp,
    /// Stream offset of the first one.
    offset: u64,
}

impl Stream {
    pub fn new() -> Self {
        Self {
            body: Body::None,
            body_bytes: 0,
            position: 0,
            partial: None,
        }
    }

    pub fn in_body(&self) -> bool {
        !matches!(self.body, Body::None)
    }

    pub fn in_head(&self) -> bool {
        self.partial.is_some()
    }

    /// See [`super::Http1::body_until`].
    pub fn body_until(&self) -> u64 {
        let left = match self.body {
            Body::None => 0,
            Body::Length(left) => left,
            Body::Chunked(chunked) => chunked.left_of_chunk(),
            Body::UntilClose => return u64::MAX,
        };
        // u64::MAX has a meaning of its own.
        if left == 0 {
            0
        } else {
            self.position.saturating_add(left).min(u64::MAX - 1)
        }
    }

    /// Takes bytes of a head. `None`: the piece is used up and the head is not complete.
    pub fn head<H: Head>(&mut self, config: &Config, piece: &mut Piece<'_>) -> Result<Option<Found<H>>, Cause> {
        if self.partial.is_none() {
            piece.skip_empty_lines();
        }
        if piece.is_empty() {
            return Ok(None);
        }
        let Data::Bytes(bytes) = piece.data else {
            return Err(Cause::Gap);
        };
        let (whole, before, first, offset) = match &mut self.partial {
            None => (bytes, 0, piece.stamp, piece.offset),
            Some(partial) => {
                let before = partial.bytes.len();
                // No more than shows that the head is too large.
                let room = (MAX_HEAD_BYTES + 1).saturating_sub(before);
                partial.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
                let length = partial.bytes.len();
                if length > EAGER_BYTES && length <= MAX_HEAD_BYTES && !bytes.contains(&b'\n') {
                    piece.skip(u64::MAX);
                    return Ok(None);
                }
                (partial.bytes.as_slice(), before, partial.first, partial.offset)
            }
        };
        match H::parse(whole, config) {
            Parse::Complete { length, .. } if length > MAX_HEAD_BYTES => Err(H::oversize(whole)),
            Parse::Complete {
                head,
                framing,
                length,
                many_headers,
            } => {
                let taken = length.saturating_sub(before);
                let found = Found {
                    head,
                    framing,
                    first,
                    complete: piece.stamp,
                    offset,
                    many_headers,
                };
                // Gives the memory back: most connections never need it again.
                self.partial = None;
                piece.skip(taken as u64);
                self.position = piece.offset;
                Ok(Some(found))
            }
            Parse::Partial if whole.len() > MAX_HEAD_BYTES => Err(H::oversize(whole)),
            Parse::Partial => {
                if before == 0 {
                    self.partial = Some(Box::new(Partial {
                        bytes: bytes.to_vec(),
                        first,
                        offset,
                    }));
                }
                piece.skip(u64::MAX);
                Ok(None)
            }
            Parse::Failed(cause) => Err(cause),
        }
    }

    /// What follows the head that was found is a body. `false`: it is empty, its end is now.
    pub fn begin_body(&mut self, body: Body) -> bool {
        self.body = if body == Body::Length(0) { Body::None } else { body };
        self.body_bytes = 0;
        self.in_body()
    }

    /// Takes bytes of the body. Its size, if that was its end.
    pub fn body(&mut self, piece: &mut Piece<'_>) -> Result<Option<u64>, Cause> {
        let mut done = false;
        while !done && !piece.is_empty() {
            let passed = match &mut self.body {
                Body::None => return Ok(None),
                Body::UntilClose => piece.len(),
                Body::Length(left) => {
                    let passed = piece.len().min(*left);
                    *left -= passed;
                    done = *left == 0;
                    passed
                }
                Body::Chunked(chunked) => match (chunked.left_of_chunk(), piece.data) {
                    (0, Data::Gap(_)) => return Err(Cause::Gap),
                    (0, Data::Bytes(bytes)) => {
                        let framing = chunked.frame(bytes)?;
                        done = chunked.is_done();
                        piece.skip(framing as u64);
                        0
                    }
                    (left, _) => {
                        let passed = piece.len().min(left);
                        chunked.pass_data(passed);
                        passed
                    }
                },
            };
            piece.skip(passed);
            self.body_bytes = self.body_bytes.saturating_add(passed);
        }
        self.position = piece.offset;
        Ok(done.then(|| self.end_body()))
    }

    /// No more bytes come. The size of the body, if this ends one.
    pub fn close(&mut self) -> Option<u64> {
        (self.body == Body::UntilClose).then(|| self.end_body())
    }

    fn end_body(&mut self) -> u64 {
        self.body = Body::None;
        self.body_bytes
    }
}

impl Body {
    /// At the start of a chunked body.
    pub fn chunked() -> Self {
        Body::Chunked(Chunked::new())
    }
}
