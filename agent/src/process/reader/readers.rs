//! The agent's side: readers, and the processes and file systems that do not answer.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Patience, Question,
    child::{Failure, Reader},
    suspects::Suspects,
};
use crate::process::ProcRoot;

/// Upper bound on readers that were killed and have not ended. Each holds about 1 MiB until the kernel releases it.
const MOST_ABANDONED: usize = 32;
/// Upper bound on processes of a control group that are asked although they do not answer, so that one container does
/// not take all readers.
const MOST_OF_A_PLACE: usize = 4;
/// A killed reader that lasts longer was in a read that cannot be ended: when it goes, what it read from answers again.
const KILLED_AT_ONCE: Duration = Duration::from_secs(1);
/// Shortest time between two looks at the readers that hang.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Causes of [`Readers::counters`].
pub const CAUSES: [&str; 3] = ["unanswered", "refused", "reader_ended"];

/// Name of a process for good: its id and its start in clock ticks.
type Life = (u32, u64);

/// Readers in processes that may be left behind. Shared by all threads; no thread waits while it holds the lock.
#[derive(Debug)]
pub struct Readers {
    program: PathBuf,
    root: ProcRoot,
    state: Mutex<State>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Reader>,
    abandoned: Vec<Abandoned>,
    patience: Patience,
    processes: Suspects<Life>,
    devices: Suspects<u64>,
    /// Suspect processes.
    subjects: HashMap<Life, Subject>,
    looked_at: Option<Instant>,
    warned: bool,
}

/// Process that could not be read.
#[derive(Debug)]
struct Subject {
    /// Subject of the read, for people.
    what: String,
    /// Control groups of a process that did not answer; `None`: the process was not asked because another did not
    /// answer.
    place: Option<String>,
}

/// Counts of what could not be read.
#[derive(Debug, Default)]
struct Counters {
    /// Questions that were not answered in time.
    unanswered: AtomicU64,
    /// Questions that were not asked: the process did not answer before, or there was no reader.
    refused: AtomicU64,
    /// Readers that ended unasked: by a bug, or killed from outside.
    ended: AtomicU64,
}

/// Reader that was killed and has not ended.
#[derive(Debug)]
struct Abandoned {
    child: Child,
    since: Instant,
    life: Option<Life>,
    device: Option<u64>,
}

impl Readers {
    /// Starts the first reader, to see that this program can be one.
    ///
    /// # Errors
    /// If no process can be started, or the program is another one (a test).
    pub(in crate::process) fn start(root: ProcRoot) -> io::Result<Self> {
        Self::of_program("/proc/self/exe".into(), root)
    }

    fn of_program(program: PathBuf, root: ProcRoot) -> io::Result<Self> {
        let readers = Self {
            program,
            root,
            state: Mutex::default(),
            counters: Counters::default(),
        };
        let first = readers.begin()?;
        readers.lock().idle.push(first);
        Ok(readers)
    }

    /// Asks a question and waits for the answer; `None`: it cannot be read, or does not answer. `device` is the file
    /// system that the question is about, if that is known.
    pub(in crate::process) fn ask(&self, question: &Question, device: Option<u64>) -> Option<Vec<u8>> {
        let [answer] = self.ask_all([question], device);
        answer
    }

    /// Asks several questions about one process at once, which wakes the reader once.
    pub(in crate::process) fn ask_all<const N: usize>(
        &self,
        questions: [&Question; N],
        device: Option<u64>,
    ) -> [Option<Vec<u8>>; N] {
        let mut answers = [const { None }; N];
        let Some(&about) = questions.first() else {
            return answers;
        };
        // Most programs that start are short-lived. One that is gone by now needs no reader.
        let is_gone = !about.is_of_host() && self.life(about.tgid()).is_none();
        let encoded: Option<Vec<Vec<u8>>> = questions.iter().map(|question| question.encode()).collect();
        let Some(encoded) = encoded.filter(|_| !is_gone) else {
            return answers;
        };
        if self.rests(about.tgid(), device) {
            self.refuse();
            return answers;
        }
        // A reader that was killed from outside does not make the process unreadable: the question is asked again.
        for _ in 0..2 {
            let Some(mut reader) = self.reader() else {
                self.refuse();
                return answers;
            };
            let patience = self.lock().patience.now(Instant::now());
            let mut asked = reader.send(&encoded);
            for (question, answer) in questions.iter().zip(&mut answers) {
                match asked.and_then(|()| reader.receive(patience)) {
                    Ok(found) => {
                        *answer = found;
                        asked = Ok(());
                    }
                    Err(Failure::Silent) => {
                        self.counters.unanswered.fetch_add(1, Ordering::Relaxed);
                        self.abandon(reader, question, device, patience);
                        return answers;
                    }
                    Err(Failure::Ended) => {
                        asked = Err(Failure::Ended);
                        break;
                    }
                }
            }
            match asked {
                Ok(()) => {
                    self.lock().idle.push(reader);
                    return answers;
                }
                Err(_) => {
                    self.counters.ended.fetch_add(1, Ordering::Relaxed);
                    reader.end();
                }
            }
        }
        answers
    }

