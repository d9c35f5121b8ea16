//! The launched command, as the session watches it.

use std::{
    sync::{Arc, OnceLock},
    thread,
};

use anyhow::Context;

use crate::{launch::Running, probe::Waker};

/// Launched command, watched by a thread of its own.
pub struct LaunchedCommand(Arc<OnceLock<i32>>);

impl LaunchedCommand {
    /// Waits for the command's end on a thread, which then wakes the reader.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn watch(running: Running, waker: Waker) -> anyhow::Result<Self> {
        let code = Arc::new(OnceLock::new());
        let told = Arc::clone(&code);
        let wait = move || {
            let ended = running.wait().map_or_else(
                |error| {
                    tracing::error!("cannot wait for the command: {error}");
                    1
                },
                |code| code.0,
            );
            // Nobody else sets it.
            let _ = told.set(ended);
            waker.wake();
        };
        thread::Builder::new()
            .name("spoor-command".to_owned())
            .spawn(wait)
            .context("cannot start a thread")?;
        Ok(Self(code))
    }

    /// Returns the exit code, once the command has ended.
    pub fn exit_code(&self) -> Option<i32> {
        self.0.get().copied()
    }
}
