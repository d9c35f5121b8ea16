//! Output at a terminal: traces, and the status line below them.

use std::{
    fs,
    io::{BufRead, BufReader, PipeWriter, Read, Write, pipe},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use spoor_tests::{
    agent::{Agent, binary, hooks},
    net,
    process::Process,
    services::{Server, Service},
};

const ROWS: u16 = 40;
/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(30);

/// A program at a terminal of its own, which script(1) provides; this draws its screen.
struct Terminal {
    process: Process,
    keyboard: PipeWriter,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    raw: Vec<u8>,
}

impl Terminal {
    fn start(columns: u16, environment: &[(&str, &str)], command: &str) -> Result<Self> {
        let mut script = Command::new("script");
        // A terminal that goes away ends the agent, also where the test runs under nohup(1).
        let in_terminal = format!("stty rows {ROWS} cols {columns}; exec env --default-signal=HUP {command}");
        script.args(["--quiet", "--return", "--flush", "--command", &in_terminal, "/dev/null"]);
        script.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        script.envs(environment.iter().copied());
        let (input, keyboard) = pipe()?;
        let (mut reader, writer) = pipe()?;
        let process = Process::start_with("a terminal", script, input.into(), writer.into(), Stdio::inherit())?;
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                if send.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            process,
            keyboard,
            output,
            screen: vt100::Parser::new(ROWS, columns, 0),
            raw: Vec::new(),
        })
    }

    /// Returns the rows of the screen that are not empty.
    fn rows(&self) -> Vec<String> {
        let contents = self.screen.screen().contents();
        let rows = contents.lines().filter(|row| !row.trim().is_empty());
        rows.map(str::to_owned).collect()
    }

    /// Draws output until the screen is as expected.
    fn wait(&mut self, what: &str, is_there: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let until = Instant::now() + LIMIT;
        loop {
            let rows = self.rows();
            if is_there(&rows) {
                return Ok(rows);
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                bail!("{what} did not come; the screen holds:\n{}", rows.join("\n"));
            };
            self.screen.process(&bytes);
            self.raw.extend(bytes);
        }
    }

    /// Draws all output until the program has ended; returns its exit code and the screen.
    fn end(mut self) -> Result<(Option<i32>, Vec<String>, Vec<u8>)> {
        let status = self.process.wait(LIMIT)?;
        while let Ok(bytes) = self.output.recv_timeout(LIMIT) {
            self.screen.process(&bytes);
            self.raw.extend(bytes);
        }
        let rows = self.rows();
        Ok((status.code(), rows, self.raw))
    }
}

fn is_status(row: &str) -> bool {
    row.split_once(" process")
        .is_some_and(|(count, _)| count.parse::<u32>().is_ok())
}

