//! Marks a message's head, byte by byte.
//!
//! Structure are separators and line ends, known methods, versions, status codes, the names of known headers and of those that
//! the tape's settings name, and parts of some values. All else becomes stand-ins.

use super::{
    names::{HEADERS, METHODS, METHODS_OR_PROXY, VERSIONS},
    proxy::{Binary, LINE_WORDS, PROXY},
    target::Target,
    value::Value,
};
use crate::engine::proto::{
    Half,
    structure::{Marks, Named, Shape, Words},
};

/// A head of which bytes have come, or none yet.
#[derive(Debug)]
pub(super) struct Head {
    at: At,
    /// All bytes of it as they were: they tell how long the body is.
    raw: Vec<u8>,
    /// Bytes of the line, without its end.
    line_bytes: usize,
    /// The binary header of a proxy that the next byte may belong to.
    proxy: Option<Binary>,
    /// Bytes of [`PROXY`] that the first line has begun with; `None`: it is not a proxy's line.
    proxy_word: Option<usize>,
}

/// The part of a head that the next byte belongs to.
#[derive(Debug)]
enum At {
    Method,
    /// In a proxy's line, behind the first word.
    ProxyLine,
    Target(Target),
    Version,
    StatusVersion,
    /// In the status code, behind so many bytes of it.
    Status(usize),
    Reason,
    /// In the name of a header line: its bytes so far, in lower case.
    Name(Vec<u8>),
    Value(Value),
}

impl Head {
    /// Creates the state before the first byte of a head.
    pub fn new(half: Half) -> Self {
        Self {
            at: match half {
                Half::Request => At::Method,
                Half::Response => At::StatusVersion,
            },
            raw: Vec::new(),
            line_bytes: 0,
            proxy: None,
            proxy_word: None,
        }
    }

    /// Creates the state before the first byte of a connection, which a proxy may have accepted from another client.
    pub fn first(half: Half) -> Self {
        let may_be_proxied = half == Half::Request;
        Self {
            proxy: may_be_proxied.then_some(Binary::Signature(0)),
            proxy_word: may_be_proxied.then_some(0),
            ..Self::new(half)
        }
    }

    /// Returns all bytes so far, as they were.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Marks the next byte, and returns whether the head ends with it.
    pub fn next<'n>(&mut self, byte: u8, named: &'n Named, marks: &mut Marks<'n>) -> bool {
        if let Some(next) = self.proxy.take().and_then(|proxy| proxy.next(byte, marks)) {
            self.proxy = next;
            return false;
        }
        if self.raw.is_empty() {
            // Empty lines may come first (RFC 9112 section 2.2).
            if matches!(byte, b'\r' | b'\n') {
                marks.keep(1);
                return false;
            }
            marks.new_word();
        }
        self.raw.push(byte);
        match byte {
            b'\n' if matches!(self.at, At::ProxyLine) => {
                marks.keep(1);
                *self = Self::new(Half::Request);
            }
            b'\n' => {
                self.end_part(At::Name(Vec::new()), marks);
                return std::mem::take(&mut self.line_bytes) == 0;
            }
            b'\r' => marks.keep(1),
            _ => {
                self.line_bytes += 1;
                self.in_line(byte, named, marks);
            }
        }
        false
    }

    /// Keeps the byte that ends a part of the head. A word begins behind it.
    fn end_part(&mut self, next: At, marks: &mut Marks<'_>) {
        marks.keep(1);
        marks.new_word();
        self.at = next;
    }

    fn in_line<'n>(&mut self, byte: u8, named: &'n Named, marks: &mut Marks<'n>) {
        match &mut self.at {
            At::Method if byte == b' ' => {
                let is_proxy = self.proxy_word.take() == Some(PROXY.len());
                let next = if is_proxy {
                    At::ProxyLine
                } else {
                    At::Target(Target::new())
                };
                self.end_part(next, marks);
            }
            At::Method => {
                let words = match self.proxy_word {
                    Some(_) => METHODS_OR_PROXY,
                    None => METHODS,
                };
                marks.word(1, Shape::Token, words.and(&named.methods));
                let goes_on = |at: &usize| PROXY.get(*at) == Some(&byte);
                self.proxy_word = self.proxy_word.filter(goes_on).map(|at| at + 1);
            }
            At::ProxyLine if byte == b' ' => self.end_part(At::ProxyLine, marks),
            At::ProxyLine => marks.word(1, Shape::Address, LINE_WORDS),
            At::Target(_) if byte == b' ' => self.end_part(At::Version, marks),
            At::Target(target) => *target = target.next(byte, marks),
            At::StatusVersion if byte == b' ' => self.end_part(At::Status(0), marks),
            At::Version | At::StatusVersion => marks.word(1, Shape::Text, VERSIONS),
            At::Status(_) if byte == b' ' => self.end_part(At::Reason, marks),
            At::Status(digits) => {
                *digits += 1;
                if *digits <= 3 && byte.is_ascii_digit() {
                    marks.keep(1);
                } else {
                    marks.word(1, Shape::Path, Words::NONE);
                }
            }
            At::Reason => marks.word(1, Shape::Text, Words::NONE),
            // The line continues the value before (RFC 9112 section 5.2).
            At::Name(_) if self.line_bytes == 1 && matches!(byte, b' ' | b'\t') => {
                self.end_part(At::Value(Value::Text), marks);
            }
            At::Name(name) if byte == b':' => {
                let value = Value::of(name);
                self.end_part(At::Value(value), marks);
            }
            At::Name(name) => {
                name.push(byte.to_ascii_lowercase());
                marks.word(1, Shape::Token, HEADERS.and(&named.headers));
            }
            At::Value(value) => *value = value.next(byte, marks),
        }
    }
}
