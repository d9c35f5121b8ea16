//! The short texts that are kept.

use smallvec::SmallVec;

/// Most bytes of a text: longer ones are none that is looked for.
pub(super) const MAX_BYTES: usize = 64;

/// A text that is read piece by piece.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: SmallVec<[u8; 24]>,
    is_torn: bool,
}

impl Kept {
    /// Adds what comes next.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.is_torn || self.bytes.len() + bytes.len() > MAX_BYTES {
            self.tear();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Notes that a part of it is missing or not needed.
    pub fn tear(&mut self) {
        self.is_torn = true;
        self.bytes = SmallVec::new();
    }

    /// Returns whether it can still become whole.
    pub fn is_wanted(&self) -> bool {
        !self.is_torn
    }

    /// Returns the text, if all of it was kept.
    pub fn whole(&self) -> Option<&[u8]> {
        (!self.is_torn).then_some(&*self.bytes)
    }

    /// Returns the text as a number.
    pub fn number(&self) -> Option<u64> {
        let digits = self.whole().filter(|text| text.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Returns whether the text is this word, in any case of letters.
    pub fn is(&self, word: &str) -> bool {
        self.whole()
            .is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Returns whether a text can be the first word of an error: scripts send any text, which may be data.
pub(super) fn is_error_prefix(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    text.first().is_some_and(u8::is_ascii_uppercase) && text.iter().all(is_plain)
}
