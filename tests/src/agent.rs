//! The agent under test, run by its command line alone.

#[cfg(feature = "agent")]
use std::collections::BTreeMap;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
#[cfg(feature = "agent")]
use spoor::{cmd::replay::Player, tape::TapeReader};
use tempfile::TempDir;

use crate::{
    http,
    metrics::Metrics,
    net::free_address,
    otlp::{self, Span},
    process::Process,
    services::directory,
};

/// Time limit of the attach.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Time limit of the agent's end: it promises 5 s for the flush.
const END_LIMIT: Duration = Duration::from_secs(8);
/// Variable with a whole number: the factor by which this machine is slower, because it is emulated.
const SLOWNESS: &str = "SPOOR_TEST_SLOWNESS";
/// Variable with the family of hooks that agents are told to use: `sock` or `syscall`. Without it they choose.
const HOOKS: &str = "SPOOR_TEST_HOOKS";
/// Time limit of a command under the agent.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A running agent.
pub struct Agent {
    process: Process,
    metrics: Option<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Agent {
    /// Starts an agent with a selection (`--pid=7` …) and an `--output`, and waits until it is attached.
    pub fn start(selection: &[String], output: &str, environment: &[(&str, &str)], stdout: Stdio) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.envs(environment.iter().copied());
        Self::start_as(command, selection, output, stdout)
    }

    /// Starts an agent by `command`, for example with other rights.
    pub fn start_as(command: Command, selection: &[String], output: &str, stdout: Stdio) -> Result<Self> {
        Self::start_at(free_address(), command, selection, output, stdout)
    }

    /// Starts an agent with its metrics at this address, which may be taken.
    pub fn start_at(
        metrics: SocketAddr,
        mut command: Command,
        selection: &[String],
        output: &str,
        stdout: Stdio,
    ) -> Result<Self> {
        command.arg("run").args(hooks()).args(selection);
        command.args(["--output", output]);
        command.args(["--capture-request-header", "x-request-id", "--capture-body-sizes"]);
        command.args(["--metrics-listen", &metrics.to_string()]);
        Self::attach(command, stdout, Some(metrics))
    }

