//! Replies, and the messages that RESP3 sends beside them.

use super::{
    Answer, Cause, Piece,
    frames::{Frames, Kind, Token},
    kept::{Kept, is_error_prefix},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half},
};

/// The replies of a connection, of which one may have begun.
#[derive(Debug)]
pub(super) struct Answers {
    frames: Frames,
    now: Now,
}

/// The message that is under way.
///
/// ```text
/// Between ──► Begun ──► Word ──► Told ──► Between
///               │  └──────────────►┘         ▲
///               └────► Passing ──────────────┘
/// ```
#[derive(Debug)]
enum Now {
    /// None.
    Between,
    /// No type is known yet, or an attribute comes first.
    Begun(Begin),
    /// The first word of an error, or a line of text.
    Word(Box<Word>),
    /// A reply that was told.
    Told(Shape),
    /// A message that is no reply.
    Passing,
}

/// The begin of a message.
#[derive(Clone, Copy, Debug)]
struct Begin {
    first: Stamp,
    offset: u64,
}

#[derive(Debug)]
struct Word {
    begin: Begin,
    is_error: bool,
    text: Kept,
}

/// The parts of a reply that can change the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An error.
    Error,
    /// `+QUEUED`: it is answered by `EXEC`.
    Queued,
    /// An array, or another aggregate.
    Aggregate,
    /// Anything else.
    Other,
}

/// An event of the half.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// More bytes are needed.
    Nothing,
    /// The outcome of a command is known.
    Answered { answer: Answer, first: Stamp, offset: u64 },
    /// A message that is no reply begins.
    Push,
}

impl Answers {
    /// Begins between two messages.
    pub fn new() -> Self {
        Self {
            frames: Frames::new(Half::Response),
            now: Now::Between,
        }
    }

    /// Returns whether the next byte begins a message.
    pub fn is_between(&self) -> bool {
        matches!(self.now, Now::Between)
    }

    /// Returns the call that moved the first byte of the reply under way.
    pub fn first(&self) -> Option<Stamp> {
        match &self.now {
            Now::Begun(begin) => Some(begin.first),
            Now::Word(word) => Some(word.begin.first),
            Now::Between | Now::Told(_) | Now::Passing => None,
        }
    }

    /// Returns the stream offset below which all bytes are of a string: a gap of them hides nothing. 0: nothing is known.
    pub fn body_until(&self) -> u64 {
        self.frames.blob_end()
    }

    /// Returns the same for strings that nobody needs.
    pub fn skip_until(&self) -> u64 {
        match &self.now {
            Now::Word(_) => 0,
            _ => self.body_until(),
        }
    }

    /// Takes at least one byte off a piece, which is not empty, and says what it means. To be followed by
    /// [`Answers::take_ended`].
    ///
    /// # Errors
    /// Bytes that frame are missing or malformed. Nothing more can be read then.
    pub fn next(&mut self, piece: &mut Piece<'_>) -> Result<Heard, Cause> {
        if let Now::Between = self.now {
            let Data::Bytes(_) = piece.data else {
                return Err(Cause::Gap);
            };
            self.now = Now::Begun(Begin {
                first: piece.stamp,
                offset: piece.offset,
            });
        }
        let token = self.frames.next(piece)?;
        Ok(self.take(token))
    }

    /// Returns the shape of a reply that was told and is complete now.
    pub fn take_ended(&mut self) -> Option<Shape> {
        if !self.frames.is_between() {
            return None;
        }
        match std::mem::replace(&mut self.now, Now::Between) {
            Now::Told(shape) => Some(shape),
            Now::Passing | Now::Between => None,
            // Not before its word is known, which is no later.
            now @ (Now::Begun(_) | Now::Word(_)) => {
                self.now = now;
                None
            }
        }
    }

    fn take(&mut self, token: Token<'_>) -> Heard {
        match (&mut self.now, token) {
            (
                Now::Begun(begin),
                Token::Value {
                    kind,
                    length,
                    is_outermost: true,
                },
            ) => {
                let begin = *begin;
                self.begin(begin, kind, length)
            }
            (Now::Word(word), Token::Bytes(bytes)) => {
                let end = bytes.iter().position(|&byte| byte == b' ');
                word.text
                    .push(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
                if end.is_some() { self.word() } else { Heard::Nothing }
            }
            (Now::Word(word), Token::Missing(_)) => {
                word.text.tear();
                self.word()
            }
            (Now::Word(_), Token::End) => self.word(),
            _ => Heard::Nothing,
        }
    }

    fn begin(&mut self, begin: Begin, kind: Kind, length: Option<u64>) -> Heard {
        let word = |is_error| {
            Now::Word(Box::new(Word {
                begin,
                is_error,
                text: Kept::default(),
            }))
        };
        self.now = match kind {
            Kind::Attribute => return Heard::Nothing,
            Kind::Push => {
                self.now = Now::Passing;
                return Heard::Push;
            }
            // No server sends one, and no word follows.
            Kind::BulkError if length.is_none() => {
                self.now = Now::Told(Shape::Error);
                return answered(begin, Answer::Error(None));
            }
            Kind::Error | Kind::BulkError => word(true),
            Kind::Simple => word(false),
            _ if kind.is_aggregate() => Now::Told(Shape::Aggregate),
            _ => Now::Told(Shape::Other),
        };
        match self.now {
            Now::Told(_) => answered(begin, Answer::Reply),
            _ => Heard::Nothing,
        }
    }

    /// Takes the first word of the message, which is known by now.
    fn word(&mut self) -> Heard {
        let Now::Word(word) = std::mem::replace(&mut self.now, Now::Told(Shape::Other)) else {
            return Heard::Nothing;
        };
        let text = word.text.whole();
        let (shape, answer) = if word.is_error {
            let prefix = text.filter(|text| is_error_prefix(text));
            let prefix = prefix.map(|text| String::from_utf8_lossy(text).into());
            (Shape::Error, Answer::Error(prefix))
        } else if text == Some(b"QUEUED") {
            (Shape::Queued, Answer::Reply)
        } else {
            (Shape::Other, Answer::Reply)
        };
        self.now = Now::Told(shape);
        answered(word.begin, answer)
    }
}

fn answered(Begin { first, offset }: Begin, answer: Answer) -> Heard {
    Heard::Answered { answer, first, offset }
}
