//! Ends of Unix connections. TCP's states tell its ends; for Unix sockets close(2) and its kin have to be watched, and each
//! process of the host pays for that. So they are watched from when it matters, and what ended before is looked for.
//!
//! ```text
//! Unwatched ── a target speaks HTTP on one ──► Attaching, Attached ──► Looking ── /proc was read ──► Watched
//! ```

use std::{
    sync::mpsc::{Receiver, channel},
    thread,
};

use crate::{
    engine::{Core, UnixConnection},
    probe::{Lost, Probe, When},
    process::{ProcRoot, UnixSockets},
    record::ConnectionId,
};

/// How far it is.
#[derive(Default)]
pub struct UnixEnds(State);

#[derive(Default)]
enum State {
    #[default]
    Unwatched,
    /// Waits for the hooks.
    Attaching(Receiver<Vec<Lost>>),
    /// The hooks are there; connections that were there before have ended, or will be told.
    Attached,
    /// Waits for the names of connections that ended before.
    Looking(Receiver<Vec<ConnectionId>>),
    Watched,
}

impl UnixEnds {
    /// Watches from now on: there was nothing before. Waits until the hooks are there.
    pub fn watch(&mut self, probe: &mut Probe) {
        if matches!(self.0, State::Unwatched) {
            let lost = probe.later().attach(When::UnixHttp);
            probe.lost.extend(lost);
            self.0 = State::Watched;
        }
    }

    /// Goes on, where that is possible without waiting: what takes time is done on threads. To be called when all records
    /// that were there are taken. Returns the connections that have ended without being told.
    pub fn turn(&mut self, core: &Core, probe: &mut Probe) -> Vec<ConnectionId> {
        match &self.0 {
            State::Unwatched if core.needs_unix_ends() => {
                let later = probe.later();
                self.0 = State::Attaching(answer(probe, move || later.attach(When::UnixHttp)));
            }
            State::Attaching(lost) => {
                if let Ok(lost) = lost.try_recv() {
                    probe.lost.extend(lost);
                    // Not before the records are taken that came until then.
                    self.0 = State::Attached;
                    probe.ring.waker().wake();
                }
            }
            State::Attached => {
                let connections = core.unix_connections();
                self.0 = State::Looking(answer(probe, move || ended(&connections)));
            }
            State::Looking(gone) => {
                if let Ok(gone) = gone.try_recv() {
                    self.0 = State::Watched;
                    tracing::debug!("ends of Unix connections are told from now on");
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

/// Does something on a thread, and wakes the reader when it is done.
fn answer<T: Send + 'static>(probe: &Probe, work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (send, receive) = channel();
    let waker = probe.ring.waker();
    let work = move || {
        // Nobody waits any more if the agent ends.
        let _ = send.send(work());
        waker.wake();
    };
    if let Err(error) = thread::Builder::new().name("spoor-unix".to_owned()).spawn(work) {
        tracing::warn!("cannot start a thread, ends of Unix connections are told late: {error}");
    }
    receive
}
