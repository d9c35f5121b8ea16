//! Reconciliation of the registry with what runs, after records of starts or ends were lost.
//!
//! After a lost record, the kernel side's marks and the registry may differ: a process that should be traced is not, or
//! one is captured without a decision. So when the ring was full, everything that runs is looked at again. A record
//! that is still on its way looks like a lost one: a start is believed at once, everything else at the second look.

use std::collections::BTreeSet;

use super::{Reason, Registry, Tgid, rules::Rules};

/// Time between two looks, in nanoseconds: each reads the whole of /proc.
const PERIOD_NS: u64 = 2_000_000_000;

/// Looks after a loss: one to suspect, one to be sure.
const LOOKS: u8 = 2;

/// Processes that run, and those of them that are selected.
#[derive(Debug, Default)]
pub struct Seen {
    /// All processes that run.
    pub running: BTreeSet<Tgid>,
    /// Selected processes, and their descendants.
    pub selected: Vec<(Tgid, Reason)>,
}

/// Lists the running processes that are selected: those that a rule names, if `by_rules`, and all descendants of these
/// and of `targets`. The targets themselves are listed only if a rule names them.
pub fn selected(rules: &Rules, mut targets: BTreeSet<Tgid>, by_rules: bool) -> Vec<(Tgid, Reason)> {
    let mut selected = Vec::new();
    if by_rules {
        let named = rules.scan().into_iter();
        selected.extend(named.map(|(tgid, rule)| (tgid, Reason::Rule(rule))));
        targets.extend(selected.iter().map(|&(tgid, _)| tgid));
    }
    loop {
        let before = targets.len();
        for (child, parent) in rules.children(&targets) {
            if targets.insert(child) {
                selected.push((child, Reason::Child(parent)));
            }
        }
        if targets.len() == before {
            return selected;
        }
    }
}

/// Differences between what runs and the registry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Processes that are selected, and are not in the registry.
    pub begun: Vec<(Tgid, Reason)>,
    /// Processes that are captured, and are neither selected nor in the registry.
    pub strays: Vec<Tgid>,
    /// Processes of the registry that have ended.
    pub ended: Vec<Tgid>,
}

/// Decides when to look at everything that runs, and what to believe of it.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// Records that were lost until the latest loss.
    lost: u64,
    /// Looks that are left.
    looks: u8,
    /// A look has no answer yet.
    is_asked: bool,
    /// Earliest time of the next look.
    next_ns: u64,
    /// Processes that the latest look found strays or ended.
    suspects: BTreeSet<Tgid>,
}

impl Reconciler {
    /// Returns true if a look is due now. `lost` counts the records that found no room so far.
    pub fn is_due(&mut self, lost: u64, now_ns: u64) -> bool {
        if lost > self.lost {
            self.lost = lost;
            self.looks = LOOKS;
        }
        let is_due = self.looks > 0 && !self.is_asked && now_ns >= self.next_ns;
        if is_due {
            self.looks -= 1;
            self.is_asked = true;
            self.next_ns = now_ns + PERIOD_NS;
        }
        is_due
    }

    /// Returns when [`Reconciler::is_due`] should be asked again, if nothing else happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        (self.looks > 0 && !self.is_asked).then_some(self.next_ns)
    }

    /// Compares a look with the registry. `is_captured` says whether the kernel side takes a process for a target.
    pub fn compare(&mut self, seen: Seen, registry: &Registry, is_captured: impl Fn(Tgid) -> bool) -> Differences {
        self.is_asked = false;
        let Seen { running, selected } = seen;
        let is_known = |tgid: Tgid| registry.is_alive(tgid);
        let begun: Vec<_> = selected.into_iter().filter(|&(tgid, _)| !is_known(tgid)).collect();
        let is_begun = |tgid: Tgid| begun.iter().any(|&(begun, _)| begun == tgid);
        let strays = running
            .iter()
            .copied()
            .filter(|&tgid| is_captured(tgid) && !is_known(tgid) && !is_begun(tgid));
        let gone = registry
            .alive()
            .filter(|&tgid| !is_captured(tgid) && !running.contains(&tgid));
        let suspects: BTreeSet<Tgid> = strays.chain(gone).collect();
        let sure = suspects.intersection(&self.suspects).copied();
        let (ended, strays) = sure.partition(|&tgid| is_known(tgid));
        self.suspects = suspects;
        Differences { begun, strays, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(targets: &[u32]) -> Registry {
        let mut registry = Registry::default();
        for &tgid in targets {
            registry.select(Tgid(tgid), Reason::Command);
        }
        registry
    }

    fn seen(running: &[u32], selected: &[u32]) -> Seen {
        Seen {
            running: running.iter().copied().map(Tgid).collect(),
            selected: selected.iter().map(|&tgid| (Tgid(tgid), Reason::Command)).collect(),
        }
    }

    #[test]
    fn there_are_two_looks_after_a_loss() {
        let mut reconciler = Reconciler::default();
        let none = Registry::default();
        assert!(!reconciler.is_due(0, 0));
        assert!(reconciler.is_due(1, 0));
        assert!(!reconciler.is_due(1, 10 * PERIOD_NS), "the first has no answer yet");
        reconciler.compare(Seen::default(), &none, |_| false);
        assert_eq!(reconciler.next_deadline_ns(), Some(PERIOD_NS));
        assert!(!reconciler.is_due(1, PERIOD_NS - 1));
        assert!(reconciler.is_due(1, PERIOD_NS));
        reconciler.compare(Seen::default(), &none, |_| false);
        assert_eq!(reconciler.next_deadline_ns(), None);
        assert!(!reconciler.is_due(1, 2 * PERIOD_NS));
        assert!(reconciler.is_due(2, 2 * PERIOD_NS));
    }

    #[test]
    fn starts_are_believed_at_once_all_else_the_second_time() {
        let mut reconciler = Reconciler::default();
        // 1 is traced, 2 is selected and unknown, 3 is captured and unknown, 4 has ended.
        let is_captured = |tgid: Tgid| matches!(tgid.0, 1 | 3);
        let first = reconciler.compare(seen(&[1, 2, 3, 5], &[1, 2]), &registry(&[1, 4]), is_captured);
        let begun = vec![(Tgid(2), Reason::Command)];
        assert_eq!(
            first,
            Differences {
                begun,
                ..Differences::default()
            }
        );
        let is_captured = |tgid: Tgid| matches!(tgid.0, 1..=3);
        let second = reconciler.compare(seen(&[1, 2, 3, 5], &[1, 2]), &registry(&[1, 2, 4]), is_captured);
        assert_eq!(
            second,
            Differences {
                begun: vec![],
                strays: vec![Tgid(3)],
                ended: vec![Tgid(4)],
            }
        );
    }

    #[test]
    fn records_that_come_late_clear_the_suspicion() {
        let mut reconciler = Reconciler::default();
        let is_captured = |tgid: Tgid| tgid.0 == 3;
        reconciler.compare(seen(&[3], &[]), &Registry::default(), is_captured);
        let differences = reconciler.compare(seen(&[3], &[]), &registry(&[3]), is_captured);
        assert_eq!(differences, Differences::default());
    }
}
