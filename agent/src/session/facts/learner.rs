//! Answers questions about processes, on the thread that may wait.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    super::second_look::{Seen, selected},
    Answer, Question,
    later::{Later, Task, Why},
};
use crate::process::{ExecHint, Gatherer, Match, ProcRoot, ProcessFacts, Selection};

/// Facts that are kept for the children of a process, before those of processes are looked for that have ended unseen.
const MOST_KNOWN: usize = 16_384;

/// Learns about processes.
pub(super) struct Learner {
    gatherer: Gatherer,
    root: ProcRoot,
    selection: Selection,
    known: HashMap<u32, ProcessFacts>,
    /// Facts that are kept until ended processes are looked for.
    most_known: usize,
    later: Later,
    /// Processes that will not be looked at again, for want of room.
    retries_refused: Arc<AtomicU64>,
}

impl Learner {
    pub(super) fn new(root: ProcRoot, selection: Selection, retries_refused: Arc<AtomicU64>) -> Self {
        Self {
            gatherer: Gatherer::new(root.clone()),
            root,
            selection,
            known: HashMap::new(),
            most_known: MOST_KNOWN,
            later: Later::default(),
            retries_refused,
        }
    }

    pub(super) fn answer(&mut self, question: Question) -> Vec<Answer> {
        match question {
            Question::Facts { tgid, parent } => self.facts(tgid, None, parent, Why::NO_NAME),
            Question::Exec {
                tgid,
                hint,
                provisional,
            } => {
                // What was to be looked at again was the program before.
                self.later.forget(tgid);
                if !provisional {
                    return self.facts(tgid, Some(hint), None, Why::NO_NAME);
                }
                let found = self.selection.matches(tgid);
                let reason = match found {
                    Match::Yes(reason) => Some(reason),
                    Match::NotNamed => {
                        self.look_later(tgid, Why::NO_NAME, Task::Match);
                        None
                    }
                    Match::No if self.root.exe(tgid).is_some() => None,
                    Match::No => self.selection.matched(&hint),
                };
                if reason.is_none() {
                    return vec![Answer::Selected(tgid, None)];
                }
                let mut answers = self.facts(tgid, Some(hint), None, Why::NO_NAME);
                answers.push(Answer::Selected(tgid, reason));
                answers
            }
            Question::Ended(tgid) => {
                self.known.remove(&tgid);
                self.later.forget(tgid);
                Vec::new()
            }
            Question::Look { targets, rules } => vec![Answer::Seen(Seen {
                running: self.root.processes().into_iter().collect(),
                selected: selected(&self.selection, targets, rules),
            })],
        }
    }

    /// How long nothing is to be looked at again.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.later.rest(Instant::now())
    }

    /// Looks at one process again, if it is time.
    pub(super) fn look_again(&mut self) -> Vec<Answer> {
        let Some((tgid, why, task)) = self.later.take(Instant::now()) else {
            return Vec::new();
        };
        match task {
            _ if !self.root.runs(tgid) => Vec::new(),
            Task::Match => match self.selection.matches(tgid) {
                Match::Yes(reason) => vec![Answer::Late(tgid, reason)],
                Match::NotNamed => {
                    if let Some(why) = why.next() {
                        self.look_later(tgid, why, Task::Match);
                    }
                    Vec::new()
                }
                Match::No => Vec::new(),
            },
            Task::Facts { hint, parent } => {
                if why == Why::Suspect && !self.root.try_again(tgid) {
                    self.look_later(tgid, why, Task::Facts { hint, parent });
                    return Vec::new();
                }
                let Some(next) = why.next() else {
                    return Vec::new();
                };
                let before = self.known.get(&tgid).cloned();
                let mut answers = self.facts(tgid, hint, parent, next);
                answers.retain(|answer| match answer {
                    Answer::Facts(facts) => before.as_ref() != Some(facts),
                    _ => true,
                });
                answers
            }
        }
    }

    /// Gathers the facts of a process. `again`: the reason for the next look, if its container has no name yet.
    fn facts(&mut self, tgid: u32, hint: Option<ExecHint>, parent: Option<u32>, again: Why) -> Vec<Answer> {
        self.later.forget(tgid);
        let of_parent = parent.and_then(|parent| self.known.get(&parent));
        let facts = self.gatherer.gather(tgid, hint.as_ref(), of_parent);
        if !self.known.contains_key(&tgid) || hint.is_some() {
            for peculiarity in self.gatherer.peculiarities(tgid) {
                tracing::warn!(
                    pid = tgid,
                    service = facts.resource.service_name,
                    "{}",
                    peculiarity.message()
                );
            }
        }
        tracing::debug!(pid = tgid, service = facts.resource.service_name, runtime = ?facts.runtime, "process");
        let why = if self.root.is_suspect(tgid) {
            Some(Why::Suspect)
        } else {
            facts.is_in_unnamed_container().then_some(again)
        };
        if let Some(why) = why {
            self.look_later(tgid, why, Task::Facts { hint, parent });
        }
        self.make_room();
        self.known.insert(tgid, facts.clone());
        vec![Answer::Facts(facts)]
    }

    fn look_later(&mut self, tgid: u32, why: Why, task: Task) {
        self.later.add(tgid, why, task, Instant::now());
        self.retries_refused.store(self.later.refused, Ordering::Relaxed);
    }

    /// An end that was lost leaves facts behind.
    fn make_room(&mut self) {
        if self.known.len() < self.most_known {
            return;
        }
        let root = &self.root;
        self.known.retain(|&tgid, _| root.runs(tgid));
        self.most_known = MOST_KNOWN.max(self.known.len() * 2);
    }
}
