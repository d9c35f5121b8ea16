//! Commands: arrays of bulk strings, or lines of words (inline commands).

use super::{
    Cause, Command, CommandName, Piece,
    frames::{Frames, Kind, Token},
    kept::Kept,
    keys::{self, Keys},
};
use crate::engine::{
    execution::Stamp,
    proto::{Data, Half},
};

/// Longest line of an inline command (`PROTO_INLINE_MAX_SIZE`).
const MAX_INLINE_BYTES: u64 = 64 * 1024;

/// The commands of a connection, of which one may have begun.
#[derive(Debug)]
pub(super) struct Commands {
    frames: Frames,
    partial: Option<Box<Partial>>,
}

/// A command that is whole.
#[derive(Debug)]
pub(super) struct Found {
    pub command: Box<Command>,
    pub effect: Option<Effect>,
    /// The system call that moved its first byte.
    pub first: Stamp,
    /// Stream offset of its first byte.
    pub offset: u64,
}

/// A change of the connection that a command makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// If it is answered, the server goes on with something else.
    Turns(Turn),
    /// Neither this command nor those behind it get a reply.
    Silences,
}

/// The thing that a server goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Messages of channels.
    Subscription,
    /// The same, if the reply of `PING` is an array: this is a connection that has subscribed already.
    Ping,
    /// The commands of all clients.
    Monitor,
    /// All data.
    Replication,
}

/// A command that is not complete.
#[derive(Debug)]
struct Partial {
    first: Stamp,
    offset: u64,
    form: Form,
    /// The string that is under way.
    text: Kept,
    words: Words,
}

/// The strings of a command, as far as they say what it does.
#[derive(Debug)]
pub(super) struct Words {
    /// How many are whole, the name first.
    strings: u64,
    name: Option<CommandName>,
    keys: Keys,
    /// The argument that says how many keys there are.
    counted: Option<u64>,
    effect: Option<Effect>,
    client: Client,
}

/// The way in which a command is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Strings,
    /// A line: the bytes that came so far, and whether they are all of its first word.
    Inline {
        bytes: u64,
        in_name: bool,
    },
}

/// How much of `CLIENT REPLY OFF` a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    No,
    Named,
    Reply,
}

impl Commands {
    /// Begins between two commands.
    pub fn new() -> Self {
        Self {
            frames: Frames::new(Half::Request),
            partial: None,
        }
    }

    /// Returns the call that moved the first byte of the command under way.
    pub fn first(&self) -> Option<Stamp> {
        self.partial.as_ref().map(|partial| partial.first)
    }

    /// Returns the stream offset below which all bytes are of a string: a gap of them hides nothing. 0: nothing is known.
    pub fn body_until(&self) -> u64 {
        self.frames.blob_end()
    }

    /// Returns the same for strings that nobody needs.
    pub fn skip_until(&self) -> u64 {
        match &self.partial {
            Some(partial) if partial.text.is_wanted() => 0,
            _ => self.body_until(),
        }
    }

    /// Takes at least one byte off a piece, which is not empty, and says whether a command is whole.
    ///
    /// # Errors
    /// Bytes that frame are missing or malformed. Nothing more can be read then.
    pub fn next(&mut self, piece: &mut Piece<'_>) -> Result<Option<Found>, Cause> {
        let partial = match &mut self.partial {
            Some(partial) => partial,
            none => {
                let Data::Bytes(bytes) = piece.data else {
                    return Err(Cause::Gap);
                };
                none.insert(Box::new(Partial::new(piece, bytes.first() == Some(&b'*'))))
            }
        };
        let is_whole = match partial.form {
            Form::Strings => {
                let token = self.frames.next(piece)?;
                partial.take(token)?;
                self.frames.is_between()
            }
            Form::Inline { bytes, in_name } => partial.line(bytes, in_name, piece)?,
        };
        if !is_whole {
            return Ok(None);
        }
        Ok(self.partial.take().and_then(|partial| (*partial).found()))
    }
}

impl Partial {
    fn new(piece: &Piece<'_>, has_strings: bool) -> Self {
        Self {
            first: piece.stamp,
            offset: piece.offset,
            form: if has_strings {
                Form::Strings
            } else {
                Form::Inline {
                    bytes: 0,
                    in_name: true,
                }
            },
            text: Kept::default(),
            words: Words::default(),
        }
    }

