//! The structure of messages, for redacted tapes: which bytes say how Core reads a message, and which are the services' own.
//!
//! A [`Structure`] follows a connection as a [`Parser`](super::Parser) does, but it has to say what each byte is as soon as it
//! comes: a tape is redacted record by record. It appends [`Mark`]s, one after the other, and the tape replaces the bytes
//! accordingly. A structure fails closed: bytes that it does not vouch for are marked to be filled, and the tape fills bytes that
//! have no mark.

use super::{
    Half, Protocol,
    detect::{Detected, FirstBytes, detect},
    http1, redis,
};

/// Follows one connection of a protocol.
#[derive(Debug)]
pub enum Structure {
    /// HTTP/1.0 and 1.1 (RFC 9112).
    Http1(http1::Structure),
    /// RESP2 and RESP3.
    Redis(Box<redis::Conversation>),
}

/// Marks on bytes, in the order of the stream.
#[derive(Debug, Default)]
pub struct Marks<'n> {
    marks: Vec<Mark<'n>>,
}

/// The way in which the next bytes, or the next word, may be shown. Counts are of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark<'n> {
    /// This many bytes stay as they are.
    Keep(usize),
    /// This many bytes are filled.
    Fill(usize),
    /// This many bytes of the current word become a stand-in. A word goes on over marks, and over calls for the same
    /// half.
    Word(usize, Shape, Words<'n>),
    /// A word begins with the next byte.
    NewWord,
    /// A known word may begin with the next byte, in the middle of the current word.
    KnownAgain,
}

/// The properties that a stand-in shares with the word that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Spaces stay.
    Text,
    /// Letters, digits and hexadecimal digits stay such, punctuation stays: span names are made by that.
    Path,
    /// A host, with or without a port, or a list of addresses: it stays valid, punctuation stays.
    Address,
    /// Hexadecimal digits stay such, and dashes stay.
    Hex,
    /// A token (RFC 9110 section 5.6.2), or none: letters and digits stay such.
    Token,
    /// Nothing but the length: each byte becomes a small number.
    Octets,
    /// Every byte stays. As part of the word, it still has a say in the stand-ins of the bytes behind it.
    Same,
}

/// Words that stay where a message may have them, in any case of letters. A stand-in never becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words<'n> {
    /// Words that the protocol gives a meaning to.
    usual: &'n [&'n [u8]],
    /// Words that the tape's settings name.
    more: &'n [Vec<u8>],
}

/// Names that a tape's settings show anyway: messages may show them, too.
#[derive(Debug, Default)]
pub struct Named {
    /// Headers that the user chose to capture.
    pub headers: Vec<Vec<u8>>,
    /// Methods that the user declares to be known.
    pub methods: Vec<Vec<u8>>,
}

impl Structure {
    /// Chooses the structure of a connection as [`detect`] chooses its parser, and returns whether this end is the
    /// server's; `None`: these bytes do not show the protocol.
    pub fn detect(seen: &FirstBytes<'_>) -> Option<(Self, bool)> {
        let Detected { parser, at_server } = detect(seen)?;
        let structure = match parser.protocol() {
            Protocol::Http1 => Self::Http1(http1::Structure::new(seen.from_birth)),
            Protocol::Redis => Self::Redis(Box::new(redis::Conversation::new(seen.from_birth))),
        };
        Some((structure, at_server))
    }

    /// Takes the next bytes in the stream of one half, and appends marks for them. `begins_call`: they begin with the first byte of
    /// a system call.
    pub fn bytes<'n>(&mut self, named: &'n Named, half: Half, begins_call: bool, bytes: &[u8], marks: &mut Marks<'n>) {
        match self {
            Self::Http1(http) => http.bytes(named, half, begins_call, bytes, marks),
            Self::Redis(redis) => redis.bytes(half, bytes, marks),
        }
    }

    /// Takes a gap in the stream of one half: `n` bytes passed that were not captured.
    pub fn gap(&mut self, half: Half, n: u64) {
        match self {
            Self::Http1(http) => http.gap(half, n),
            Self::Redis(redis) => redis.gap(half, n),
        }
    }
}

/// Marks a literal segment of a route, so that it has the stand-in that this segment has in a path.
pub fn path_segment(segment: &str) -> Marks<'static> {
    let mut marks = Marks::default();
    http1::structure::path_segment(segment, &mut marks);
    marks
}

impl<'n> Marks<'n> {
    /// Returns the marks, in the order of the stream.
    pub fn iter(&self) -> impl Iterator<Item = Mark<'n>> {
        self.marks.iter().copied()
    }

    /// Lets the next `n` bytes stay.
    pub fn keep(&mut self, n: usize) {
        match self.marks.last_mut() {
            _ if n == 0 => {}
            Some(Mark::Keep(kept)) => *kept += n,
            _ => self.marks.push(Mark::Keep(n)),
        }
    }

    /// Has the next `n` bytes filled.
    pub fn fill(&mut self, n: usize) {
        match self.marks.last_mut() {
            _ if n == 0 => {}
            Some(Mark::Fill(filled)) => *filled += n,
            _ => self.marks.push(Mark::Fill(n)),
        }
    }

    /// Takes the next `n` bytes for a part of the current word, which may be one of `words`.
    pub fn word(&mut self, n: usize, shape: Shape, words: Words<'n>) {
        match self.marks.last_mut() {
            Some(Mark::Word(bytes, last, known)) if *last == shape && known.is(words) => *bytes += n,
            _ => self.marks.push(Mark::Word(n, shape, words)),
        }
    }

    /// Begins a word.
    pub fn new_word(&mut self) {
        self.marks.push(Mark::NewWord);
    }

    /// Lets a known word begin in the middle of the current word.
    pub fn known_again(&mut self) {
        self.marks.push(Mark::KnownAgain);
    }
}

impl<'n> Words<'n> {
    /// No word.
    pub const NONE: Self = Self { usual: &[], more: &[] };

    /// Zeros, up to the length of a trace id: an id of zeros alone is none.
    pub const ZEROS: Self = Self::usual(&[&[b'0'; 32]]);

    /// Makes a set of words that the protocol gives a meaning to.
    pub const fn usual(usual: &'n [&'n [u8]]) -> Self {
        Self { usual, more: &[] }
    }

    /// Adds words of the tape's settings.
    pub const fn and(self, more: &'n [Vec<u8>]) -> Self {
        Self { more, ..self }
    }

    /// Returns the words.
    pub fn iter(self) -> impl Iterator<Item = &'n [u8]> {
        self.usual.iter().copied().chain(self.more.iter().map(Vec::as_slice))
    }

    /// Returns whether both are the same tables. Equal tables in two places are not: comparing them would take too long.
    fn is(self, other: Self) -> bool {
        std::ptr::eq(self.usual, other.usual) && std::ptr::eq(self.more, other.more)
    }
}

impl Named {
    /// Takes names as the settings have them, with blanks around them or none.
    pub fn new<'a>(headers: impl Iterator<Item = &'a str>, methods: impl Iterator<Item = &'a str>) -> Self {
        let bytes = |name: &str| name.trim().as_bytes().to_vec();
        Self {
            headers: headers.map(bytes).collect(),
            methods: methods.map(bytes).collect(),
        }
    }
}
