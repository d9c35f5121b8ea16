//! Inspector: learns about processes on a thread of its own.
//!
//! Reading /proc for one process takes 200 µs, a new executable up to 10 ms, and the reader of the ring must not wait.
//! The session asks a [`Question`] and takes an [`Answer`] later. Reads that may never end are made by other processes
//! ([`crate::process::reader`]), so this thread goes on, too.

mod learner;
mod lives;
mod retries;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::Context;

use self::{learner::Learner, lives::Lives};
use super::{
    reconcile::Seen,
    rules::{Rule, Rules},
};
use crate::{
    probe::{Family, Waker},
    process::{ExecHint, ProcRoot, ProcessFacts},
    record::Tgid,
};

/// Upper bound on questions without a reply that keep the kernel's report of the program. Where programs start faster
/// than they can be looked at, the report is left out of further questions: it may be 4 KiB each.
const MOST_WITH_HINTS: usize = 4096;
/// Upper bound on questions without a reply: 13 s of work at 200 µs each, longer than spans wait for their process.
/// Questions beyond it are refused; a look at everything that runs finds their processes later.
const MOST_OPEN: usize = 65_536;
/// Longest sleep of the thread if no other look is due.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// Causes of [`Inspector::counters`].
pub const CAUSES: [&str; 3] = ["question_refused", "hint_left_out", "retry_refused"];

/// Question to the inspector.
#[derive(Debug)]
pub enum Question {
    /// Asks for the facts of a process.
    Facts {
        /// The process.
        tgid: Tgid,
        /// The process that forked it, if a fork was seen.
        parent: Option<Tgid>,
    },
    /// Asks for the facts of a process that runs a new program, and whether a rule names it.
    Exec {
        /// The process.
        tgid: Tgid,
        /// The kernel's report of the program.
        hint: ExecHint,
        /// The process is a target only if a rule names it.
        provisional: bool,
    },
    /// Tells that a process has ended: its facts can go.
    Ended(Tgid),
    /// Asks which processes run, and which of them are selected.
    Look {
        /// Targets: their descendants are selected.
        targets: BTreeSet<Tgid>,
        /// Rules select processes, too.
        rules: bool,
    },
}

impl Question {
    /// Returns the process, if the question is about its new program.
    fn exec(&self) -> Option<Tgid> {
        match self {
            Self::Exec { tgid, .. } => Some(*tgid),
            Self::Facts { .. } | Self::Ended(_) | Self::Look { .. } => None,
        }
    }
}

/// Answer of the inspector.
#[derive(Debug)]
pub enum Answer {
    /// Facts of a process.
    Facts(ProcessFacts),
    /// The rule that names the program of a provisional process, if one does.
    Matched(Tgid, Option<Rule>),
    /// A rule that names a process since its container's name is known.
    Late(Tgid, Rule),
    /// A look at everything that runs.
    Seen(Seen),
    /// The process has an io_uring, whose requests are of use.
    Ring,
}

/// Answers to one question, or of another look at a process.
struct Reply {
    /// There was a question.
    is_asked: bool,
    /// The process, if the question was about its new program.
    exec: Option<Tgid>,
    answers: Vec<Answer>,
}

/// Handle of the inspector's thread.
pub struct Inspector {
    questions: Sender<Question>,
    replies: Receiver<Reply>,
    lives: Lives,
    answers: VecDeque<Answer>,
    /// Questions without a reply.
    open: usize,
    hints_left_out: u64,
    refused: u64,
    retries_refused: Arc<AtomicU64>,
}

