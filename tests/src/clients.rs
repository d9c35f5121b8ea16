//! The clients: each sends so many requests, so many at once, with an id in each.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    process::Gated,
    services::{build_go, directory, sources, truth_log},
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
}

/// What a client is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Where to.
    pub url: &'a str,
    /// How many requests.
    pub count: usize,
    /// How many at once.
    pub in_flight: usize,
    /// What the ids begin with.
    pub prefix: &'a str,
}

/// A client that has a process, but has not begun.
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
        let Load {
            url,
            count,
            in_flight,
            prefix,
        } = load;
        let arguments = [url, &count.to_string(), &in_flight.to_string(), prefix];
        let mut stdout = path.join("output.log");
        let mut command;
        match self {
            Self::Curl => {
                let requests = (0..count).map(|number| {
                    format!(
                        "url = \"{url}\"\nheader = \"x-request-id: {prefix}-{number}\"\noutput = \"/dev/null\"\n\
                        write-out = \"C {name} {prefix}-{number} %{{http_code}}\\n\"\n"
                    )
                });
                let config = path.join("curl.conf");
                std::fs::write(&config, requests.collect::<Vec<_>>().join("next\n"))?;
                command = Command::new("curl");
                command.args([
                    "--no-progress-meter",
                    "--parallel",
                    "--parallel-immediate",
                    "--parallel-max",
                ]);
                command.arg(in_flight.to_string()).arg("--config").arg(config);
                stdout = truth_log(path);
            }
            Self::PythonRequests | Self::PythonConnections => {
                // Debian's, for there `requests` is a package.
                command = Command::new("/usr/bin/python3");
                command.arg(sources().join("client.py")).args(arguments);
                command.env("SESSION", if self == Self::PythonRequests { "1" } else { "0" });
            }
            Self::NodeFetch => {
                command = Command::new("node");
                command.arg(sources().join("client.js")).args(arguments);
            }
            Self::Go => {
                command = Command::new(build_go(path)?);
                command.args(arguments);
            }
            Self::Wrk => {
                command = Command::new("wrk");
                // It ends itself after the last response.
                command.args([
                    "--threads=1",
                    "--duration=300s",
                    "--timeout=60s",
                    &format!("--connections={in_flight}"),
                ]);
                command.arg("--script").arg(sources().join("wrk.lua")).arg(url);
                command.env("COUNT", count.to_string()).env("PREFIX", prefix);
            }
        }
        command
            .env("SERVICE", name)
            .env("OTEL_SERVICE_NAME", name)
            .env("TRUTH_LOG", truth_log(path));
        let gated = Gated::prepare(name, command, &stdout, &path.join("output.log"))?;
        let name = name.to_owned();
        Ok(Prepared {
            name,
            gated,
            directory,
            count,
        })
    }
}

impl Prepared {
    /// The argument that makes the agent trace it.
    pub fn selection(&self) -> String {
        format!("--pid={}", self.gated.id())
    }

    /// Lets it work to its end; gives what it logged.
    pub fn run(self, limit: Duration) -> Result<Vec<Event>> {
        let output = || std::fs::read_to_string(self.directory.path().join("output.log")).unwrap_or_default();
        let mut process = self.gated.go()?;
        let status = process
            .wait(limit)
            .with_context(|| format!("{} said:\n{}", self.name, output()))?;
        ensure!(
            status.success(),
            "{} ended with {status}; it said:\n{}",
            self.name,
            output()
        );
        let truth = truth::read(&truth_log(self.directory.path()))?;
        ensure!(
            truth.len() == self.count,
            "{} logged {} of {} calls",
            self.name,
            truth.len(),
            self.count
        );
        Ok(truth)
    }
}
