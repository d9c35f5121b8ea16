//! Stand-ins, byte by byte: what a byte becomes depends on the tape's random key and on the bytes before it in its word.
//!
//! So the same word becomes the same stand-in everywhere on a tape, though it may lie in several records, and words that
//! begin alike have stand-ins that begin alike. No byte becomes itself. What decides how Core reads a word is kept: its
//! length, and (by [`Shape`]) what kinds of characters it has.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// Longer words than this are no known words.
const KNOWN_BYTES: usize = 48;

/// What a stand-in has in common with what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing but its spaces.
    Text,
    /// Letters, digits and hexadecimal digits stay such, punctuation stays: span names are made by that.
    Path,
    /// A host, with or without a port, or a list of addresses: it stays valid, punctuation stays.
    Address,
    /// Hexadecimal digits stay such, and dashes stay.
    Hex,
    /// A token (RFC 9110 section 5.6.2), or none: letters and digits stay such.
    Token,
}

/// Makes stand-ins. Each tape has its own, with a key that nobody learns.
#[derive(Debug, Default)]
pub struct Key(RandomState);

/// A word of which stand-ins are being made.
#[derive(Clone, Debug)]
pub struct Word {
    /// Of the bytes so far.
    hasher: DefaultHasher,
    /// The bytes since known words may begin.
    prefix: Vec<u8>,
    /// All of them so far are those of a known word.
    known: bool,
}

/// What a byte may become.
enum Class {
    Itself,
    One(u8),
    OneOf(&'static [u8]),
}

impl Key {
    /// Before the first byte of a word.
    pub fn word(&self) -> Word {
        Word {
            hasher: self.0.build_hasher(),
            prefix: Vec::new(),
            known: true,
        }
    }

    /// Stand-in of a whole word.
    pub fn whole(&self, word: &[u8], shape: Shape) -> Vec<u8> {
        let mut state = self.word();
        word.iter()
            .map(|&byte| state.next(byte, shape, &[[0u8; 0]; 0]))
            .collect()
    }
}

impl Word {
    /// A known word may begin here, in the middle of this one.
    pub fn begin_known(&mut self) {
        self.prefix.clear();
        self.known = true;
    }

    /// The bytes since the word, or [`Self::begin_known`].
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The next byte's stand-in: itself as long as the word may become one of `words`, in any case of letters. What
    /// departs from them never becomes one.
    pub fn next(&mut self, byte: u8, shape: Shape, words: &[impl AsRef<[u8]>]) -> u8 {
        let known = std::mem::take(&mut self.known);
        let expected = |byte: u8| {
            known && words.iter().any(|word| continues(word.as_ref(), &self.prefix, byte))
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

fn continues(word: &[u8], prefix: &[u8], byte: u8) -> bool {
    word.split_at_checked(prefix.len()).is_some_and(|(begin, rest)| {
        begin.eq_ignore_ascii_case(prefix) && rest.first().is_some_and(|next| next.eq_ignore_ascii_case(&byte))
    })
}

/// `YYYY-MM-DD`, and what may be of the time behind it.
fn begins_as_date(prefix: &[u8]) -> bool {
    let digit_or_dash = |(index, byte): (usize, &u8)| match index {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    prefix.len() >= 10 && prefix.iter().take(10).enumerate().all(digit_or_dash)
}

/// One of the alphabet that is neither the byte itself nor excluded: for a member of the alphabet, another one for each.
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
/// Of these alone, no part of an IPv4 address and no port is too large.
const SMALL_DIGITS: &[u8] = b"12";

fn class(byte: u8, shape: Shape) -> Class {
    use Class::{Itself, One, OneOf};
    match (shape, byte) {
        (_, b'\r' | b'\n') => Itself,
        (Shape::Token, b'-' | b'_' | b'.') => Itself,
        (Shape::Token, b'0'..=b'9') => OneOf(DIGITS),
        (Shape::Token, b'a'..=b'z') => OneOf(LOWER),
        (Shape::Token, b'A'..=b'Z') => OneOf(UPPER),
        (Shape::Token, _) if agent_ebpf::classify::is_token(byte) => One(b'~'),
        // Not a token before, not one now.
        (Shape::Token, _) => One(b'('),
        (_, b' ' | b'\t') => Itself,
        // Not allowed before, not allowed now.
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

/// Bytes of UTF-8 that are allowed wherever this one is: text stays text.
fn beyond_ascii(byte: u8) -> &'static [u8] {
    match byte {
        0x80..=0x8f => &[0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87],
        0x90..=0x9f => &[0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97],
        0xa0..=0xbf => &[0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7],
        0xc2..=0xdf => &[0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca],
        // What E0 and ED allow behind them, these allow too.
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
                let [a, b] = [&one, &other].map(|word| key.whole(word.as_bytes(), shape));
                prop_assert_eq!(a == b, one == other);
                prop_assert_eq!(&a, &key.whole(one.as_bytes(), shape));
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
