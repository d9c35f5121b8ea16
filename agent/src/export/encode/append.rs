//! Appends short texts to a chunk.
//!
//! A span has some thirty texts of some ten bytes. The memcpy of musl, with which the release binary is linked, moves them
//! byte by byte up to an aligned address and behind the last word. Words cost less: a text's last word is written over a part
//! of the word before it, so that it is a whole one too.

/// Length from which memcpy copies.
const LONG: usize = 64;

/// Appends bytes.
#[inline]
pub fn append(bytes: &[u8], buf: &mut Vec<u8>) {
    match bytes.last_chunk::<8>() {
        _ if bytes.len() >= LONG => buf.extend_from_slice(bytes),
        None => append_few(bytes, buf),
        Some(last) => {
            let (words, rest) = bytes.as_chunks::<8>();
            for word in words {
                buf.extend_from_slice(word);
            }
            append_last(last, rest.len(), buf);
        }
    }
}

/// Appends the last `len` of eight bytes. Those before them are at the end of the chunk.
#[inline]
pub fn append_last(last: &[u8; 8], len: usize, buf: &mut Vec<u8>) {
    if len > 0 {
        buf.truncate((buf.len() + len).saturating_sub(8));
        buf.extend_from_slice(last);
    }
}

/// Appends fewer than eight bytes.
#[inline]
pub fn append_few(bytes: &[u8], buf: &mut Vec<u8>) {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>(), bytes) {
        (Some(first), Some(last), _) => {
            buf.extend_from_slice(first);
            buf.truncate((buf.len() + bytes.len()).saturating_sub(8));
            buf.extend_from_slice(last);
        }
        (.., [one, two, three]) => buf.extend_from_slice(&[*one, *two, *three]),
        (.., [one, two]) => buf.extend_from_slice(&[*one, *two]),
        (.., [one]) => buf.push(*one),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_is_appended() {
        let bytes: Vec<u8> = (1..=100).collect();
        let mut buf = Vec::new();
        let mut expected = Vec::new();
        for len in 0..=bytes.len() {
            append(&bytes[..len], &mut buf);
            expected.extend_from_slice(&bytes[..len]);
            assert_eq!(buf, expected);
        }
    }
}
