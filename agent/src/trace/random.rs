//! Ids from a seed: the same tape gives the same ids.

use super::{SpanId, TraceId};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): ids need to be unique, not
/// secret, and a seed from the operating system makes them so.
#[derive(Clone, Debug)]
pub struct Ids(u64);

impl Ids {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A new span id.
    pub fn span(&mut self) -> SpanId {
        loop {
            if let Some(id) = SpanId::new(self.next().to_be_bytes()) {
                return id;
            }
        }
    }

    /// A new trace id.
    pub fn trace(&mut self) -> TraceId {
        loop {
            let (high, low) = (self.next() as u128, self.next() as u128);
            if let Some(id) = TraceId::new((high << 64 | low).to_be_bytes()) {
                return id;
            }
        }
    }
}
