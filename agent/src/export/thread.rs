//! The thread that takes spans away, and its end.

use std::{
    convert::Infallible,
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

/// Thread that takes spans away.
///
/// The wait for its end is bounded: it may hang in a write to a pipe without a reader, or to a terminal that is
/// stopped.
#[derive(Debug)]
pub struct ExportThread {
    /// Disconnected when the thread ends.
    running: mpsc::Receiver<Infallible>,
}

impl ExportThread {
    /// Starts the thread. The kernel keeps 15 bytes of its name.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (runs, running) = mpsc::sync_channel(0);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _runs = runs;
            run();
        })?;
        Ok(Self { running })
    }

    /// Waits for the thread's end, and returns whether it came in time.
    pub fn join(self, within: Duration) -> bool {
        self.running.recv_timeout(within) != Err(RecvTimeoutError::Timeout)
    }
}

/// Spans that were not sent in the time that a shutdown may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Spans that waited.
    pub waiting: usize,
    /// Spans that the thread was sending or writing.
    pub in_flight: usize,
}

impl Unsent {
    /// Returns the number of all of them.
    pub fn spans(self) -> usize {
        self.waiting + self.in_flight
    }

    /// Returns the warning for a thread that has not ended within this time.
    pub fn warning(self, destination: &str, within: Duration) -> String {
        format!(
            "the export to {destination} has not ended within {} ms, {} spans are lost ({} waiting, {} in a write); is its \
             output blocked?",
            within.as_millis(),
            self.spans(),
            self.waiting,
            self.in_flight,
        )
    }
}
