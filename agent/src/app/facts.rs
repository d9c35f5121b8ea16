//! Learning about processes, on a thread of its own: reading /proc takes 200 µs, a new executable up to 10 ms, and the
//! reader of the ring must not wait.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use anyhow::Context;

use super::second_look::{Seen, selected};
use crate::{
    probe::Waker,
    process::{ExecHint, Gatherer, Match, ProcRoot, ProcessFacts, Reason, Selection, peculiarities},
};

/// Questions without a reply of which all is kept. Where programs start faster than they can be looked at, what the kernel
/// said of the further ones is left out: it may be 4 KiB each.
const MOST_WITH_HINTS: usize = 4096;

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
    /// What runs, and what of it is selected?
    Look {
        /// The targets: their descendants are selected.
        targets: BTreeSet<u32>,
        /// And so is what a rule names.
        rules: bool,
    },
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// The process is this.
    Facts(ProcessFacts),
    /// A provisional target is selected for this reason, or is not.
    Selected(u32, Option<Reason>),
    /// This was seen.
    Seen(Seen),
}

/// What a question led to.
struct Reply {
    /// The process, if the question was about its new program.
    exec: Option<u32>,
    answers: Vec<Answer>,
}

/// Keeps back what was learned of a process before it ran the program that it runs now. Replies come in the order of the
/// questions.
#[derive(Default)]
struct Lives {
    /// Questions about a new program that have no reply yet, by process.
    awaited: HashMap<u32, u32>,
}

impl Lives {
    fn asked(&mut self, question: &Question) {
        if let Question::Exec { tgid, .. } = question {
            *self.awaited.entry(*tgid).or_default() += 1;
        }
    }

    /// The answers of a reply that are about the program that runs now.
    fn take(&mut self, reply: Reply) -> Vec<Answer> {
        let Reply { exec, mut answers } = reply;
        if let Some(tgid) = exec
            && let Some(awaited) = self.awaited.get_mut(&tgid)
        {
            *awaited -= 1;
            if *awaited == 0 {
                self.awaited.remove(&tgid);
            }
        }
        answers.retain(|answer| match answer {
            Answer::Facts(facts) => !self.awaited.contains_key(&facts.tgid),
            Answer::Selected(..) | Answer::Seen(_) => true,
        });
        answers
    }
}

/// The thread.
pub struct Facts {
    questions: Sender<Question>,
    replies: Receiver<Reply>,
    lives: Lives,
    answers: VecDeque<Answer>,
    /// Questions without a reply.
    open: usize,
    /// A hint was left out.
    behind: bool,
}

impl Facts {
    /// Starts the thread. `waker` is called with each answer.
    pub fn start(root: ProcRoot, selection: Selection, waker: Waker) -> anyhow::Result<Self> {
        let (questions, asked) = mpsc::channel();
        let (reply, replies) = mpsc::channel();
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
                    let exec = match question {
                        Question::Exec { tgid, .. } => Some(tgid),
                        Question::Facts { .. } | Question::Ended(_) | Question::Look { .. } => None,
                    };
                    let answers = learner.answer(question);
                    if reply.send(Reply { exec, answers }).is_err() {
                        return;
                    }
                    waker.wake();
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            questions,
            replies,
            lives: Lives::default(),
            answers: VecDeque::new(),
            open: 0,
            behind: false,
        })
    }

    /// Asks. The answer comes later.
    pub fn ask(&mut self, mut question: Question) {
        self.lives.asked(&question);
        self.open += 1;
        if let Question::Exec { hint, .. } = &mut question
            && self.open > MOST_WITH_HINTS
        {
            *hint = ExecHint::default();
            if !std::mem::replace(&mut self.behind, true) {
                tracing::warn!(
                    "programs start faster than they can be looked at: of those that have ended before, it is not known what \
                     they were (counted as unknown_process where they had spans)"
                );
            }
        }
        // The thread ends only with this value.
        let _ = self.questions.send(question);
    }

    /// An answer, if there is one.
    pub fn answer(&mut self) -> Option<Answer> {
        while self.answers.is_empty() {
            let reply = self.replies.try_recv().ok()?;
            self.open = self.open.saturating_sub(1);
            self.answers.extend(self.lives.take(reply));
        }
        self.answers.pop_front()
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
            Question::Look { targets, rules } => vec![Answer::Seen(Seen {
                running: self.root.processes().into_iter().collect(),
                selected: selected(&self.selection, targets, rules),
            })],
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{process::Runtime, trace::Resource};

    #[test]
    fn what_was_learned_of_the_program_before_is_not_said_of_the_new_one() {
        let facts = |tgid, name: &str| {
            Answer::Facts(ProcessFacts {
                tgid,
                runtime: Runtime::Unknown,
                resource: Arc::new(Resource {
                    service_name: name.to_owned(),
                    attributes: Vec::new(),
                }),
            })
        };
        let reply = |exec, answer| Reply {
            exec,
            answers: vec![answer],
        };
        let names = |answers: Vec<Answer>| -> Vec<String> {
            let name = |answer: &Answer| match answer {
                Answer::Facts(facts) => facts.resource.service_name.clone(),
                Answer::Selected(tgid, _) => format!("selected {tgid}"),
                Answer::Seen(_) => "seen".to_owned(),
            };
            answers.iter().map(name).collect()
        };
        let mut lives = Lives::default();
        let exec = Question::Exec {
            tgid: 7,
            hint: ExecHint::default(),
            provisional: false,
        };
        lives.asked(&Question::Facts { tgid: 7, parent: None });
        lives.asked(&exec);
        lives.asked(&exec);
        // The shell that was forked has become another program, twice, before anything was known of it.
        assert_eq!(names(lives.take(reply(None, facts(7, "shell")))), [""; 0]);
        assert_eq!(names(lives.take(reply(None, facts(8, "other")))), ["other"]);
        assert_eq!(names(lives.take(reply(Some(7), facts(7, "env")))), [""; 0]);
        assert_eq!(
            names(lives.take(reply(Some(7), Answer::Selected(7, None)))),
            ["selected 7"]
        );
        assert_eq!(names(lives.take(reply(None, facts(7, "shop")))), ["shop"]);
    }
}
