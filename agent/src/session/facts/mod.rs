//! Learning about processes, on a thread of its own: reading /proc takes 200 µs, a new executable up to 10 ms, and the
//! reader of the ring must not wait. What may never answer is read by other processes ([`crate::process::reader`]), so
//! that this thread goes on, too.

mod later;
mod learner;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use learner::Learner;

use super::second_look::Seen;
use crate::{
    probe::Waker,
    process::{ExecHint, ProcRoot, ProcessFacts, Reason, Selection},
};

/// Questions without a reply of which all is kept. Where programs start faster than they can be looked at, what the kernel
/// said of the further ones is left out: it may be 4 KiB each.
const MOST_WITH_HINTS: usize = 4096;
/// Most questions without a reply: 13 s of work at 200 µs each, longer than spans wait for their process. Those beyond are
/// refused; a look at all that runs finds their processes later.
const MOST_OPEN: usize = 65_536;
/// How long the thread sleeps if nothing is to be looked at again.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// Causes of [`Facts::counters`].
pub const CAUSES: [&str; 3] = ["question_refused", "hint_left_out", "retry_refused"];

/// A question to the thread that learns about processes.
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

impl Question {
    /// The process, if the question is about its new program.
    fn exec(&self) -> Option<u32> {
        match self {
            Self::Exec { tgid, .. } => Some(*tgid),
            Self::Facts { .. } | Self::Ended(_) | Self::Look { .. } => None,
        }
    }
}

/// An answer of that thread.
#[derive(Debug)]
pub enum Answer {
    /// The process is this.
    Facts(ProcessFacts),
    /// A provisional target is selected for this reason, or is not.
    Selected(u32, Option<Reason>),
    /// A process that was not selected is, as is known now.
    Late(u32, Reason),
    /// This was seen.
    Seen(Seen),
}

/// What a question led to, or a second look at a process.
struct Reply {
    /// It answers a question.
    is_asked: bool,
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
        let Reply {
            is_asked: _,
            exec,
            mut answers,
        } = reply;
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
            Answer::Selected(..) | Answer::Late(..) | Answer::Seen(_) => true,
        });
        answers
    }
}

/// Handle of the thread that learns about processes.
pub struct Facts {
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

impl Facts {
    /// Starts the thread. `waker` is called with each answer.
    pub fn start(root: ProcRoot, selection: Selection, waker: Waker) -> anyhow::Result<Self> {
        let (questions, asked) = mpsc::channel::<Question>();
        let (reply, replies) = mpsc::channel();
        let retries_refused = Arc::<AtomicU64>::default();
        let mut learner = Learner::new(root, selection, Arc::clone(&retries_refused));
        thread::Builder::new()
            .name("spoor-facts".to_owned())
            .spawn(move || {
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
                        // Questions must not keep it from that for good.
                        answered.answers.extend(learner.look_again());
                    }
                    let is_news = answered.is_asked || !answered.answers.is_empty();
                    if is_news && reply.send(answered).is_err() {
                        return;
                    }
                    if is_news {
                        waker.wake();
                    }
                }
            })
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

