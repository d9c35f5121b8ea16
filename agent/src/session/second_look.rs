//! Processes whose start, or end, the ring had no room for.
//!
//! A record that is lost leaves the marks of the programs in the kernel and the session's list apart: a process that
//! should be traced is not, or one is that nobody decided about. So when the ring was full, what runs is looked at again.
//! A record that is on its way looks as one that is lost: what goes is believed only at the second look.

use std::collections::BTreeSet;

use super::whys::Why;
use crate::process::Selection;

/// Time between two looks, in nanoseconds: each reads the whole of /proc.
const PERIOD_NS: u64 = 2_000_000_000;

/// Looks after a loss: one to suspect, one to be sure.
const LOOKS: u8 = 2;

/// What runs, and which of it is selected.
#[derive(Debug, Default)]
pub struct Seen {
    /// All processes.
    pub running: BTreeSet<u32>,
    /// Those that are selected, and their descendants.
    pub selected: Vec<(u32, Why)>,
}

/// What runs and is selected: what a rule names, if `rules` count, and all descendants of that and of `targets`. Of the
/// targets themselves only what a rule names is told again.
pub fn selected(selection: &Selection, mut targets: BTreeSet<u32>, rules: bool) -> Vec<(u32, Why)> {
    let mut selected = Vec::new();
    if rules {
        let named = selection.scan().into_iter();
        selected.extend(named.map(|(tgid, reason)| (tgid, Why::Rule(reason))));
        targets.extend(selected.iter().map(|&(tgid, _)| tgid));
    }
    loop {
        let before = targets.len();
        for (child, parent) in selection.children(&targets) {
            if targets.insert(child) {
                selected.push((child, Why::Child(parent)));
            }
        }
        if targets.len() == before {
            return selected;
        }
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// These are traced from now on.
    pub begun: Vec<(u32, Why)>,
    /// These are captured, and are not selected.
    pub strangers: Vec<u32>,
    /// These have ended.
    pub ended: Vec<u32>,
}

/// When to look, and what was seen the last time.
#[derive(Debug, Default)]
pub struct SecondLook {
    lost: u64,
    looks: u8,
    asked: bool,
    next_ns: u64,
    suspects: BTreeSet<u32>,
}

impl SecondLook {
    /// Whether to look now. `lost`: how many records found no room so far.
    pub fn is_due(&mut self, lost: u64, now_ns: u64) -> bool {
        if lost > self.lost {
            self.lost = lost;
            self.looks = LOOKS;
        }
        let due = self.looks > 0 && !self.asked && now_ns >= self.next_ns;
        if due {
            self.looks -= 1;
            self.asked = true;
            self.next_ns = now_ns + PERIOD_NS;
        }
        due
    }

    /// When [`SecondLook::is_due`] should be asked again, if nothing else happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        (self.looks > 0 && !self.asked).then_some(self.next_ns)
    }

    /// Takes what was seen. `known`: those that the session has; `is_captured`: whether the programs take a process for a
    /// target.
    pub fn judge(&mut self, seen: Seen, known: &BTreeSet<u32>, is_captured: impl Fn(u32) -> bool) -> Verdict {
        self.asked = false;
        let Seen { running, selected } = seen;
        let begun: Vec<_> = selected.into_iter().filter(|(tgid, _)| !known.contains(tgid)).collect();
        let is_begun = |tgid: u32| begun.iter().any(|&(begun, _)| begun == tgid);
        let strangers = running
            .iter()
            .copied()
            .filter(|&tgid| is_captured(tgid) && !known.contains(&tgid) && !is_begun(tgid));
        let gone = known
            .iter()
            .copied()
            .filter(|&tgid| !is_captured(tgid) && !running.contains(&tgid));
        let suspects: BTreeSet<u32> = strangers.chain(gone).collect();
        let sure = suspects.intersection(&self.suspects).copied();
        let (ended, strangers) = sure.partition(|tgid| known.contains(tgid));
        self.suspects = suspects;
        Verdict {
            begun,
            strangers,
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(running: &[u32], selected: &[u32]) -> Seen {
        Seen {
            running: running.iter().copied().collect(),
            selected: selected.iter().map(|&tgid| (tgid, Why::Undecided)).collect(),
        }
    }

    #[test]
    fn it_looks_twice_after_a_loss() {
        let mut look = SecondLook::default();
        assert!(!look.is_due(0, 0));
        assert!(look.is_due(1, 0));
        assert!(!look.is_due(1, 10 * PERIOD_NS), "the first has no answer yet");
        look.judge(Seen::default(), &BTreeSet::new(), |_| false);
        assert_eq!(look.next_deadline_ns(), Some(PERIOD_NS));
        assert!(!look.is_due(1, PERIOD_NS - 1));
        assert!(look.is_due(1, PERIOD_NS));
        look.judge(Seen::default(), &BTreeSet::new(), |_| false);
        assert_eq!(look.next_deadline_ns(), None);
        assert!(!look.is_due(1, 2 * PERIOD_NS));
        assert!(look.is_due(2, 2 * PERIOD_NS));
    }

    #[test]
    fn starts_are_believed_at_once_all_else_the_second_time() {
        let mut look = SecondLook::default();
        // 1 is traced, 2 is selected and unknown, 3 is captured and unknown, 4 has ended.
        let known = BTreeSet::from([1, 4]);
        let is_captured = |tgid| matches!(tgid, 1 | 3);
        let first = look.judge(seen(&[1, 2, 3, 5], &[1, 2]), &known, is_captured);
        let begun = vec![(2, Why::Undecided)];
        assert_eq!(
            first,
            Verdict {
                begun,
                ..Verdict::default()
            }
        );
        let known = BTreeSet::from([1, 2, 4]);
        let is_captured = |tgid| matches!(tgid, 1..=3);
        let second = look.judge(seen(&[1, 2, 3, 5], &[1, 2]), &known, is_captured);
        assert_eq!(
            second,
            Verdict {
                begun: vec![],
                strangers: vec![3],
                ended: vec![4],
            }
        );
    }

    #[test]
    fn records_that_come_late_clear_the_suspicion() {
        let mut look = SecondLook::default();
        let is_captured = |tgid| tgid == 3;
        look.judge(seen(&[3], &[]), &BTreeSet::new(), is_captured);
        let known = BTreeSet::from([3]);
        assert_eq!(look.judge(seen(&[3], &[]), &known, is_captured), Verdict::default());
    }
}
