//! A service with a thread for each connection, which serves each request by a call over a connection that the thread
//! keeps; what it calls; and a client with threads.

use std::{
    io::{BufRead, BufReader, PipeWriter, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use spoor_tests::{
    agent::Agent,
    otlp::{self, Kind, Span},
    process::Process,
};

use crate::{
    expected::{End, Exchange, compare, target_of},
    own_path,
};

/// How long a part may take for what it is told.
const LIMIT: Duration = Duration::from_secs(120);
/// What the back answers, and the front hands on.
const BODY: &str = "from the back";
/// Where calls that are only made to make the agent sure begin.
const WARM: &str = "/warm";

/// A part of the play, in a process of its own.
pub struct Part {
    name: &'static str,
    process: Process,
    commands: PipeWriter,
    answers: Receiver<String>,
}

impl Part {
    /// Starts this program with these arguments; gives the first line that it prints.
    pub fn start(name: &'static str, arguments: &[&str]) -> Result<(Self, String)> {
        let mut command = Command::new(own_path()?);
        command.arg(name).args(arguments).env("OTEL_SERVICE_NAME", name);
        let (stdin, commands) = std::io::pipe()?;
        let (stdout, child_stdout) = std::io::pipe()?;
        let process = Process::start_with(name, command, stdin.into(), child_stdout.into(), Stdio::inherit())?;
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let part = Self {
            name,
            process,
            commands,
            answers,
        };
        let first = part.answer()?;
        Ok((part, first))
    }

    fn answer(&self) -> Result<String> {
        let answer = self.answers.recv_timeout(LIMIT);
        answer.with_context(|| format!("{} does not answer", self.name))
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}").with_context(|| format!("{} has ended", self.name))?;
        self.answer()
    }
}

/// Client, front and back.
pub struct Service {
    client: Part,
    front: Part,
    back: Part,
    pub expected: Vec<Exchange>,
}

impl Service {
    pub fn start() -> Result<Self> {
        let (back, back_address) = Part::start("back", &[])?;
        let (front, front_address) = Part::start("front", &[&back_address])?;
        let (client, _) = Part::start("client", &[&front_address])?;
        Ok(Self {
            client,
            front,
            back,
            expected: Vec::new(),
        })
    }

    /// The agent's selection: all three.
    pub fn selection(&self) -> Vec<String> {
        let parts = [&self.client, &self.front, &self.back];
        parts
            .iter()
            .map(|part| format!("--pid={}", part.process.id()))
            .collect()
    }

    /// So many threads of the client send so many requests each, one after another.
    pub fn requests(&mut self, case: &str, threads: usize, each: usize) -> Result<()> {
        let answer = self.client.ask(&format!("{case} {threads} {each}"))?;
        ensure!(answer == "done", "the client says: {answer}");
        for thread in 0..threads {
            for request in 0..each {
                let target = format!("/{case}/{thread}/{request}");
                let end = End::ok("GET", 200).bodies(None, Some(BODY.len() as u64));
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
    pub fn warm_up(&mut self, spans: &std::path::Path) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.client.ask(&format!("{} 1 1", &WARM[1..]))?;
            ensure!(answer == "done", "the client says: {answer}");
            // It is written line by line, and its last line may not be whole yet.
            let text = std::fs::read_to_string(spans).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |end| &text[..end + 1]);
            let known = otlp::parse(whole)?
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

    /// Ends all of them as a service is ended, the callers first.
    pub fn end(self) -> Result<()> {
        for mut part in [self.client, self.front, self.back] {
            part.process.signal(Signal::SIGTERM)?;
            part.process.wait(LIMIT)?;
        }
        Ok(())
    }
}

/// All spans but those of the warm-up.
pub fn without_warm_up(spans: Vec<Span>) -> Vec<Span> {
    let of_warm_up = |span: &Span| target_of(span).trim_start_matches("/back").starts_with(WARM);
    spans.into_iter().filter(|span| !of_warm_up(span)).collect()
}

/// Whole span set and all parents, with several threads at work.
pub fn exact() -> Result<()> {
    let mut service = Service::start()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("spans.json");
    let output = format!("otlp-json={}", file.display());
    let agent = Agent::start(&service.selection(), &output, &[], Stdio::null())?;
    service.warm_up(&file)?;
    service.requests("threads", 4, 25)?;
    let said = agent.finish()?;
    let spans = without_warm_up(otlp::read(&file)?);
    let differences = compare(&service.expected, &spans);
    ensure!(
        differences.0.is_empty(),
        "{} exchanges, {} spans: {differences}; the agent said: {said}",
        service.expected.len(),
        spans.len()
    );
    service.end()
}

/// Answers every request with the same.
pub fn back() -> Result<()> {
    let listener = listen()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> Result<()> {
            while receive(&mut stream, 0)?.is_some() {
                answer(&mut stream)?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Calls the back for each request.
pub fn front(back: &str) -> Result<()> {
    let back: SocketAddr = back.parse()?;
    let listener = listen()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> Result<()> {
            let mut call = TcpStream::connect(back)?;
            while let Some(head) = receive(&mut stream, 0)? {
                let target = head.split(' ').nth(1).context("no target")?;
                request(&mut call, &format!("/back{target}"))?;
                answer(&mut stream)?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Sends what standard input says, `CASE THREADS REQUESTS` a line.
pub fn client(front: &str) -> Result<()> {
    let front: SocketAddr = front.parse()?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [case, threads, each] = words[..] else {
            bail!("no such command: {line}");
        };
        let (threads, each): (usize, usize) = (threads.parse()?, each.parse()?);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || -> Result<()> {
                        let mut stream = TcpStream::connect(front)?;
                        (0..each).try_for_each(|number| request(&mut stream, &format!("/{case}/{thread}/{number}")))
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })?;
        println!("done");
    }
    Ok(())
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

fn request(stream: &mut TcpStream, target: &str) -> Result<()> {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: guest\r\n\r\n").as_bytes())?;
    let head = receive(stream, BODY.len())?.context("the connection ended before the response")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "the response is {head:?}");
    Ok(())
}

fn answer(stream: &mut TcpStream) -> Result<()> {
    let length = BODY.len();
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{BODY}");
    stream.write_all(response.as_bytes())?;
    Ok(())
}

/// A head and so many bytes behind it; none at the connection's end.
fn receive(stream: &mut TcpStream, body: usize) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            ensure!(bytes.is_empty(), "the connection ended within a message");
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head
            && bytes.len() >= head + 4 + body
        {
            return Ok(Some(String::from_utf8_lossy(&bytes[..head]).into_owned()));
        }
    }
}
