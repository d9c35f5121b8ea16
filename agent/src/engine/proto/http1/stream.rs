//! One half of a connection: heads and bodies in turn, from pieces of any size.

use super::{
    Config,
    chunked::Chunked,
    head::{Framing, Head, MAX_HEAD_BYTES, Parse},
};
use crate::engine::{
    execution::Stamp,
    proto::{Cause, Data, Piece},
};

/// Length up to which a head is parsed again with each piece that comes.
///
/// A longer one is parsed when its first line ends, and at empty lines. So other protocols are recognised at once, and
/// a long head in small pieces costs no quadratic time.
const EAGER_BYTES: usize = 64;

/// Takes empty lines off: they may come before a request line (RFC 9112 section 2.2).
pub(super) fn skip_empty_lines(piece: &mut Piece<'_>) {
    if let Data::Bytes(bytes) = piece.data {
        let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        piece.skip(empty as u64);
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
}

/// Framing of the body whose bytes come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// No body: a head comes next, or its rest.
    None,
    /// After this many bytes, more than 0.
    Length(u64),
    Chunked(Chunked),
    /// With the half.
    UntilClose,
}

/// State of one half.
#[derive(Debug)]
pub(super) struct Stream {
    body: Body,
    /// Size of the body so far, without framing.
    body_bytes: u64,
    /// Stream offset behind the last byte that was taken.
    position: u64,
    /// Beginning of a head that lies in several pieces. Few heads do: boxed, it takes one word.
    partial: Option<Box<Partial>>,
}

/// The beginning of a head, and where it was.
#[derive(Debug)]
struct Partial {
    /// Bytes of the head so far, at least one.
    bytes: Vec<u8>,
    /// The call that moved the first one.
    first: Stamp,
    /// The call that moved the last one.
    last: Stamp,
    /// Stream offset of the first one.
    offset: u64,
}

/// A body that is over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// Size of the body in bytes, without framing.
    pub body_bytes: u64,
    /// A line of its framing ended in a bare LF: see [`Chunked::has_bare_lf`].
    pub bare_lf: bool,
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

    /// Returns the way in which the body under way ends.
    pub fn body_kind(&self) -> Body {
        self.body
    }

    /// Returns the calls that moved the head under way.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let partial = self.partial.iter();
        partial.flat_map(|partial| [partial.first, partial.last])
    }

    pub fn in_head(&self) -> bool {
        self.partial.is_some()
    }

    /// Returns the end of the bytes that are body: see [`super::Http1::body_until`].
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
            skip_empty_lines(piece);
        }
        if piece.is_empty() {
            return Ok(None);
        }
        let Data::Bytes(bytes) = piece.data else {
            return Err(Cause::Gap);
        };
        let before = self.partial.as_ref().map_or(0, |partial| partial.bytes.len());
        let (whole, first, offset) = match &mut self.partial {
            None => (bytes, piece.stamp, piece.offset),
            Some(partial) => {
                partial.push(bytes, piece.stamp);
                if !partial.is_worth_parsing(before) {
                    piece.skip(u64::MAX);
                    return Ok(None);
                }
                (partial.bytes.as_slice(), partial.first, partial.offset)
            }
        };
        let Some((head, framing, length)) = parse_or_cut(whole, config)? else {
            if before == 0 {
                self.partial = Some(Box::new(Partial::new(bytes, piece)));
            }
            piece.skip(u64::MAX);
            return Ok(None);
        };
        let found = Found {
            head,
            framing,
            first,
            complete: piece.stamp,
            offset,
        };
        // Gives the memory back: most connections never need it again.
        self.partial = None;
        piece.skip(length.saturating_sub(before as u64));
        self.position = piece.offset;
        Ok(Some(found))
    }

    /// Returns a head whose end never comes, as far as it goes, or only its place if not even its first line can be
    /// read.
    ///
    /// The place is the calls that moved the first and the last byte, and the stream offset.
    pub fn cut_head<H: Head>(&mut self, config: &Config, cause: Cause) -> Result<Found<H>, (Stamp, Stamp, u64)> {
        let Some(partial) = self.partial.take() else {
            return Err((Stamp::default(), Stamp::default(), self.position));
        };
        let (first, complete, offset) = (partial.first, partial.last, partial.offset);
        let (head, framing) = H::parse_cut(&partial.bytes, config, cause).ok_or((first, complete, offset))?;
        Ok(Found {
            head,
            framing,
            first,
            complete,
            offset,
        })
    }

    /// Begins the body behind the head that was found. Returns `false` for an empty body, which ends now.
    pub fn begin_body(&mut self, body: Body) -> bool {
        self.body = if body == Body::Length(0) { Body::None } else { body };
        self.body_bytes = 0;
        self.in_body()
    }

    /// Takes bytes of the body. Returns its size and end, if it ends here.
    pub fn body(&mut self, piece: &mut Piece<'_>) -> Result<Option<Ended>, Cause> {
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

    /// Ends the half. Returns the size of the body, if this ends one.
    pub fn close(&mut self) -> Option<u64> {
        (self.body == Body::UntilClose).then(|| self.end_body().body_bytes)
    }

    fn end_body(&mut self) -> Ended {
        let bare_lf = matches!(self.body, Body::Chunked(chunked) if chunked.has_bare_lf());
        self.body = Body::None;
        Ended {
            body_bytes: self.body_bytes,
            bare_lf,
        }
    }

    /// Returns the place where the head began whose bytes are here, with these: the call and the stream offset.
    pub fn head_start(&self, piece: Piece<'_>) -> (Stamp, u64) {
        match &self.partial {
            Some(partial) => (partial.first, partial.offset),
            None => (piece.stamp, piece.offset),
        }
    }

    /// Returns the bytes that should have been a head, with these.
    pub fn opening<'p>(&'p self, piece: &Piece<'p>) -> &'p [u8] {
        match (&self.partial, piece.data) {
            (Some(partial), _) => &partial.bytes,
            (None, Data::Bytes(bytes)) => bytes,
            (None, Data::Gap(_)) => &[],
        }
    }

    /// Forgets all bytes so far, except the half's offset.
    pub fn begin_anew(&mut self) {
        *self = Self {
            position: self.position,
            ..Self::new()
        };
    }

    /// Bytes of a head that came before this piece, which was not taken as the rest of it.
    pub fn head_bytes_before(&self, piece: Piece<'_>) -> u64 {
        let partial = self.partial.as_ref();
        partial.map_or(0, |partial| piece.offset.saturating_sub(partial.offset))
    }
}

