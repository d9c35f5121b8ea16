//! Targets: which processes are traced, and why.
//!
//! The [`Registry`] holds the state of every process that the kernel side captures. It reads nothing and calls nothing:
//! records of the kernel ([`Registry::notice`]), answers of the [`inspector`] and looks at all of /proc ([`reconcile`])
//! go in, questions and decisions come out. The session carries the decisions out, Core holds spans back until there is
//! one, and `ps` lists the registry.
//!
//! Rules of the command line ([`rules`]) are the only way to become a target, apart from being the launched command or
//! the child of a target.

pub mod inspector;
mod provisional;
pub mod reconcile;
pub mod rules;
#[cfg(test)]
mod tests;
mod workloads;

use std::{collections::BTreeMap, fmt};

use self::{inspector::Question, provisional::Provisional, rules::Rule};
use crate::{
    process::ExecHint,
    record::{Record, Tgid},
};

/// State of a process.
///
/// ```text
///              a program begins, or a provisional process forks
///   Unknown ────────────────────────────────────────────────────► Provisional
///      │                                                           │   │   │
///      │ a rule names it, it is the launched command,              │   │   └─ no rule names it ──► Refused(refusal)
///      │ or a target forks it                                      │   └─ exit ──► Exited, undecided ── decided ──► Exited
///      │                                                           │
///      │           a rule names it, it listens on a rule's port,   │
///      │           or its parent is a target                       │
///      └─────────► Target(reason) ◄────────────────────────────────┘
///                     └─ exit ──► Exited
/// ```
///
/// A target becomes provisional again if the kernel says of its new program that it was no target when the program
/// began. `Unknown`, `Refused` and `Exited` have no entry: the kernel side reports nothing more of such a process, not
/// even the end of a refused one, so an entry could never be taken away. A refusal is handed out once, as a
/// [`Decision`].
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Captured from the first byte of its program, so that nothing is missed if it turns out to be a target.
    Provisional(Provisional),
    /// Traced.
    Target(Reason),
    /// Ended before it was decided. Its spans and its children still wait for the decision.
    Exited(Provisional),
}

/// Reason why a process is a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The process is the command that was launched.
    Command,
    /// A rule names the process.
    Rule(Rule),
    /// This target forked the process.
    Child(Tgid),
}

/// Reason why a process is not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No rule names the process.
    NoRule,
    /// The process runs the program of this one, which was refused.
    Child(Tgid),
    /// The process that forked it was refused before its fork was reported.
    Orphan,
    /// The process is captured, and is not among what the rules select.
    Stray,
}

/// Outcome of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process is a target.
    Target,
    /// The process is not a target.
    Refused(Refusal),
}

/// Decision about one process, to be carried out by the session and told to Core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The process.
    pub tgid: Tgid,
    /// Outcome for it.
    pub outcome: Outcome,
}

/// Everything that is known of one process as a target.
#[derive(Debug)]
struct Entry {
    state: State,
    /// The process that forked it, if that was seen.
    parent: Option<Tgid>,
    /// The inspector has answered with its facts.
    is_described: bool,
}

/// Registry of the processes that are targets, or may be.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<Tgid, Entry>,
    /// Provisional processes that no reply will decide: their parent is not known, or was replaced.
    orphans: Vec<Tgid>,
    /// Decisions by listening ports, until [`Registry::take_decisions`].
    decisions: Vec<Decision>,
}

impl Registry {
    /// Takes a record of the kernel. Returns the question that it raises.
    pub fn notice(&mut self, record: &Record<'_>) -> Option<Question> {
        match record {
            Record::Fork(fork) => Some(self.fork(fork.stamp.execution.tgid, fork.child)),
            Record::Exec(exec) => {
                let tgid = exec.stamp.execution.tgid;
                let provisional = self.exec(tgid, exec.provisional);
                let comm = exec.comm.split(|&byte| byte == 0).next().unwrap_or_default();
                let hint = ExecHint {
                    comm: String::from_utf8_lossy(comm).into_owned(),
                    cmdline: exec.command_line.to_vec(),
                    environ: exec.environment.to_vec(),
                };
                Some(Question::Exec {
                    tgid,
                    hint,
                    provisional,
                })
            }
            Record::Exit(exit) => {
                let tgid = exit.stamp.execution.tgid;
                self.exit(tgid);
                Some(Question::Ended(tgid))
            }
            Record::Listen(listen) => self.listen(listen.stamp.execution.tgid, listen.port),
            Record::Open(_)
            | Record::Connect(_)
            | Record::Segment(_)
            | Record::EndOfStream(_)
            | Record::State(_)
            | Record::Unseen(..)
            | Record::Begun(_)
            | Record::Context(_) => None,
        }
    }

    /// Takes a fork. The child shares the fate of a provisional parent.
    fn fork(&mut self, parent: Tgid, child: Tgid) -> Question {
        let reason = Reason::Child(parent);
        let state = match self.entries.get_mut(&parent).map(|entry| &mut entry.state) {
            Some(State::Target(_)) => State::Target(reason),
            Some(State::Provisional(of) | State::Exited(of)) => {
                of.forked.push(child);
                State::Provisional(Provisional::forked(parent, Some(parent)))
            }
            None => {
                self.orphans.push(child);
                State::Provisional(Provisional::forked(parent, None))
            }
        };
        self.replace(child, state, Some(parent));
        Question::Facts {
            tgid: child,
            parent: Some(parent),
        }
    }

