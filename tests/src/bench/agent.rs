//! The agent under measurement, run by its command line alone.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use spoor_tests::{http, metrics::Metrics, net::free_address, process::Process};

use super::proc;

/// Time limit of the attach. On a busy machine the kernel waits long for all processors, for each program.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Time limit of the agent's end.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Time for which a started process may be captured until it is known not to be selected.
pub const SELECTION_TIME: Duration = Duration::from_millis(1200);

/// Family of hooks, for the agent's option `--hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hooks {
    /// The agent's choice
    Auto,
    /// Socket events
    Sock,
    /// Exits of system calls
    Syscall,
}

impl Hooks {
    /// Returns the agent's option.
    pub fn option(self) -> OsString {
        let family = match self {
            Self::Auto => "auto",
            Self::Sock => "sock",
            Self::Syscall => "syscall",
        };
        format!("--hooks={family}").into()
    }
}

/// Where an agent sends its spans.
#[derive(Clone, Debug)]
pub enum Output {
    /// OTLP over gRPC.
    Grpc(SocketAddr),
    /// OTLP over HTTP, as protobuf.
    Http(SocketAddr),
    /// OTLP as lines of JSON in a file.
    Json(PathBuf),
}

/// How an agent is started.
#[derive(Debug)]
pub struct Launch {
    /// The binary.
    pub program: PathBuf,
    /// Options that select targets.
    pub select: Vec<OsString>,
    /// More options of `spoor run`.
    pub options: Vec<OsString>,
    /// Where its spans go.
    pub output: Output,
    /// Environment variables.
    pub environment: Vec<(&'static str, &'static str)>,
}

impl Launch {
    fn command(&self, metrics: SocketAddr) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["run", "--metrics-listen", &metrics.to_string(), "--output"]);
        let mut otlp = |sink: &SocketAddr, protocol| {
            command.arg("otlp");
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{sink}"));
            command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        };
        match &self.output {
            Output::Grpc(sink) => otlp(sink, "grpc"),
            Output::Http(sink) => otlp(sink, "http/protobuf"),
            Output::Json(file) => {
                let mut output = OsString::from("otlp-json=");
                output.push(file);
                command.arg(output);
            }
        }
        command.args(&self.select).args(&self.options);
        command.envs(self.environment.iter().copied());
        command
    }
}

/// A running agent.
pub struct Agent {
    process: Process,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts the agent, and waits until it is attached.
    pub fn start(launch: &Launch) -> Result<Self> {
        let metrics = free_address();
        let command = launch.command(metrics);
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
