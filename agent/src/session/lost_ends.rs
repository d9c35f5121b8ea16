//! Ends of connections whose records found no room in the ring: Core would keep these connections until they count as
//! idle. The kernel side's table has those that live.
//!
//! ```text
//! Even ── records were lost ──► Due ── a while later ──► Reading ── the table was read ──► Read ──► Even
//!                                                          └── it cannot be read ──► Blind
//! ```

use std::{
    io,
    sync::mpsc::{Receiver, TryRecvError},
};

use super::{aside::Aside, clock::monotonic_ns};
use crate::{engine::Core, probe::Probe, record::ConnectionId};

/// Time from a loss to the look at the table, in nanoseconds. While records are lost all the time, a look each time.
const PERIOD_NS: u64 = 2_000_000_000;

const THREAD: Aside = Aside {
    name: "spoor-lost-ends",
    loss: "connections whose ends were not reported are followed until they count as idle",
};

/// Progress of finding the connections that have ended.
#[derive(Default)]
pub struct LostEnds {
    /// Records that were lost until the latest look.
    lost: u64,
    state: State,
}

#[derive(Default)]
enum State {
    /// Nothing was lost since the latest look.
    #[default]
    Even,
    /// The time of the next look.
    Due(u64),
    /// The table is being read, since this time.
    Reading(u64, Receiver<io::Result<Vec<ConnectionId>>>),
    /// The table was read, since this time: its connections, in order. The records that were in the ring by then are taken
    /// first.
    Read(u64, Vec<ConnectionId>),
    /// The kernel does not let the table be read.
    Blind,
}

impl LostEnds {
    /// Takes the number of records that were lost so far.
    pub fn lost(&mut self, lost: u64, now_ns: u64) {
        if lost > self.lost && matches!(self.state, State::Even) {
            self.lost = lost;
            self.state = State::Due(now_ns + PERIOD_NS);
        }
    }

    /// Returns when [`LostEnds::turn`] should be called, if nothing else happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        match self.state {
            State::Due(at_ns) => Some(at_ns),
            _ => None,
        }
    }

    /// Takes the next step, without waiting. The caller has taken all records that were in the ring. Returns the connections
    /// that have ended, and whose ends were not reported.
    pub fn turn(&mut self, core: &Core, probe: &Probe, now_ns: u64) -> Vec<ConnectionId> {
        match &self.state {
            State::Due(at_ns) if *at_ns <= now_ns => {
                let table = probe.connections();
                let living = move || {
                    let mut living: Vec<_> = table.living()?.into_iter().map(ConnectionId).collect();
                    living.sort_unstable();
                    Ok(living)
                };
                self.state = State::Reading(monotonic_ns(), THREAD.answer(probe, living));
            }
            State::Reading(since_ns, living) => match living.try_recv() {
                Ok(Ok(living)) => {
                    self.state = State::Read(*since_ns, living);
                    probe.ring.waker().wake();
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        "the kernel does not let its table of connections be read ({error}), so {} after lost records; \
                         lower --idle-timeout, or avoid losses with a larger --ring-bytes",
                        THREAD.loss
                    );
                    self.state = State::Blind;
                }
                Err(TryRecvError::Empty) => {}
                // There is no thread, which is logged.
                Err(TryRecvError::Disconnected) => self.state = State::Even,
            },
            // A connection with a later record was perhaps not in the table yet.
            State::Read(since_ns, living) => {
                let mut gone = core.quiet_connections(*since_ns);
                gone.retain(|conn| living.binary_search(conn).is_err());
                self.state = State::Even;
                return gone;
            }
            State::Even | State::Due(_) | State::Blind => {}
        }
        Vec::new()
    }
}
