//! Which bytes of a conversation are structure, and which are data: for those who hide data and keep the conversation readable.

use super::{
    Piece,
    command::Words,
    frames::{Frames, Kind, Token},
    kept::{Kept, is_error_prefix},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half, structure::Marks},
};

/// Status replies that are no data.
const STATUSES: [&str; 4] = ["OK", "PONG", "QUEUED", "RESET"];

/// Both halves of a conversation, for redacted tapes.
#[derive(Debug)]
pub struct Conversation {
    /// `None`: older than the agent, and nothing of it is vouched for.
    halves: Option<[Followed; 2]>,
}

/// One half, and its place in the stream.
#[derive(Debug)]
struct Followed {
    structure: Structure,
    offset: u64,
}

impl Conversation {
    /// Creates the state. `from_birth`: the first bytes that come are the connection's first.
    pub fn new(from_birth: bool) -> Self {
        let followed = |half| Followed {
            structure: Structure::new(half),
            offset: 0,
        };
        Self {
            halves: from_birth.then(|| [Half::Request, Half::Response].map(followed)),
        }
    }

    /// Takes the next bytes of a half, and marks them.
    pub fn bytes(&mut self, half: Half, bytes: &[u8], marks: &mut Marks<'_>) {
        let Some(followed) = self.half(half) else {
            return marks.fill(bytes.len());
        };
        for run in followed.take(Data::Bytes(bytes)) {
            if run.is_data {
                marks.fill(run.bytes as usize);
            } else {
                marks.keep(run.bytes as usize);
            }
        }
    }

    /// Takes a gap in a half.
    pub fn gap(&mut self, half: Half, n: u64) {
        if let Some(followed) = self.half(half) {
            followed.take(Data::Gap(n));
        }
    }

    fn half(&mut self, half: Half) -> Option<&mut Followed> {
        let [request, response] = self.halves.as_mut()?;
        Some(match half {
            Half::Request => request,
            Half::Response => response,
        })
    }
}

impl Followed {
    /// Takes what comes next. A word that is cut off by its end is data.
    fn take(&mut self, data: Data<'_>) -> Vec<Run> {
        let piece = Piece {
            offset: self.offset,
            segment_start: false,
            data,
            stamp: Stamp::default(),
        };
        self.offset = self.offset.saturating_add(piece.len());
        let mut runs = Vec::new();
        self.structure.take(piece, &mut runs);
        self.structure.cut(&mut runs);
        runs
    }
}

/// A stretch of bytes of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whether they are data, or may be.
    pub is_data: bool,
    /// How many.
    pub bytes: u64,
}

/// Tells structure from data in one half of a connection, from its first byte on. Structure are types, lengths and line ends, the
/// names of commands that Redis has, the numbers of keys, the words of `CLIENT REPLY`, the first words of errors, and
/// the usual status replies. All else is data, and so are inline commands, gaps, and all bytes behind one that cannot be
/// read.
#[derive(Debug)]
pub struct Structure {
    half: Half,
    frames: Frames,
    words: Words,
    at: At,
}

#[derive(Debug)]
enum At {
    /// The bytes that come are passed over.
    Passing,
    /// A word that is structure if it is a known one. None of its bytes has been told.
    Word { of: WordOf, text: Kept, bytes: u64 },
    /// Nothing can be read any more.
    Lost,
}

/// The place of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WordOf {
    Command,
    Error,
    Status,
}

impl Structure {
    /// Begins with the first byte of a half.
    pub fn new(half: Half) -> Self {
        Self {
            half,
            frames: Frames::new(half),
            words: Words::default(),
            at: At::Passing,
        }
    }

    /// Takes what comes next, and appends the runs that are known. They follow on each other, and may lag behind by a word of 64
    /// bytes.
    pub fn take(&mut self, mut piece: Piece<'_>, out: &mut Vec<Run>) {
        while !piece.is_empty() {
            let before = piece.len();
            if let At::Lost = self.at {
                return tell(out, true, before);
            }
            if self.frames.is_between() {
                self.words = Words::default();
            }
            match self.frames.next(&mut piece) {
                Ok(token) => self.token(token, before - piece.len(), out),
                Err(_) => {
                    self.finish(out);
                    self.at = At::Lost;
                    tell(out, true, before - piece.len());
                }
            }
        }
    }

    /// Appends what lags behind: nothing follows.
    pub fn finish(&mut self, out: &mut Vec<Run>) {
        if let At::Word { bytes, .. } = std::mem::replace(&mut self.at, At::Passing) {
            tell(out, true, bytes);
        }
    }

    /// Appends what lags behind as data: what follows cannot be taken back into account.
    fn cut(&mut self, out: &mut Vec<Run>) {
        if let At::Word { text, .. } = &mut self.at {
            text.tear();
        }
        self.word(out);
    }

    fn token(&mut self, token: Token<'_>, taken: u64, out: &mut Vec<Run>) {
        match token {
            Token::Bytes(bytes) => self.bytes(bytes, out),
            Token::Missing(missing) => {
                if let At::Word { text, .. } = &mut self.at {
                    text.tear();
                }
                self.word(out);
                tell(out, true, missing);
            }
            Token::Value {
                kind,
                length,
                is_outermost,
            } => {
                self.at = self.place(kind, length, is_outermost).map_or(At::Passing, |of| {
                    let mut text = Kept::default();
                    if of == WordOf::Command && !self.words.wants_next() {
                        text.tear();
                    }
                    At::Word { of, text, bytes: 0 }
                });
                tell(out, false, taken);
            }
            Token::Frame | Token::End => {
                self.word(out);
                tell(out, false, taken);
            }
        }
    }

    /// Returns the place of the text of a value, if that may be structure.
    fn place(&self, kind: Kind, length: Option<u64>, is_outermost: bool) -> Option<WordOf> {
        match (self.half, kind) {
            (Half::Request, Kind::Bulk) if length.is_some() => Some(WordOf::Command),
            (Half::Response, Kind::Error) if is_outermost => Some(WordOf::Error),
            (Half::Response, Kind::BulkError) if is_outermost && length.is_some() => Some(WordOf::Error),
            (Half::Response, Kind::Simple) if is_outermost => Some(WordOf::Status),
            _ => None,
        }
    }

    fn bytes(&mut self, bytes: &[u8], out: &mut Vec<Run>) {
        let At::Word { of, text, bytes: held } = &mut self.at else {
            return tell(out, true, bytes.len() as u64);
        };
        let end = match of {
            WordOf::Error => bytes.iter().position(|&byte| byte == b' '),
            WordOf::Command | WordOf::Status => None,
        };
        let word = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        text.push(word);
        *held += word.len() as u64;
        if end.is_some() || !text.is_wanted() {
            self.word(out);
        }
        tell(out, true, (bytes.len() - word.len()) as u64);
    }

    /// Ends the word.
    fn word(&mut self, out: &mut Vec<Run>) {
        let At::Word { of, text, bytes } = std::mem::replace(&mut self.at, At::Passing) else {
            return;
        };
        let is_known = match of {
            WordOf::Command => self.words.take(&text),
            WordOf::Error => text.whole().is_some_and(is_error_prefix),
            WordOf::Status => STATUSES.iter().any(|status| text.whole() == Some(status.as_bytes())),
        };
        tell(out, !is_known, bytes);
    }
}

fn tell(out: &mut Vec<Run>, is_data: bool, bytes: u64) {
    match out.last_mut() {
        _ if bytes == 0 => {}
        Some(last) if last.is_data == is_data => last.bytes = last.bytes.saturating_add(bytes),
        _ => out.push(Run { is_data, bytes }),
    }
}
