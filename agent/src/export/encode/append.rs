//! Appends short texts to a chunk.
//!
//! A span has some thirty texts of some ten bytes. The memcpy of musl, with which the release binary is linked, moves them
//! byte by byte up to an aligned address and behind the last word. Blocks of 16 bytes and less cost less: a text's last block is
//! written over a part of the block before it, so that it is a whole one too.

/// Length from which memcpy copies.
const LONG: usize = 64;

/// Appends bytes.
#[inline]
pub fn append(bytes: &[u8], buf: &mut Vec<u8>) {
    match bytes.len() {
        LONG.. => buf.extend_from_slice(bytes),
        16.. => append_blocks::<16>(bytes, buf),
        8.. => append_blocks::<8>(bytes, buf),
        4.. => append_blocks::<4>(bytes, buf),
        2.. => append_blocks::<2>(bytes, buf),
        _ => buf.extend(bytes.first()),
    }
}

/// Appends bytes block by block, at least one. The last block is written over a part of the one before it.
#[inline]
fn append_blocks<const N: usize>(bytes: &[u8], buf: &mut Vec<u8>) {
    let (blocks, rest) = bytes.as_chunks::<N>();
    for block in blocks {
        buf.extend_from_slice(block);
    }
    if !rest.is_empty()
        && let Some(last) = bytes.last_chunk::<N>()
    {
        buf.truncate((buf.len() + rest.len()).saturating_sub(N));
        buf.extend_from_slice(last);
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
