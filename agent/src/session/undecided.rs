//! Processes that are captured before it is known whether they are selected, and what they fork meanwhile.
//!
//! A process that has begun a program is captured from its first byte, so that nothing is missed if a rule names it. Its
//! children are captured too. A shell has forked several before anybody could decide about it: they must not stay.

use std::collections::HashMap;

/// What is not decided.
#[derive(Debug, Default)]
pub struct Undecided {
    waiting: HashMap<u32, Waiting>,
    /// Forked by a process that turned out not to be selected, before it was let go.
    left: Vec<u32>,
    /// Decided by where they listen.
    listening: Vec<(u32, bool)>,
}

#[derive(Debug)]
struct Waiting {
    /// What is decided about this process holds for it too.
    parent: Option<u32>,
    /// It runs a program of its own, about which somebody was asked so often, and has not answered.
    asked: u32,
}

impl Undecided {
    /// Whether it is not decided about a process.
    pub fn contains(&self, tgid: u32) -> bool {
        self.waiting.contains_key(&tgid)
    }

    /// A process runs a new program. `provisional`: it was no target before, or was let go since. Returns whether to ask
    /// about it.
    pub fn exec(&mut self, tgid: u32, provisional: bool) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&tgid) {
            waiting.asked += 1;
            return true;
        }
        if provisional {
            let waiting = Waiting { parent: None, asked: 1 };
            self.waiting.insert(tgid, waiting);
        }
        provisional
    }

    /// A captured process forked. `is_target`: the parent is one still.
    pub fn fork(&mut self, parent: u32, child: u32, is_target: bool) {
        let of = self.waiting.contains_key(&parent).then_some(parent);
        if of.is_none() && is_target {
            // The number may have been another process's.
            self.waiting.remove(&child);
            return;
        }
        let waiting = Waiting { parent: of, asked: 0 };
        self.waiting.insert(child, waiting);
        if of.is_none() {
            self.left.push(child);
        }
    }

    /// A process listens on a port that a rule names: it is selected, whatever is answered. [`Undecided::decide_left`] tells.
    pub fn listens(&mut self, tgid: u32) {
        let with_it = self.decide(tgid, true);
        let alone = with_it.is_empty().then_some((tgid, true));
        self.listening.extend(with_it.into_iter().chain(alone));
    }

    /// An answer about a process: returns about which it is decided now, and how. A program that is not selected may have
    /// been replaced by another one, about which there is no answer yet.
    pub fn answered(&mut self, tgid: u32, selected: bool) -> Vec<(u32, bool)> {
        let Some(waiting) = self.waiting.get_mut(&tgid) else {
            return Vec::new();
        };
        waiting.asked = waiting.asked.saturating_sub(1);
        if !selected && waiting.asked > 0 {
            return Vec::new();
        }
        self.decide(tgid, selected)
    }

    /// It is decided about a process: returns about which others with it, and how. Nothing, if it was decided before.
    fn decide(&mut self, tgid: u32, selected: bool) -> Vec<(u32, bool)> {
        if self.waiting.remove(&tgid).is_none() {
            return Vec::new();
        }
        let mut decided = vec![(tgid, selected)];
        let mut next = 0;
        while let Some(&(parent, _)) = decided.get(next) {
            next += 1;
            // Children of what is selected are, too; of what is not, those with a program of their own may be.
            let with_it = self.waiting.extract_if(|_, waiting| {
                let is_child = waiting.parent == Some(parent);
                if is_child && waiting.asked > 0 && !selected {
                    waiting.parent = None;
                    return false;
                }
                is_child
            });
            let mut with_it: Vec<u32> = with_it.map(|(child, _)| child).collect();
            with_it.sort_unstable();
            decided.extend(with_it.into_iter().map(|child| (child, selected)));
        }
        decided
    }

    /// Decides about those that listen; and about those that were forked by a process about which it was decided before:
    /// they are not selected, unless a program of their own is.
    pub fn decide_left(&mut self) -> Vec<(u32, bool)> {
        let mut decided = std::mem::take(&mut self.listening);
        for child in std::mem::take(&mut self.left) {
            if self.waiting.get(&child).is_some_and(|waiting| waiting.asked == 0) {
                decided.extend(self.decide(child, false));
            }
        }
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_unselected_process_forked_goes_with_it() {
        let mut undecided = Undecided::default();
        assert!(undecided.exec(1, true));
        undecided.fork(1, 2, true);
        undecided.fork(2, 3, true);
        undecided.fork(1, 4, true);
        assert!(undecided.exec(4, false), "its own program may be selected");
        assert_eq!(undecided.answered(1, false), [(1, false), (2, false), (3, false)]);
        undecided.fork(1, 5, false);
        undecided.fork(1, 6, false);
        assert!(undecided.exec(6, false));
        assert_eq!(undecided.decide_left(), [(5, false)]);
        assert_eq!(undecided.answered(4, true), [(4, true)]);
        assert_eq!(undecided.answered(6, false), [(6, false)]);
        assert!(undecided.waiting.is_empty() && undecided.decide_left().is_empty());
    }

    #[test]
    fn the_last_program_counts() {
        let mut undecided = Undecided::default();
        assert!(undecided.exec(1, true) && undecided.exec(1, false));
        assert_eq!(undecided.answered(1, false), [], "it runs another one since");
        assert_eq!(undecided.answered(1, true), [(1, true)]);
        assert!(undecided.exec(2, true) && undecided.exec(2, false));
        assert_eq!(undecided.answered(2, false), []);
        assert_eq!(undecided.answered(2, false), [(2, false)]);
        assert!(undecided.waiting.is_empty());
    }

    #[test]
    fn who_listens_where_a_rule_says_is_selected() {
        let mut undecided = Undecided::default();
        assert!(undecided.exec(1, true));
        undecided.fork(1, 2, true);
        undecided.listens(1);
        undecided.listens(3);
        assert_eq!(undecided.answered(1, false), [], "it did not listen yet");
        undecided.fork(1, 4, true);
        undecided.fork(3, 5, true);
        assert_eq!(undecided.decide_left(), [(1, true), (2, true), (3, true)]);
        assert!(undecided.waiting.is_empty());
        assert_eq!(undecided.decide_left(), []);
    }

    #[test]
    fn children_of_a_selected_process_stay_whatever_they_run() {
        let mut undecided = Undecided::default();
        assert!(undecided.exec(1, true));
        undecided.fork(1, 2, true);
        assert!(undecided.exec(2, false));
        undecided.fork(2, 3, true);
        assert_eq!(undecided.answered(1, true), [(1, true), (2, true), (3, true)]);
        assert_eq!(undecided.answered(2, false), [], "its parent has decided");
        undecided.fork(1, 4, true);
        assert!(!undecided.exec(4, false));
        assert!(undecided.waiting.is_empty());
    }
}
