//! Reasons to end the agent from outside: signals, and an output that nobody reads any more.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::probe::Waker;

/// Exit code of a program whose output nobody reads any more: 128 + SIGPIPE, as a shell reports a program that this signal
/// ended. It does not end Spoor, which has to shut down.
pub const BROKEN_PIPE: i32 = 128 + libc::SIGPIPE;

/// Request to end the agent. Clones share it.
#[derive(Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
    is_unread: Arc<AtomicBool>,
    /// Set once there is a reader of the ring.
    waker: Arc<OnceLock<Waker>>,
}

impl Stop {
    /// Lets SIGINT and SIGTERM ask for the end. A second one ends the process at once, with 128 + its number. The reader of the
    /// ring is woken by `waker`, also by [`Stop::nobody_reads`].
    ///
    /// # Errors
    /// If the kernel refuses to install the handlers.
    pub fn on_signals(&self, waker: &Waker) -> io::Result<()> {
        self.waker.get_or_init(|| waker.clone());
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let (stop, waker) = (self.clone(), waker.clone());
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
        Ok(())
    }

    /// Asks for the end because the reader of the output is gone (EPIPE).
    pub fn nobody_reads(&self) {
        self.is_unread.store(true, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// Returns the exit code that tells that nobody reads the output, if that is so.
    pub fn exit_code(&self) -> Option<i32> {
        self.is_unread.load(Ordering::Relaxed).then_some(BROKEN_PIPE)
    }

    /// Returns true if the end was asked for.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Lets the next signal end the process as it stands.
    pub fn end_at_once_from_now_on(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_nobody_reads_ends_it_with_a_code_of_its_own() {
        let stop = Stop::default();
        let of_printer = stop.clone();
        assert_eq!((stop.is_asked(), stop.exit_code()), (false, None));
        of_printer.nobody_reads();
        assert_eq!((stop.is_asked(), stop.exit_code()), (true, Some(141)));
    }
}
