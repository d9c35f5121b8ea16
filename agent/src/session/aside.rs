//! Work that takes long, on a thread of its own.

use std::{
    sync::mpsc::{Receiver, channel},
    thread,
};

use crate::probe::Probe;

/// Thread that does a piece of work.
pub struct Aside {
    /// Name of the thread.
    pub name: &'static str,
    /// Loss if it cannot be started.
    pub loss: &'static str,
}

impl Aside {
    /// Works on the thread, and wakes the reader when the work is done.
    pub fn answer<T: Send + 'static>(&self, probe: &Probe, work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (send, receive) = channel();
        let waker = probe.ring.waker();
        let work = move || {
            // The agent may have ended.
            let _ = send.send(work());
            waker.wake();
        };
        if let Err(error) = thread::Builder::new().name(self.name.to_owned()).spawn(work) {
            tracing::warn!("cannot start a thread: {}: {error}", self.loss);
        }
        receive
    }
}