    /// Returns true if a read from a process did not answer, so that not everything is known of it.
    pub(in crate::process) fn is_suspect(&self, tgid: u32) -> bool {
        let is_quiet = self.lock().subjects.is_empty();
        !is_quiet
            && self
                .life(tgid)
                .is_some_and(|life| self.lock().subjects.contains_key(&life))
    }

    /// Returns true if it is time to ask a process again. The process is then no suspect until it does not answer
    /// again.
    pub(in crate::process) fn try_again(&self, tgid: u32) -> bool {
        self.look();
        if self.rests(tgid, None) {
            return false;
        }
        if let Some(life) = self.life(tgid) {
            self.lock().subjects.remove(&life);
        }
        true
    }

    /// Returns the reasons why not everything is known of some processes, for people.
    pub fn problems(&self) -> Vec<String> {
        self.look();
        let state = self.lock();
        let count = state.subjects.len();
        let mut problems = Vec::new();
        if let Some(first) = state.subjects.values().map(|subject| &subject.what).min() {
            let others = match count {
                1 => String::new(),
                count => format!(" (and of {} more)", count - 1),
            };
            problems.push(format!(
                "reading {first}{others} does not end: they are traced without what it says, and tried again later; look \
                 at the file system that it is on"
            ));
        }
        if state.abandoned.len() >= MOST_ABANDONED {
            problems.push(format!(
                "{MOST_ABANDONED} reads do not end and cannot be ended: of processes that start now, neither the \
                 environment nor the executable is read; look for file systems that do not answer"
            ));
        }
        problems
    }

