//! Pace of the reader: how long it pauses between two looks at the ring, and its priority.
//!
//! The reader shares its processors with the services, and a service that waits for it is a slow service. So it runs like
//! any other thread, and looks seldom: fewer, longer bursts evict less from the processors' caches. Only if the ring fills
//! does it look often, and go before others, because a record that finds no room is lost.

use std::time::Duration;

use rustix::process::setpriority_process;

/// Longest pause: a span is late by no more, and the exporter waits longer for a batch.
const LONGEST: Duration = Duration::from_millis(30);
/// Shortest pause. More often, each look costs more than it finds.
pub const SHORTEST: Duration = Duration::from_millis(5);
/// Part of the ring that may fill in a pause.
const PART_A_PAUSE: u64 = 16;
/// Part of the ring that shows, if it is taken without a pause, that the reader gets too little time.
const PART_BEHIND: u64 = 4;
/// Priority of a reader that is behind, as a nice value.
const HURRY: i32 = -10;
/// Looks with little in the ring after which a reader is no longer behind: about a second.
const CALM_LOOKS: u32 = 32;

/// Pace of the reader.
pub struct Pace {
    ring_bytes: u64,
    /// Bytes taken since the last pause.
    taken: u64,
    /// Looks that are left until the priority is normal again; 0: it is normal.
    hurry: u32,
}

impl Pace {
    /// Returns the pace for a ring of this size, which is not behind yet.
    pub fn of(ring_bytes: u32) -> Self {
        Self {
            ring_bytes: u64::from(ring_bytes),
            taken: 0,
            hurry: 0,
        }
    }

    /// Notes bytes that were taken from the ring. Raises the priority of the calling thread if it is behind.
    pub fn took(&mut self, bytes: u64) {
        self.taken += bytes;
        if self.is_behind() {
            if self.hurry == 0 {
                set_priority(HURRY);
            }
            self.hurry = CALM_LOOKS;
        }
    }

    /// Returns the time to pause now that the ring is empty. Gives the calling thread its normal priority back, if it has
    /// not been behind for a while.
    pub fn pause(&mut self) -> Duration {
        if !self.is_behind() && self.hurry > 0 {
            self.hurry -= 1;
            if self.hurry == 0 {
                set_priority(0);
            }
        }
        let taken = std::mem::take(&mut self.taken);
        let pause = LONGEST.as_nanos() as u64 * (self.ring_bytes / PART_A_PAUSE) / taken.max(1);
        Duration::from_nanos(pause).clamp(SHORTEST, LONGEST)
    }

    fn is_behind(&self) -> bool {
        self.taken >= self.ring_bytes / PART_BEHIND
    }
}

/// Sets the nice value of the calling thread. Where a lower one is not allowed, the reader goes on at normal priority.
fn set_priority(nice: i32) {
    // `None` is the calling thread: on Linux, each thread has a priority of its own (setpriority(2)).
    if let Err(error) = setpriority_process(None, nice) {
        tracing::debug!("the reader cannot run at nice value {nice}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: u32 = 8 << 20;

    #[test]
    fn the_pause_is_shorter_the_faster_the_ring_fills() {
        let pause = |taken: u64| {
            let mut pace = Pace::of(RING);
            pace.took(taken);
            pace.pause()
        };
        assert_eq!(pause(0), LONGEST);
        assert_eq!(pause(u64::from(RING) / 16), LONGEST);
        assert_eq!(pause(u64::from(RING) / 8), LONGEST / 2);
        assert_eq!(pause(u64::from(RING)), SHORTEST);
    }

    #[test]
    fn a_reader_that_is_behind_hurries_for_a_while() {
        let mut pace = Pace::of(RING);
        // In several batches without a pause.
        pace.took(u64::from(RING) / 8);
        assert_eq!(pace.hurry, 0);
        pace.took(u64::from(RING) / 8);
        assert_eq!(pace.hurry, CALM_LOOKS);
        pace.pause();
        for look in 0..CALM_LOOKS {
            assert_eq!(pace.hurry, CALM_LOOKS - look);
            pace.pause();
            pace.took(1000);
        }
        assert_eq!(pace.hurry, 0);
    }
}
