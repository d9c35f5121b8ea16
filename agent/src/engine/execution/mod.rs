//! Executions and processes, each interned once: the rooms of Core name them by handles of eight bytes.
//!
//! [`Executions::resolve`] turns the numbers of a record into handles. A handle stands for its numbers, not for a program:
//! it is the same before and after exec(2), and for the next process of that number. Each room keeps its own state of a
//! process in a table with a slot for each handle.
//!
//! [`Executions::sweep`] forgets the handles that no room keeps. Whoever holds one across records says so in that sweep, so
//! that two different handles never stand for the same numbers.

mod by_process;
#[cfg(test)]
mod tests;

pub use by_process::ByProcess;

use slotmap::SlotMap;

use crate::{
    hash::FastMap,
    record::{self, Tgid, Tid},
};

/// Smallest number of executions at which they are swept before it is time. A sweep looks at each connection.
const SWEEP_AT: usize = 16_384;

/// Number of executions that are found without a hash. Each has one place, by its thread id.
const RECENT: usize = 16;

slotmap::new_key_type! {
    /// Process (thread group), by its number.
    pub struct ProcessId;
    /// Execution: a thread, or what its runtime multiplexes on threads.
    pub struct ExecutionId;
}

/// An execution, its thread and its process: [`record::Execution`] by handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The execution.
    pub id: ExecutionId,
    /// The thread that it ran on: an execution of its own, without an identity.
    pub thread: ExecutionId,
    /// Process of the thread.
    pub process: ProcessId,
}

/// Time and author of something that a system call did: [`record::Stamp`] by handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// `CLOCK_MONOTONIC`, at the exit of the system call.
    pub time_ns: u64,
    /// The execution that made the system call.
    pub execution: ExecutionId,
}

/// A [`Stamp`] with the thread and the process of its execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The execution that made the system call.
    pub execution: Execution,
    /// `CLOCK_MONOTONIC`, at the exit of the system call.
    pub time_ns: u64,
}

impl Author {
    /// Returns the stamp, which parsers pass on.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            time_ns: self.time_ns,
            execution: self.execution.id,
        }
    }
}

/// All executions and processes that a room of Core knows.
#[derive(Debug)]
pub struct Executions {
    processes: SlotMap<ProcessId, Process>,
    by_tgid: FastMap<Tgid, ProcessId>,
    executions: SlotMap<ExecutionId, Known>,
    by_numbers: FastMap<record::Execution, ExecutionId>,
    /// The execution used last, of those with the same place. Most records find theirs here.
    recent: [(record::Execution, Execution); RECENT],
    /// Author of records that no thread made.
    nobody: Execution,
    /// Number of executions at which they are swept before it is time.
    sweep_at: usize,
}

#[derive(Debug)]
struct Process {
    tgid: Tgid,
    kept: bool,
}

#[derive(Debug)]
struct Known {
    numbers: record::Execution,
    thread: ExecutionId,
    process: ProcessId,
    kept: bool,
}

impl Default for Executions {
    fn default() -> Self {
        let nobody = Execution {
            id: ExecutionId::default(),
            thread: ExecutionId::default(),
            process: ProcessId::default(),
        };
        let mut executions = Self {
            processes: SlotMap::with_key(),
            by_tgid: FastMap::default(),
            executions: SlotMap::with_key(),
            by_numbers: FastMap::default(),
            recent: [(record::Execution::default(), nobody); RECENT],
            nobody,
            sweep_at: SWEEP_AT,
        };
        executions.nobody = executions.intern(&record::Execution::default());
        executions.forget_recent();
        executions
    }
}

impl Executions {
    /// Returns the author of a record, by handles.
    pub fn resolve(&mut self, stamp: &record::Stamp) -> Author {
        Author {
            execution: self.execution(&stamp.execution),
            time_ns: stamp.time_ns,
        }
    }

    /// Returns the execution of these numbers.
    fn execution(&mut self, numbers: &record::Execution) -> Execution {
        let place = numbers.tid.0 as usize % RECENT;
        if let Some((known, execution)) = self.recent.get(place)
            && known == numbers
        {
            return *execution;
        }
        let execution = match self.by_numbers.get(numbers) {
            Some(&id) => self.get(id),
            None => self.intern(numbers),
        };
        if let Some(recent) = self.recent.get_mut(place) {
            *recent = (*numbers, execution);
        }
        execution
    }

