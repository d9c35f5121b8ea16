//! The header lines of a head (RFC 9112 section 5), read as the laxest of usual peers read them.
//!
//! A line that HTTP does not allow (odd characters in the name, no colon, a control character) is skipped, as most
//! peers skip it that accept the message at all. A folded line continues the one before. A malformed line's effect on
//! the body's end is not guessed: if it may frame the body for one peer, the head is in doubt ([`Framing::doubt`]).

use smallvec::SmallVec;

use super::{
    Cause, Header, Headers,
    head::{Framing, Transfer},
    headers::Builder,
    line::{Line, Lines, is_name, may_frame, trim_blanks},
};

/// A `Content-Length` above this is nonsense: offsets of sockets do not get that far.
const MAX_CONTENT_LENGTH: u64 = i64::MAX as u64;

/// Shortest name that can be an odd spelling of one that frames: its letters, and a byte that no name has.
const FRAMING_NAME_BYTES: usize = b"contentlength".len() + 1;

/// Names, in lower case, of headers that concern the connection or the body.
const FRAMING: [&[u8]; 4] = [b"upgrade", b"connection", b"content-length", b"transfer-encoding"];

/// Names, in lower case, of headers that spans need of a request.
const KNOWN: [&[u8]; 8] = [
    b"host",
    b"forwarded",
    b"user-agent",
    b"tracestate",
    b"traceparent",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
];

/// Lengths of the names that matter in each response.
const OF_RESPONSES: u64 = lengths(&FRAMING);

/// Lengths of the names that matter in each request.
const OF_REQUESTS: u64 = OF_RESPONSES | lengths(&KNOWN);

/// Headers of one head for which there is room without memory of their own.
const USUAL_KEPT: usize = 8;

/// Number of headers of one head that are kept, the first ones.
const MAX_KEPT: usize = 64;

/// Length of a value that is kept, in bytes, from its beginning. Attributes are shorter.
const MAX_VALUE_BYTES: usize = 8 * 1024;

/// The headers that are kept beside those that spans need.
#[derive(Clone, Debug, Default)]
pub(super) struct Captured {
    /// Names, in lower case; [`Header::Captured`] is an index into them.
    names: Vec<String>,
    /// Set of the names' lengths: see [`bit`].
    lengths: u64,
}

impl FromIterator<String> for Captured {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        let lengths = names.iter().fold(0, |set, name| set | bit(name.len()));
        Self { names, lengths }
    }
}

/// Header lines of a head, as far as they have come.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    is_request: bool,
    /// Offset at which the body begins: behind the empty line.
    end: Option<usize>,
    lengths: Lengths,
    /// The last transfer coding that is named.
    coding: Option<&'a [u8]>,
    upgrade: bool,
    close: bool,
    keep_alive: bool,
    /// A line may frame the body for one peer and not for another.
    doubtful: bool,
    /// A line continues the one before.
    folded: bool,
    /// Headers of interest, and where their values lie: with folded lines, over several.
    kept: SmallVec<[(Header, usize, usize); USUAL_KEPT]>,
}

/// Field that a folded line continues.
#[derive(Clone, Copy)]
enum Last {
    /// A line that frames the body, or none at all.
    Framing,
    /// A kept line: index of its first header among those kept.
    Kept(usize),
}

/// Length that all `Content-Length` lines state together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    Absent,
    Valid(u64),
    /// The lines contradict each other, or are no numbers: peers use one of them, or none, or refuse the message.
    Doubtful,
}

impl<'a> Fields<'a> {
    /// Creates fields of which no line was read.
    pub fn new(bytes: &'a [u8], is_request: bool) -> Self {
        Self {
            bytes,
            is_request,
            end: None,
            lengths: Lengths::Absent,
            coding: None,
            upgrade: false,
            close: false,
            keep_alive: false,
            doubtful: false,
            folded: false,
            kept: SmallVec::new(),
        }
    }

    /// Reads the lines from `begin` on, up to the empty one.
    pub fn read(&mut self, begin: usize, captured: &Captured) {
        let matters = captured.lengths | if self.is_request { OF_REQUESTS } else { OF_RESPONSES };
        let mut lines = Lines::from(self.bytes, begin);
        let mut last = Last::Framing;
        while let Some(line) = lines.next() {
            self.doubtful |= line.torn;
            match line.text {
                [] => {
                    self.end = Some(lines.at());
                    break;
                }
                [b' ' | b'\t', ..] => self.fold(line, last),
                text => {
                    let colon = line.colon();
                    let name = colon.and_then(|colon| text.get(..colon)).unwrap_or_default();
                    // Most lines end here: no name that matters has this length.
                    let is_plain = !matches!(name, [] | [.., b' ' | b'\t']) && matters & bit(name.len()) == 0;
                    last = match colon {
                        Some(_) if is_plain => Last::Kept(self.kept.len()),
                        _ => self.line(line, colon, &captured.names),
                    };
                }
            }
        }
    }

