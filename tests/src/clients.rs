//! Clients: each sends a number of requests, some of them at once, with an id in each.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    process::{Gated, Process},
    services::{built, directory, sources, truth_log},
    truth::{self, Event},
};

/// A client program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// curl in one process (`--parallel`), with kept connections.
    Curl,
    /// Python threads with a `requests` session each.
    PythonRequests,
    /// Python threads that make a connection for each request.
    PythonConnections,
    /// Node's fetch.
    NodeFetch,
    /// Go's net/http.
    Go,
    /// wrk.
    Wrk,
    /// wget, a process for each request.
    Wget,
    /// aiohttp.
    Aiohttp,
    /// Node's http with an agent that keeps connections.
    NodeHttp,
    /// Java's HttpClient.
    JavaHttpClient,
    /// Ruby's Net::HTTP, threads with a kept connection each.
    RubyNetHttp,
    /// PHP's curl, many handles in one process.
    PhpCurl,
    /// hyper.
    Hyper,
}

/// Load that a client sends.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// URL of the requests.
    pub url: &'a str,
    /// Number of requests.
    pub count: usize,
    /// Number of requests in flight.
    pub in_flight: usize,
    /// Prefix of the ids.
    pub prefix: &'a str,
}

/// A client that works until it is told to stop.
pub struct Running {
    name: String,
    process: Process,
    directory: TempDir,
}

/// A client with a process that has not begun yet.
pub struct Prepared {
    name: String,
    gated: Gated,
    directory: TempDir,
    count: usize,
}

impl Client {
    /// Prepares the client under a name of its own.
    pub fn prepare(self, name: &str, load: Load<'_>) -> Result<Prepared> {
        let directory = directory(name)?;
        let path = directory.path();
        let mut command = self.command(name, &load, path)?;
        let output = path.join("output.log");
        // curl writes its log on its standard output.
        let stdout = if self == Self::Curl {
            truth_log(path)
        } else {
            output.clone()
        };
        command
            .env("SERVICE", name)
            .env("OTEL_SERVICE_NAME", name)
            .env("TRUTH_LOG", truth_log(path))
            .env("STOP", stop_file(path));
        let gated = Gated::prepare(name, command, &stdout, &output)?;
        let (name, count) = (name.to_owned(), load.count);
        Ok(Prepared {
            name,
            gated,
            directory,
            count,
        })
    }

    fn command(self, name: &str, load: &Load<'_>, directory: &Path) -> Result<Command> {
        let arguments = [
            load.url,
            &load.count.to_string(),
            &load.in_flight.to_string(),
            load.prefix,
        ];
        let mut command;
        match self {
            Self::Curl => return curl(name, load, directory),
            Self::PythonRequests | Self::PythonConnections => {
                // Debian's Python, because `requests` is a package there.
                command = Command::new("/usr/bin/python3");
                command.arg(sources().join("client.py")).args(arguments);
                command.env("SESSION", if self == Self::PythonRequests { "1" } else { "0" });
            }
            Self::NodeFetch | Self::NodeHttp => {
                command = Command::new("node");
                command.arg(sources().join("client.js")).args(arguments);
                command.env("HTTP_CLIENT", if self == Self::NodeHttp { "http" } else { "fetch" });
            }
            Self::Wget => {
                command = Command::new("sh");
                // A wget may end before the agent looks at it, and the kernel keeps only 4 KiB of its environment.
                command
                    .env_clear()
                    .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
                command.arg(sources().join("client.sh")).args(arguments);
            }
            Self::Aiohttp => {
                command = Command::new("/usr/bin/python3");
                command.arg(sources().join("client_aiohttp.py")).args(arguments);
            }
            Self::JavaHttpClient => {
                command = Command::new("java");
                command
                    .args(["-Xmx256m", "-cp", &built::java(built::Java::Plain)?, "Client"])
                    .args(arguments);
            }
            Self::RubyNetHttp => {
                command = Command::new("ruby");
                command.arg(sources().join("client.rb")).args(arguments);
            }
            Self::PhpCurl => {
                command = Command::new("php");
                command.arg(sources().join("client.php")).args(arguments);
            }
            Self::Hyper => {
                command = Command::new(built::hyper()?);
                command.args(arguments);
            }
            Self::Go => {
                command = Command::new(built::go()?);
                command.args(arguments);
            }
            Self::Wrk => return Ok(wrk(load)),
        }
        Ok(command)
    }
}

