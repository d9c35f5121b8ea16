//! The requests that threads have open.

use slotmap::{Key, KeyData, SecondaryMap};

use super::rules::Sight;
use crate::{
    engine::{
        exchange::{Candidates, ExchangeId},
        execution::{ExecutionId, Executions, ProcessId},
    },
    runtimes::{Rule, Rules},
};

/// A thread in one life of its process: exec(2), and a new process of the same number, begin with no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivingThread {
    /// The thread.
    pub id: ExecutionId,
    /// Life of its process; 0: it had no exchange yet.
    pub life: u32,
}

/// Threads that have open requests, and some that had: these go with the next sweep, as the end of a thread is not seen.
#[derive(Debug, Default)]
pub struct Threads(SecondaryMap<ExecutionId, Thread>);

/// A thread that has open requests, or had.
#[derive(Debug, Default)]
struct Thread {
    /// Requests that it read and that are not answered: thousands in an event loop.
    open: Requests,
    /// Request from which the thread read last; `None`: one that is not known.
    last: Option<ExchangeId>,
    /// Life of the process in which it read them. In another life they are not its own.
    life: u32,
    /// Whether the thread has waited for events since that read.
    turn_over: bool,
    /// Whether epoll watched the connection of a request that it read since it had none open.
    watched: bool,
    /// Whether it has perhaps slept outside its calls on sockets since it had no request open.
    slept: bool,
}

impl Thread {
    /// Returns whether the thread has open requests in this life of its process. If not, nothing is known of it.
    fn is_busy(&self, life: u32) -> bool {
        self.life == life && self.open.count > 0
    }

    fn read(&mut self, request: Option<ExchangeId>) {
        self.last = request;
        self.turn_over = false;
    }
}

/// A set of open requests that can name its member while it has only one. Adding and removing cost the same however
/// many there are.
#[derive(Debug, Default)]
pub struct Requests {
    count: u32,
    /// XOR of the ids; with exactly one in the set, that id.
    together: u64,
}

impl Requests {
    /// Adds a request.
    pub fn add(&mut self, request: ExchangeId) {
        self.count += 1;
        self.together ^= request.data().as_ffi();
    }

    /// Removes a request that was added.
    pub fn remove(&mut self, request: ExchangeId) {
        self.count = self.count.saturating_sub(1);
        self.together ^= request.data().as_ffi();
    }

    /// Returns the requests, as far as they can be named.
    pub fn open(&self) -> Option<Open> {
        match self.count {
            0 => None,
            1 => Some(Open::One(KeyData::from_ffi(self.together).into())),
            _ => Some(Open::Several),
        }
    }
}

/// One or more open requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Only this one.
    One(ExchangeId),
    /// Several.
    Several,
}

impl Open {
    /// Returns whether this request is the one that is open, or may be among several.
    pub fn may_be(self, request: ExchangeId) -> bool {
        self == Self::One(request) || self == Self::Several
    }
}

impl Threads {
    fn get(&self, thread: LivingThread) -> Option<&Thread> {
        self.0.get(thread.id).filter(|known| known.is_busy(thread.life))
    }

    fn get_mut(&mut self, thread: LivingThread) -> Option<&mut Thread> {
        self.0.get_mut(thread.id).filter(|known| known.is_busy(thread.life))
    }

    /// Adds a request to a thread's open ones. Returns those that the thread had open before.
    ///
    /// [`Threads::end`] must be called once for it.
    pub fn begin(&mut self, thread: LivingThread, request: ExchangeId) -> Option<Open> {
        if !self.0.contains_key(thread.id) {
            self.0.insert(thread.id, Thread::default());
        }
        let known = self.0.get_mut(thread.id)?;
        if known.life != thread.life {
            *known = Thread {
                life: thread.life,
                ..Thread::default()
            };
        }
        let others = known.open.open();
        known.open.add(request);
        known.read(Some(request));
        // With others open, it may have slept for those.
        if others.is_none() {
            (known.watched, known.slept) = (false, false);
        }
        others
    }

    /// Removes an answered or lost request from its thread's.
    pub fn end(&mut self, thread: LivingThread, request: ExchangeId) {
        if let Some(known) = self.get_mut(thread) {
            known.open.remove(request);
        }
    }

    /// Notes that a thread read more of a request.
    pub fn reads(&mut self, thread: LivingThread, request: ExchangeId) {
        if let Some(known) = self.get_mut(thread) {
            known.read(Some(request));
        }
    }

    /// Notes that a thread read bytes that may be an unknown request: its last read names none from now on.
    pub fn reads_unknown(&mut self, thread: LivingThread) {
        if let Some(known) = self.get_mut(thread) {
            known.read(None);
        }
    }

    /// Returns the request that a thread has open, if it is the only one.
    pub fn only_open(&self, thread: LivingThread) -> Option<ExchangeId> {
        match self.get(thread)?.open.open()? {
            Open::One(request) => Some(request),
            Open::Several => None,
        }
    }

    /// Notes that epoll watches the connection from which a thread has read a request.
    pub fn reads_watched(&mut self, thread: LivingThread) {
        if let Some(known) = self.get_mut(thread) {
            known.watched = true;
        }
    }

    /// Notes that a thread has perhaps slept outside its calls on sockets.
    pub fn sleeps(&mut self, thread: LivingThread) {
        if let Some(known) = self.get_mut(thread) {
            known.slept = true;
        }
    }

    /// Returns whether a thread has perhaps slept since it read a request from a connection that epoll watches.
    pub fn slept_watched(&self, thread: LivingThread) -> bool {
        self.get(thread).is_some_and(|known| known.watched && known.slept)
    }

    /// Notes that a thread has waited for events: the turn of its loop in which it read last is over.
    pub fn waits(&mut self, thread: LivingThread) {
        if let Some(known) = self.get_mut(thread) {
            known.turn_over = true;
        }
    }

    /// Returns the requests that a thread may be working for now, by the rules that may hold in its process.
    pub fn names(&self, possible: Rules, thread: LivingThread, sight: Sight) -> Candidates {
        Candidates {
            by_thread: possible.has(Rule::Thread).then(|| self.only_open(thread)).flatten(),
            by_turn: possible.has(Rule::Turn).then(|| self.in_turn(thread, sight)).flatten(),
        }
    }

    /// Returns the request that a loop serves now: the one from which it read last in this turn.
    ///
    /// In a later turn that is the only one open. If the process may be busy with unseen requests, nothing is certain
    /// then.
    fn in_turn(&self, thread: LivingThread, sight: Sight) -> Option<ExchangeId> {
        let known = self.get(thread)?;
        let last = known.last?;
        match known.turn_over {
            false => Some(last),
            true if sight == Sight::Partial => None,
            true => self.only_open(thread),
        }
    }

    /// Keeps the handles of threads that have open requests in the present life of their process, and forgets the others.
    pub fn keep(&mut self, executions: &mut Executions, life: impl Fn(ProcessId) -> Option<u32>) {
        self.0.retain(|id, known| {
            let is_busy = life(executions.get(id).process).is_some_and(|life| known.is_busy(life));
            if is_busy {
                executions.keep(id);
            }
            is_busy
        });
    }

    /// Returns how many threads have open requests.
    #[cfg(test)]
    pub fn busy(&self) -> usize {
        self.0.values().filter(|thread| thread.open.count > 0).count()
    }
}
