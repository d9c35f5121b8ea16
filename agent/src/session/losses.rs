//! Log lines about losses for lack of room: one when a loss begins, with advice, and one when it is over. Only losses
//! that a setting can prevent are logged; docs/loss.md has all.

use std::time::Instant;

use crate::episode::{Episode, Past};

/// Bound whose counter grows when something has no room.
struct Bound {
    counter: &'static str,
    /// Things that are lost.
    what: &'static str,
    /// Cause.
    why: &'static str,
    /// Advice.
    help: &'static str,
}

const BOUNDS: [Bound; 4] = [
    Bound {
        counter: "ring_full",
        what: "records of the kernel side",
        why: "the ring buffer is full",
        help: "raise --ring-bytes, select fewer processes, or give Spoor CPU time",
    },
    Bound {
        counter: "connections_full",
        what: "connections",
        why: "the kernel side's table of connections is full",
        help: "raise --max-connections, or select fewer processes",
    },
    Bound {
        counter: "connections_displaced",
        what: "idle connections",
        why: "as many as --max-connections allows are followed",
        help: "raise it, or select fewer processes",
    },
    Bound {
        counter: "held_too_many",
        what: "parents of spans",
        why: "as many spans as --hold-bytes allows wait for theirs",
        help: "raise it, or lower --hold-seconds",
    },
];

/// Latest values of the counters, and the losses under way.
#[derive(Debug, Default)]
pub struct BoundLosses([(u64, Episode); BOUNDS.len()]);

impl BoundLosses {
    /// Compares the counters with their latest values, and returns the lines to log.
    pub fn look<'c>(
        &mut self,
        now: Instant,
        counters: impl Iterator<Item = &'c (&'static str, u64)> + Clone,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        for (bound, (before, episode)) in BOUNDS.iter().zip(&mut self.0) {
            lines.extend(episode.over(now).map(|past| bound.over(past)));
            let count = counters
                .clone()
                .find(|(name, _)| *name == bound.counter)
                .map_or(0, |(_, count)| *count);
            let lost = count.saturating_sub(std::mem::replace(before, count));
            if lost > 0 && episode.lost(lost, now) {
                let Bound { what, why, help, .. } = bound;
                lines.push(format!("{what} are being lost: {why}; {help}"));
            }
        }
        lines
    }

    /// Returns when the next loss is over, if nothing more is lost.
    pub fn over_at(&self) -> Option<Instant> {
        self.0.iter().filter_map(|(_, episode)| episode.over_at()).min()
    }

    /// Returns the lines of the losses that are under way at the end.
    pub fn finish(&mut self) -> Vec<String> {
        let episodes = BOUNDS.iter().zip(&mut self.0);
        episodes
            .filter_map(|(bound, (_, episode))| Some(bound.over(episode.end()?)))
            .collect()
    }
}

impl Bound {
    fn over(&self, Past { count, lasted }: Past) -> String {
        let Self { what, why, .. } = self;
        format!(
            "{what} are no longer lost: {count} were lost within {:.1} s ({why})",
            lasted.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::episode::QUIET;

    #[test]
    fn a_ring_that_is_full_for_a_while_is_told_twice() {
        let begun = Instant::now();
        let mut losses = BoundLosses::default();
        let mut lines = Vec::new();
        for second in 0..100_u64 {
            let lost = second.clamp(10, 20) * 5 - 50;
            let counters = [("user_fault", second), ("ring_full", lost), ("spans", 7)];
            let now = begun + Duration::from_secs(second);
            lines.extend(losses.look(now, counters.iter()).into_iter().map(|line| (second, line)));
        }
        assert_eq!(
            lines,
            [
                (
                    11,
                    "records of the kernel side are being lost: the ring buffer is full; raise --ring-bytes, select fewer \
                     processes, or give Spoor CPU time"
                        .to_owned()
                ),
                (
                    20 + QUIET.as_secs(),
                    "records of the kernel side are no longer lost: 50 were lost within 9.0 s (the ring buffer is full)".to_owned()
                ),
            ]
        );
        assert_eq!((losses.over_at(), losses.finish()), (None, vec![]));
    }

    #[test]
    fn what_is_open_at_the_end_is_told_then() {
        let begun = Instant::now();
        let mut losses = BoundLosses::default();
        let counters = [
            ("held_too_many", 3),
            ("connections_displaced", 1),
            ("connections_full", 2),
        ];
        assert_eq!(losses.look(begun, counters.iter()).len(), 3);
        assert_eq!(losses.over_at(), Some(begun + QUIET));
        assert_eq!(losses.finish().len(), 3);
        assert_eq!(losses.look(begun + QUIET, counters.iter()), [""; 0]);
    }

    /// Each of the names is a counter's.
    #[test]
    fn the_counters_are_there() {
        use agent_ebpf::abi::Counter;

        let core = crate::engine::Core::new(&settings(), 0).counters();
        for bound in &BOUNDS {
            let is_kernels = Counter::ALL.iter().any(|counter| counter.name() == bound.counter);
            assert!(
                is_kernels || core.iter().any(|(name, _)| *name == bound.counter),
                "{}",
                bound.counter
            );
        }
    }

    fn settings() -> crate::config::CoreSettings {
        let arguments = ["spoor", "run"].map(std::ffi::OsString::from);
        match crate::config::Invocation::new(arguments, |_| None).unwrap().command {
            crate::config::Command::Run(settings) => settings.trace.core,
            other => panic!("{other:?}"),
        }
    }
}