fn curl(name: &str, load: &Load<'_>, directory: &Path) -> Result<Command> {
    let Load {
        url,
        count,
        in_flight,
        prefix,
    } = load;
    let requests = (0..*count).map(|number| {
        format!(
            "url = \"{url}\"\nheader = \"x-request-id: {prefix}-{number}\"\noutput = \"/dev/null\"\n\
            write-out = \"C {name} {prefix}-{number} %{{http_code}}\\n\"\n"
        )
    });
    let config = directory.join("curl.conf");
    std::fs::write(&config, requests.collect::<Vec<_>>().join("next\n"))?;
    let mut command = Command::new("curl");
    command.args([
        "--no-progress-meter",
        "--parallel",
        "--parallel-immediate",
        "--parallel-max",
    ]);
    command.arg(in_flight.to_string()).arg("--config").arg(config);
    Ok(command)
}

fn wrk(load: &Load<'_>) -> Command {
    let mut command = Command::new("wrk");
    // The script ends the program after the last response.
    command.args([
        "--threads=1",
        "--duration=300s",
        "--timeout=60s",
        &format!("--connections={}", load.in_flight),
    ]);
    command.arg("--script").arg(sources().join("wrk.lua")).arg(load.url);
    command.env("COUNT", load.count.to_string()).env("PREFIX", load.prefix);
    command
}

impl Prepared {
    /// Returns the argument that selects it for tracing.
    pub fn selection(&self) -> String {
        format!("--pid={}", self.gated.id())
    }

    /// Runs the client to its end; returns its log.
    pub fn run(self, limit: Duration) -> Result<Vec<Event>> {
        let (name, count) = (self.name.clone(), self.count);
        let truth = self.start()?.end(limit)?;
        ensure!(truth.len() == count, "{name} logged {} of {count} calls", truth.len());
        Ok(truth)
    }

    /// Runs the client to its end, which may report responses that it refuses; returns its log.
    pub fn run_to_any_end(self, limit: Duration) -> Result<Vec<Event>> {
        let mut running = self.start()?;
        running.process.wait(limit).with_context(|| running.output())?;
        truth::read(&truth_log(running.directory.path()))
    }

    /// Starts the requests.
    pub fn start(self) -> Result<Running> {
        Ok(Running {
            name: self.name,
            process: self.gated.go()?,
            directory: self.directory,
        })
    }
}

impl Running {
    /// Waits until its log is enough.
    pub fn wait_for(&mut self, limit: Duration, is_enough: impl Fn(&[Event]) -> bool) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let logged = truth::read(&truth_log(self.directory.path()))?;
            if is_enough(&logged) {
                return Ok(());
            }
            self.process.check_running().with_context(|| self.output())?;
            ensure!(
                Instant::now() < until,
                "{} has logged only {} calls after {limit:?}",
                self.name,
                logged.len()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tells the client to begin no more requests; returns its log when the last is answered. Only clients that log the
    /// beginning of a request obey.
    pub fn stop(self, limit: Duration) -> Result<Vec<Event>> {
        let stop = stop_file(self.directory.path());
        std::fs::write(&stop, "").with_context(|| format!("cannot write {}", stop.display()))?;
        self.end(limit)
    }

    fn end(mut self, limit: Duration) -> Result<Vec<Event>> {
        let status = self
            .process
            .wait(limit)
            .with_context(|| format!("{} said:\n{}", self.name, self.output()))?;
        ensure!(
            status.success(),
            "{} ended with {status}; it said:\n{}",
            self.name,
            self.output()
        );
        truth::read(&truth_log(self.directory.path()))
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("output.log")).unwrap_or_default()
    }
}

fn stop_file(directory: &Path) -> PathBuf {
    directory.join("stop")
}
