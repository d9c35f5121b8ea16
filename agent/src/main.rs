//! The `spoor` command.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;

use spoor::{
    config::{self, Command, Invocation},
    doctor,
    launch::LaunchError,
    process::reader,
    ps, replay,
    screen::say,
    session,
};

/// musl's allocator is slow, and Core makes many small boxes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if reader::is_reader() {
        return reader::serve();
    }
    let invocation = match Invocation::from_process() {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    let result = session::log_to_stderr(invocation.log_level).and_then(|()| {
        for warning in &invocation.warnings {
            tracing::warn!("{warning}");
        }
        match &invocation.command {
            Command::Run(settings) => session::run(settings),
            Command::Record(settings) => session::record(settings),
            Command::Replay(settings) => replay::replay(settings).map(|()| 0),
            Command::Redact(settings) => replay::redact(settings).map(|()| 0),
            Command::Doctor(settings) => doctor::doctor(settings.json),
            Command::Ps(settings) => ps::ps(settings).map(|()| 0),
            Command::Completions(shell) => print(&config::completions(*shell)).map(|()| 0),
        }
    });
    match result {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            say(whole(&error));
            ExitCode::from(error.downcast_ref::<LaunchError>().map_or(1, LaunchError::exit_code) as u8)
        }
    }
}

/// An error with its causes, each once: many errors say their cause in the middle of what they say.
fn whole(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.contains(&cause) {
            said
        } else if said.is_empty() {
            cause
        } else {
            format!("{said}: {cause}")
        }
    })
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    io::stdout().write_all(text).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        let full = anyhow!("disk full")
            .context("cannot write t.tape: disk full; free some space")
            .context("the tape is not whole");
        assert_eq!(
            whole(&full),
            "the tape is not whole: cannot write t.tape: disk full; free some space"
        );
        assert_eq!(
            whole(&anyhow!("disk full").context("cannot write")),
            "cannot write: disk full"
        );
    }
}
