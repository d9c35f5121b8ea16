//! The agent under measurement, run by its command line alone.

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

/// Time limit of the attach. On a busy machine the kernel waits long for all processors, for each program.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Time limit of the agent's end.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Time for which a started process may be captured until it is known not to be selected.
pub const SELECTION_TIME: Duration = Duration::from_millis(1200);

/// A running agent that exports to a sink.
pub struct Agent {
    process: Process,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts the agent with these arguments, and waits until it is attached.
    pub fn start(args: &[OsString], sink: SocketAddr, environment: &[(&str, &str)]) -> Result<Self> {
        Self::start_program(&binary()?, args, sink, environment)
    }

    /// Starts the agent at this path, as [`Agent::start`] does.
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
                // The receiver is gone once the agent is ready: from then on its warnings go to our standard error.
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

    /// Returns the agent's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Reads the agent's metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&http::get(self.metrics, "/metrics")?))
    }

    /// Returns the agent's programs and maps.
    pub fn objects(&self) -> Result<proc::Objects> {
        let objects = proc::objects(self.id())?;
        ensure!(objects.programs > 0, "the agent holds no eBPF program");
        Ok(objects)
    }

    /// Ends the agent as Ctrl-C does, so that it flushes.
    pub fn finish(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(END_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}
