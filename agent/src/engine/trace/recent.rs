//! Texts that the spans of a process have again and again: its host, its clients' user agent, the address of a proxy.

use std::{hash::BuildHasher, net::IpAddr};

use foldhash::fast::FixedState;
use memchr::arch::all::is_equal;

use super::Text;

/// Upper bound on the bytes whose value is remembered.
const MOST_BYTES: usize = 256;

/// Number of paths whose texts are remembered.
const PATHS: usize = 16;

/// Texts of the last span of a process.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Host and port of a `Host` header.
    pub host: Recent<Option<(Text, Option<u16>)>>,
    /// Text of a `User-Agent` header.
    pub user_agent: Recent<Text>,
    /// Texts of paths, without secrets. Most services serve few paths again and again.
    pub paths: Lately<Text>,
    /// The last address, and its text.
    pub address: Option<(IpAddr, Text)>,
}

/// Values that were made from different bytes lately, each at the place that the hash of its bytes names.
#[derive(Debug, Default)]
pub(super) struct Lately<V> {
    /// Empty until the first bytes come.
    places: Vec<Recent<V>>,
}

impl<V: Clone + Default> Lately<V> {
    /// Returns the value of these bytes.
    pub fn of(&mut self, bytes: &[u8], make: impl FnOnce(&[u8]) -> V) -> V {
        if self.places.is_empty() {
            self.places.resize_with(PATHS, Recent::default);
        }
        let place = FixedState::default().hash_one(bytes) as usize % PATHS;
        match self.places.get_mut(place) {
            Some(recent) => recent.of(bytes, make),
            None => make(bytes),
        }
    }
}

/// Value that was made from some bytes last.
#[derive(Debug, Default)]
pub(super) struct Recent<V> {
    bytes: Vec<u8>,
    value: Option<V>,
}

impl<V: Clone> Recent<V> {
    /// Returns the value of these bytes: the last one, if it was made from the same.
    pub fn of(&mut self, bytes: &[u8], make: impl FnOnce(&[u8]) -> V) -> V {
        if let Some(value) = &self.value
            // Texts are short, and musl's memcmp(3) goes byte by byte.
            && is_equal(&self.bytes, bytes)
        {
            return value.clone();
        }
        let value = make(bytes);
        if bytes.len() <= MOST_BYTES {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.value = Some(value.clone());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_made_once_in_a_row() {
        let mut recent = Recent::default();
        let mut made = 0;
        for (bytes, expected) in [("", 1), ("", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 4)] {
            let length = recent.of(bytes.as_bytes(), |bytes| {
                made += 1;
                bytes.len()
            });
            assert_eq!((length, made), (bytes.len(), expected), "{bytes:?}");
        }
        let long = [b'x'; MOST_BYTES + 1];
        assert_eq!(recent.of(&long, <[u8]>::len), MOST_BYTES + 1);
        assert_eq!(recent.bytes, b"a");
    }

    #[test]
    fn several_values_are_kept_side_by_side() {
        let paths: Vec<_> = (0..1000).map(|number| format!("/{number}")).collect();
        let mut lately = Lately::default();
        let mut made = 0;
        // More paths than places, then one of them again and again among two.
        for path in paths.iter().chain(["/a", "/b", "/a", "/b"].map(str::to_owned).iter()) {
            let value = lately.of(path.as_bytes(), |bytes| {
                made += 1;
                bytes.to_vec()
            });
            assert_eq!(value, path.as_bytes());
        }
        assert_eq!(made, paths.len() + 2, "the last two have places of their own");
    }
}
