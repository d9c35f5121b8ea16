//! Heartbeat of the reader of the ring. A question for the agent's health asks for the next beat, so the reader does
//! not wake up without one.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::probe::Waker;

/// Longest time without a beat. A working reader beats within milliseconds, and after the worst of batches within a
/// second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shortest time over which lost records are compared with taken ones.
const WINDOW: Duration = Duration::from_secs(1);
/// Time for which a problem is reported after the ring lost more records than it delivered.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Heartbeat of the reader.
#[derive(Debug, Default)]
pub struct Heartbeat {
    /// The reader should beat.
    asked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waker: Option<Waker>,
    asked_at: Option<Instant>,
    /// Start of the present window, with the records that were lost and taken until then.
    window: Option<(Instant, u64, u64)>,
    /// End of the latest window in which more was lost than taken, with both numbers.
    flood: Option<(Instant, u64, u64)>,
}

impl Heartbeat {
    /// Lets the reader be asked from now on.
    pub fn begin(&self, waker: Waker) {
        self.lock().waker = Some(waker);
    }

    /// Beats; called by the reader. Nearly free while no question waits.
    pub fn beat(&self) {
        if self.asked.load(Ordering::Relaxed) {
            let mut state = self.lock();
            self.asked.store(false, Ordering::Relaxed);
            state.asked_at = None;
        }
    }

    /// Notes the records lost for lack of room in the ring, and those taken, since the start; called by the reader.
    pub fn ring(&self, now: Instant, lost: u64, taken: u64) {
        let mut state = self.lock();
        let (since, lost_before, taken_before) = *state.window.get_or_insert((now, lost, taken));
        if now.duration_since(since) < WINDOW {
            return;
        }
        let (lost_since, taken_since) = (lost.saturating_sub(lost_before), taken.saturating_sub(taken_before));
        state.window = Some((now, lost, taken));
        if lost_since > taken_since {
            state.flood = Some((now, lost_since, taken_since));
        } else if taken_since > 0 {
            state.flood = None;
        }
    }

    /// Returns the reasons why the reader is not healthy, and asks for a beat, which the next call sees.
    pub fn problems(&self, now: Instant) -> Vec<String> {
        let mut state = self.lock();
        let mut problems = Vec::new();
        match state.asked_at {
            Some(asked_at) if now.duration_since(asked_at) >= PATIENCE => problems.push(format!(
                "the reader of the ring has not answered for {} s: nothing is traced; restart spoor, and report it",
                now.duration_since(asked_at).as_secs()
            )),
            Some(_) => {}
            None => {
                if let Some(waker) = &state.waker {
                    waker.wake();
                    state.asked_at = Some(now);
                    self.asked.store(true, Ordering::Relaxed);
                }
            }
        }
        if let Some((at, lost, taken)) = state.flood
            && now.duration_since(at) < REMEMBERED
        {
            problems.push(format!(
                "the ring was full: {lost} records were lost while {taken} were read; raise --ring-bytes, select fewer \
                 processes, or give spoor CPU time"
            ));
        }
        problems
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("asked_at", &self.asked_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_answer_is_told() {
        let heartbeat = Heartbeat::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(heartbeat.problems(at(0)), [""; 0], "there is no reader yet");
        assert_eq!(heartbeat.problems(at(60)), [""; 0]);
        heartbeat.begin(Waker::new().unwrap());
        assert_eq!(heartbeat.problems(at(100)), [""; 0]);
        heartbeat.beat();
        // Long unasked is not long unanswered.
        assert_eq!(heartbeat.problems(at(200)), [""; 0]);
        assert_eq!(heartbeat.problems(at(204)), [""; 0]);
        let problems = heartbeat.problems(at(206));
        assert!(
            problems.len() == 1 && problems[0].contains("not answered for 6 s"),
            "{problems:?}"
        );
        heartbeat.beat();
        assert_eq!(heartbeat.problems(at(207)), [""; 0], "it works again");
    }

    #[test]
    fn a_ring_that_loses_more_than_it_gives_is_told_until_it_does_not() {
        let heartbeat = Heartbeat::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        heartbeat.ring(at(0), 5, 100);
        heartbeat.ring(at(1), 50, 200);
        assert_eq!(heartbeat.problems(at(1)), [""; 0], "some are lost in a peak");
        heartbeat.ring(at(2), 950, 300);
        let problems = heartbeat.problems(at(2));
        assert!(
            problems.len() == 1 && problems[0].contains("900 records were lost while 100 were read"),
            "{problems:?}"
        );
        heartbeat.ring(at(3), 950, 300);
        assert_eq!(heartbeat.problems(at(3)).len(), 1, "nothing came since");
        assert_eq!(heartbeat.problems(at(32)), [""; 0], "long ago");
        heartbeat.ring(at(33), 1950, 300);
        assert_eq!(heartbeat.problems(at(33)).len(), 1);
        heartbeat.ring(at(34), 1950, 400);
        assert_eq!(heartbeat.problems(at(34)), [""; 0]);
    }
}
