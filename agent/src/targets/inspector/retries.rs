//! Processes to look at again: their container had no name yet, or their files did not answer.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::{process::ExecHint, record::Tgid};

/// Upper bound on processes that are looked at again. Those beyond keep their facts, and are counted.
const MOST: usize = 4096;
/// Rest before the second look at a process whose container has no name; it doubles with each look.
const FIRST_REST: Duration = Duration::from_secs(1);
/// Last rest: a container runtime that has written no name after two minutes writes none.
const LAST_REST: Duration = Duration::from_secs(64);
/// Rest before the inspector asks whether files that did not answer may be tried again.
const SUSPECT_REST: Duration = Duration::from_secs(5);

/// Reason for another look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The process's container has no name yet. Holds the rest before the next look.
    NoName(Duration),
    /// The process's files did not answer.
    Suspect,
}

impl Cause {
    /// The first look at a process whose container has no name.
    pub(super) const NO_NAME: Self = Self::NoName(FIRST_REST);

    fn rest(self) -> Duration {
        match self {
            Self::NoName(rest) => rest,
            Self::Suspect => SUSPECT_REST,
        }
    }

    /// Returns the cause for the look after this one; `None`: there is no further look.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::NoName(rest) => (rest < LAST_REST).then_some(Self::NoName(rest * 2)),
            Self::Suspect => Some(self),
        }
    }
}

/// Purpose of the next look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Gather the facts again. The kernel's report of the exec, and the parent, may be all that is known of the
    /// process.
    Facts {
        hint: Option<ExecHint>,
        parent: Option<Tgid>,
    },
    /// Match the rules again.
    Match,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    cause: Cause,
    task: Task,
}

/// Processes to look at again, each once, by when the look is due.
#[derive(Debug, Default)]
pub(super) struct Retries {
    entries: HashMap<Tgid, Entry>,
    due: BTreeSet<(Instant, Tgid)>,
    /// Processes for which there was no room.
    pub(super) refused: u64,
}

impl Retries {
    /// Plans another look at a process, after the cause's rest.
    pub(super) fn add(&mut self, tgid: Tgid, cause: Cause, task: Task, now: Instant) {
        self.forget(tgid);
        if self.entries.len() >= MOST {
            self.refused += 1;
            return;
        }
        let due = now + cause.rest();
        self.due.insert((due, tgid));
        self.entries.insert(tgid, Entry { due, cause, task });
    }

    /// Drops the plan for a process that has ended, or runs another program.
    pub(super) fn forget(&mut self, tgid: Tgid) {
        if let Some(entry) = self.entries.remove(&tgid) {
            self.due.remove(&(entry.due, tgid));
        }
    }

    /// Takes a process whose look is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Tgid, Cause, Task)> {
        let &(due, tgid) = self.due.first()?;
        if due > now {
            return None;
        }
        self.due.remove(&(due, tgid));
        let entry = self.entries.remove(&tgid)?;
        Some((tgid, entry.cause, entry.task))
    }

    /// Returns how long until a look is due.
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
        let mut retries = Retries::default();
        assert_eq!((retries.take(at(99)), retries.rest(at(99))), (None, None));
        retries.add(Tgid(7), Cause::NO_NAME, Task::Match, at(0));
        retries.add(Tgid(8), Cause::Suspect, Task::Match, at(0));
        retries.add(Tgid(7), Cause::NoName(Duration::from_secs(4)), Task::Match, at(1));
        assert_eq!(retries.rest(at(2)), Some(Duration::from_secs(3)));
        assert_eq!(retries.take(at(4)), None);
        retries.forget(Tgid(8));
        assert_eq!(
            retries.take(at(5)),
            Some((Tgid(7), Cause::NoName(Duration::from_secs(4)), Task::Match))
        );
        assert_eq!((retries.take(at(99)), retries.rest(at(99))), (None, None));
    }

    #[test]
    fn a_name_is_looked_for_two_minutes_and_a_file_for_good() {
        let mut waited = Duration::ZERO;
        let mut cause = Some(Cause::NO_NAME);
        while let Some(now) = cause {
            waited += now.rest();
            cause = now.next();
        }
        assert_eq!(waited, Duration::from_secs(127));
        assert_eq!(Cause::Suspect.next(), Some(Cause::Suspect));
    }

    #[test]
    fn it_is_bounded_and_counts() {
        let now = Instant::now();
        let mut retries = Retries::default();
        for tgid in 0..MOST as u32 + 3 {
            retries.add(Tgid(tgid), Cause::Suspect, Task::Match, now);
        }
        retries.add(Tgid(5), Cause::Suspect, Task::Match, now);
        assert_eq!(
            (retries.entries.len(), retries.due.len(), retries.refused),
            (MOST, MOST, 3)
        );
    }
}