    /// Returns the offset at which the body begins; `None`: the head has not ended.
    pub fn end(&self) -> Option<usize> {
        self.end
    }

    /// Returns the value of `Content-Length`, if there is one that all peers read alike.
    pub fn content_length(&self) -> Option<u64> {
        match self.lengths {
            Lengths::Valid(length) => Some(length),
            Lengths::Absent | Lengths::Doubtful => None,
        }
    }

    pub fn framing(&self, minor_version: u8) -> Framing {
        // Transfer-Encoding overrides Content-Length, even one that makes no sense (RFC 9112 section 6.3, rule 3).
        let (transfer, doubtful) = match (self.coding, self.lengths) {
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => (Transfer::Chunked, false),
            // The end of such a request cannot be determined (RFC 9112 section 6.3, rule 4); a response ends with its
            // connection.
            (Some(_), _) => (Transfer::OtherCoding, self.is_request),
            (None, Lengths::Absent) => (Transfer::Unsaid, false),
            (None, Lengths::Valid(length)) => (Transfer::Length(length), false),
            (None, Lengths::Doubtful) => (Transfer::Unsaid, true),
        };
        Framing {
            transfer,
            doubt: (doubtful || self.doubtful).then_some(Cause::Doubtful),
            upgrade: self.upgrade,
            closes: self.close
                || minor_version == 0 && !self.keep_alive
                || transfer == Transfer::Chunked && self.lengths != Lengths::Absent,
        }
    }

    /// Returns the headers of interest, in the order received, behind words of the first line. A folded place is one blank
    /// (RFC 9112 section 5.2).
    pub fn headers(&self, words: &[&[u8]]) -> Headers {
        // Nearly all responses.
        if words.is_empty() && self.kept.is_empty() {
            return Headers::default();
        }
        let of_words = words.iter().map(|word| word.len());
        let of_values = self.kept.iter().map(|(_, from, to)| to - from);
        let mut headers = Builder::with_capacity(of_words.chain(of_values).sum());
        for word in words {
            headers.add_word(word);
        }
        for &(header, from, to) in self.kept.iter().take(MAX_KEPT) {
            let value = self.bytes.get(from..to.min(from + MAX_VALUE_BYTES)).unwrap_or_default();
            if self.folded {
                headers.add(header, &unfolded(value));
            } else {
                headers.add(header, value);
            }
        }
        headers.finish()
    }

    /// Takes a line that continues the one before.
    fn fold(&mut self, line: Line<'_>, last: Last) {
        self.folded = true;
        let part = trim_blanks(line.text);
        // Some peers take such a line for a header of its own, and a blank one for the end of the head.
        self.doubtful |= part.is_empty() || may_frame(part);
        match last {
            Last::Framing => self.doubtful = true,
            Last::Kept(from) => {
                for (_, _, end) in self.kept.iter_mut().skip(from) {
                    *end = line.start + line.text.len();
                }
            }
        }
    }

    /// Takes a line that may matter. A function of its own: the loop over all lines is faster without this code.
    #[inline(never)]
    fn line(&mut self, line: Line<'a>, colon: Option<usize>, captured: &[String]) -> Last {
        let from = self.kept.len();
        let Some(colon) = colon else {
            self.doubtful |= may_frame(line.text);
            return Last::Kept(from);
        };
        let (as_sent, rest) = line.text.split_at_checked(colon).unwrap_or_default();
        let rest = rest.get(1..).unwrap_or_default();
        // No blank may stand before the colon (RFC 9112 section 5.1). Most clients and some servers pass over it.
        let name = trim_blanks(as_sent);
        let value_at = line.start + colon + 1;
        if self.is_request
            && let Some(header) = known(name)
        {
            self.keep(header, value_at, rest);
        }
        for (index, wanted) in (0..).zip(captured) {
            if wanted.as_bytes().eq_ignore_ascii_case(name) {
                self.keep(Header::Captured(index), value_at, rest);
            }
        }
        if self.connection_field(name, rest) {
            self.doubtful |= name.len() != as_sent.len();
            return Last::Framing;
        }
        Last::Kept(from)
    }

