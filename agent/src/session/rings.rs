//! Requests of io_urings. The hooks that see them take time of all processes with an io_uring, so they are attached once
//! a target has one. The content of bytes that are moved before that is unknown.
//!
//! ```text
//! Unused ── a target has an io_uring ──► Attaching ──► Watched
//! ```

use std::sync::mpsc::Receiver;

use super::aside::Aside;
use crate::probe::{Lost, Probe, When};

const THREAD: Aside = Aside {
    name: "spoor-rings",
    loss: "what io_urings receive and send is not captured",
};

/// Progress of watching requests.
#[derive(Default)]
pub struct Rings(State);

#[derive(Default)]
enum State {
    #[default]
    Unused,
    /// The hooks are being attached.
    Attaching(Receiver<Vec<Lost>>),
    Watched,
}

impl Rings {
    /// Has requests watched, because a target has an io_uring. Does not wait.
    pub fn watch(&mut self, probe: &Probe) {
        if matches!(self.0, State::Unused) {
            let later = probe.later();
            let attach = move || {
                let lost = later.attach(When::Requests);
                tracing::debug!("requests of io_urings are seen from now on");
                lost
            };
            self.0 = State::Attaching(THREAD.answer(probe, attach));
        }
    }

    /// Waits until requests are watched, if they are to be.
    pub fn wait(&mut self, probe: &mut Probe) {
        if let State::Attaching(lost) = &self.0 {
            // No answer comes if there is no thread, which is logged.
            probe.lost.extend(lost.recv().unwrap_or_default());
            self.0 = State::Watched;
        }
    }

    /// Takes the outcome, if it is there.
    pub fn turn(&mut self, probe: &mut Probe) {
        if let State::Attaching(lost) = &self.0
            && let Ok(lost) = lost.try_recv()
        {
            probe.lost.extend(lost);
            self.0 = State::Watched;
        }
    }
}