    /// Takes the exec of a new program. `was_no_target`: the kernel did not take it for a target when the program
    /// began.
    ///
    /// Returns whether it must be decided if the new program is selected.
    fn exec(&mut self, tgid: Tgid, was_no_target: bool) -> bool {
        let Some(entry) = self.entries.get_mut(&tgid) else {
            // A process that was let go a moment ago was a target still when the kernel reported this.
            self.replace(tgid, State::Provisional(Provisional::of_program(None)), None);
            return true;
        };
        match &mut entry.state {
            State::Provisional(provisional) => provisional.unanswered += 1,
            State::Exited(provisional) => {
                // The id was given to another process, whose fork was not reported.
                let mut provisional = std::mem::take(provisional);
                provisional.unanswered += 1;
                entry.state = State::Provisional(provisional);
            }
            State::Target(reason) if was_no_target => {
                let before = Some(reason.clone());
                entry.state = State::Provisional(Provisional::of_program(before));
            }
            State::Target(_) => return false,
        }
        true
    }

    /// Takes the end of a process, seen or missed.
    pub fn exit(&mut self, tgid: Tgid) {
        let Some(entry) = self.entries.get_mut(&tgid) else {
            return;
        };
        match &mut entry.state {
            State::Target(_) => {
                self.entries.remove(&tgid);
            }
            State::Provisional(provisional) => {
                let mut provisional = std::mem::take(provisional);
                provisional.reason = None;
                entry.parent = None;
                entry.state = State::Exited(provisional);
            }
            State::Exited(_) => {}
        }
    }

    /// Makes a process that listens on a port of a rule a target, whatever the inspector answers.
    /// [`Registry::take_decisions`] has the decision.
    ///
    /// Returns the question that the process raises, if it is new.
    fn listen(&mut self, tgid: Tgid, port: u16) -> Option<Question> {
        // The inspector gathers no facts of a program that no rule names by itself.
        let has_no_facts = match self.entries.get(&tgid).map(|entry| &entry.state) {
            Some(State::Provisional(provisional)) => provisional.unanswered > 0,
            Some(State::Target(_)) => false,
            Some(State::Exited(_)) | None => true,
        };
        let is_new = !self.is_alive(tgid);
        let reason = Reason::Rule(Rule::Port(port));
        let mut decided = self.decide(tgid, Ok(reason.clone()));
        if decided.is_empty() {
            decided.push(Decision {
                tgid,
                outcome: Outcome::Target,
            });
        }
        self.decisions.extend(decided);
        if is_new {
            self.replace(tgid, State::Target(reason), None);
        }
        has_no_facts.then_some(Question::Facts { tgid, parent: None })
    }

    /// Makes a process a target that was found by looking at what runs. Returns the question that it raises; `None`: it
    /// is in the registry already.
    pub fn select(&mut self, tgid: Tgid, reason: Reason) -> Option<Question> {
        if self.is_alive(tgid) {
            return None;
        }
        let parent = match reason {
            Reason::Child(parent) => Some(parent),
            Reason::Command | Reason::Rule(_) => None,
        };
        self.replace(tgid, State::Target(reason), parent);
        Some(Question::Facts { tgid, parent })
    }

    /// Notes that the facts of a process have come.
    pub fn described(&mut self, tgid: Tgid) {
        if let Some(entry) = self.entries.get_mut(&tgid) {
            entry.is_described = true;
        }
    }

    /// Returns true until the facts of a process have come, or the process has ended.
    pub fn awaits_facts(&self, tgid: Tgid) -> bool {
        self.entries.get(&tgid).is_some_and(|entry| !entry.is_described)
    }

    /// Returns the process that forked this one, if that was seen.
    pub fn parent(&self, tgid: Tgid) -> Option<Tgid> {
        self.entries.get(&tgid)?.parent
    }

    /// Returns true if a process is a target, or may become one, and has not ended.
    pub fn is_alive(&self, tgid: Tgid) -> bool {
        self.entries.get(&tgid).is_some_and(Entry::is_alive)
    }

    /// Lists the processes that are targets, or may become some, and have not ended.
    pub fn alive(&self) -> impl Iterator<Item = Tgid> {
        let alive = self.entries.iter().filter(|(_, entry)| entry.is_alive());
        alive.map(|(&tgid, _)| tgid)
    }

    /// Lists the processes that are targets for certain.
    pub fn targets(&self) -> impl Iterator<Item = Tgid> {
        let is_target = |entry: &Entry| matches!(entry.state, State::Target(_));
        let targets = self.entries.iter().filter(move |(_, entry)| is_target(entry));
        targets.map(|(&tgid, _)| tgid)
    }

    /// Puts a process in the place of whatever had its id before.
    fn replace(&mut self, tgid: Tgid, state: State, parent: Option<Tgid>) {
        let entry = Entry {
            state,
            parent,
            is_described: false,
        };
        if let Some(Entry {
            state: State::Provisional(before) | State::Exited(before),
            ..
        }) = self.entries.insert(tgid, entry)
        {
            // Nobody decides about the one before any more.
            self.orphan(tgid, &before.forked);
        }
    }
}

impl Entry {
    fn is_alive(&self) -> bool {
        !matches!(self.state, State::Exited(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command => f.write_str("the launched command"),
            Self::Rule(rule) => rule.fmt(f),
            Self::Child(parent) => write!(f, "child of {parent}"),
        }
    }
}