/// Checks that the last row is the only status line, and all other rows are as printed.
fn check(rows: &[String], columns: u16) -> Result<()> {
    let (last, above) = rows.split_last().context("the screen is empty")?;
    let begins = last.split(' ').next().is_some_and(|count| count.parse::<u32>().is_ok());
    ensure!(
        is_status(last) && begins && !above.iter().any(|row| is_status(row)),
        "the status line is not alone at the foot:\n{}",
        rows.join("\n")
    );
    ensure!(
        last.chars().count() < usize::from(columns),
        "it reaches the last column: {last}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, the agent, nginx and script"]
fn traces_scroll_above_the_status_line() -> Result<()> {
    const REQUESTS: usize = 4;
    for (columns, no_color) in [(100, false), (24, true)] {
        let service = Service::start(Server::NginxStatic, "leaf", &[])?;
        let spoor = binary()?;
        let command = format!(
            "{} run {} {} --metrics-listen off --control off",
            spoor.display(),
            hooks().unwrap_or_default(),
            service.selection()?.join(" ")
        );
        let environment = [("NO_COLOR", "1")];
        let environment = if no_color { &environment[..] } else { &[] };
        let mut terminal = Terminal::start(columns, environment, &command)?;
        terminal.wait("the status line", |rows| rows.last().is_some_and(|row| is_status(row)))?;
        let traces = |rows: &[String]| rows.iter().filter(|row| row.starts_with("── trace ")).count();
        for request in 1..=REQUESTS {
            ensure!(net::get(service.address, "/leaf", &[])? == 200);
            let rows = terminal.wait("the trace", |rows| {
                traces(rows) == request && rows.last().is_some_and(|row| is_status(row))
            })?;
            check(&rows, columns)?;
        }
        terminal.keyboard.write_all(b"\x03")?;
        let (code, rows, raw) = terminal.end()?;
        ensure!(
            code == Some(0) && traces(&rows) == REQUESTS && !rows.iter().any(|row| is_status(row)),
            "it ended with {code:?} and left:\n{}",
            rows.join("\n")
        );
        // SGR sets colours; other sequences move the cursor.
        let text = String::from_utf8_lossy(&raw);
        let sequences = text.split('\x1b').skip(1);
        let coloured = sequences
            .filter(|sequence| {
                sequence
                    .find(char::is_alphabetic)
                    .is_some_and(|at| sequence[at..].starts_with('m'))
            })
            .count();
        ensure!(
            (coloured == 0) == no_color,
            "{coloured} sequences with colours, NO_COLOR {no_color}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and the agent"]
fn nothing_is_drawn_where_there_is_no_terminal() -> Result<()> {
    let service = Service::start(Server::NginxStatic, "leaf", &[])?;
    let mut command = Command::new(binary()?);
    command.arg("run").args(hooks()).args(service.selection()?);
    command.args(["--metrics-listen", "off", "--control", "off"]);
    let (mut reader, writer) = pipe()?;
    let mut agent = Process::start_with(
        "the agent",
        command,
        Stdio::null(),
        writer.try_clone()?.into(),
        writer.into(),
    )?;
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"\n") || !String::from_utf8_lossy(&said).contains("ready") {
        ensure!(
            reader.read(&mut byte)? == 1,
            "the agent has ended: {}",
            said.escape_ascii()
        );
        said.extend(byte);
    }
    // The thread that would draw the line and wake up for it.
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id()))?;
    let names = tasks.map(|task| Ok(fs::read_to_string(task?.path().join("comm"))?));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    ensure!(names.iter().any(|name| name.starts_with("spoor")), "{names:?}");
    ensure!(!names.iter().any(|name| name.starts_with("spoor-status")), "{names:?}");
    agent.signal(nix::sys::signal::Signal::SIGINT)?;
    agent.wait(LIMIT)?;
    drop(agent);
    reader.read_to_end(&mut said)?;
    ensure!(!said.contains(&b'\x1b'), "it drew: {}", said.escape_ascii());
    Ok(())
}

/// Runs as `spoor run | head` does.
#[test]
#[ignore = "needs root, the agent and nginx"]
fn it_ends_quietly_when_nobody_reads_the_traces() -> Result<()> {
    ends_quietly("console", "── trace ")?;
    ends_quietly("otlp-json", r#"{"resourceSpans":["#)
}

/// Ends the reader of the agent's output after the first line, which begins with `first`.
fn ends_quietly(output: &str, first: &str) -> Result<()> {
    let service = Service::start(Server::NginxStatic, "leaf", &[])?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("spoor/control.sock");
    let mut command = Command::new(binary()?);
    command.arg("run").args(hooks()).args(service.selection()?);
    command.args(["--output", output, "--metrics-listen", "off"]);
    command.arg("--control").arg(&socket);
    let (reader, writer) = pipe()?;
    let mut agent = Agent::attach(command, writer.into(), None)?;
    ensure!(socket.exists(), "there is no control socket");
    ensure!(net::get(service.address, "/leaf", &[])? == 200);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line)?;
    ensure!(line.starts_with(first), "it printed {line:?}");
    // The reader is gone. The next trace tells it.
    agent.check_running()?;
    let before = agent.said();
    ensure!(net::get(service.address, "/leaf", &[])? == 200);
    let (status, said) = agent.wait(LIMIT)?;
    ensure!(
        status.code() == Some(128 + 13) && said == before,
        "it ended with {status} and said:\n{said}"
    );
    ensure!(!folder.path().join("spoor").exists(), "it left its control socket");
    Ok(())
}
