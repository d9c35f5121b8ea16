//! Bodies that targets receive by splice(2), for which no socket event fires. The hook that sees them takes time of each
//! TCP receive of the host, so it is attached once a target sends by splice(2): what is spliced out of one socket is
//! spliced into another one. Before that, the end of such a body is seen at the next call on its connection.
//!
//! ```text
//! Unused ── a target sends by splice(2) ──► Attaching ──► Watched
//! ```

use std::sync::mpsc::Receiver;

use agent_ebpf::abi::Counter;

use super::aside::Aside;
use crate::probe::{Lost, Probe, When};

const THREAD: Aside = Aside {
    name: "spoor-splice",
    loss: "ends of bodies that are received by splice(2) are reported late",
};

/// Progress of watching for received bodies.
#[derive(Default)]
pub struct Splices(State);

#[derive(Default)]
enum State {
    #[default]
    Unused,
    /// The hook is being attached.
    Attaching(Receiver<Vec<Lost>>),
    Watched,
}

impl Splices {
    /// Takes the next step, without waiting. `counters`: those of the programs.
    pub fn turn(&mut self, counters: &[(Counter, u64)], probe: &mut Probe) {
        match &self.0 {
            State::Unused
                if counters
                    .iter()
                    .any(|&(cause, count)| cause == Counter::Splices && count > 0) =>
            {
                let later = probe.later();
                let attach = move || {
                    let lost = later.attach(When::Splice);
                    tracing::debug!("bodies that are received by splice(2) are seen from now on");
                    lost
                };
                self.0 = State::Attaching(THREAD.answer(probe, attach));
            }
            State::Attaching(lost) => {
                if let Ok(lost) = lost.try_recv() {
                    probe.lost.extend(lost);
                    self.0 = State::Watched;
                }
            }
            State::Unused | State::Watched => {}
        }
    }
}
