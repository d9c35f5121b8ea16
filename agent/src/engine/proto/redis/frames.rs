//! The values of RESP2 and RESP3, taken apart piece by piece (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! ```text
//! +text\r\n  -text\r\n  :n\r\n  _\r\n  #t\r\n  ,n\r\n  (n\r\n      a line
//! $length\r\n data \r\n     (also = and !)                      a blob; length -1: null
//! *n\r\n values             (also ~ and >; % and | have 2n)     an aggregate; n -1: null
//! ```
//!
//! An attribute (`|`) stands before the value that it belongs to. Nothing is kept but how many values are still to come at
//! each level.

use smallvec::SmallVec;

use super::{Cause, Piece};
use crate::engine::proto::{Data, Half};

/// Deepest nesting that is followed.
pub(super) const MAX_DEPTH: usize = 32;

/// Longest blob: Redis's own default (`proto-max-bulk-len`).
pub(super) const MAX_BLOB_BYTES: u64 = 512 << 20;

/// Most strings of a command, and most values of an aggregate: INT_MAX, as in Redis.
const MAX_VALUES: u64 = i32::MAX as u64;

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Simple,
    Error,
    Integer,
    Null,
    Boolean,
    Double,
    BigNumber,
    Bulk,
    BulkError,
    Verbatim,
    Array,
    Map,
    Set,
    Attribute,
    Push,
}

/// The meaning of the bytes that were taken last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A part of a length, or of a line end: no more is known.
    Frame,
    /// A value begins. `length`: of a blob its bytes, of an aggregate its values; `None`: a line, or null. `is_outermost`: it
    /// is in no other value.
    Value {
        kind: Kind,
        length: Option<u64>,
        is_outermost: bool,
    },
    /// A part of a line or a blob.
    Bytes(&'a [u8]),
    /// A stretch of a blob that was not captured: its length.
    Missing(u64),
    /// The line or blob is over.
    End,
}

/// Place in the stream of one half.
#[derive(Debug)]
pub(super) struct Frames {
    half: Half,
    at: At,
    /// The aggregates that are not complete, the outermost first.
    open: SmallVec<[Level; 1]>,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// The next byte is a type.
    Type,
    /// In the line with a length.
    Length { kind: Kind, length: Length },
    /// In a line of text.
    Text { has_cr: bool },
    /// In a blob, which ends at this stream offset.
    Blob { end: u64 },
    /// In the line end behind a blob.
    Close { has_cr: bool },
}

/// A length that is not complete.
#[derive(Clone, Copy, Debug, Default)]
struct Length {
    value: u32,
    digits: u8,
    is_negative: bool,
    has_cr: bool,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Values that are to come.
    left: u64,
    holds: Holds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// The values of an aggregate.
    Values,
    /// The keys and values of an attribute: not a value by itself.
    Attribute,
    /// The value that an attribute stands before.
    Attributed,
}

impl Frames {
    /// Begins between two messages of a half.
    pub fn new(half: Half) -> Self {
        Self {
            half,
            at: At::Type,
            open: SmallVec::new(),
        }
    }

    /// Returns whether the next byte begins a message.
    pub fn is_between(&self) -> bool {
        matches!(self.at, At::Type) && self.open.is_empty()
    }

    /// Returns the stream offset at which the blob that is under way ends; 0: none is.
    pub fn blob_end(&self) -> u64 {
        match self.at {
            At::Blob { end } => end,
            _ => 0,
        }
    }

