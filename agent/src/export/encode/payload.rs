//! A request's bytes, in pieces that are not copied together.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Bytes of one request, in pieces: most are parts of the encoder's chunks.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// None of them is empty.
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Payload {
    /// Adds a piece to the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Adds a piece to the front.
    pub fn push_front(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_front(piece);
        }
    }

    /// Returns the number of pieces.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let mut payload = Self::default();
        payload.push(bytes);
        payload
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.pieces);
        filled.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// # Panics
    /// If there are fewer bytes, as the trait asks.
    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "{count} bytes of {}", self.bytes);
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_order_whatever_the_steps() {
        let whole: Vec<u8> = (0..100).collect();
        for step in 1..=100 {
            let mut payload = Payload::default();
            for piece in whole.chunks(7) {
                payload.push(Bytes::copy_from_slice(piece));
                payload.push(Bytes::new());
            }
            payload.push_front(Bytes::from_static(b"head"));
            assert_eq!((payload.remaining(), payload.pieces()), (104, 16));
            let mut read: Vec<u8> = Vec::new();
            while payload.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = payload.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(seen.len());
                read.extend(&seen[..count]);
                payload.advance(count);
                assert_eq!(payload.remaining(), 104 - read.len());
            }
            assert_eq!(read, [b"head".as_slice(), &whole].concat());
            assert!(payload.chunk().is_empty());
        }
    }
}