    /// Asks. The answer comes later.
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
                    "programs start faster than they can be looked at: of those that have ended before, it is not known what \
                     they were (counted as unknown_process where they had spans)"
                );
            }
        }
        // The thread ends only with this value.
        let _ = self.questions.send(question);
    }

    /// There are too many questions. It is answered as of a process that is not selected, so that nobody waits for it.
    fn refuse(&mut self, question: Question) {
        match question {
            Question::Exec {
                tgid,
                provisional: true,
                ..
            } => self.answers.push_back(Answer::Selected(tgid, None)),
            // What is kept of an ended process is looked for when it is much.
            Question::Ended(_) => return,
            Question::Exec { .. } | Question::Facts { .. } | Question::Look { .. } => {}
        }
        self.refused += 1;
        if self.refused == 1 {
            tracing::warn!(
                "{MOST_OPEN} questions about processes wait: of those that start now nothing is known until fewer do \
                 (facts_lost, question_refused); select fewer processes, or give Spoor CPU time"
            );
        }
    }

    /// Questions that were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Counters, by cause.
    pub fn counters(&self) -> [(&'static str, u64); 3] {
        let [question_refused, hint_left_out, retry_refused] = CAUSES;
        [
            (question_refused, self.refused),
            (hint_left_out, self.hints_left_out),
            (retry_refused, self.retries_refused.load(Ordering::Relaxed)),
        ]
    }

    /// An answer, if there is one.
    pub fn answer(&mut self) -> Option<Answer> {
        while self.answers.is_empty() {
            let reply = self.replies.try_recv().ok()?;
            self.open -= usize::from(reply.is_asked);
            self.answers.extend(self.lives.take(reply));
        }
        self.answers.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::Instant};

    use super::*;
    use crate::{config, engine::trace::Resource, runtimes::Runtime};

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
            is_asked: true,
            exec,
            answers: vec![answer],
        };
        let names = |answers: Vec<Answer>| -> Vec<String> {
            let name = |answer: &Answer| match answer {
                Answer::Facts(facts) => facts.resource.service_name.clone(),
                Answer::Selected(tgid, _) => format!("selected {tgid}"),
                Answer::Late(tgid, _) => format!("late {tgid}"),
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

    /// A process file system with process 1, and a container's process 7 of which the runtime has written nothing yet.
    fn container() -> (tempfile::TempDir, PathBuf) {
        const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let directory = tempfile::tempdir().unwrap();
        for tgid in [1, 7] {
            let process = directory.path().join(tgid.to_string());
            fs::create_dir(&process).unwrap();
            let stat = format!("{tgid} (x) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2");
            fs::write(process.join("stat"), stat).unwrap();
            fs::write(process.join("cgroup"), format!("0::/system.slice/docker-{ID}.scope\n")).unwrap();
        }
        let state = directory.path().join("1/root/var/lib/docker/containers").join(ID);
        fs::create_dir_all(&state).unwrap();
        (directory, state.join("config.v2.json"))
    }

    fn next(facts: &mut Facts) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(answer) = facts.answer() {
                return answer;
            }
            assert!(Instant::now() < deadline, "there is no answer");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn name(answer: Answer) -> String {
        match answer {
            Answer::Facts(facts) => facts.resource.service_name.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_container_gets_the_name_that_comes_late() {
        let (directory, state) = container();
        let root = ProcRoot::new(directory.path());
        let mut facts = Facts::start(root, Selection::default(), Waker::new().unwrap()).unwrap();
        facts.ask(Question::Facts { tgid: 7, parent: None });
        assert_ne!(name(next(&mut facts)), "web");
        fs::write(state, r#"{"Name":"/web"}"#).unwrap();
        assert_eq!(name(next(&mut facts)), "web");
        facts.ask(Question::Facts { tgid: 7, parent: None });
        assert_eq!(name(next(&mut facts)), "web");
    }

    #[test]
    fn a_process_whose_containers_name_comes_late_is_selected() {
        let (directory, state) = container();
        let root = ProcRoot::new(directory.path());
        let rules = config::Selection {
            containers: vec!["web".to_owned()],
            ..config::Selection::default()
        };
        let selection = Selection::of_rules(root.clone(), &rules).unwrap();
        let mut facts = Facts::start(root, selection, Waker::new().unwrap()).unwrap();
        facts.ask(Question::Exec {
            tgid: 7,
            hint: ExecHint::default(),
            provisional: true,
        });
        assert!(matches!(next(&mut facts), Answer::Selected(7, None)));
        fs::write(state, r#"{"Name":"/web"}"#).unwrap();
        assert!(matches!(next(&mut facts), Answer::Late(7, Reason::Container(name)) if name == "web"));
    }

    #[test]
    fn questions_are_bounded_and_each_of_them_is_counted() {
        let (questions, asked) = mpsc::channel();
        let (reply, replies) = mpsc::channel();
        let mut facts = Facts {
            questions,
            replies,
            lives: Lives::default(),
            answers: VecDeque::new(),
            open: 0,
            hints_left_out: 0,
            refused: 0,
            retries_refused: Arc::default(),
        };
        let exec = |tgid| Question::Exec {
            tgid,
            hint: ExecHint {
                comm: "shop".to_owned(),
                ..ExecHint::default()
            },
            provisional: true,
        };
        for tgid in 0..MOST_OPEN as u32 {
            facts.ask(exec(tgid));
        }
        facts.ask(exec(1_000_000));
        facts.ask(Question::Facts { tgid: 7, parent: None });
        facts.ask(Question::Ended(8));
        facts.ask(Question::Look {
            targets: BTreeSet::new(),
            rules: true,
        });
        let counted = facts.counters();
        assert_eq!(
            counted,
            [
                ("question_refused", 2),
                ("hint_left_out", (MOST_OPEN - MOST_WITH_HINTS) as u64),
                ("retry_refused", 0)
            ]
        );
        // Nobody waits for a decision for good.
        assert!(matches!(facts.answer(), Some(Answer::Selected(1_000_000, None))));
        let waiting: Vec<Question> = asked.try_iter().collect();
        assert_eq!(waiting.len(), MOST_OPEN + 1, "the look at all processes is not refused");
        let hinted = |question: &&Question| matches!(question, Question::Exec { hint, .. } if !hint.comm.is_empty());
        assert_eq!(waiting.iter().filter(hinted).count(), MOST_WITH_HINTS);
        for question in &waiting {
            let exec = question.exec();
            reply
                .send(Reply {
                    is_asked: true,
                    exec,
                    answers: Vec::new(),
                })
                .unwrap();
        }
        assert!(facts.answer().is_none() && facts.open == 0 && facts.lives.awaited.is_empty());
        facts.ask(exec(9));
        assert_eq!(facts.refused(), 2);
    }
}
