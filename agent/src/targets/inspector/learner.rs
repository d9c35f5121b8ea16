//! Answers to questions about processes, on the thread that may wait.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Answer, Question,
    retries::{Cause, Retries, Task},
};
use crate::{
    probe::Family,
    process::{ExecHint, Gatherer, Peculiarity, ProcRoot, ProcessFacts},
    record::Tgid,
    targets::{
        reconcile::{Seen, selected},
        rules::{Match, Rules},
    },
};

/// Facts that are kept for the children of a process, before those of processes are looked for that have ended unseen.
const MOST_KNOWN: usize = 16_384;

/// Answers questions. Keeps the facts of processes, for those that they fork.
pub(super) struct Learner {
    gatherer: Gatherer,
    root: ProcRoot,
    rules: Rules,
    hooks: Family,
    known: HashMap<Tgid, ProcessFacts>,
    /// Facts that are kept until ended processes are looked for.
    most_known: usize,
    retries: Retries,
    /// Processes that will not be looked at again, for lack of room.
    retries_refused: Arc<AtomicU64>,
}

impl Learner {
    pub(super) fn new(root: ProcRoot, rules: Rules, hooks: Family, retries_refused: Arc<AtomicU64>) -> Self {
        Self {
            gatherer: Gatherer::new(root.clone()),
            root,
            rules,
            hooks,
            known: HashMap::new(),
            most_known: MOST_KNOWN,
            retries: Retries::default(),
            retries_refused,
        }
    }

    /// Answers a question.
    pub(super) fn answer(&mut self, question: Question) -> Vec<Answer> {
        match question {
            Question::Facts { tgid, parent } => self.facts(tgid, None, parent, Cause::NO_NAME),
            Question::Exec {
                tgid,
                hint,
                provisional,
            } => {
                // The look that was planned was for the program before.
                self.retries.forget(tgid);
                if provisional {
                    self.program(tgid, hint)
                } else {
                    self.facts(tgid, Some(hint), None, Cause::NO_NAME)
                }
            }
            Question::Ended(tgid) => {
                self.known.remove(&tgid);
                self.retries.forget(tgid);
                Vec::new()
            }
            Question::Look { targets, rules } => vec![Answer::Seen(Seen {
                running: self.root.processes().into_iter().map(Tgid).collect(),
                selected: selected(&self.rules, targets, rules),
            })],
        }
    }

    /// Matches the new program of a provisional process, and gathers its facts if a rule names it.
    fn program(&mut self, tgid: Tgid, hint: ExecHint) -> Vec<Answer> {
        let rule = match self.rules.matches(tgid) {
            Match::Yes(rule) => Some(rule),
            Match::NotNamed => {
                self.look_later(tgid, Cause::NO_NAME, Task::Match);
                None
            }
            Match::No if self.root.exe(tgid.0).is_some() => None,
            // It has ended: the kernel's report is all that there is.
            Match::No => self.rules.matched(&hint),
        };
        if rule.is_none() {
            return vec![Answer::Matched(tgid, None)];
        }
        let mut answers = self.facts(tgid, Some(hint), None, Cause::NO_NAME);
        answers.push(Answer::Matched(tgid, rule));
        answers
    }

    /// Returns how long until another look at a process is due.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.retries.rest(Instant::now())
    }

    /// Looks at one process again, if that is due.
    pub(super) fn look_again(&mut self) -> Vec<Answer> {
        let Some((tgid, cause, task)) = self.retries.take(Instant::now()) else {
            return Vec::new();
        };
        match task {
            _ if !self.root.runs(tgid.0) => Vec::new(),
            Task::Match => self.match_again(tgid, cause),
            Task::Facts { hint, parent } => self.gather_again(tgid, cause, hint, parent),
        }
    }

    fn match_again(&mut self, tgid: Tgid, cause: Cause) -> Vec<Answer> {
        match self.rules.matches(tgid) {
            Match::Yes(rule) => vec![Answer::Late(tgid, rule)],
            Match::NotNamed => {
                if let Some(cause) = cause.next() {
                    self.look_later(tgid, cause, Task::Match);
                }
                Vec::new()
            }
            Match::No => Vec::new(),
        }
    }

    fn gather_again(&mut self, tgid: Tgid, cause: Cause, hint: Option<ExecHint>, parent: Option<Tgid>) -> Vec<Answer> {
        if cause == Cause::Suspect && !self.root.try_again(tgid.0) {
            self.look_later(tgid, cause, Task::Facts { hint, parent });
            return Vec::new();
        }
        let Some(next) = cause.next() else {
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

    /// Gathers the facts of a process. `again` is the cause of the next look, if the process's container has no name
    /// yet.
    fn facts(&mut self, tgid: Tgid, hint: Option<ExecHint>, parent: Option<Tgid>, again: Cause) -> Vec<Answer> {
        self.retries.forget(tgid);
        let of_parent = parent.and_then(|parent| self.known.get(&parent));
        let facts = self.gatherer.gather(tgid.0, hint.as_ref(), of_parent);
        let mut answers = Vec::new();
        if !self.known.contains_key(&tgid) || hint.is_some() {
            for peculiarity in self.gatherer.peculiarities(tgid.0) {
                if peculiarity.hides_from(self.hooks) {
                    tracing::warn!(
                        pid = tgid.0,
                        service = facts.resource.service_name,
                        "{}",
                        peculiarity.message()
                    );
                } else if peculiarity == Peculiarity::IoUring {
                    answers.push(Answer::Ring);
                }
            }
        }
        tracing::debug!(pid = tgid.0, service = facts.resource.service_name, runtime = ?facts.runtime, "process");
        let cause = if self.root.is_suspect(tgid.0) {
            Some(Cause::Suspect)
        } else {
            facts.is_in_unnamed_container().then_some(again)
        };
        if let Some(cause) = cause {
            self.look_later(tgid, cause, Task::Facts { hint, parent });
        }
        self.make_room();
        self.known.insert(tgid, facts.clone());
        answers.push(Answer::Facts(facts));
        answers
    }

    fn look_later(&mut self, tgid: Tgid, cause: Cause, task: Task) {
        self.retries.add(tgid, cause, task, Instant::now());
        self.retries_refused.store(self.retries.refused, Ordering::Relaxed);
    }

    /// Drops the facts of processes that have ended, once there are many: a lost exit record leaves them behind.
    fn make_room(&mut self) {
        if self.known.len() < self.most_known {
            return;
        }
        let root = &self.root;
        self.known.retain(|&tgid, _| root.runs(tgid.0));
        self.most_known = MOST_KNOWN.max(self.known.len() * 2);
    }
}
