//! Processes to look at again: a process whose container had no name yet, or whose files did not answer.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::process::ExecHint;

/// Most processes that are looked at again. Those beyond keep what is known of them, and are counted.
const MOST: usize = 4096;
/// Rests between two looks at a process whose container has no name: the first and the last. A runtime that has written
/// nothing after two minutes writes nothing.
const FIRST_REST: Duration = Duration::from_secs(1);
const LAST_REST: Duration = Duration::from_secs(64);
/// How often it is asked whether files that did not answer may be tried again.
const SUSPECT_REST: Duration = Duration::from_secs(5);

/// Why a process is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its container has no name yet. So long is the next rest.
    NoName(Duration),
    /// Its files did not answer.
    Suspect,
}

impl Why {
    /// The first time.
    pub(super) const NO_NAME: Self = Self::NoName(FIRST_REST);

    fn rest(self) -> Duration {
        match self {
            Self::NoName(rest) => rest,
            Self::Suspect => SUSPECT_REST,
        }
    }

    /// For the look after this one; `None`: enough.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::NoName(rest) => (rest < LAST_REST).then_some(Self::NoName(rest * 2)),
            Self::Suspect => Some(self),
        }
    }
}

/// The purpose of the next look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// What the process is. The kernel's words at its exec, and its parent, may be all that is known of it.
    Facts {
        hint: Option<ExecHint>,
        parent: Option<u32>,
    },
    /// Whether it is selected.
    Match,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    why: Why,
    task: Task,
}

/// The processes, each once.
#[derive(Debug, Default)]
pub(super) struct Later {
    entries: HashMap<u32, Entry>,
    due: BTreeSet<(Instant, u32)>,
    /// Processes for which there was no room.
    pub(super) refused: u64,
}

impl Later {
    /// Looks at a process again, after a rest.
    pub(super) fn add(&mut self, tgid: u32, why: Why, task: Task, now: Instant) {
        self.forget(tgid);
        if self.entries.len() >= MOST {
            self.refused += 1;
            return;
        }
        let due = now + why.rest();
        self.due.insert((due, tgid));
        self.entries.insert(tgid, Entry { due, why, task });
    }

    /// The process has ended, or runs another program.
    pub(super) fn forget(&mut self, tgid: u32) {
        if let Some(entry) = self.entries.remove(&tgid) {
            self.due.remove(&(entry.due, tgid));
        }
    }

    /// A process whose time has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u32, Why, Task)> {
        let &(due, tgid) = self.due.first()?;
        if due > now {
            return None;
        }
        self.due.remove(&(due, tgid));
        let entry = self.entries.remove(&tgid)?;
        Some((tgid, entry.why, entry.task))
    }

    /// How long until there is one.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let (due, _) = self.due.first()?;
        Some(due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_its_time_once() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut later = Later::default();
        assert_eq!((later.take(at(99)), later.rest(at(99))), (None, None));
        later.add(7, Why::NO_NAME, Task::Match, at(0));
        later.add(8, Why::Suspect, Task::Match, at(0));
        later.add(7, Why::NoName(Duration::from_secs(4)), Task::Match, at(1));
        assert_eq!(later.rest(at(2)), Some(Duration::from_secs(3)));
        assert_eq!(later.take(at(4)), None);
        later.forget(8);
        assert_eq!(
            later.take(at(5)),
            Some((7, Why::NoName(Duration::from_secs(4)), Task::Match))
        );
        assert_eq!((later.take(at(99)), later.rest(at(99))), (None, None));
    }

    #[test]
    fn a_name_is_looked_for_two_minutes_and_a_file_for_good() {
        let mut waited = Duration::ZERO;
        let mut why = Some(Why::NO_NAME);
        while let Some(now) = why {
            waited += now.rest();
            why = now.next();
        }
        assert_eq!(waited, Duration::from_secs(127));
        assert_eq!(Why::Suspect.next(), Some(Why::Suspect));
    }

    #[test]
    fn it_is_bounded_and_counts() {
        let now = Instant::now();
        let mut later = Later::default();
        for tgid in 0..MOST as u32 + 3 {
            later.add(tgid, Why::Suspect, Task::Match, now);
        }
        later.add(5, Why::Suspect, Task::Match, now);
        assert_eq!((later.entries.len(), later.due.len(), later.refused), (MOST, MOST, 3));
    }
}
