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
}

#[derive(Debug)]
struct Waiting {
    /// What is decided about this process holds for it too.
    parent: Option<u32>,
    /// It runs a program of its own, about which somebody was asked.
    asked: bool,
}

impl Undecided {
    /// Whether it is not decided about a process.
    pub fn contains(&self, tgid: u32) -> bool {
        self.waiting.contains_key(&tgid)
    }

    /// A process runs a new program. `provisional`: it was no target before. Returns whether to ask about it.
    pub fn exec(&mut self, tgid: u32, provisional: bool) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&tgid) {
            waiting.asked = true;
            return true;
        }
        if provisional {
            let waiting = Waiting {
                parent: None,
                asked: true,
            };
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
        let waiting = Waiting {
            parent: of,
            asked: false,
        };
        self.waiting.insert(child, waiting);
        if of.is_none() {
            self.left.push(child);
        }
    }

    /// It is decided about a process: returns about which others with it, and how. Nothing, if it was decided before.
    pub fn decide(&mut self, tgid: u32, selected: bool) -> Vec<(u32, bool)> {
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
                if is_child && waiting.asked && !selected {
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

    /// Decides about those that were forked by a process about which it was decided before: they are not selected,
    /// unless a program of their own is.
    pub fn decide_left(&mut self) -> Vec<(u32, bool)> {
        let left = std::mem::take(&mut self.left);
        let mut decided = Vec::new();
        for child in left {
            if self.waiting.get(&child).is_some_and(|waiting| !waiting.asked) {
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
        assert_eq!(undecided.decide(1, false), [(1, false), (2, false), (3, false)]);
        undecided.fork(1, 5, false);
        undecided.fork(1, 6, false);
        assert!(undecided.exec(6, false));
        assert_eq!(undecided.decide_left(), [(5, false)]);
        assert_eq!(undecided.decide(4, true), [(4, true)]);
        assert_eq!(undecided.decide(6, false), [(6, false)]);
        assert!(undecided.waiting.is_empty() && undecided.decide_left().is_empty());
    }

    #[test]
    fn children_of_a_selected_process_stay_whatever_they_run() {
        let mut undecided = Undecided::default();
        assert!(undecided.exec(1, true));
        undecided.fork(1, 2, true);
        assert!(undecided.exec(2, false));
        undecided.fork(2, 3, true);
        assert_eq!(undecided.decide(1, true), [(1, true), (2, true), (3, true)]);
        assert_eq!(undecided.decide(2, false), [], "its parent has decided");
        undecided.fork(1, 4, true);
        assert!(!undecided.exec(4, false));
        assert!(undecided.waiting.is_empty());
    }
}
