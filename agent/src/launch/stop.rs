//! Signals that end the agent.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::probe::Waker;

/// Request to end the agent, made by a signal.
#[derive(Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// Lets SIGINT and SIGTERM ask for the end. A second one ends the process at once, with 128 + its number.
    ///
    /// # Errors
    /// If the kernel refuses to install the handlers.
    pub fn on_signals(waker: &Waker) -> io::Result<Self> {
        let stop = Self {
            asked: Arc::default(),
            at_once: Arc::default(),
        };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let (stop, waker) = (stop.clone(), waker.clone());
            let act = move || {
                if stop.asked.swap(true, Ordering::Relaxed) || stop.at_once.load(Ordering::Relaxed) {
                    // SAFETY: _exit is async-signal-safe, and ends the process without running anything of it.
                    unsafe { libc::_exit(128 + signal) };
                }
                waker.wake();
            };
            // SAFETY: the action uses atomics, write(2) (`Waker::wake`) and _exit(2), which are async-signal-safe.
            unsafe { signal_hook_registry::register(signal, act) }?;
        }
        Ok(stop)
    }

    /// Returns true if a signal has asked for the end.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Lets the next signal end the process as it stands.
    pub fn end_at_once_from_now_on(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}