    /// Returns how many questions had no answer, by cause.
    pub fn counters(&self) -> [(&'static str, u64); 3] {
        let Counters {
            unanswered,
            refused,
            ended,
        } = &self.counters;
        let [of_unanswered, of_refused, of_ended] = CAUSES;
        [
            (of_unanswered, unanswered.load(Ordering::Relaxed)),
            (of_refused, refused.load(Ordering::Relaxed)),
            (of_ended, ended.load(Ordering::Relaxed)),
        ]
    }

    /// Returns the number of processes that could not be read completely, and of readers that cannot be ended.
    pub fn levels(&self) -> (usize, usize) {
        self.look();
        let state = self.lock();
        (state.subjects.len(), state.abandoned.len())
    }

    fn refuse(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn life(&self, tgid: u32) -> Option<Life> {
        Some((tgid, self.root.stat(tgid)?.start_ticks))
    }

    /// Returns true if a process, or the file system of its executable, did not answer lately.
    fn rests(&self, tgid: u32, device: Option<u64>) -> bool {
        let is_quiet = {
            let state = self.lock();
            state.subjects.is_empty() && state.abandoned.is_empty() && state.devices.is_empty()
        };
        if is_quiet {
            return false;
        }
        let Some(life) = self.life(tgid) else {
            return false;
        };
        let now = Instant::now();
        let mut state = self.lock();
        let State {
            abandoned,
            processes,
            devices,
            subjects,
            ..
        } = &mut *state;
        let is_stuck = |device| abandoned.iter().any(|reader| reader.device == Some(device));
        if device.is_some_and(|device| devices.rests(device, now) || is_stuck(device)) {
            share_fate(subjects, life);
            return true;
        }
        if processes.rests(life, now) || abandoned.iter().any(|reader| reader.life == Some(life)) {
            return true;
        }
        let of_place = |place: &str| {
            let others = subjects.iter().filter(|(other, _)| **other != life);
            others
                .filter(|(_, subject)| subject.place.as_deref() == Some(place))
                .count()
        };
        let is_crowded = subjects.len() >= MOST_OF_A_PLACE
            && self
                .root
                .small(tgid, "cgroup")
                .is_some_and(|place| of_place(&place) >= MOST_OF_A_PLACE);
        if is_crowded {
            share_fate(subjects, life);
        }
        is_crowded
    }

    /// Takes an idle reader, or starts one.
    fn reader(&self) -> Option<Reader> {
        let idle = self.lock().idle.pop();
        idle.or_else(|| {
            self.look();
            if self.lock().abandoned.len() >= MOST_ABANDONED {
                return None;
            }
            self.begin()
                .inspect_err(|error| tracing::debug!("a process that reads files cannot be started: {error}"))
                .ok()
        })
    }

    fn begin(&self) -> io::Result<Reader> {
        Reader::start(Command::new(&self.program))
    }

    /// Kills a reader that does not answer, and remembers what it was asked.
    fn abandon(&self, mut reader: Reader, question: &Question, device: Option<u64>, waited: Duration) {
        // One that has ended by itself is gone, which is as good.
        let _ = reader.child.kill();
        let now = Instant::now();
        let subject = question.subject();
        let life = self.life(question.tgid());
        let place = self.root.small(question.tgid(), "cgroup").unwrap_or_default();
        let mut state = self.lock();
        state.patience.lost(waited);
        state.abandoned.push(Abandoned {
            child: reader.child,
            since: now,
            life,
            device,
        });
        if let Some(life) = life {
            state.processes.add(life, now);
            let subject = Subject {
                what: subject.clone(),
                place: Some(place),
            };
            state.subjects.insert(life, subject);
        }
        if let Some(device) = device {
            state.devices.add(device, now);
        }
        let first = !std::mem::replace(&mut state.warned, true);
        drop(state);
        if first {
            tracing::warn!(
                "reading {subject} does not end: its file system, or its memory, does not answer; what it says is not known, \
                 and it is tried again later. /healthz and /metrics tell of others"
            );
        } else {
            tracing::debug!("reading {subject} does not end");
        }
    }

    /// Looks which readers have ended at last, and which processes are gone.
    fn look(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.abandoned.is_empty() && state.subjects.is_empty() && state.processes.is_empty()
            || state
                .looked_at
                .is_some_and(|looked_at| now.duration_since(looked_at) < LOOK_PERIOD)
        {
            return;
        }
        state.looked_at = Some(now);
        let State {
            abandoned,
            processes,
            devices,
            subjects,
            warned,
            ..
        } = &mut *state;
        abandoned.retain_mut(|reader| {
            let is_there = reader.child.try_wait().is_ok_and(|status| status.is_none());
            if !is_there && now.duration_since(reader.since) > KILLED_AT_ONCE {
                reader.life.into_iter().for_each(|life| processes.remove(life));
                reader.device.into_iter().for_each(|device| devices.remove(device));
            }
            is_there
        });
        let is_there = |life: Life| self.life(life.0) == Some(life);
        subjects.retain(|life, _| is_there(*life));
        processes.retain(is_there);
        if subjects.is_empty() {
            // The next one is a new event.
            *warned = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes a process that is not asked because others did not answer.
fn share_fate(subjects: &mut HashMap<Life, Subject>, life: Life) {
    subjects.entry(life).or_insert_with(|| Subject {
        what: Question::Headers(life.0).subject(),
        place: None,
    });
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A reader that never answers about process 7, ends when it is asked about process 9, and says the number of any
    /// other.
    const SCRIPT: &str = r#"#!/usr/bin/env python3
import struct, sys, time
out, questions = sys.stdout.buffer, sys.stdin.buffer
out.write(b"spoor-reader 1\n"); out.flush()
while head := questions.read(4):
    question = questions.read(struct.unpack("<I", head)[0])
    tgid = struct.unpack("<I", question[1:5])[0]
    if tgid == 7: time.sleep(600)
    if tgid == 9: sys.exit(1)
    answer = str(tgid).encode()
    out.write(b"\0\0\1" + struct.pack("<I", len(answer)) + answer); out.flush()
"#;

    fn fixture(script: &str) -> (tempfile::TempDir, io::Result<Readers>) {
        let directory = tempfile::tempdir().unwrap();
        for tgid in 7..10 {
            let process = directory.path().join(tgid.to_string());
            fs::create_dir(&process).unwrap();
            let stat = format!("{tgid} (x) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2");
            fs::write(process.join("stat"), stat).unwrap();
        }
        let (text, program) = (directory.path().join("text"), directory.path().join("reader"));
        fs::write(&text, script).unwrap();
        // Written by another process: a child that another test forks meanwhile would hold it open for writing, and execve(2)
        // of it would fail (ETXTBSY).
        let mut install = Command::new("install");
        let status = install.args(["-m", "755"]).args([&text, &program]).status().unwrap();
        assert!(status.success(), "install: {status}");
        let root = ProcRoot::new(directory.path());
        let readers = Readers::of_program(program, root);
        (directory, readers)
    }

    #[test]
    fn a_process_that_hangs_costs_the_others_nothing() {
        let (directory, readers) = fixture(SCRIPT);
        let readers = readers.unwrap();
        let ask = |tgid| readers.ask(&Question::CommandLine(tgid), None);
        assert_eq!(ask(8).as_deref(), Some(&b"8"[..]));
        assert!(readers.problems().is_empty() && !readers.is_suspect(7));
        let begun = Instant::now();
        assert_eq!(ask(7), None);
        assert!(begun.elapsed() >= Duration::from_secs(2));
        let begun = Instant::now();
        assert_eq!(ask(7), None, "it is not asked again");
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(ask(8).as_deref(), Some(&b"8"[..]));
        assert!(readers.is_suspect(7) && !readers.is_suspect(8) && !readers.try_again(7));
        let problems = readers.problems();
        assert!(
            problems.len() == 1 && problems[0].contains("the command line of process 7 does not end"),
            "{problems:?}"
        );
        assert_eq!(
            readers.counters(),
            [("unanswered", 1), ("refused", 1), ("reader_ended", 0)]
        );
        // It could be killed, and is forgotten with its process.
        fs::remove_dir_all(directory.path().join("7")).unwrap();
        std::thread::sleep(LOOK_PERIOD);
        assert_eq!(readers.levels(), (0, 0));
        assert!(readers.problems().is_empty());
    }

    #[test]
    fn the_file_system_of_one_that_hangs_is_left_alone() {
        let (_directory, readers) = fixture(SCRIPT);
        let readers = readers.unwrap();
        assert_eq!(readers.ask(&Question::Headers(7), Some(3)), None);
        assert_eq!(readers.ask(&Question::Headers(8), Some(3)), None);
        assert_eq!(readers.ask(&Question::Headers(8), Some(4)).as_deref(), Some(&b"8"[..]));
        assert_eq!(readers.levels().0, 2);
    }

    #[test]
    fn a_container_whose_processes_hang_does_not_take_all_readers() {
        let (directory, readers) = fixture(&SCRIPT.replace("tgid == 7", "tgid >= 20"));
        let readers = readers.unwrap();
        for tgid in (20..26).chain([8]) {
            let process = directory.path().join(tgid.to_string());
            fs::create_dir_all(&process).unwrap();
            fs::copy(directory.path().join("7/stat"), process.join("stat")).unwrap();
            let place = if tgid == 8 { "/shop" } else { "/evil" };
            fs::write(process.join("cgroup"), format!("0::{place}\n")).unwrap();
        }
        for tgid in 20..26 {
            assert_eq!(readers.ask(&Question::CommandLine(tgid), None), None);
        }
        assert_eq!(
            readers.counters()[..2],
            [("unanswered", MOST_OF_A_PLACE as u64), ("refused", 2)]
        );
        assert_eq!(readers.levels().0, 6);
        assert_eq!(readers.ask(&Question::CommandLine(8), None).as_deref(), Some(&b"8"[..]));
    }

    #[test]
    fn a_reader_that_ends_is_replaced() {
        let (_directory, readers) = fixture(SCRIPT);
        let readers = readers.unwrap();
        assert_eq!(readers.ask(&Question::CommandLine(9), None), None);
        assert_eq!(readers.counters()[2], ("reader_ended", 2));
        assert_eq!(readers.ask(&Question::CommandLine(8), None).as_deref(), Some(&b"8"[..]));
    }

    #[test]
    fn another_program_is_no_reader() {
        for script in ["#!/bin/sh\nexit 0\n", "#!/bin/sh\necho running 0 tests\n"] {
            assert!(fixture(script).1.is_err());
        }
    }
}