    /// Takes what comes next of an array.
    fn take(&mut self, token: Token<'_>) -> Result<(), Cause> {
        match token {
            Token::Frame | Token::Value { kind: Kind::Array, .. } => {}
            // There is no null among the strings of a command.
            Token::Value { length: None, .. } => return Err(Cause::Malformed),
            Token::Value { .. } => {
                self.text = Kept::default();
                if !self.words.wants_next() {
                    self.text.tear();
                }
            }
            Token::Bytes(bytes) => self.text.push(bytes),
            Token::Missing(_) => self.text.tear(),
            Token::End => {
                self.words.take(&self.text);
            }
        }
        Ok(())
    }

    /// Takes what comes next of a line, and says whether it is over.
    fn line(&mut self, before: u64, in_name: bool, piece: &mut Piece<'_>) -> Result<bool, Cause> {
        let Data::Bytes(bytes) = piece.data else {
            return Err(Cause::Gap);
        };
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let total = before + line.len() as u64;
        if total > MAX_INLINE_BYTES {
            return Err(Cause::Malformed);
        }
        // Redis passes over blanks before the name.
        let begins = in_name && self.text.whole() == Some(&[]);
        let blanks = line
            .iter()
            .take_while(|byte| begins && matches!(byte, b' ' | b'\t'))
            .count();
        let words = line.get(blanks..).unwrap_or_default();
        let name = match words.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            _ if !in_name => &[],
            None => words,
            Some(blank) => words.get(..blank).unwrap_or_default(),
        };
        if name.iter().any(|byte| !byte.is_ascii_graphic()) {
            return Err(Cause::Malformed);
        }
        self.text.push(name);
        self.form = Form::Inline {
            bytes: total,
            in_name: in_name && name.len() == words.len(),
        };
        piece.skip(line.len() as u64 + u64::from(end.is_some()));
        if end.is_none() {
            return Ok(false);
        }
        // A line of blanks is no command.
        if self.text.whole() != Some(&[]) {
            self.words.take(&self.text);
            // Its words may be quoted: they are not counted.
            self.words.keys = Keys::Unknown;
        }
        Ok(true)
    }

    /// Returns the command. `None`: an array or a line without words, which Redis does not answer.
    fn found(self) -> Option<Found> {
        let Words {
            strings,
            name,
            keys,
            counted,
            effect,
            ..
        } = self.words;
        let keys = keys.count(strings.checked_sub(1)?, counted);
        Some(Found {
            command: Box::new(Command { name, keys }),
            effect,
            first: self.first,
            offset: self.offset,
        })
    }
}

impl Default for Words {
    fn default() -> Self {
        Self {
            strings: 0,
            name: None,
            keys: Keys::Unknown,
            counted: None,
            effect: None,
            client: Client::No,
        }
    }
}

impl Words {
    /// Returns whether the string that begins is needed.
    pub fn wants_next(&self) -> bool {
        self.strings == 0 || self.client != Client::No || self.is_count()
    }

    /// Returns whether the string that begins says how many keys there are.
    fn is_count(&self) -> bool {
        matches!(self.keys, Keys::Counted { at, .. } if u64::from(at) == self.strings)
    }

    /// Takes a string that is whole. Returns whether it is a word that Redis knows, or a number of keys: no data.
    pub fn take(&mut self, text: &Kept) -> bool {
        let is_known = match (self.strings, self.client) {
            (0, _) => self.take_name(text),
            (_, Client::Named) if text.is("REPLY") => {
                self.client = Client::Reply;
                true
            }
            (_, Client::Reply) => {
                self.client = Client::No;
                let is_on = text.is("ON");
                self.effect = (!is_on).then_some(Effect::Silences);
                is_on || text.is("OFF") || text.is("SKIP")
            }
            (_, Client::Named) => {
                self.client = Client::No;
                false
            }
            (_, Client::No) if self.is_count() => {
                self.counted = text.number();
                self.counted.is_some()
            }
            (_, Client::No) => false,
        };
        self.strings += 1;
        is_known
    }

    fn take_name(&mut self, text: &Kept) -> bool {
        let Some(text) = text.whole() else {
            return false;
        };
        let Some((name, keys)) = keys::command(text) else {
            self.name = Some(CommandName::Other);
            return false;
        };
        self.name = Some(CommandName::Known(name));
        self.keys = keys;
        match name {
            "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => {
                self.effect = Some(Effect::Turns(Turn::Subscription));
            }
            "PING" => self.effect = Some(Effect::Turns(Turn::Ping)),
            "MONITOR" => self.effect = Some(Effect::Turns(Turn::Monitor)),
            "SYNC" | "PSYNC" => self.effect = Some(Effect::Turns(Turn::Replication)),
            "CLIENT" => self.client = Client::Named,
            _ => {}
        }
        true
    }
}
