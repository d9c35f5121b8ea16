//! Processes at the ends of connections, told call by call what to do.

use std::{
    io::{BufRead, BufReader, PipeWriter, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

/// How long a peer may take for a command.
const LIMIT: Duration = Duration::from_secs(300);

/// What a system call said: its answer, or its error number.
pub type Answer = Result<String, i32>;

/// A process that makes the system calls that it is told.
pub struct Peer {
    name: String,
    process: Process,
    commands: PipeWriter,
    answers: Receiver<String>,
    told: String,
}

impl Peer {
    /// Starts one, a process of the program `rawpeer`, in a network namespace if one is named.
    pub fn start(program: &Path, name: &str, namespace: Option<&str>) -> Result<Self> {
        let mut command = match namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        command.env("OTEL_SERVICE_NAME", name);
        let (stdin, commands) = std::io::pipe()?;
        let (stdout, child_stdout) = std::io::pipe()?;
        let process = Process::start_with(name, command, stdin.into(), child_stdout.into(), Stdio::inherit())?;
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody asks any more when the test has failed.
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let name = name.to_owned();
        let told = String::new();
        let mut peer = Self {
            name,
            process,
            commands,
            answers,
            told,
        };
        // It is the program now, and not what starts it.
        peer.ask("sleep 0")?.map_err(anyhow::Error::msg)?;
        Ok(peer)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets it begin something; [`Peer::answer`] waits for the end of it.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.told = command.chars().take(80).collect();
        let line = format!("{command}\n");
        let sent = self.commands.write_all(line.as_bytes());
        sent.with_context(|| format!("{} has ended before: {}", self.name, self.told))
    }

    /// What came of the oldest command that is not answered.
    pub fn answer(&mut self) -> Result<Answer> {
        let answer = self.answers.recv_timeout(LIMIT);
        let answer = answer.with_context(|| format!("{} does not answer to: {}", self.name, self.told))?;
        match answer.split_once(' ') {
            Some(("ok", answer)) => Ok(Ok(answer.to_owned())),
            Some(("err", number)) => Ok(Err(number.parse()?)),
            _ => bail!("{} says: {answer}", self.name),
        }
    }

    /// Lets it do something to its end.
    pub fn ask(&mut self, command: &str) -> Result<Answer> {
        self.tell(command)?;
        self.answer()
    }

    /// Lets it do something that succeeds.
    pub fn make(&mut self, command: &str) -> Result<String> {
        match self.ask(command)? {
            Ok(answer) => Ok(answer),
            Err(number) => bail!(
                "{} cannot do this: {} ({})",
                self.name,
                self.told,
                std::io::Error::from_raw_os_error(number)
            ),
        }
    }

    /// As [`Peer::make`], and it must answer with this number of bytes.
    pub fn move_bytes(&mut self, command: &str, bytes: usize) -> Result<()> {
        let moved = self.make(command)?;
        ensure!(
            moved == bytes.to_string(),
            "{}: {moved} of {bytes} bytes: {}",
            self.name,
            self.told
        );
        Ok(())
    }

    /// Kills it with -9, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(LIMIT)?;
        Ok(())
    }
}
