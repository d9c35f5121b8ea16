//! Episodes: losses that go on for a while are logged twice, when they begin and when they are over.
//!
//! A queue overflows thousands of times a second, or now and then for hours. An [`Episode`] makes two events of that.
//! It reads no clock.

use std::time::{Duration, Instant};

/// Time without a loss after which an episode is over.
pub const QUIET: Duration = Duration::from_secs(30);

/// Longest time without a loss after which an episode is over. An episode that follows another within this time needs
/// twice as much quiet, up to this bound: losses that come and go for days make two lines an hour.
const LONGEST_QUIET: Duration = Duration::from_secs(3600);

/// Series of losses of one cause that follow each other closely.
#[derive(Debug)]
pub struct Episode {
    open: Option<Open>,
    quiet: Duration,
    /// The last loss of the episode before.
    before: Option<Instant>,
}

impl Default for Episode {
    fn default() -> Self {
        Self {
            open: None,
            quiet: QUIET,
            before: None,
        }
    }
}

#[derive(Debug)]
struct Open {
    since: Instant,
    last: Instant,
    count: u64,
}

/// Episode that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Things that were lost.
    pub count: u64,
    /// From the first loss to the last.
    pub lasted: Duration,
}

impl Episode {
    /// Adds a loss. Returns true if an episode begins with it.
    pub fn lost(&mut self, count: u64, now: Instant) -> bool {
        let begins = self.open.is_none();
        if begins {
            self.quiet = match self.before {
                Some(before) if now.duration_since(before) < LONGEST_QUIET => (2 * self.quiet).min(LONGEST_QUIET),
                _ => QUIET,
            };
        }
        let open = self.open.get_or_insert(Open {
            since: now,
            last: now,
            count: 0,
        });
        open.last = now;
        open.count += count;
        begins
    }

    /// Returns when the episode will be over, if nothing more is lost.
    pub fn over_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.last + self.quiet)
    }

    /// Returns the episode, once it is over.
    pub fn over(&mut self, now: Instant) -> Option<Past> {
        if now < self.over_at()? {
            return None;
        }
        self.end()
    }

    /// Ends the episode, as far as it came: the program ends.
    pub fn end(&mut self) -> Option<Past> {
        let Open { since, last, count } = self.open.take()?;
        self.before = Some(last);
        Some(Past {
            count,
            lasted: last - since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_once_and_ends_once() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut episode = Episode::default();
        assert_eq!(
            (episode.over_at(), episode.over(at(0)), episode.end()),
            (None, None, None)
        );
        assert!(episode.lost(3, at(10)));
        for second in 11..100 {
            assert!(!episode.lost(1, at(second)));
            assert_eq!(episode.over(at(second)), None);
        }
        assert_eq!((episode.over(at(128)), episode.over_at()), (None, Some(at(129))));
        let past = Past {
            count: 92,
            lasted: Duration::from_secs(89),
        };
        assert_eq!(episode.over(at(129)), Some(past));
        assert_eq!((episode.over(at(200)), episode.over_at()), (None, None));

        assert!(episode.lost(1, at(300)), "another one");
        let past = Past {
            count: 1,
            lasted: Duration::ZERO,
        };
        assert_eq!(episode.end(), Some(past));
    }

    #[test]
    fn what_comes_and_goes_does_not_fill_the_log() {
        let begun = Instant::now();
        for seconds in [29, 31, 61, 130, 1000, 3500] {
            let mut episode = Episode::default();
            let (mut lines, mut lost) = (0, 0);
            for second in 0..86_400 {
                let now = begun + Duration::from_secs(second);
                if let Some(past) = episode.over(now) {
                    lines += 1;
                    lost += past.count;
                }
                if second % seconds == 0 {
                    lines += usize::from(episode.lost(1, now));
                }
            }
            lost += episode.end().map_or(0, |past| past.count);
            assert!(lines <= 2 * 8, "{lines} lines in a day, for a loss every {seconds} s");
            assert_eq!(lost, 86_400_u64.div_ceil(seconds));
        }
        // After a quiet day, the next is told as the first was.
        let mut episode = Episode::default();
        for day in 0..9 {
            let now = begun + Duration::from_secs(86_400 * day);
            episode.over(now);
            assert!(episode.lost(1, now));
            assert_eq!(episode.over_at(), Some(now + QUIET));
        }
    }
}
