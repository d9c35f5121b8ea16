//! Which traces leave, without state.
//!
//! The ratio's decision follows from the trace id alone, so that it is the same for all spans of a trace, in all agents
//! and after a replay: the last seven bytes of the id, the 56 bits that W3C Trace Context Level 2 says are random, are a
//! number R, and the trace leaves if R is not below the threshold T = (1 − ratio) · 2^56 ("TraceState: Probability
//! Sampling", section "Decision algorithm"). Thus a trace that leaves at some ratio leaves at any larger one too.

pub use crate::config::Sampler;
use crate::engine::context::{TraceId, traceparent::FLAG_SAMPLED};

/// The decision for a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The trace leaves.
    Sampled,
    /// The trace's caller did not sample it, and that is kept.
    NotSampledByCaller,
    /// The sampler left the trace out.
    LeftOut,
}

impl Sampler {
    /// Returns the decision for a trace. `caller_flags`: the flags of the request's `traceparent`; `None` if the trace
    /// begins here.
    pub fn decide(self, trace: TraceId, caller_flags: Option<u8>) -> Decision {
        match caller_flags {
            Some(flags) if self.is_parent_based() && flags & FLAG_SAMPLED == 0 => Decision::NotSampledByCaller,
            Some(_) if self.is_parent_based() => Decision::Sampled,
            _ if randomness(trace) >= self.threshold() => Decision::Sampled,
            _ => Decision::LeftOut,
        }
    }
}

/// Returns R, the last seven bytes.
fn randomness(trace: TraceId) -> u64 {
    (u128::from_be_bytes(trace.to_bytes()) % u128::from(Sampler::RANDOM_VALUES)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::context::Ids;

    fn sampler(name: &str, ratio: &str) -> Sampler {
        Sampler::new(name, Some(ratio)).unwrap().0
    }

    fn trace(randomness: u64) -> TraceId {
        TraceId::new(((0xabcd_u128 << 56) | u128::from(randomness)).to_be_bytes()).unwrap()
    }

    #[test]
    fn who_decides() {
        use Decision::*;
        let id = trace(1);
        for (name, [begins_here, caller_sampled, caller_did_not]) in [
            ("always_on", [Sampled, Sampled, Sampled]),
            ("always_off", [LeftOut, LeftOut, LeftOut]),
            ("traceidratio", [LeftOut, LeftOut, LeftOut]),
            ("parentbased_always_on", [Sampled, Sampled, NotSampledByCaller]),
            ("parentbased_always_off", [LeftOut, Sampled, NotSampledByCaller]),
            ("parentbased_traceidratio", [LeftOut, Sampled, NotSampledByCaller]),
        ] {
            let sampler = sampler(name, "0.5");
            let decided = [None, Some(3), Some(2)].map(|flags| sampler.decide(id, flags));
            assert_eq!(decided, [begins_here, caller_sampled, caller_did_not], "{name}");
        }
    }

    #[test]
    fn a_quarter_is_the_ids_from_its_threshold_on() {
        let quarter = sampler("traceidratio", "0.25");
        for (randomness, decision) in [
            (0, Decision::LeftOut),
            (0xbf_ffff_ffff_ffff, Decision::LeftOut),
            (0xc0_0000_0000_0000, Decision::Sampled),
            (0xff_ffff_ffff_ffff, Decision::Sampled),
        ] {
            assert_eq!(quarter.decide(trace(randomness), None), decision, "{randomness:x}");
        }
    }

    #[test]
    fn a_larger_ratio_only_adds_traces() {
        let ratios = ["0", "0.01", "0.1", "0.5", "0.9", "1"];
        let samplers = ratios.map(|ratio| sampler("traceidratio", ratio));
        let mut ids = Ids::new(7);
        let mut sampled = [0; 6];
        for _ in 0..10_000 {
            let id = ids.trace();
            let leaves = samplers.map(|sampler| sampler.decide(id, None) == Decision::Sampled);
            assert!(leaves.is_sorted(), "{id}: {leaves:?}");
            for (count, leaves) in sampled.iter_mut().zip(leaves) {
                *count += u32::from(leaves);
            }
        }
        // Ids from a fixed seed: each count is within three standard deviations of what the ratio says.
        assert_eq!((sampled[0], sampled[5]), (0, 10_000));
        for (count, expected, within) in [(sampled[1], 100, 30), (sampled[2], 1000, 90), (sampled[3], 5000, 150)] {
            assert!(count.abs_diff(expected) <= within, "{sampled:?}");
        }
    }
}
