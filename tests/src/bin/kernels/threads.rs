//! Services with a thread for each connection (`threaded`), and their expected spans.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use spoor_tests::{
    agent::Agent,
    line_process::LineProcess,
    otlp::{self, Kind, Span},
    raw::{End, Exchange, compare, target_of},
};

use crate::{
    beside,
    lossy::{losses, nothing_wrong, were_preempted},
};

/// Time limit of a role for a command.
const LIMIT: Duration = Duration::from_secs(120);
/// Length of the back's answer, which the front passes on.
const BODY_BYTES: u64 = 13;
/// Path of calls that only let the agent learn how the service works.
const WARM: &str = "/warm";

/// Starts a program in a role, as a process of its own; returns the first line that it prints.
pub fn part(program: PathBuf, name: &str, arguments: &[&str]) -> Result<(LineProcess, String)> {
    let mut command = Command::new(program);
    command.arg(name).args(arguments);
    let part = LineProcess::start(name, command, LIMIT)?;
    let first = part.line()?;
    Ok((part, first))
}

/// Client, front and back.
pub struct Service {
    client: LineProcess,
    front: LineProcess,
    back: LineProcess,
    pub expected: Vec<Exchange>,
}

impl Service {
    pub fn start() -> Result<Self> {
        let threaded = || beside("threaded");
        let (back, back_address) = part(threaded()?, "back", &[])?;
        let (front, front_address) = part(threaded()?, "front", &[&back_address])?;
        let (client, _) = part(threaded()?, "client", &[&front_address])?;
        Ok(Self {
            client,
            front,
            back,
            expected: Vec::new(),
        })
    }

    /// Starts a service with an agent that writes its spans to a file, and warms it up.
    pub fn traced(spans: &Path) -> Result<(Self, Agent)> {
        let mut service = Self::start()?;
        let output = format!("otlp-json={}", spans.display());
        let agent = Agent::start(&service.selection(), &output, &[], Stdio::null())?;
        service.warm_up(spans)?;
        Ok((service, agent))
    }

    /// Returns the agent's selection: all three.
    pub fn selection(&self) -> Vec<String> {
        let parts = [&self.client, &self.front, &self.back];
        parts.iter().map(|part| format!("--pid={}", part.id())).collect()
    }

    /// Sends requests by that many threads of the client, `each` one after another.
    pub fn requests(&mut self, case: &str, threads: usize, each: usize) -> Result<()> {
        let answer = self.client.ask(&format!("{case} {threads} {each}"))?;
        ensure!(answer == "done", "the client says: {answer}");
        for thread in 0..threads {
            for request in 0..each {
                let target = format!("/{case}/{thread}/{request}");
                let end = End::ok("GET", 200).bodies(None, Some(BODY_BYTES));
                let exchange = |target: String, made_for: Option<String>| Exchange {
                    case: case.to_owned(),
                    target,
                    made_for,
                    apart: false,
                    client: Some(end.clone()),
                    server: Some(end.clone()),
                };
                self.expected
                    .push(exchange(format!("/back{target}"), Some(target.clone())));
                self.expected.push(exchange(target, None));
            }
        }
        Ok(())
    }

    /// Sends requests until a call has a parent: then the agent knows what runs in the processes.
    pub fn warm_up(&mut self, spans: &Path) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.client.ask(&format!("{} 1 1", &WARM[1..]))?;
            ensure!(answer == "done", "the client says: {answer}");
            let known = so_far(spans)?
                .iter()
                .any(|span| span.kind == Kind::Client && span.service == "front" && !span.parent_id.is_empty());
            if known {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "no call of the threaded service gets a parent"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the last request has its span.
    pub fn wait_until_told(&self, spans: &Path) -> Result<()> {
        let last = self.expected.last().context("no request was sent")?;
        let deadline = Instant::now() + LIMIT;
        while !so_far(spans)?.iter().any(|span| target_of(span) == last.target) {
            ensure!(Instant::now() < deadline, "{} has no span", last.target);
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Ends all three as services are ended, callers first.
    pub fn end(self) -> Result<()> {
        for mut part in [self.client, self.front, self.back] {
            part.end(Signal::SIGTERM)?;
        }
        Ok(())
    }
}

/// Reads the spans written so far. The last line may be incomplete.
fn so_far(spans: &Path) -> Result<Vec<Span>> {
    let text = std::fs::read_to_string(spans).unwrap_or_default();
    otlp::parse(text.rfind('\n').map_or("", |end| &text[..=end]))
}

/// Returns all spans but those of the warm-up.
pub fn without_warm_up(spans: Vec<Span>) -> Vec<Span> {
    let of_warm_up = |span: &Span| target_of(span).trim_start_matches("/back").starts_with(WARM);
    spans.into_iter().filter(|span| !of_warm_up(span)).collect()
}

/// Checks the whole set of spans and all parents, with several threads at work. Where the kernel lets programs preempt
/// one another, those that did nothing are counted, and no span is wrong.
pub fn exact() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("spans.json");
    let (mut service, agent) = Service::traced(&file)?;
    service.requests("threads", 4, 25)?;
    service.requests("last", 1, 1)?;
    service.wait_until_told(&file)?;
    let losses = losses(&agent)?;
    let said = agent.finish()?;
    let spans = without_warm_up(otlp::read(&file)?);
    if were_preempted(&said)? {
        let missing = nothing_wrong(&service.expected, &spans)
            .with_context(|| format!("counted: {losses:?}; the agent said: {said}"))?;
        println!("{missing} spans are missing; the agent said: {said}");
        return service.end();
    }
    let differences = compare(&service.expected, &spans);
    ensure!(
        differences.0.is_empty(),
        "{} exchanges, {} spans: {differences}; counted: {losses:?}; the agent said: {said}",
        service.expected.len(),
        spans.len()
    );
    service.end()
}
