//! The sampler that the user sets: one of OpenTelemetry's built-in samplers (Tracing SDK, section "Built-in samplers").

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// `OTEL_TRACES_SAMPLER` with its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampler {
    /// The decision of a trace's caller is kept.
    parent_based: bool,
    /// T of the specification: 0 samples all traces, [`Sampler::RANDOM_VALUES`] none.
    threshold: u64,
}

/// A variable with a value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SamplerError {
    /// Spoor has no sampler of this name.
    #[error(
        "OTEL_TRACES_SAMPLER={0}: there is no such sampler here; set one of always_on, always_off, traceidratio, \
         parentbased_always_on (the default), parentbased_always_off, parentbased_traceidratio"
    )]
    Name(String),
    /// The argument is no ratio.
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
    /// The number of values that the random part of a trace id has: 56 bits, by W3C Trace Context Level 2.
    pub const RANDOM_VALUES: u64 = 1 << 56;

    /// Returns the sampler of this name, and whether the sampler uses `ratio`.
    ///
    /// # Errors
    /// If there is no such sampler, or it uses `ratio` and that is not from 0 to 1.
    pub fn new(name: &str, ratio: Option<&str>) -> Result<(Self, bool), SamplerError> {
        let lower = name.trim().to_ascii_lowercase();
        let (parent_based, root) = match lower.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, lower.as_str()),
        };
        let (threshold, takes_ratio) = match root {
            "always_on" => (0, false),
            "always_off" => (Self::RANDOM_VALUES, false),
            "traceidratio" => (ratio.map_or(Ok(0), threshold)?, true),
            _ => return Err(SamplerError::Name(name.to_owned())),
        };
        let sampler = Self {
            parent_based,
            threshold,
        };
        Ok((sampler, takes_ratio))
    }

    /// Returns whether the decision of a trace's caller is kept.
    pub fn is_parent_based(self) -> bool {
        self.parent_based
    }

    /// Returns the least random part of the ids of sampled traces.
    pub fn threshold(self) -> u64 {
        self.threshold
    }
}

/// Returns T = (1 − ratio) · 2^56.
fn threshold(ratio: &str) -> Result<u64, SamplerError> {
    const VALUES: u64 = Sampler::RANDOM_VALUES;
    match ratio.trim().parse::<f64>() {
        // An f64 holds 53 bits: the product is exact, being by a power of two, and only `round` rounds.
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(VALUES - (number * VALUES as f64).round() as u64),
        _ => Err(SamplerError::Ratio(ratio.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &str, ratio: &str) -> Sampler {
        Sampler::new(name, Some(ratio)).unwrap().0
    }

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(Sampler::default(), sampler("parentbased_always_on", "x"));
        assert_eq!(sampler(" TraceIdRatio", "0.5"), sampler("traceidratio", " 5e-1 "));
    }

    #[test]
    fn thresholds_are_those_of_the_specification() {
        // Its own example: 1 % is 0xfd70a4 with five digits, and 0xfd70a3d70a3d71 with all of them.
        assert_eq!(sampler("traceidratio", "0.01").threshold, 0xfd_70a3_d70a_3d71);
        assert_eq!(sampler("traceidratio", "0.25").threshold, 0xc0_0000_0000_0000);
        assert_eq!(sampler("traceidratio", "1").threshold, 0);
        assert_eq!(sampler("traceidratio", "0").threshold, Sampler::RANDOM_VALUES);
        assert_eq!(Sampler::new("traceidratio", None).unwrap().0.threshold, 0);
    }

    #[test]
    fn errors_say_what_would_be_right() {
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
