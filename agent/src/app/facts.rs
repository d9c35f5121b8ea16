//! Learning about processes, on a thread of its own: reading /proc takes 200 µs, a new executable up to 10 ms, and the
//! reader of the ring must not wait.

use std::{
    collections::HashMap,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use anyhow::Context;

use crate::{
    probe::Waker,
    process::{ExecHint, Gatherer, Match, ProcRoot, ProcessFacts, Reason, Selection, peculiarities},
};

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// What is this process? It may have been forked by another one.
    Facts {
        /// The process.
        tgid: u32,
        /// Its parent, if a fork was seen.
        parent: Option<u32>,
    },
    /// It runs a new program: what is it now, and is it selected?
    Exec {
        /// The process.
        tgid: u32,
        /// What the kernel said of the program.
        hint: ExecHint,
        /// It is selected only if a rule says so.
        provisional: bool,
    },
    /// It has ended.
    Ended(u32),
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// The process is this.
    Facts(ProcessFacts),
    /// A provisional target is selected for this reason, or is not.
    Selected(u32, Option<Reason>),
}

/// The thread.
pub struct Facts {
    questions: Sender<Question>,
    answers: Receiver<Answer>,
}

impl Facts {
    /// Starts the thread. `waker` is called with each answer.
    pub fn start(root: ProcRoot, selection: Selection, waker: Waker) -> anyhow::Result<Self> {
        let (questions, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let mut learner = Learner {
            gatherer: Gatherer::new(root.clone()),
            root,
            selection,
            known: HashMap::new(),
        };
        thread::Builder::new()
            .name("spoor-facts".to_owned())
            .spawn(move || {
                while let Ok(question) = asked.recv() {
                    for fact in learner.answer(question) {
                        if answer.send(fact).is_err() {
                            return;
                        }
                    }
                    waker.wake();
                }
            })
            .context("cannot start a thread")?;
        Ok(Self { questions, answers })
    }

    /// Asks. The answer comes later.
    pub fn ask(&self, question: Question) {
        // The thread ends only with this value.
        let _ = self.questions.send(question);
    }

    /// An answer, if there is one.
    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

struct Learner {
    gatherer: Gatherer,
    root: ProcRoot,
    selection: Selection,
    known: HashMap<u32, ProcessFacts>,
}

impl Learner {
    fn answer(&mut self, question: Question) -> Vec<Answer> {
        match question {
            Question::Facts { tgid, parent } => {
                let parent = parent.and_then(|parent| self.known.get(&parent)).cloned();
                self.facts(tgid, None, parent)
            }
            Question::Exec {
                tgid,
                hint,
                provisional,
            } => {
                if !provisional {
                    return self.facts(tgid, Some(&hint), None);
                }
                let reason = match self.selection.matches(tgid) {
                    Match::Yes(reason) => Some(reason),
                    Match::No if self.root.exe(tgid).is_some() => None,
                    Match::No => self.selection.matched(&hint),
                };
                if reason.is_none() {
                    return vec![Answer::Selected(tgid, None)];
                }
                let mut answers = self.facts(tgid, Some(&hint), None);
                answers.push(Answer::Selected(tgid, reason));
                answers
            }
            Question::Ended(tgid) => {
                self.known.remove(&tgid);
                Vec::new()
            }
        }
    }

    fn facts(&mut self, tgid: u32, hint: Option<&ExecHint>, parent: Option<ProcessFacts>) -> Vec<Answer> {
        let facts = self.gatherer.gather(tgid, hint, parent.as_ref());
        for peculiarity in peculiarities(&self.root, tgid) {
            tracing::warn!(
                pid = tgid,
                service = facts.resource.service_name,
                "{}",
                peculiarity.message()
            );
        }
        tracing::debug!(pid = tgid, service = facts.resource.service_name, runtime = ?facts.runtime, "process");
        self.known.insert(tgid, facts.clone());
        vec![Answer::Facts(facts)]
    }
}
