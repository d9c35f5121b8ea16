//! Marks request targets (RFC 9112 section 3.2), and the templates of routes.

use crate::engine::proto::structure::{Marks, Shape, Words};

/// Schemes of absolute targets.
pub(super) const SCHEMES: Words<'_> = Words::usual(&[b"https", b"wss", b"http", b"ws"]);

/// Segments of paths that decide something: where telemetry is sent, versions of interfaces, JSON Web Tokens.
const SEGMENTS: Words<'_> = Words::usual(&[
    b"v1development",
    b"v1",
    b"traces",
    b"metrics",
    b"logs",
    b"profiles",
    b"eyJ",
]);

/// An `@`, percent-encoded: a segment that has one may be an e-mail address.
const ESCAPES: Words<'_> = Words::usual(&[b"40"]);

/// The place of the next byte in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Before the path of an absolute target, or in an authority: the two bytes before.
    Authority([u8; 2]),
    /// In a path or a query: so many bytes of an escape are to come.
    Path(u8),
}

impl Target {
    /// Creates the state before the first byte, which begins a word.
    pub fn new() -> Self {
        Self::Authority([0; 2])
    }

    /// Marks a byte, and returns the place behind it.
    pub fn next(self, byte: u8, marks: &mut Marks<'_>) -> Self {
        match self {
            // The slashes of `http://` do not begin a path.
            Self::Authority(before) if byte == b'?' || byte == b'/' && !matches!(before, [_, b':'] | [b':', b'/']) => {
                path_separator(marks)
            }
            Self::Authority([_, before]) => {
                marks.word(1, Shape::Address, SCHEMES);
                Self::Authority([before, byte])
            }
            Self::Path(escape) => in_path(escape, byte, marks),
        }
    }
}

/// Marks a segment of a path by itself.
pub(in crate::engine::proto) fn path_segment(segment: &str, marks: &mut Marks<'_>) {
    marks.new_word();
    segment
        .bytes()
        .fold(Target::Path(0), |place, byte| place.next(byte, marks));
}

/// Marks a byte that ends a part of a path or a query. Each part is a word of its own, because proxies cut paths between
/// them.
fn path_separator(marks: &mut Marks<'_>) -> Target {
    marks.keep(1);
    marks.new_word();
    Target::Path(0)
}

fn in_path(escape: u8, byte: u8, marks: &mut Marks<'_>) -> Target {
    match (byte, escape) {
        (b'/' | b'?' | b'&' | b'=' | b';', _) => path_separator(marks),
        (b'%', _) => {
            // Of the word, so that equal escapes in different words do not look equal.
            marks.word(1, Shape::Same, Words::NONE);
            marks.known_again();
            Target::Path(2)
        }
        (_, 0) => {
            marks.word(1, Shape::Path, SEGMENTS);
            Target::Path(0)
        }
        (_, left) => {
            marks.word(1, Shape::Path, ESCAPES);
            Target::Path(left - 1)
        }
    }
}
