//! Texts that the spans of a process have again and again: its host, its clients' user agent, the address of a proxy.

use std::net::IpAddr;

use super::Text;

/// Upper bound on the bytes whose value is remembered.
const MOST_BYTES: usize = 256;

/// Texts of the last span of a process.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Host and port of a `Host` header.
    pub host: Recent<Option<(Text, Option<u16>)>>,
    /// Text of a `User-Agent` header.
    pub user_agent: Recent<Text>,
    /// The last address, and its text.
    pub address: Option<(IpAddr, Text)>,
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
            && self.bytes == bytes
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
}
