//! The agent under measurement, by its command line alone.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use spoor_tests::{agent::binary, http, metrics::Metrics, net::free_address, process::Process};

use super::proc;

/// How long it may take to attach: on a busy machine the kernel waits long for all processors, for each program.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(15);
/// A started process may be captured for up to a second before it is known not to be selected.
pub const SELECTION_TIME: Duration = Duration::from_millis(1200);

/// A running agent that exports to a sink.
pub struct Agent {
    process: Process,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts it with these arguments, and waits until it is attached.
    pub fn start(args: &[OsString], sink: SocketAddr, environment: &[(&str, &str)]) -> Result<Self> {
        Self::start_program(&binary()?, args, sink, environment)
    }

    /// Starts this agent, whichever it is, as [`Agent::start`] does.
    pub fn start_program(
        program: &Path,
        args: &[OsString],
        sink: SocketAddr,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let metrics = free_address();
        let mut command = Command::new(program);
        command
            .args(["run", "--output", "otlp", "--metrics-listen", &metrics.to_string()])
            .args(args)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{sink}"))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .envs(environment.iter().copied());
        let mut process = Process::start_with("the agent", command, Stdio::null(), Stdio::null(), Stdio::piped())?;
        let stderr = process.take_stderr().context("the agent has no stderr")?;
        let (said, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Nobody listens any more once it is ready: then its warnings are ours.
                if let Err(mpsc::SendError(line)) = said.send(line)
                    && (line.contains("WARN") || line.contains("ERROR"))
                {
                    eprintln!("the agent: {line}");
                }
            }
        });
        let mut lines = String::new();
        loop {
            match ready.recv_timeout(READY_LIMIT) {
                Ok(line) if line.contains("ready") => break,
                Ok(line) => lines += &format!("{line}\n"),
                Err(error) => {
                    process.check_running().with_context(|| lines.clone())?;
                    anyhow::bail!("the agent did not say that it is ready ({error}); it said:\n{lines}");
                }
            }
        }
        Ok(Self { process, metrics })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&http::get(self.metrics, "/metrics")?))
    }

    /// Its programs and maps.
    pub fn objects(&self) -> Result<proc::Objects> {
        let objects = proc::objects(self.id())?;
        ensure!(objects.programs > 0, "the agent holds no eBPF program");
        Ok(objects)
    }

    /// Ends it as Ctrl-C does, so that it flushes.
    pub fn finish(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(END_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}