impl Partial {
    fn new(bytes: &[u8], piece: &Piece<'_>) -> Self {
        Self {
            bytes: bytes.to_vec(),
            first: piece.stamp,
            last: piece.stamp,
            offset: piece.offset,
        }
    }

    /// Appends bytes: no more than show that the head is too large.
    fn push(&mut self, bytes: &[u8], stamp: Stamp) {
        let room = (MAX_HEAD_BYTES + 1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.last = stamp;
    }

    /// Returns whether parsing can tell more than it did without the bytes from `before` on.
    fn is_worth_parsing(&self, before: usize) -> bool {
        let length = self.bytes.len();
        length <= EAGER_BYTES || length > MAX_HEAD_BYTES || may_end_in(&self.bytes, before)
    }
}

impl Body {
    /// Creates a stream at the start of a chunked body.
    pub fn chunked() -> Self {
        Body::Chunked(Chunked::new())
    }
}

/// Parses a head at the start of `bytes`. Returns its length, too: of one that is too large, and so cut, more than there
/// are bytes. `None`: the head is not complete.
fn parse_or_cut<H: Head>(bytes: &[u8], config: &Config) -> Result<Option<(Box<H>, Framing, u64)>, Cause> {
    match H::parse(bytes, config) {
        Parse::Complete { head, framing, length } if length <= MAX_HEAD_BYTES => {
            Ok(Some((head, framing, length as u64)))
        }
        Parse::Complete { .. } | Parse::Partial if bytes.len() > MAX_HEAD_BYTES => {
            let most = bytes.get(..MAX_HEAD_BYTES).unwrap_or_default();
            let cut = H::parse_cut(most, config, Cause::HeadTooLarge);
            let (head, framing) = cut.ok_or(Cause::OtherProtocol)?;
            Ok(Some((head, framing, u64::MAX)))
        }
        Parse::Complete { .. } | Parse::Partial => Ok(None),
        Parse::Failed(cause) => Err(cause),
    }
}

/// Returns whether a head's first line, or with an empty line the head, may end in the bytes from `before` on.
fn may_end_in(bytes: &[u8], before: usize) -> bool {
    let (known, new) = bytes.split_at_checked(before).unwrap_or_default();
    if memchr::memchr(b'\n', new).is_none() {
        return false;
    }
    if memchr::memchr(b'\n', known).is_none() {
        return true;
    }
    // A part of the empty line may have come before.
    let bytes = bytes.get(before.saturating_sub(2)..).unwrap_or_default();
    let mut line_ends = memchr::memchr_iter(b'\n', bytes);
    line_ends.any(|end| matches!(bytes.get(end + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
}
