//! Processes that read commands and answer them, a line each.

use std::{
    io::{BufRead, BufReader, PipeWriter, Write},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::Process;

/// A process that reads commands from its standard input, and answers on its standard output.
pub struct LineProcess {
    name: String,
    process: Process,
    commands: PipeWriter,
    lines: Receiver<String>,
    limit: Duration,
    told: String,
}

impl LineProcess {
    /// Starts a process, with a time limit for each line. `name` is also its `service.name`.
    pub fn start(name: &str, mut command: Command, limit: Duration) -> Result<Self> {
        command.env("OTEL_SERVICE_NAME", name);
        let (stdin, commands) = std::io::pipe()?;
        let (stdout, child_stdout) = std::io::pipe()?;
        let process = Process::start_with(name, command, stdin.into(), child_stdout.into(), Stdio::inherit())?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver is gone when the test has ended.
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            process,
            commands,
            lines,
            limit,
            told: "its start".to_owned(),
        })
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the last command, shortened for messages.
    pub fn told(&self) -> &str {
        &self.told
    }

    /// Sends a command; [`LineProcess::line`] waits for its answer.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.told = command.chars().take(80).collect();
        let line = format!("{command}\n");
        let sent = self.commands.write_all(line.as_bytes());
        sent.with_context(|| format!("{} has ended before: {}", self.name, self.told))
    }

    /// Returns the next line of its output.
    pub fn line(&self) -> Result<String> {
        let line = self.lines.recv_timeout(self.limit);
        line.with_context(|| format!("{} does not answer to: {}", self.name, self.told))
    }

    /// Sends a command, and returns the answer.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.line()
    }

    /// Ends the process with a signal.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        self.process.wait(self.limit)?;
        Ok(())
    }
}
