//! Processes and file systems that did not answer. They are left alone for a while, and the more time is lost, the
//! shorter is the wait for the next.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Longest time without a sign of life of a reader.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time without a sign of life once [`MOST_WAITED`] was waited in vain within [`WINDOW`].
const SHORT_PATIENCE: Duration = Duration::from_millis(200);
const MOST_WAITED: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_secs(60);
/// First rest, and longest rest, of a process or file system that did not answer.
const FIRST_REST: Duration = Duration::from_secs(30);
const LONGEST_REST: Duration = Duration::from_secs(600);
/// Upper bound on suspects of each kind that are remembered. Those beyond are asked again, with short patience.
const MOST: usize = 4096;

/// Wait for a reader: shorter where time is lost again and again.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    waited: Duration,
}

impl Patience {
    pub(super) fn now(&mut self, now: Instant) -> Duration {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            self.since = Some(now);
            self.waited = Duration::ZERO;
        }
        if self.waited < MOST_WAITED {
            PATIENCE
        } else {
            SHORT_PATIENCE
        }
    }

    /// Adds a wait that was in vain.
    pub(super) fn lost(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
    }
}

/// Processes, or file systems, that did not answer.
#[derive(Debug)]
pub(super) struct Suspects<K>(HashMap<K, Suspect>);

#[derive(Debug)]
struct Suspect {
    until: Instant,
    rest: Duration,
}

impl<K> Default for Suspects<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Suspects<K> {
    /// Adds one that did not answer. It is left alone, each time twice as long.
    pub(super) fn add(&mut self, key: K, now: Instant) {
        if let Some(known) = self.0.get_mut(&key) {
            known.rest = (known.rest * 2).min(LONGEST_REST);
            known.until = now + known.rest;
        } else if self.0.len() < MOST {
            let rest = FIRST_REST;
            self.0.insert(
                key,
                Suspect {
                    until: now + rest,
                    rest,
                },
            );
        }
    }

    /// Returns true if it is left alone at this time.
    pub(super) fn rests(&self, key: K, now: Instant) -> bool {
        self.0.get(&key).is_some_and(|suspect| now < suspect.until)
    }

    /// Removes one that has answered, or is gone.
    pub(super) fn remove(&mut self, key: K) {
        self.0.remove(&key);
    }

    /// Keeps those for which `is_there` is true.
    pub(super) fn retain(&mut self, mut is_there: impl FnMut(K) -> bool) {
        self.0.retain(|key, _| is_there(*key));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_rests_longer_each_time() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut suspects = Suspects::default();
        assert!(!suspects.rests(7, at(0)));
        suspects.add(7, at(0));
        assert!(suspects.rests(7, at(29)) && !suspects.rests(7, at(30)) && !suspects.rests(8, at(0)));
        suspects.add(7, at(30));
        assert!(suspects.rests(7, at(89)) && !suspects.rests(7, at(90)));
        for _ in 0..20 {
            suspects.add(7, at(100));
        }
        assert!(suspects.rests(7, at(699)) && !suspects.rests(7, at(700)));
        suspects.remove(7);
        assert!(suspects.is_empty());
        for key in 0..MOST + 10 {
            suspects.add(key, at(0));
        }
        assert_eq!(suspects.0.len(), MOST);
        suspects.retain(|key| key == 3);
        assert!(suspects.0.len() == 1 && suspects.rests(3, at(0)));
    }

    #[test]
    fn patience_shrinks_with_what_was_waited_in_vain() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        assert_eq!(patience.now(at(0)), PATIENCE);
        patience.lost(PATIENCE);
        assert_eq!(patience.now(at(2)), PATIENCE);
        patience.lost(PATIENCE);
        assert_eq!(patience.now(at(4)), SHORT_PATIENCE);
        // A thousand that hang cost 200 s, not 2,000.
        patience.lost(SHORT_PATIENCE);
        assert_eq!(patience.now(at(59)), SHORT_PATIENCE);
        assert_eq!(patience.now(at(60)), PATIENCE);
    }
}
