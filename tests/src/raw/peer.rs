//! Processes at the ends of connections, which make one system call for each command.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::line_process::LineProcess;

/// Time limit of a peer for a command.
const LIMIT: Duration = Duration::from_secs(300);

/// Result of a system call: its answer, or its error number.
pub type Answer = Result<String, i32>;

/// A process that makes system calls on command.
pub struct Peer(LineProcess);

impl Peer {
    /// Starts a process of the program `rawpeer`, in a network namespace if one is named.
    pub fn start(program: &Path, name: &str, namespace: Option<&str>) -> Result<Self> {
        let command = match namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        let mut peer = Self(LineProcess::start(name, command, LIMIT)?);
        // After this answer the process runs the program itself, no longer the one that starts it.
        peer.ask("sleep 0")?.map_err(anyhow::Error::msg)?;
        Ok(peer)
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a command; [`Peer::answer`] waits for its end.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.0.tell(command)
    }

    /// Returns the answer to the oldest open command.
    pub fn answer(&mut self) -> Result<Answer> {
        let answer = self.0.line()?;
        match answer.split_once(' ') {
            Some(("ok", answer)) => Ok(Ok(answer.to_owned())),
            Some(("err", number)) => Ok(Err(number.parse()?)),
            _ => bail!("{} says: {answer}", self.0.name()),
        }
    }

    /// Runs a command to its end.
    pub fn ask(&mut self, command: &str) -> Result<Answer> {
        self.tell(command)?;
        self.answer()
    }

    /// Runs a command that must succeed.
    pub fn make(&mut self, command: &str) -> Result<String> {
        match self.ask(command)? {
            Ok(answer) => Ok(answer),
            Err(number) => bail!(
                "{} cannot do this: {} ({})",
                self.0.name(),
                self.0.told(),
                std::io::Error::from_raw_os_error(number)
            ),
        }
    }

    /// Runs a command as [`Peer::make`]; its answer must be this number of bytes.
    pub fn move_bytes(&mut self, command: &str, bytes: usize) -> Result<()> {
        let moved = self.make(command)?;
        ensure!(
            moved == bytes.to_string(),
            "{}: {moved} of {bytes} bytes: {}",
            self.0.name(),
            self.0.told()
        );
        Ok(())
    }

    /// Kills the process with SIGKILL, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.0.end(Signal::SIGKILL)
    }
}
