//! The states of an exchange.

/// State of an exchange, from its request's start until its span leaves.
///
/// ```text
///                 response complete,                    times in order and
///                 reset, close                          trace known, or held too long
///    ┌──────┐                        ┌──────────┐                         ┌─────────┐
///    │ Open ├───────────────────────►│ Answered ├────────────────────────►│ Decided ├──► leaves as a span
///    └──┬───┘                        └────┬─────┘                         └────┬────┘
///       │ gap, refused process            │ too many are held                  │ its process is refused,
///       ▼                                 ▼                                    ▼ or too many wait for it
///   lost: no span                     Decided at once                      lost: no span
/// ```
/// An `Answered` exchange is held: it counts towards the bound of those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The exchange is not over.
    Open,
    /// The exchange is over, and cannot leave yet.
    Answered {
        /// `CLOCK_MONOTONIC`.
        end_ns: u64,
        /// Whether the times of both ends are in order.
        times: Times,
    },
    /// The exchange may leave: all is known, or has to be taken as it is.
    Decided {
        /// `CLOCK_MONOTONIC`.
        end_ns: u64,
    },
}

/// Order of the times of an exchange's two ends: client start ≤ server start ≤ server end ≤ client end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The other end, which is known, is not over.
    Unsettled,
    /// The times are in order, or no other end is known.
    Settled,
}

impl State {
    /// Returns the end's time, if it is over.
    pub fn end_ns(self) -> Option<u64> {
        match self {
            Self::Open => None,
            Self::Answered { end_ns, .. } | Self::Decided { end_ns } => Some(end_ns),
        }
    }

    /// Returns whether it is over and held.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Answered { .. })
    }

    /// Moves the end of an exchange that is over.
    pub fn set_end(&mut self, to_ns: u64) {
        match self {
            Self::Open => {}
            Self::Answered { end_ns, .. } | Self::Decided { end_ns } => *end_ns = to_ns,
        }
    }

    /// Notes whether the times of an exchange that is held are in order.
    pub fn set_times(&mut self, as_known: Times) {
        if let Self::Answered { times, .. } = self {
            *times = as_known;
        }
    }

    /// Returns whether the times of both ends are in order, or as good as.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Open => false,
            Self::Answered { times, .. } => times == Times::Settled,
            Self::Decided { .. } => true,
        }
    }
}