    /// Keeps a header, whose value lies at `at` with blanks around it.
    fn keep(&mut self, header: Header, at: usize, value: &[u8]) {
        let blanks = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let at = at + blanks;
        self.kept.push((header, at, at + trim_blanks(value).len()));
    }

    /// Takes a field that may concern the connection or the body. Returns whether it frames the body.
    fn connection_field(&mut self, name: &[u8], value: &'a [u8]) -> bool {
        match (name.len(), name.first().map_or(0, u8::to_ascii_lowercase)) {
            (0, _) => self.doubtful = true,
            (7, b'u') if is(name, b"upgrade") => self.upgrade = true,
            (10, b'c') if is(name, b"connection") => {
                let value = trim_blanks(value);
                // Nearly all messages that have this line say no more.
                let only_keep_alive = is(value, b"keep-alive");
                self.close |= !only_keep_alive && names(value, b"close");
                self.keep_alive |= only_keep_alive || names(value, b"keep-alive");
            }
            (14, b'c') if is(name, b"content-length") => {
                self.lengths = self.lengths.and(trim_blanks(value));
                return true;
            }
            (17, b't') if is(name, b"transfer-encoding") => {
                let value = trim_blanks(value);
                self.coding = final_coding(value).or(self.coding);
                self.doubtful |= !has_plain_codings(value);
                return true;
            }
            (FRAMING_NAME_BYTES.., _) => self.doubtful |= !is_name(name) && may_frame(name),
            _ => {}
        }
        false
    }
}

impl Lengths {
    /// Adds one more line: a number, or a list of equal ones (RFC 9110 section 8.6).
    fn and(self, value: &[u8]) -> Self {
        match decimal(value) {
            Some(length) => self.and_length(Some(length)),
            None => value
                .split(|byte| *byte == b',')
                .fold(self, |lengths, item| lengths.and_length(decimal(trim_blanks(item)))),
        }
    }

    fn and_length(self, length: Option<u64>) -> Self {
        match (self, length) {
            (Lengths::Absent, Some(length)) => Lengths::Valid(length),
            (Lengths::Valid(one), Some(other)) if one == other => self,
            _ => Lengths::Doubtful,
        }
    }
}

/// Returns the set of the lengths of some names.
const fn lengths(names: &[&[u8]]) -> u64 {
    match names {
        [] => 0,
        [name, others @ ..] => bit(name.len()) | lengths(others),
    }
}

/// Returns the place of a length in a set of lengths: long names share one, for each of them may be an odd spelling of one that
/// frames.
const fn bit(length: usize) -> u64 {
    if length < FRAMING_NAME_BYTES {
        1 << length
    } else {
        1 << FRAMING_NAME_BYTES
    }
}

/// Digits only: `str::parse` would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter()
        .try_fold(0u64, |number, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
        .filter(|number| *number <= MAX_CONTENT_LENGTH)
}

/// Returns a header that spans need, by name.
fn known(name: &[u8]) -> Option<Header> {
    let (is_known, header) = match (name.len(), name.first().map_or(0, u8::to_ascii_lowercase)) {
        (4, b'h') => (is(name, b"host"), Header::Host),
        (9, b'f') => (is(name, b"forwarded"), Header::Forwarded),
        (10, b'u') => (is(name, b"user-agent"), Header::UserAgent),
        (10, b't') => (is(name, b"tracestate"), Header::Tracestate),
        (11, b't') => (is(name, b"traceparent"), Header::Traceparent),
        (15, b'x') => (is(name, b"x-forwarded-for"), Header::XForwardedFor),
        (16, b'x') => (is(name, b"x-forwarded-host"), Header::XForwardedHost),
        (17, b'x') => (is(name, b"x-forwarded-proto"), Header::XForwardedProto),
        _ => return None,
    };
    is_known.then_some(header)
}