    /// Takes at least one byte off a piece, which is not empty, and says what it means.
    ///
    /// # Errors
    /// Bytes that frame are missing or malformed. Nothing more can be read then.
    pub fn next<'a>(&mut self, piece: &mut Piece<'a>) -> Result<Token<'a>, Cause> {
        if let At::Blob { end } = self.at {
            return Ok(self.blob(end, piece));
        }
        let Data::Bytes(bytes) = piece.data else {
            return Err(Cause::Gap);
        };
        let Some(&byte) = bytes.first() else {
            return Ok(Token::Frame);
        };
        if let At::Text { has_cr: false } = self.at
            && byte != b'\r'
        {
            let text = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let text = bytes.get(..text.unwrap_or(bytes.len())).unwrap_or_default();
            if text.is_empty() {
                return Err(Cause::Malformed);
            }
            piece.skip(text.len() as u64);
            return Ok(Token::Bytes(text));
        }
        piece.skip(1);
        match self.at {
            At::Type => self.kind(byte),
            At::Length { kind, length } => self.length(kind, length, byte, piece.offset),
            At::Text { has_cr } => match (has_cr, byte) {
                (false, _) => {
                    self.at = At::Text { has_cr: true };
                    Ok(Token::Frame)
                }
                (true, b'\n') => Ok(self.end_value()),
                (true, _) => Err(Cause::Malformed),
            },
            At::Close { has_cr } => match (has_cr, byte) {
                (false, b'\r') => {
                    self.at = At::Close { has_cr: true };
                    Ok(Token::Frame)
                }
                (true, b'\n') => Ok(self.end_value()),
                _ => Err(Cause::Malformed),
            },
            // Taken above.
            At::Blob { .. } => Ok(Token::Frame),
        }
    }

    fn blob<'a>(&mut self, end: u64, piece: &mut Piece<'a>) -> Token<'a> {
        let left = end.saturating_sub(piece.offset).min(piece.len());
        let token = match piece.data {
            Data::Bytes(bytes) => Token::Bytes(bytes.get(..left as usize).unwrap_or_default()),
            Data::Gap(_) => Token::Missing(left),
        };
        piece.skip(left);
        if piece.offset >= end {
            self.at = At::Close { has_cr: false };
        }
        token
    }

    fn kind(&mut self, byte: u8) -> Result<Token<'static>, Cause> {
        let kind = match byte {
            b'$' => Kind::Bulk,
            b'*' => Kind::Array,
            b'+' => Kind::Simple,
            b'-' => Kind::Error,
            b':' => Kind::Integer,
            b'_' => Kind::Null,
            b'#' => Kind::Boolean,
            b',' => Kind::Double,
            b'(' => Kind::BigNumber,
            b'!' => Kind::BulkError,
            b'=' => Kind::Verbatim,
            b'%' => Kind::Map,
            b'~' => Kind::Set,
            b'|' => Kind::Attribute,
            b'>' => Kind::Push,
            _ => return Err(Cause::Malformed),
        };
        // A command is an array of bulk strings, and nothing else.
        let wanted = if self.open.is_empty() { Kind::Array } else { Kind::Bulk };
        if self.half == Half::Request && kind != wanted {
            return Err(Cause::Malformed);
        }
        if kind.is_line() {
            self.at = At::Text { has_cr: false };
            return Ok(self.value(kind, None));
        }
        let length = Length::default();
        self.at = At::Length { kind, length };
        Ok(Token::Frame)
    }

    /// Takes a byte of a line with a length. `behind`: the stream offset behind it.
    fn length(&mut self, kind: Kind, mut length: Length, byte: u8, behind: u64) -> Result<Token<'static>, Cause> {
        match byte {
            b'0'..=b'9' if !length.has_cr && !length.has_leading_zero() => {
                let tens = length.value.checked_mul(10).ok_or(Cause::Malformed)?;
                length.value = tens.checked_add(u32::from(byte - b'0')).ok_or(Cause::Malformed)?;
                // Without leading zeros there are no more than ten.
                length.digits = length.digits.saturating_add(1);
            }
            b'-' if length.digits == 0 && !length.is_negative => length.is_negative = true,
            b'\r' if length.digits > 0 && !length.has_cr => length.has_cr = true,
            b'\n' if length.has_cr => {
                let length = length.complete()?;
                return self.begin(kind, length, behind);
            }
            _ => return Err(Cause::Malformed),
        }
        self.at = At::Length { kind, length };
        Ok(Token::Frame)
    }

    /// Begins a blob or an aggregate.
    fn begin(&mut self, kind: Kind, length: Option<u64>, behind: u64) -> Result<Token<'static>, Cause> {
        let most = if kind.is_blob() { MAX_BLOB_BYTES } else { MAX_VALUES };
        if length.is_some_and(|length| length > most) {
            return Err(Cause::Malformed);
        }
        let token = self.value(kind, length);
        match length {
            None | Some(0) if kind != Kind::Attribute => {
                if kind.is_blob() && length.is_some() {
                    self.at = At::Close { has_cr: false };
                } else {
                    self.end_value();
                }
            }
            Some(length) if kind.is_blob() => {
                self.at = At::Blob {
                    end: behind.saturating_add(length),
                };
            }
            length => self.open(kind, length.unwrap_or_default())?,
        }
        Ok(token)
    }

    /// Begins an aggregate that has values, or an attribute.
    fn open(&mut self, kind: Kind, length: u64) -> Result<(), Cause> {
        self.at = At::Type;
        if kind == Kind::Attribute {
            self.push(1, Holds::Attributed)?;
            if length == 0 {
                return Ok(());
            }
        }
        match kind {
            Kind::Attribute => self.push(2 * length, Holds::Attribute),
            Kind::Map => self.push(2 * length, Holds::Values),
            _ => self.push(length, Holds::Values),
        }
    }

    fn push(&mut self, left: u64, holds: Holds) -> Result<(), Cause> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Cause::Malformed);
        }
        self.open.push(Level { left, holds });
        Ok(())
    }

    fn value(&self, kind: Kind, length: Option<u64>) -> Token<'static> {
        Token::Value {
            kind,
            length,
            is_outermost: self.open.iter().all(|level| level.holds == Holds::Attributed),
        }
    }

    /// Ends a value, and the aggregates whose last one it was.
    fn end_value(&mut self) -> Token<'static> {
        self.at = At::Type;
        while let Some(level) = self.open.last_mut() {
            level.left = level.left.saturating_sub(1);
            if level.left > 0 {
                break;
            }
            let is_value = level.holds != Holds::Attribute;
            self.open.pop();
            if !is_value {
                break;
            }
        }
        Token::End
    }
}

impl Kind {
    fn is_line(self) -> bool {
        matches!(
            self,
            Self::Simple | Self::Error | Self::Integer | Self::Null | Self::Boolean | Self::Double | Self::BigNumber
        )
    }

    fn is_blob(self) -> bool {
        matches!(self, Self::Bulk | Self::BulkError | Self::Verbatim)
    }

    /// Returns whether values are in it.
    pub fn is_aggregate(self) -> bool {
        !self.is_line() && !self.is_blob()
    }
}

impl Length {
    fn has_leading_zero(self) -> bool {
        self.digits == 1 && self.value == 0
    }

    /// Returns the length; `None`: -1, which is null.
    fn complete(self) -> Result<Option<u64>, Cause> {
        match (self.is_negative, self.value) {
            (false, value) => Ok(Some(value.into())),
            (true, 1) => Ok(None),
            (true, _) => Err(Cause::Malformed),
        }
    }
}
