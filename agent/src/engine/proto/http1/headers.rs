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

/// Headers while they are put together: first words of the first line, then the headers.
pub(super) struct Builder {
    text: Vec<u8>,
    words_bytes: usize,
    ends: SmallVec<[(Header, u32); USUAL]>,
}

impl Builder {
    /// Creates a builder with room for so many bytes of words and values.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            text: Vec::with_capacity(bytes),
            words_bytes: 0,
            ends: SmallVec::new(),
        }
    }

    /// Adds a word of the first line, before all headers.
    pub fn add_word(&mut self, word: &[u8]) {
        self.text.extend_from_slice(word);
        self.words_bytes = self.text.len();
    }

    /// Adds a header.
    pub fn add(&mut self, header: Header, value: &[u8]) {
        self.text.extend_from_slice(value);
        // 64 values of 8 KiB at most.
        self.ends.push((header, self.text.len() as u32));
    }

    /// Returns the headers.
    pub fn finish(self) -> Headers {
        Headers {
            text: self.text.into(),
            words_bytes: self.words_bytes,
            ends: self.ends,
        }
    }
}

impl<'a> FromIterator<(Header, &'a [u8])> for Headers {
    fn from_iter<I: IntoIterator<Item = (Header, &'a [u8])>>(list: I) -> Self {
        let mut headers = Builder::with_capacity(0);
        list.into_iter().for_each(|(header, value)| headers.add(header, value));
        headers.finish()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
