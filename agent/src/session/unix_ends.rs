//! Ends of Unix connections. A TCP state change reports the end of a TCP connection. For Unix sockets, close(2) and
//! similar calls have to be hooked, at a cost for every process of the host. So they are hooked only once these ends
//! matter, and connections that ended before are found by reading /proc.
//!
//! ```text
//! Unwatched ── a target speaks HTTP on one ──► Attaching, Attached ──► Looking ── /proc was read ──► Watched
//! ```

use std::sync::mpsc::Receiver;

use super::aside::Aside;
use crate::{
    engine::{Core, UnixConnection},
    probe::{Lost, Probe, When},
    process::{ProcRoot, UnixSockets},
    record::ConnectionId,
};

const THREAD: Aside = Aside {
    name: "spoor-unix",
    loss: "ends of Unix connections are reported late",
};

/// Progress of watching for ends.
#[derive(Default)]
pub struct UnixEnds(State);

#[derive(Default)]
enum State {
    #[default]
    Unwatched,
    /// The hooks are being attached.
    Attaching(Receiver<Vec<Lost>>),
    /// The hooks are attached: from now on, each end is reported.
    Attached,
    /// Connections that ended before are being looked for.
    Looking(Receiver<Vec<ConnectionId>>),
    Watched,
}

impl UnixEnds {
    /// Watches from the start, when there were no connections before. Waits until the hooks are attached.
    pub fn watch(&mut self, probe: &mut Probe) {
        if matches!(self.0, State::Unwatched) {
            let lost = probe.later().attach(When::UnixHttp);
            probe.lost.extend(lost);
            self.0 = State::Watched;
        }
    }

    /// Takes the next step, without waiting: what takes time is done on threads. The caller has taken all records that
    /// were in the ring. Returns the connections whose ends were not reported.
    pub fn turn(&mut self, core: &Core, probe: &mut Probe) -> Vec<ConnectionId> {
        match &self.0 {
            State::Unwatched if core.needs_unix_ends() => {
                let later = probe.later();
                self.0 = State::Attaching(THREAD.answer(probe, move || later.attach(When::UnixHttp)));
            }
            State::Attaching(lost) => {
                if let Ok(lost) = lost.try_recv() {
                    probe.lost.extend(lost);
                    // The records that came until now are taken first.
                    self.0 = State::Attached;
                    probe.ring.waker().wake();
                }
            }
            State::Attached => {
                let connections = core.unix_connections();
                self.0 = State::Looking(THREAD.answer(probe, move || ended(&connections)));
            }
            State::Looking(gone) => {
                if let Ok(gone) = gone.try_recv() {
                    self.0 = State::Watched;
                    tracing::debug!("ends of Unix connections are reported from now on");
                    return gone;
                }
            }
            State::Unwatched | State::Watched => {}
        }
        Vec::new()
    }
}

fn ended(connections: &[UnixConnection]) -> Vec<ConnectionId> {
    let root = ProcRoot::default();
    let mut sockets = UnixSockets::new(&root);
    let gone = connections.iter().filter(|c| sockets.is_gone(c.tgid.0, c.inode));
    gone.map(|connection| connection.conn).collect()
}
