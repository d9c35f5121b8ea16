//! Signals, and the end of the command.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Context;

use crate::{launch::Running, probe::Waker};

/// Whether the agent should end.
#[derive(Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// Whether a signal asked for the end.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The next signal ends the process as it stands.
    pub fn end_at_once_from_now_on(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}

/// SIGINT and SIGTERM ask for the end; a second one ends at once, with 128 + its number.
pub fn install(waker: Waker) -> anyhow::Result<Stop> {
    let stop = Stop {
        asked: Arc::default(),
        at_once: Arc::default(),
    };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (stop, waker) = (stop.clone(), waker.clone());
        let act = move || {
            if stop.asked.swap(true, Ordering::Relaxed) || stop.at_once.load(Ordering::Relaxed) {
                // SAFETY: _exit is async-signal-safe.
                unsafe { libc::_exit(128 + signal) };
            }
            waker.wake();
        };
        // SAFETY: the action uses atomics, write(2) and _exit(2), which are async-signal-safe.
        unsafe { signal_hook_registry::register(signal, act) }.context("cannot handle signals")?;
    }
    Ok(stop)
}

/// The command's end, when it has come.
pub struct Command(Arc<OnceLock<i32>>);

impl Command {
    /// Its exit code, once it has ended.
    pub fn exit_code(&self) -> Option<i32> {
        self.0.get().copied()
    }
}

/// Waits for the command on a thread of its own.
pub fn watch(running: Running, waker: Waker) -> anyhow::Result<Command> {
    let code = Arc::new(OnceLock::new());
    let told = Arc::clone(&code);
    thread::Builder::new()
        .name("spoor-command".to_owned())
        .spawn(move || {
            let ended = running.wait().map_or_else(
                |error| {
                    tracing::error!("cannot wait for the command: {error}");
                    1
                },
                |code| code.0,
            );
            let _ = told.set(ended);
            waker.wake();
        })
        .context("cannot start a thread")?;
    Ok(Command(code))
}
