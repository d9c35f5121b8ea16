//! Makes stand-ins, byte by byte. The stand-in of a byte depends on the tape's random key and on the bytes before it in its
//! word.
//!
//! So a word has the same stand-in everywhere on a tape, even where it lies in several records, and words that begin alike have
//! stand-ins that begin alike. No byte becomes itself. A stand-in keeps the properties by which Core reads a word: the length,
//! and the kinds of characters that the [`Shape`] names.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

use crate::engine::proto::structure::{Mark, Marks, Shape, Words};

/// Bytes that nothing vouches for become this letter.
pub const FILL: u8 = b'x';

/// Length of the longest word that can be a known one, in bytes.
const KNOWN_BYTES: usize = 48;

/// Random key of one tape's stand-ins. Nobody keeps it.
#[derive(Debug, Default)]
pub struct Key(RandomState);

/// A word whose bytes become stand-ins one after the other.
#[derive(Clone, Debug)]
pub struct Word {
    /// Hash of the bytes so far.
    hasher: DefaultHasher,
    /// The bytes since a known word may have begun, up to [`KNOWN_BYTES`].
    prefix: Vec<u8>,
    /// The prefix may become a known word.
    known: bool,
}

/// The bytes that a byte may become.
enum Class {
    Itself,
    One(u8),
    OneOf(&'static [u8]),
}

impl Key {
    /// Begins a word.
    pub fn word(&self) -> Word {
        Word {
            hasher: self.0.build_hasher(),
            prefix: Vec::new(),
            known: true,
        }
    }

    /// Returns the stand-in of a whole word.
    pub fn whole(&self, word: &[u8], shape: Shape, words: Words<'_>) -> Vec<u8> {
        let mut state = self.word();
        word.iter().map(|&byte| state.next(byte, shape, words)).collect()
    }
}

impl Word {
    /// Replaces bytes as they are marked, and fills those that have no mark. The word goes on from the bytes before.
    pub fn replace(&mut self, bytes: &mut [u8], marks: &Marks<'_>, key: &Key) {
        let mut rest = bytes.iter_mut();
        for mark in marks.iter() {
            match mark {
                Mark::Keep(n) => rest.by_ref().take(n).for_each(drop),
                Mark::Fill(n) => rest.by_ref().take(n).for_each(|byte| *byte = FILL),
                Mark::Word(n, shape, words) => {
                    for byte in rest.by_ref().take(n) {
                        *byte = self.next(*byte, shape, words);
                    }
                }
                Mark::NewWord => *self = key.word(),
                Mark::KnownAgain => {
                    self.prefix.clear();
                    self.known = true;
                }
            }
        }
        rest.for_each(|byte| *byte = FILL);
    }