impl Inspector {
    /// Starts the thread, which calls `waker` with each answer. `hooks`: the family in use, for warnings of traffic that it
    /// does not show.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(root: ProcRoot, rules: Rules, hooks: Family, waker: Waker) -> anyhow::Result<Self> {
        let (questions, asked) = mpsc::channel::<Question>();
        let (reply, replies) = mpsc::channel();
        let retries_refused = Arc::<AtomicU64>::default();
        let learner = Learner::new(root, rules, hooks, Arc::clone(&retries_refused));
        thread::Builder::new()
            // Names of threads have at most 15 bytes.
            .name("spoor-inspect".to_owned())
            .spawn(move || inspect(learner, &asked, &reply, &waker))
            .context("cannot start a thread")?;
        Ok(Self {
            questions,
            replies,
            lives: Lives::default(),
            answers: VecDeque::new(),
            open: 0,
            hints_left_out: 0,
            refused: 0,
            retries_refused,
        })
    }

    /// Asks a question. The answer comes later.
    pub fn ask(&mut self, mut question: Question) {
        // There is one look at all processes at a time.
        if self.open >= MOST_OPEN && !matches!(question, Question::Look { .. }) {
            return self.refuse(question);
        }
        self.lives.asked(&question);
        self.open += 1;
        if let Question::Exec { hint, .. } = &mut question
            && self.open > MOST_WITH_HINTS
        {
            *hint = ExecHint::default();
            self.hints_left_out += 1;
            if self.hints_left_out == 1 {
                tracing::warn!(
                    "programs start faster than they can be inspected: short-lived ones stay unknown, and their spans are \
                     counted as unknown_process"
                );
            }
        }
        // The thread ends only with this value.
        let _ = self.questions.send(question);
    }

    /// Refuses a question, because too many are open. Answers it as for a process that no rule names, so that no span
    /// waits for it.
    fn refuse(&mut self, question: Question) {
        match question {
            Question::Exec {
                tgid,
                provisional: true,
                ..
            } => self.answers.push_back(Answer::Matched(tgid, None)),
            // What is kept of an ended process is looked for when it is much.
            Question::Ended(_) => return,
            Question::Exec { .. } | Question::Facts { .. } | Question::Look { .. } => {}
        }
        self.refused += 1;
        if self.refused == 1 {
            tracing::warn!(
                "{MOST_OPEN} processes wait to be inspected: those that start now stay unknown until fewer wait \
                 (facts_lost, question_refused); select fewer processes, or give Spoor CPU time"
            );
        }
    }

    /// Returns how many questions were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns what could not be learned of processes so far, by cause.
    pub fn counters(&self) -> [(&'static str, u64); 3] {
        let [question_refused, hint_left_out, retry_refused] = CAUSES;
        [
            (question_refused, self.refused),
            (hint_left_out, self.hints_left_out),
            (retry_refused, self.retries_refused.load(Ordering::Relaxed)),
        ]
    }

    /// Takes an answer, if there is one.
    pub fn answer(&mut self) -> Option<Answer> {
        while self.answers.is_empty() {
            let reply = self.replies.try_recv().ok()?;
            self.open -= usize::from(reply.is_asked);
            self.answers.extend(self.lives.take(reply));
        }
        self.answers.pop_front()
    }
}

/// Answers questions, and looks again at processes when that is due, until the handle is dropped.
fn inspect(mut learner: Learner, asked: &Receiver<Question>, reply: &Sender<Reply>, waker: &Waker) {
    loop {
        let question = asked.recv_timeout(learner.rest().unwrap_or(LONGEST_REST));
        let mut answered = match question {
            Ok(question) => Reply {
                is_asked: true,
                exec: question.exec(),
                answers: learner.answer(question),
            },
            Err(RecvTimeoutError::Timeout) => Reply {
                is_asked: false,
                exec: None,
                answers: learner.look_again(),
            },
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if answered.is_asked && learner.rest() == Some(Duration::ZERO) {
            // Questions that never end must not keep other looks waiting for good.
            answered.answers.extend(learner.look_again());
        }
        if !answered.is_asked && answered.answers.is_empty() {
            continue;
        }
        if reply.send(answered).is_err() {
            return;
        }
        waker.wake();
    }
}