    fn intern(&mut self, numbers: &record::Execution) -> Execution {
        let process = self.process(numbers.tgid);
        let of_thread = numbers.identity.map(|_| {
            self.execution(&record::Execution {
                identity: None,
                ..*numbers
            })
        });
        let id = self.executions.insert_with_key(|id| Known {
            numbers: *numbers,
            thread: of_thread.map_or(id, |thread| thread.id),
            process,
            kept: false,
        });
        self.by_numbers.insert(*numbers, id);
        self.get(id)
    }

    /// Returns the process of this number.
    pub fn process(&mut self, tgid: Tgid) -> ProcessId {
        let insert = || self.processes.insert(Process { tgid, kept: false });
        *self.by_tgid.entry(tgid).or_insert_with(insert)
    }

    /// Returns an execution in a process of which no thread is known.
    pub fn without_thread(&mut self, process: ProcessId) -> Execution {
        let tgid = self.tgid(process);
        self.execution(&record::Execution {
            tgid,
            ..record::Execution::default()
        })
    }

    /// Returns the author of what no thread did: TCP's states change in interrupts.
    pub fn nobody(&self, time_ns: u64) -> Author {
        Author {
            execution: self.nobody,
            time_ns,
        }
    }

    /// Returns an execution with its thread and process; nobody, if it is forgotten.
    pub fn get(&self, id: ExecutionId) -> Execution {
        self.executions.get(id).map_or(self.nobody, |known| Execution {
            id,
            thread: known.thread,
            process: known.process,
        })
    }

    /// Returns the author of a stamp, if it is known which thread that was.
    pub fn author(&self, stamp: Stamp) -> Option<Author> {
        let known = self.executions.get(stamp.execution)?;
        (known.numbers.tid != Tid(0)).then_some(Author {
            execution: Execution {
                id: stamp.execution,
                thread: known.thread,
                process: known.process,
            },
            time_ns: stamp.time_ns,
        })
    }

    /// Returns the number of a process.
    pub fn tgid(&self, process: ProcessId) -> Tgid {
        self.processes
            .get(process)
            .map(|process| process.tgid)
            .unwrap_or_default()
    }

    /// Returns whether there are so many executions that those which nothing refers to should be swept now.
    pub fn are_crowded(&self) -> bool {
        self.executions.len() >= self.sweep_at
    }

    /// Keeps an execution in the next sweep, with its thread and process.
    pub fn keep(&mut self, id: ExecutionId) {
        let Some(known) = self.executions.get_mut(id).filter(|known| !known.kept) else {
            return;
        };
        known.kept = true;
        let (thread, process) = (known.thread, known.process);
        self.keep_process(process);
        self.keep(thread);
    }

    /// Keeps a process in the next sweep.
    pub fn keep_process(&mut self, process: ProcessId) {
        if let Some(process) = self.processes.get_mut(process) {
            process.kept = true;
        }
    }

    /// Forgets the executions and processes that were not kept since the last sweep.
    pub fn sweep(&mut self) {
        self.keep(self.nobody.id);
        let Self {
            executions, by_numbers, ..
        } = self;
        executions.retain(|_, known| {
            let kept = std::mem::take(&mut known.kept);
            if !kept {
                by_numbers.remove(&known.numbers);
            }
            kept
        });
        let Self { processes, by_tgid, .. } = self;
        processes.retain(|_, process| {
            let kept = std::mem::take(&mut process.kept);
            if !kept {
                by_tgid.remove(&process.tgid);
            }
            kept
        });
        self.forget_recent();
        // Each sweep makes room for as many as it kept, so that its cost is shared by many new ones.
        self.sweep_at = SWEEP_AT.max(2 * self.executions.len());
    }

    /// Returns how many executions and processes are known.
    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        assert_eq!(self.executions.len(), self.by_numbers.len());
        assert_eq!(self.processes.len(), self.by_tgid.len());
        (self.executions.len(), self.processes.len())
    }

    fn forget_recent(&mut self) {
        self.recent = [(record::Execution::default(), self.nobody); RECENT];
    }
}