    /// Returns the stand-in of the next byte: the byte itself as long as the word may become one of `words`, in any case of
    /// letters. The stand-in of any other word never becomes one of them.
    fn next(&mut self, byte: u8, shape: Shape, words: Words<'_>) -> u8 {
        let known = std::mem::take(&mut self.known);
        let expected = |byte: u8| {
            known && words.iter().any(|word| continues(word, &self.prefix, byte))
                || shape == Shape::Path && matches!(byte, b'T' | b'Z') && begins_as_date(&self.prefix)
        };
        let standin = if expected(byte) {
            self.known = known;
            byte
        } else {
            match class(byte, shape) {
                Class::Itself => byte,
                Class::One(other) => other,
                Class::OneOf(alphabet) => another(byte, self.hasher.finish(), alphabet, expected),
            }
        };
        self.hasher.write_u8(byte);
        if self.prefix.len() < KNOWN_BYTES {
            self.prefix.push(byte);
        } else {
            self.known = false;
        }
        standin
    }
}

/// Returns whether a byte behind the prefix goes on like a word.
fn continues(word: &[u8], prefix: &[u8], byte: u8) -> bool {
    word.split_at_checked(prefix.len()).is_some_and(|(begin, rest)| {
        begin.eq_ignore_ascii_case(prefix) && rest.first().is_some_and(|next| next.eq_ignore_ascii_case(&byte))
    })
}

/// Returns whether a word begins like `YYYY-MM-DD`.
fn begins_as_date(prefix: &[u8]) -> bool {
    let digit_or_dash = |(index, byte): (usize, &u8)| match index {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    prefix.len() >= 10 && prefix.iter().take(10).enumerate().all(digit_or_dash)
}

/// Returns a member of the alphabet that is neither the byte itself nor excluded. With one random number, two members never
/// become the same one.
fn another(byte: u8, random: u64, alphabet: &[u8], excluded: impl Fn(u8) -> bool) -> u8 {
    let usable = || alphabet.iter().copied().filter(|&other| !excluded(other));
    let count = usable().count() as u64;
    let at = |place: u64| usable().nth(place as usize).unwrap_or(b'x');
    match usable().position(|other| other == byte) {
        // Shifted by at least one, and not all the way around.
        Some(place) if count > 1 => at((place as u64 + 1 + random % (count - 1)) % count),
        Some(_) => b'x',
        None if count > 0 => at((random ^ u64::from(byte)) % count),
        None => b'x',
    }
}

const DIGITS: &[u8] = b"0123456789";
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER_HEX: &[u8] = b"abcdef";
const LOWER_REST: &[u8] = b"ghijklmnopqrstuvwxyz";
const UPPER_HEX: &[u8] = b"ABCDEF";
const UPPER_REST: &[u8] = b"GHIJKLMNOPQRSTUVWXYZ";
const HEX: &[u8] = b"0123456789abcdef";
/// Digits with which no part of an IPv4 address and no port gets too large.
const SMALL_DIGITS: &[u8] = b"12";

/// Returns the bytes that a byte of a word of this shape may become.
fn class(byte: u8, shape: Shape) -> Class {
    use Class::{Itself, One, OneOf};
    match (shape, byte) {
        (Shape::Same, _) => Itself,
        (Shape::Octets, 1) => One(2),
        (Shape::Octets, _) => One(1),
        (_, b'\r' | b'\n') => Itself,
        (Shape::Token, b'-' | b'_' | b'.') => Itself,
        (Shape::Token, b'0'..=b'9') => OneOf(DIGITS),
        (Shape::Token, b'a'..=b'z') => OneOf(LOWER),
        (Shape::Token, b'A'..=b'Z') => OneOf(UPPER),
        (Shape::Token, _) if agent_ebpf::classify::is_token(byte) => One(b'~'),
        // A word that is not a token stays none.
        (Shape::Token, _) => One(b'('),
        (_, b' ' | b'\t') => Itself,
        // A control character stays one.
        (_, 0..=0x1f | 0x7f) => One(0x7f),
        (Shape::Text, _) => OneOf(LOWER),
        (Shape::Hex, b'0'..=b'9' | b'a'..=b'f') => OneOf(HEX),
        (Shape::Address, b'0'..=b'9') => OneOf(SMALL_DIGITS),
        (Shape::Path, b'0'..=b'9') => OneOf(DIGITS),
        (_, b'a'..=b'f') => OneOf(LOWER_HEX),
        (_, b'g'..=b'z') => OneOf(LOWER_REST),
        (_, b'A'..=b'F') => OneOf(UPPER_HEX),
        (_, b'G'..=b'Z') => OneOf(UPPER_REST),
        (Shape::Hex, b'-') => Itself,
        (Shape::Hex, 0x80..) => One(b'~'),
        (Shape::Hex, _) => One(b'~'),
        (_, 0x21..=0x7e) => Itself,
        (_, 0x80..) => OneOf(beyond_ascii(byte)),
    }
}

/// Returns bytes that UTF-8 allows wherever it allows this one: text stays text.
fn beyond_ascii(byte: u8) -> &'static [u8] {
    match byte {
        0x80..=0x8f => &[0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87],
        0x90..=0x9f => &[0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97],
        0xa0..=0xbf => &[0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7],
        0xc2..=0xdf => &[0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca],
        // The bytes that may follow E0 or ED may follow these, too.
        0xe0..=0xef => &[0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8],
        0xf0..=0xf4 => &[0xf1, 0xf2, 0xf3],
        // Never allowed.
        _ => &[0xc0, 0xc1, 0xf8, 0xf9, 0xfa],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &[u8], shape: Shape, known: &[&[u8]]) -> Vec<u8> {
        let mut word = Key::default().word();
        let known = Words::usual(known);
        text.iter().map(|&byte| word.next(byte, shape, known)).collect()
    }

    #[test]
    fn known_words_stay_and_nothing_becomes_one() {
        let known: &[&[u8]] = &[b"host", b"content-length", b"v1"];
        for word in ["host", "HOST", "Content-Length", "v1"] {
            assert_eq!(words(word.as_bytes(), Shape::Token, known), word.as_bytes());
        }
        for word in ["hosts", "most", "content-lengthen", "v2", "w1", "hoot", "zost"] {
            for _ in 0..100 {
                let standin = words(word.as_bytes(), Shape::Token, known);
                let is_known = known.iter().any(|known| known.eq_ignore_ascii_case(&standin));
                assert!(!is_known && standin != word.as_bytes(), "{word}: {standin:?}");
            }
        }
    }

    #[test]
    fn bytes_without_a_mark_are_filled_and_words_go_on_over_pieces() {
        let key = Key::default();
        let replaced = |pieces: [&[u8]; 2]| {
            let mut word = key.word();
            let mut first = true;
            let pieces = pieces.map(|piece| {
                let mut marks = Marks::default();
                if std::mem::take(&mut first) {
                    marks.keep(1);
                    marks.new_word();
                }
                marks.word(6, Shape::Path, Words::NONE);
                let mut bytes = piece.to_vec();
                word.replace(&mut bytes, &marks, &key);
                bytes
            });
            pieces.concat()
        };
        let word = key.whole(b"secret", Shape::Path, Words::NONE);
        assert_eq!(
            replaced([b"/secretSECRET", b""]),
            [b"/", word.as_slice(), b"xxxxxx"].concat()
        );
        assert_eq!(replaced([b"/sec", b"ret"]), [b"/", word.as_slice()].concat());
    }

    #[test]
    fn times_stay_times() {
        let standin = words(b"2026-11-21T10:00:00Z", Shape::Path, &[]);
        let text = String::from_utf8(standin).unwrap();
        assert_eq!(text.replace(|c: char| c.is_ascii_digit(), "0"), "0000-00-00T00:00:00Z");
    }

    proptest! {
        #[test]
        fn the_same_for_the_same_and_another_for_another(
            one in "[a-z0-9A-Z]{1,40}", other in "[a-z0-9A-Z]{1,40}",
        ) {
            let key = Key::default();
            for shape in [Shape::Path, Shape::Token] {
                let [a, b] = [&one, &other].map(|word| key.whole(word.as_bytes(), shape, Words::NONE));
                prop_assert_eq!(a == b, one == other);
                prop_assert_eq!(&a, &key.whole(one.as_bytes(), shape, Words::NONE));
                prop_assert!(a.iter().zip(one.as_bytes()).all(|(standin, byte)| standin != byte));
            }
        }

        #[test]
        fn no_letter_or_digit_stays(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            for shape in [Shape::Text, Shape::Path, Shape::Address, Shape::Hex, Shape::Token] {
                let standin = words(&text, shape, &[]);
                prop_assert_eq!(standin.len(), text.len());
                for (byte, standin) in text.iter().zip(&standin) {
                    // `T` and `Z` of times are letters that stay, and no more than two.
                    let stays = !byte.is_ascii_alphanumeric() || matches!(byte, b'T' | b'Z');
                    prop_assert!(stays || byte != standin, "{shape:?}: {byte}");
                }
            }
        }

        #[test]
        fn utf_8_stays_utf_8(text in "\\PC{0,30}") {
            let text = text.replace(|c: char| c.is_ascii_control(), "");
            prop_assert!(String::from_utf8(words(text.as_bytes(), Shape::Path, &[])).is_ok());
        }
    }
}
