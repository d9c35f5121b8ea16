//! Facts that only one of the two ends of an exchange has.

use super::ExchangeId;
use crate::engine::execution::Author;

/// The end of a connection that saw an exchange.
#[derive(Debug)]
pub enum Side {
    /// The client's.
    Client(Calling),
    /// The server's.
    Server(Serving),
}

/// Facts of a client's end.
#[derive(Debug, Default)]
pub struct Calling {
    /// The requests that the call may be made for.
    pub candidates: Candidates,
}

/// Request that a call or a connect is made for, by each rule that depends on the runtime. Until the runtime is known,
/// each rule keeps its own answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// The only one that its thread has open.
    pub by_thread: Option<ExchangeId>,
    /// The one that the loop read in this turn.
    pub by_turn: Option<ExchangeId>,
}

impl Candidates {
    /// Returns the request, if there is one.
    pub fn request(self) -> Option<ExchangeId> {
        self.by_thread.or(self.by_turn)
    }
}

/// Request that a connection was opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opening {
    /// Used: the connection has carried a call already, or this one is not known to be the first.
    #[default]
    Used,
    /// For this request, as these rules found it.
    For(ExchangeId, NamedBy),
    /// Unknown: no request had been read before connect(2), or connect(2) was not seen and the connection had carried
    /// nothing when it was found. The first call may be made for an unseen request.
    Hidden,
}

impl Opening {
    /// Returns the opening of a connection whose connect was made for these.
    pub fn by(candidates: Candidates) -> Self {
        match (candidates.by_thread, candidates.by_turn) {
            (None, None) => Self::Hidden,
            (Some(request), None) => Self::For(request, NamedBy::Thread),
            (None, Some(request)) => Self::For(request, NamedBy::Turn),
            (Some(request), Some(by_turn)) if request == by_turn => Self::For(request, NamedBy::Both),
            (Some(request), Some(_)) => Self::For(request, NamedBy::Thread),
        }
    }
}

/// Rules that named a request. One word in place of [`Candidates`] saves 100,000 connections a megabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The rule of threads.
    Thread,
    /// The rule of a loop's turn.
    Turn,
    /// Both.
    Both,
}

impl NamedBy {
    /// Returns the candidates, if these rules named a request.
    pub fn candidates(self, request: ExchangeId) -> Candidates {
        Candidates {
            by_thread: (self != Self::Turn).then_some(request),
            by_turn: (self != Self::Thread).then_some(request),
        }
    }
}

/// Facts of a server's end: everything that decides which calls of its thread are the request's.
#[derive(Debug, Default)]
pub struct Serving {
    /// Calls that may be this request's.
    pub calls: Vec<ExchangeId>,
    /// Turn of the request among those on its connection.
    pub turn: Turn,
    /// The requests that its thread had open meanwhile.
    pub thread: Thread,
    /// The executions that wrote its response.
    pub writer: Writer,
    /// The moment at which its start was recognised.
    pub recognised: Recognised,
    /// The call or connection that a loop makes for a request in the turn that read it.
    pub upstream: Upstream,
    /// The process that made the call at the other end.
    pub caller: Caller,
    /// Life of its process in which its start came.
    pub life: u32,
}

/// Turn of a request among those on its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Earlier requests on the connection are not answered.
    #[default]
    Queued,
    /// The request is served, since this life of its process.
    Served {
        /// Number of the life.
        life: u32,
    },
    /// The request is answered, or lost: no call is added any more.
    Over,
}

/// Requests that the thread of a request had open while it served that one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thread {
    /// No other.
    #[default]
    Alone,
    /// Others, or it waited for events in between.
    Shared,
}

/// Executions that wrote a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    /// None so far.
    #[default]
    Nobody,
    /// One, since its first byte.
    One(Author),
    /// Several; the one that wrote the first byte.
    Several(Author),
}

/// Moment at which the start of a request was recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recognised {
    /// Recognised with its last byte.
    #[default]
    AtOnce,
    /// Recognised once more bytes had come, on a connection that is older than the agent: the thread has done something
    /// else since.
    Late,
}

/// Call or connection that a loop makes for a request in the turn that read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// Not made yet.
    #[default]
    Awaited,
    /// Made: another one needs more proof.
    Made,
}

/// Process that made the call at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// The caller is in the same process, or its process is not known.
    #[default]
    NotRemote,
    /// Another process.
    OtherProcess,
}

impl Caller {
    /// Returns the caller, by whether its process is another one than the server's.
    pub fn of_other_process(is_other: bool) -> Self {
        if is_other { Self::OtherProcess } else { Self::NotRemote }
    }
}
