//! Hooks that take time of processes that are no targets, too, so they are attached once a target needs them.
//!
//! ```text
//! Unneeded ── a target needs them ──► Attaching ──► Attached
//! ```

use std::sync::mpsc::Receiver;

use super::aside::Aside;
use crate::probe::{Lost, Probe, When};

/// Hooks that are attached on demand.
pub struct OnDemand {
    thread: Aside,
    when: When,
    /// Words of the log once they are attached.
    attached: &'static str,
    state: State,
}

enum State {
    Unneeded,
    Attaching(Receiver<Vec<Lost>>),
    Attached,
}

impl OnDemand {
    /// Returns the hooks that see bodies which are received by splice(2). They take time of each TCP receive of the host.
    /// A send by splice(2) shows that they are needed: the bytes have mostly been spliced out of another socket. Before that, the
    /// end of such a body is seen at the next call on its connection.
    pub const fn splices() -> Self {
        let thread = Aside {
            name: "spoor-splice",
            loss: "ends of bodies that are received by splice(2) are reported late",
        };
        let attached = "bodies that are received by splice(2) are seen from now on";
        Self::new(thread, When::Splice, attached)
    }

    /// Returns the hooks that see requests of io_urings. They take time of all processes with an io_uring. The content of
    /// bytes that are moved before a target is known to have one is unknown.
    pub const fn requests() -> Self {
        let thread = Aside {
            name: "spoor-rings",
            loss: "what io_urings receive and send is not captured",
        };
        let attached = "requests of io_urings are seen from now on";
        Self::new(thread, When::Requests, attached)
    }

    const fn new(thread: Aside, when: When, attached: &'static str) -> Self {
        Self {
            thread,
            when,
            attached,
            state: State::Unneeded,
        }
    }

    /// Has the hooks attached, because a target needs them. Does not wait.
    pub fn demand(&mut self, probe: &Probe) {
        if matches!(self.state, State::Unneeded) {
            let (later, when, attached) = (probe.later(), self.when, self.attached);
            let attach = move || {
                let lost = later.attach(when);
                tracing::debug!("{attached}");
                lost
            };
            self.state = State::Attaching(self.thread.answer(probe, attach));
        }
    }

    /// Waits until the hooks are attached, if they are needed.
    pub fn wait(&mut self, probe: &mut Probe) {
        if let State::Attaching(lost) = &self.state {
            // No answer comes if there is no thread, which is logged.
            probe.lost.extend(lost.recv().unwrap_or_default());
            self.state = State::Attached;
        }
    }

    /// Takes the outcome, if it is there.
    pub fn turn(&mut self, probe: &mut Probe) {
        if let State::Attaching(lost) = &self.state
            && let Ok(lost) = lost.try_recv()
        {
            probe.lost.extend(lost);
            self.state = State::Attached;
        }
    }
}
