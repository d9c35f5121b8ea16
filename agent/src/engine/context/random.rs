//! Ids from a seed: the same tape gives the same ids.

use super::{SpanId, TraceId};

/// SplitMix64 with a step of its own (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): ids need
/// to be unique, not secret.
///
/// The state and the step are 64 bits each, from the seed's two halves. A trace id is two words in a row, which determine
/// the step: two agents make the same trace id only if they have the same step and came to the same state.
#[derive(Clone, Debug)]
pub struct Ids {
    state: u64,
    /// Increment of the state. Odd, so that the state takes all 2⁶⁴ values before one repeats.
    step: u64,
}

/// Lower bound on the places of a step where neighbouring bits differ. The words of a regular step such as 1 resemble each
/// other (the paper's `mixGamma`).
const CHANGES: u32 = 24;

/// The step of SplitMix64: 2⁶⁴ divided by the golden ratio, made odd.
const USUAL_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Ids {
    /// Returns a generator for this seed, which has the step in its high half and the state in its low one.
    pub fn new(seed: u128) -> Self {
        let step = (seed >> 64) as u64 | 1;
        let is_regular = (step ^ step >> 1).count_ones() < CHANGES;
        Self {
            state: seed as u64,
            step: if is_regular { step ^ 0xaaaa_aaaa_aaaa_aaaa } else { step },
        }
    }

    /// Returns the seed with this state and the usual step.
    pub fn seed_of_state(state: u64) -> u128 {
        (USUAL_STEP as u128) << 64 | state as u128
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(self.step);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a new span id.
    pub fn span(&mut self) -> SpanId {
        loop {
            if let Some(id) = SpanId::new(self.next().to_be_bytes()) {
                return id;
            }
        }
    }

    /// Returns a new trace id.
    pub fn trace(&mut self) -> TraceId {
        loop {
            let (high, low) = (self.next() as u128, self.next() as u128);
            if let Some(id) = TraceId::new((high << 64 | low).to_be_bytes()) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The first words of the reference implementation for the seed 1234567 and the usual step
    /// (<https://prng.di.unimi.it/splitmix64.c>).
    #[test]
    fn the_usual_step_gives_the_usual_words() {
        let mut ids = Ids::new(Ids::seed_of_state(1_234_567));
        let words = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423_u64,
        ];
        assert_eq!(words.map(|_| ids.next()), words);
    }

    /// Seeds that differ by one bit. The lowest bit of the step is always 1: it makes no other seed.
    #[test]
    fn seeds_that_differ_give_other_trace_ids() {
        const EACH: usize = 2000;
        const SEED: u128 = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
        let seeds = (0..128)
            .filter(|&bit| bit != 64)
            .map(|bit| SEED ^ 1 << bit)
            .chain([SEED]);
        let mut traces = HashSet::new();
        for seed in seeds {
            let mut ids = Ids::new(seed);
            traces.extend((0..EACH).map(|_| ids.trace()));
        }
        assert_eq!(traces.len(), 128 * EACH);
    }

    /// Each bit is 1 in half of the ids, and differs from its neighbour in half of them: within five standard deviations.
    #[test]
    fn bits_are_even() {
        const DRAWS: usize = 20_000;
        let allowed = 5.0 * (DRAWS as f64).sqrt() / 2.0;
        for seed in [0, 7, 1 << 64, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            let mut ids = Ids::new(seed);
            let (mut ones, mut changes) = ([0usize; 128], [0usize; 128]);
            for _ in 0..DRAWS {
                let id = u128::from_be_bytes(ids.trace().to_bytes());
                for bit in 0..128 {
                    ones[bit] += (id >> bit & 1) as usize;
                    changes[bit] += ((id ^ id.rotate_left(1)) >> bit & 1) as usize;
                }
            }
            for count in ones.into_iter().chain(changes) {
                let off = (count as f64 - DRAWS as f64 / 2.0).abs();
                assert!(off <= allowed, "seed {seed:#x}: {count} of {DRAWS}");
            }
        }
    }
}