/// Returns whether a text is this word, which is in lower case, in any case of letters.
///
/// `eq_ignore_ascii_case` does the same byte by byte. This looks at eight bytes at once: the compiler knows the word.
#[inline(always)]
fn is<const N: usize>(text: &[u8], word: &[u8; N]) -> bool {
    let Ok(text) = <&[u8; N]>::try_from(text) else {
        return false;
    };
    let ((text, text_rest), (word, word_rest)) = (text.as_chunks(), word.as_chunks());
    let words = text.iter().zip(word).fold(0, |differing, (text, word)| {
        differing | differing_bits(u64::from_le_bytes(*text), u64::from_le_bytes(*word))
    });
    let rest = text_rest.iter().zip(word_rest).fold(0, |differing, (text, word)| {
        differing | differing_bits(u64::from(*text), u64::from(*word))
    });
    words | rest == 0
}

/// Returns the bits in which a text differs from a lower-case word of letters and hyphens, but for the case of letters.
#[inline(always)]
fn differing_bits(text: u64, word: u64) -> u64 {
    /// The bit in each byte that letters have, and hyphens have not.
    const LETTERS: u64 = u64::MAX / 0xff * 0x40;
    /// The bit of letters lies one above that of their case.
    const TO_CASE: u32 = 1;
    (text ^ word) & !((word & LETTERS) >> TO_CASE)
}

/// Returns whether a header's list has this member.
fn names(list: &[u8], member: &[u8]) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| trim_blanks(item).eq_ignore_ascii_case(member))
}

/// Returns the last transfer coding that a header line names. `identity` (RFC 2616) means none.
fn final_coding(value: &[u8]) -> Option<&[u8]> {
    value
        .rsplit(|byte| *byte == b',')
        .map(trim_blanks)
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// Returns whether all transfer codings are plain words: peers differ on quotes, parameters and control characters.
fn has_plain_codings(value: &[u8]) -> bool {
    let mut codings = value.split(|byte| *byte == b',').map(trim_blanks);
    codings.all(|coding| coding.is_empty() || is_name(coding))
}

/// Returns a value, with one blank for each place where it was folded.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let parts = value
        .split(|byte| *byte == b'\n')
        .map(|part| trim_blanks(part.strip_suffix(b"\r").unwrap_or(part)));
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    parts.join(&b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that a reader learns from header lines. `lengths`: those of names that matter, beside the usual set.
    fn read(bytes: &[u8], is_request: bool, lengths: u64) -> String {
        let mut captured = Captured::from_iter(["x-id", "content-type"].map(str::to_owned));
        captured.lengths |= lengths;
        let mut fields = Fields::new(bytes, is_request);
        fields.read(0, &captured);
        let (end, length, headers) = (fields.end(), fields.content_length(), fields.headers(&[]));
        format!("{:?} {end:?} {length:?} {headers:?}", fields.framing(1))
    }

    fn line() -> impl Strategy<Value = String> {
        let names: Vec<_> = FRAMING
            .into_iter()
            .chain(KNOWN)
            .map(|name| str::from_utf8(name).unwrap())
            .collect();
        let name = prop_oneof![
            prop::sample::select(names),
            prop::sample::select(vec![
                "X-Id",
                "Date",
                "content-type",
                "Content Length",
                "content length",
                "transfer_encoding",
                "ContentLength",
                "",
                "Last-Modified",
                "Transfer-Encodin\u{1}g",
                "content-\tlength",
                "a long name of no meaning",
            ]),
        ];
        let colon = prop::sample::select(vec![":", ": ", " :", "\t: ", "", "\n: ", "\0:"]);
        let value = prop::sample::select(vec![
            "",
            "1",
            "2, 2",
            "chunked",
            "close",
            "keep-alive, x",
            "\u{1}",
            "a\r\n b",
            "\t",
        ]);
        let end = prop::sample::select(vec!["\r\n", "\n", "\r\r\n"]);
        (name, colon, value, end).prop_map(|(name, colon, value, end)| [name, colon, value, end].concat())
    }

    proptest! {
        #[test]
        fn lines_that_are_passed_over_would_say_nothing(lines in prop::collection::vec(line(), 0..6), is_request: bool) {
            let bytes = lines.concat() + "\r\n";
            let strict = read(bytes.as_bytes(), is_request, u64::MAX);
            prop_assert_eq!(read(bytes.as_bytes(), is_request, 0), strict);
        }

        #[test]
        fn words_are_compared_as_the_standard_library_does(bytes in "[kK][eE][eE][pP][-\r\n][aA][lL][iI@`][vV][eE\u{0}]") {
            prop_assert_eq!(is(bytes.as_bytes(), b"keep-alive"), bytes.eq_ignore_ascii_case("keep-alive"));
            prop_assert!(!is(bytes.as_bytes(), b"keep-aliv"));
        }
    }
}