    /// Starts this command, which is an agent, and waits until it is attached.
    pub fn attach(command: Command, stdout: Stdio, metrics: Option<SocketAddr>) -> Result<Self> {
        let mut process = Process::start_with("the agent", command, Stdio::null(), stdout, Stdio::piped())?;
        let stderr = process.take_stderr().context("the agent has no stderr")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready_sender, ready) = mpsc::channel();
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if line.contains("tracing") && line.contains("ready") {
                        // The receiver is gone once the agent has said so before.
                        let _ = ready_sender.send(());
                    }
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        let agent = Self {
            process,
            metrics,
            log,
            reader,
        };
        if let Err(error) = ready.recv_timeout(READY_LIMIT * slowness()) {
            bail!(
                "the agent did not say that it is ready ({error}); it said:\n{}",
                agent.said()
            );
        }
        Ok(agent)
    }

    /// Returns the agent's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends the agent a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Fails if the agent has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running().with_context(|| self.said())
    }

    /// Waits until the agent's log has these words. Some are there only with `--log-level=debug`.
    pub fn wait_until_said(&self, words: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.said().contains(words) {
            if Instant::now() > deadline {
                bail!(
                    "the agent has not said {words:?} within {limit:?}; it said:\n{}",
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Returns the address of the agent's metrics and health, if it serves them.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Reads the agent's metrics. Those of Core and of the programs are at most a second old while there is traffic.
    pub fn metrics(&self) -> Result<Metrics> {
        let address = self.metrics.context("an agent that records serves no metrics")?;
        Ok(Metrics::parse(&http::get(address, "/metrics")?))
    }

    /// Stops the agent (SIGSTOP) while `work` runs.
    pub fn while_stopped<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.process.signal(Signal::SIGSTOP)?;
        let done = work();
        self.process.signal(Signal::SIGCONT)?;
        done
    }

    /// Ends the agent as Ctrl-C does; returns its standard error.
    pub fn finish(self) -> Result<String> {
        self.process.signal(Signal::SIGINT)?;
        let (status, said) = self.wait(END_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}; it said:\n{said}");
        Ok(said)
    }

    /// Waits until the agent has ended by itself; returns its status and its standard error.
    pub fn wait(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let status = self.process.wait(limit * slowness()).with_context(|| self.said())?;
        // The agent's end closed the pipe, so the reader ends after the last line.
        let Self {
            process, log, reader, ..
        } = self;
        drop(process);
        reader.join().expect("reading lines does not panic");
        Ok((status, said(&log)))
    }

    /// Returns the agent's standard error so far.
    pub fn said(&self) -> String {
        said(&self.log)
    }
}

/// An agent that writes its spans to a file. The test reads them after the agent's end.
pub struct Recorder {
    /// The running agent.
    pub agent: Agent,
    directory: TempDir,
}

impl Recorder {
    /// Starts an agent with a selection (`--pid=7` …) and waits until it is attached.
    pub fn start(selection: &[String]) -> Result<Self> {
        let directory = directory("agent")?;
        let output = format!("otlp-json={}", spans_file(directory.path()).display());
        let agent = Agent::start(selection, &output, &[], Stdio::null())?;
        Ok(Self { agent, directory })
    }

    /// Ends the agent as Ctrl-C does; returns all spans, and its standard error.
    pub fn finish(self) -> Result<(Vec<Span>, String)> {
        let said = self.agent.finish()?;
        let spans =
            otlp::read(&spans_file(self.directory.path())).with_context(|| format!("the agent said:\n{said}"))?;
        Ok((spans, said))
    }
}

/// An agent that records a tape.
pub struct Tape {
    /// The running agent.
    pub agent: Agent,
    directory: TempDir,
}

/// A tape that was recorded to its end.
pub struct Recorded(TempDir);

impl Tape {
    /// Starts an agent with a selection (`--pid=7` …) and waits until it is attached.
    pub fn record(selection: &[String]) -> Result<Self> {
        let directory = directory("tape")?;
        let mut command = Command::new(binary()?);
        command
            .arg("record")
            .args(hooks())
            .arg("-o")
            .arg(tape_file(directory.path()))
            // A tape holds all captured bytes, and the disk may be slow.
            .args(["--ring-bytes", "64MiB", "--capture-body-sizes"])
            .args(selection);
        let agent = Agent::attach(command, Stdio::null(), None)?;
        Ok(Self { agent, directory })
    }

    /// Ends the agent as Ctrl-C does; returns the tape, and its standard error.
    pub fn finish(self) -> Result<(Recorded, String)> {
        let said = self.agent.finish()?;
        Ok((Recorded(self.directory), said))
    }
}

impl Recorded {
    /// Copies the tape to a path.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        std::fs::copy(tape_file(self.0.path()), path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// Replays the tape in this process; returns Core's counters at its end.
    #[cfg(feature = "agent")]
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>> {
        let mut tape = TapeReader::new(BufReader::new(File::open(tape_file(self.0.path()))?))?;
        let mut player = Player::default();
        while let Some(frame) = tape.next_frame()? {
            player.feed(frame)?;
        }
        let core = player.core().context("an empty tape")?;
        core.flush();
        Ok(core.counters().into_iter().collect())
    }

    /// Replays the tape; returns the OTLP JSON as written, and its spans.
    pub fn replay(&self) -> Result<(Vec<u8>, Vec<Span>)> {
        let file = spans_file(self.0.path());
        // The agent appends spans to the file.
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        let mut command = Command::new(binary()?);
        command.arg("replay").arg(tape_file(self.0.path()));
        command.args(["--output", &format!("otlp-json={}", file.display())]);
        // Long, so that the time that a replay takes does not decide which spans a line holds.
        command.env("OTEL_BSP_SCHEDULE_DELAY", "600000");
        let mut process = Process::start_with("the replay", command, Stdio::null(), Stdio::null(), Stdio::inherit())?;
        let status = process.wait(COMMAND_LIMIT)?;
        ensure!(status.success(), "the replay ended with {status}");
        Ok((std::fs::read(&file)?, otlp::read(&file)?))
    }

    /// Replays the tape to the collector that the environment names; returns standard error.
    pub fn export(&self, environment: &[(&str, &str)]) -> Result<String> {
        let mut command = Command::new(binary()?);
        command.arg("replay").arg(tape_file(self.0.path()));
        command.args(["--output", "otlp"]).envs(environment.iter().copied());
        let log = self.0.path().join("export.log");
        let stderr = File::create(&log)?.into();
        let mut process = Process::start_with("the replay", command, Stdio::null(), Stdio::null(), stderr)?;
        let status = process.wait(COMMAND_LIMIT)?;
        let said = std::fs::read_to_string(&log)?;
        ensure!(status.success(), "the replay ended with {status}; it said:\n{said}");
        Ok(said)
    }
}

/// Runs `command` under the agent (`spoor run -- …`) to its end; returns the exit code, all spans, and standard output.
pub fn run_command(command: &[&str]) -> Result<(Option<i32>, Vec<Span>, String)> {
    let directory = directory("agent")?;
    let output = format!("otlp-json={}", spans_file(directory.path()).display());
    let mut agent = Command::new(binary()?);
    agent.arg("run").args(hooks());
    agent.args(["--output", &output, "--capture-request-header", "x-request-id"]);
    agent
        .args(["--capture-body-sizes", "--metrics-listen", "127.0.0.1:0", "--"])
        .args(command);
    let (stdout, stderr) = (directory.path().join("stdout"), directory.path().join("stderr"));
    let [out, err] = [&stdout, &stderr].map(File::create);
    let mut process = Process::start_with("the agent", agent, Stdio::null(), out?.into(), err?.into())?;
    let status = process
        .wait(COMMAND_LIMIT)
        .with_context(|| std::fs::read_to_string(&stderr).unwrap_or_default())?;
    let said = std::fs::read_to_string(&stderr)?;
    let spans = otlp::read(&spans_file(directory.path())).with_context(|| format!("the agent said:\n{said}"))?;
    Ok((status.code(), spans, std::fs::read_to_string(&stdout)?))
}

fn slowness() -> u32 {
    let value = std::env::var(SLOWNESS).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// Returns the family of hooks that agents are told to use, if `HOOKS` names one.
pub fn wanted_hooks() -> Option<String> {
    std::env::var(HOOKS).ok().filter(|family| !family.is_empty())
}

/// Returns the option that makes an agent use the family of hooks that `HOOKS` names.
pub fn hooks() -> Option<String> {
    wanted_hooks().map(|family| format!("--hooks={family}"))
}

/// Returns the agent's binary: `SPOOR_BIN`, else the one that was built beside the running test or demo.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SPOOR_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("spoor"))
        .find(|path| path.is_file());
    beside.context("there is no agent beside this program: build it (cargo xtask build), or name it in SPOOR_BIN")
}

fn tape_file(directory: &Path) -> PathBuf {
    directory.join("tape")
}

fn spans_file(directory: &Path) -> PathBuf {
    directory.join("spans.json")
}

fn said(log: &Mutex<Vec<String>>) -> String {
    log.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
}
