//! Which traces leave: OpenTelemetry's built-in samplers (Tracing SDK, section "Built-in samplers"), without state.
//!
//! The ratio's decision follows from the trace id alone, so that it is the same for all spans of a trace, in all agents
//! and after a replay: the last seven bytes of the id, the 56 bits that W3C Trace Context Level 2 says are random, are a
//! number R, and the trace leaves if R is not below the threshold T = (1 − ratio) · 2^56 ("TraceState: Probability
//! Sampling", section "Decision algorithm"). Thus a trace that leaves at some ratio leaves at any larger one too.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::context::{TraceId, traceparent::FLAG_SAMPLED};

/// How many values R has.
const RANDOM_VALUES: u64 = 1 << 56;

/// `OTEL_TRACES_SAMPLER` with its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampler {
    /// What a caller decided is kept to.
    parent_based: bool,
    /// T: 0 lets all traces leave, 2^56 none.
    threshold: u64,
}

/// What becomes of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It leaves.
    Sampled,
    /// Its caller did not sample it, and that is kept to.
    NotSampledByCaller,
    /// The sampler left it out.
    LeftOut,
}

/// A variable with a value that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SamplerError {
    /// No sampler of ours.
    #[error(
        "OTEL_TRACES_SAMPLER={0}: there is no such sampler here; set one of always_on, always_off, traceidratio, \
         parentbased_always_on (the default), parentbased_always_off, parentbased_traceidratio"
    )]
    Name(String),
    /// No ratio.
    #[error("OTEL_TRACES_SAMPLER_ARG={0}: give the part of the traces that leaves, from 0 to 1, as 0.25")]
    Ratio(String),
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            parent_based: true,
            threshold: 0,
        }
    }
}

impl Sampler {
    /// The sampler of this name, and whether `ratio` means something to it.
    ///
    /// # Errors
    /// If there is no such sampler, or `ratio` is not from 0 to 1.
    pub fn new(name: &str, ratio: Option<&str>) -> Result<(Self, bool), SamplerError> {
        let lower = name.trim().to_ascii_lowercase();
        let (parent_based, root) = match lower.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, lower.as_str()),
        };
        let (threshold, takes_ratio) = match root {
            "always_on" => (0, false),
            "always_off" => (RANDOM_VALUES, false),
            "traceidratio" => (ratio.map_or(Ok(0), threshold)?, true),
            _ => return Err(SamplerError::Name(name.to_owned())),
        };
        let sampler = Self {
            parent_based,
            threshold,
        };
        Ok((sampler, takes_ratio))
    }

    /// What becomes of a trace. `caller_flags`: as its `traceparent` had them; `None` if the trace begins here.
    pub fn decide(self, trace: TraceId, caller_flags: Option<u8>) -> Decision {
        match caller_flags {
            Some(flags) if self.parent_based && flags & FLAG_SAMPLED == 0 => Decision::NotSampledByCaller,
            Some(_) if self.parent_based => Decision::Sampled,
            _ if randomness(trace) >= self.threshold => Decision::Sampled,
            _ => Decision::LeftOut,
        }
    }
}

/// R: the last seven bytes.
fn randomness(trace: TraceId) -> u64 {
    (u128::from_be_bytes(trace.to_bytes()) % u128::from(RANDOM_VALUES)) as u64
}

/// T of a ratio.
fn threshold(ratio: &str) -> Result<u64, SamplerError> {
    match ratio.trim().parse::<f64>() {
        // Below 2^53 of the 2^56 steps, both operations are exact but for the rounding that is asked for.
        Ok(number) if (0.0..=1.0).contains(&number) => {
            Ok(RANDOM_VALUES - (number * RANDOM_VALUES as f64).round() as u64)
        }
        _ => Err(SamplerError::Ratio(ratio.to_owned())),
    }
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
        assert_eq!(Sampler::default(), sampler("parentbased_always_on", "x"));
        assert_eq!(sampler(" TraceIdRatio", "0.5"), sampler("traceidratio", " 5e-1 "));
    }

    #[test]
    fn thresholds_are_those_of_the_specification() {
        // Its own example: 1 % is 0xfd70a4 with five digits, and 0xfd70a3d70a3d71 with all of them.
        assert_eq!(sampler("traceidratio", "0.01").threshold, 0xfd_70a3_d70a_3d71);
        assert_eq!(sampler("traceidratio", "0.25").threshold, 0xc0_0000_0000_0000);
        assert_eq!(sampler("traceidratio", "1").threshold, 0);
        assert_eq!(sampler("traceidratio", "0").threshold, RANDOM_VALUES);
        assert_eq!(Sampler::new("traceidratio", None).unwrap().0.threshold, 0);
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

    #[test]
    fn what_is_wrong_is_said() {
        let error = |name, ratio| Sampler::new(name, ratio).unwrap_err().to_string();
        for name in [
            "jaeger_remote",
            "parentbased_",
            "on",
            "parentbased_parentbased_always_on",
        ] {
            assert!(error(name, None).starts_with(&format!("OTEL_TRACES_SAMPLER={name}: there is no such sampler")));
        }
        for ratio in ["-0.1", "1.1", "NaN", "inf", "a lot"] {
            assert_eq!(
                error("traceidratio", Some(ratio)),
                format!(
                    "OTEL_TRACES_SAMPLER_ARG={ratio}: give the part of the traces that leaves, from 0 to 1, as 0.25"
                )
            );
        }
    }
}
