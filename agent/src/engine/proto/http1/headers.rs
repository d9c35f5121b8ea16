//! The headers of a message that are kept. Their values lie in one piece of memory: a message costs one allocation, however
//! many it has.

use std::fmt;

use smallvec::SmallVec;

use super::Header;

/// Headers of one message for which there is room without memory of their own.
const USUAL: usize = 4;

/// Headers of a message that are kept, in the order received.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// The values one after the other, behind the words of the first line.
    text: Box<[u8]>,
    /// Length of the first line's words.
    words_bytes: usize,
    /// The headers, and where in the text each value ends.
    ends: SmallVec<[(Header, u32); USUAL]>,
}

impl Headers {
    /// Keeps these headers, with words of the first line before them.
    pub(super) fn behind<'a>(words: &[&[u8]], list: impl Iterator<Item = (Header, &'a [u8])> + Clone) -> Self {
        let words_bytes = words.iter().map(|word| word.len()).sum();
        let values_bytes: usize = list.clone().map(|(_, value)| value.len()).sum();
        let mut text = Vec::with_capacity(words_bytes + values_bytes);
        words.iter().for_each(|word| text.extend_from_slice(word));
        let ends = list
            .map(|(header, value)| {
                text.extend_from_slice(value);
                // 64 values of 8 KiB at most.
                (header, text.len() as u32)
            })
            .collect();
        Self {
            text: text.into(),
            words_bytes,
            ends,
        }
    }

    /// Returns the words of the first line.
    pub(super) fn words(&self) -> &[u8] {
        self.text.get(..self.words_bytes).unwrap_or_default()
    }

    /// Returns the headers with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Header, &[u8])> + Clone {
        let mut begin = self.words_bytes;
        self.ends.iter().map(move |&(header, end)| {
            let end = end as usize;
            let value = self.text.get(begin..end).unwrap_or_default();
            begin = end;
            (header, value)
        })
    }

    /// Returns the values of a header.
    pub fn values(&self, wanted: Header) -> impl Iterator<Item = &[u8]> {
        self.iter()
            .filter_map(move |(header, value)| (header == wanted).then_some(value))
    }

    /// Returns the first value of a header.
    pub fn first(&self, wanted: Header) -> Option<&[u8]> {
        self.values(wanted).next()
    }

    /// Adds a header behind the others.
    pub(super) fn push(&mut self, header: Header, value: &[u8]) {
        self.text = [&*self.text, value].concat().into();
        self.ends.push((header, self.text.len() as u32));
    }
}

impl<'a> FromIterator<(Header, &'a [u8])> for Headers {
    fn from_iter<I: IntoIterator<Item = (Header, &'a [u8])>>(list: I) -> Self {
        let list: Vec<_> = list.into_iter().collect();
        Self::behind(&[], list.into_iter())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
