//! Child processes that never outlive their owner.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// A process that leads its own process group. The group is killed on drop, and also when this process is killed: the
/// leader by the kernel, the others by a guard.
pub struct Process {
    name: String,
    child: Child,
    guard: Child,
}

impl Process {
    /// Starts `command`. Its output goes to the end of `log` unless the command says otherwise.
    pub fn start(name: &str, command: Command, log: &Path) -> Result<Self> {
        let log = append_to(log)?;
        let mut command = dying_with_parent(&[], command);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Self::spawn(name, command)
    }

    /// Starts `command` with these handles.
    pub fn start_with(name: &str, command: Command, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Self> {
        let mut command = dying_with_parent(&[], command);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Self::spawn(name, command)
    }

    fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?}): is setpriv of util-linux installed?"))?;
        let guard = guard(child.id())?;
        let name = name.to_owned();
        Ok(Self { name, child, guard })
    }

    /// Returns the id of the process, which is also that of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns all processes of the group that run now.
    pub fn group(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir("/proc").context("cannot list the processes in /proc")? {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // A process may end meanwhile: then it has no stat.
            if stat(id, GROUP) == Some(self.id()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Returns the processes of the group that are no child of another one. The agent finds the others by their
    /// parents.
    pub fn heads(&self) -> Result<Vec<u32>> {
        let group = self.group()?;
        let is_head = |&id: &u32| stat(id, PARENT).is_some_and(|parent| !group.contains(&parent));
        Ok(group.iter().copied().filter(is_head).collect())
    }

    /// Fails if the process has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended too early: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Sends a signal to the leader only.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(pid(self.id()), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits for the leader to end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes its standard input, if that is a pipe.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Takes its standard output, if that is a pipe.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Takes its standard error, if that is a pipe.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Before the group, so that the guard never kills another group with the same id.
        if let Err(error) = self.guard.kill().and_then(|()| self.guard.wait()) {
            eprintln!("cannot end the guard of {}: {error}", self.name);
        }
        // A remaining member keeps the group's id from reuse. Without members the group does not exist (ESRCH).
        match killpg(pid(self.id()), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => eprintln!("cannot kill the processes of {}: {error}", self.name),
        }
        if let Err(error) = self.child.wait() {
            eprintln!("cannot wait for {}: {error}", self.name);
        }
    }
}

/// A process with an id that waits before it starts its program, so that an agent can trace it from its first
/// instruction.
pub struct Gated(Process);

impl Gated {
    /// Prepares `command`. Standard output goes to the end of `stdout`, errors to the end of `log`.
    pub fn prepare(name: &str, command: Command, stdout: &Path, log: &Path) -> Result<Self> {
        let gate = ["sh", "-c", "read go && exec \"$@\" </dev/null", "sh"];
        let mut command = dying_with_parent(&gate, command);
        command
            .stdin(Stdio::piped())
            .stdout(append_to(stdout)?)
            .stderr(append_to(log)?);
        Ok(Self(Process::spawn(name, command)?))
    }

    /// Returns the id that the program will have.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Starts the program.
    pub fn go(mut self) -> Result<Process> {
        let mut stdin = self.0.child.stdin.take().context("the gate has no input")?;
        stdin
            .write_all(b"go\n")
            .with_context(|| format!("{} ended before it began", self.0.name))?;
        Ok(self.0)
    }
}

fn dying_with_parent(prefix: &[&str], command: Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped
        .args(["--pdeathsig", "TERM"])
        .args(prefix)
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped
}

/// Starts a shell that kills the group when its input is closed, as it is however this process dies.
fn guard(group: u32) -> Result<Child> {
    let mut command = Command::new("sh");
    command
        .args(["-c", "read end; kill -s KILL -- -$0", &group.to_string()])
        .process_group(0);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().context("cannot start sh")
}

fn append_to(path: &Path) -> Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// Indices of fields in /proc/PID/stat, behind the command's name.
const PARENT: usize = 1;
const GROUP: usize = 2;

fn stat(id: u32, place: usize) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Format: `pid (comm) state ppid pgrp …`, where comm may hold any bytes.
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(place)?
        .parse()
        .ok()
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids fit in an i32"))
}

/// Runs a tool to its end. An error has its output.
pub fn run(name: &str, program: impl AsRef<OsStr>, args: &[&OsStr], directory: &Path) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot run {name}: is it installed?"))?;
    if !output.status.success() {
        bail!(
            "{name} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
