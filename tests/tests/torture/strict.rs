//! Strict programs: their understanding is the ground truth.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};
use spoor_tests::line_process::LineProcess;

use crate::Exchange;

/// Names of the parsers, and their commands.
pub const PARSERS: [(&str, &[&str]); 2] = [
    ("hyper", &[env!("CARGO_BIN_EXE_strict")]),
    (
        "llhttp",
        &["node", concat!(env!("CARGO_MANIFEST_DIR"), "/services/strict.js")],
    ),
];

const LIMIT: Duration = Duration::from_secs(20);

/// A running program.
pub struct Strict {
    pub name: &'static str,
    /// Port at which it serves.
    pub port: u16,
    process: LineProcess,
}

impl Strict {
    pub fn start((name, command): (&'static str, &[&str]), role: &str) -> Result<Self> {
        let [program, arguments @ ..] = command else {
            bail!("no program")
        };
        let mut command = Command::new(program);
        command.args(arguments).arg(role);
        Ok(Self {
            name,
            port: 0,
            process: LineProcess::start(name, command, LIMIT)?,
        })
    }

    /// Returns the next line of its output.
    pub fn line(&self) -> Result<String> {
        self.process.line()
    }

    pub fn tell(&mut self, line: &str) -> Result<()> {
        self.process.tell(line)
    }

    /// Returns all requests that the server has got, up to one that is sent now.
    pub fn handled(&mut self) -> Result<Vec<Exchange>> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        let last = format!("/{}/last", self.name);
        socket.write_all(format!("GET {last} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes())?;
        socket.read_to_end(&mut Vec::new())?;
        let mut handled: Vec<Exchange> = Vec::new();
        while handled.last().is_none_or(|(_, path, ..)| *path != last) {
            let line = self.line()?;
            let words: Vec<&str> = line.split(' ').collect();
            let &[method, target, bytes] = words.as_slice() else {
                bail!("{} says {line:?}", self.name);
            };
            let path = target
                .split_once("://")
                .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]))
                .unwrap_or(target);
            // hyper's handlers do not see a fragment, Node's do.
            let path = path.split('#').next().unwrap_or_default();
            handled.push((method.to_owned(), path.to_owned(), bytes.parse()?));
        }
        Ok(handled)
    }
}

/// Returns the agent's selection of these programs.
pub fn selection(programs: &[Strict]) -> Vec<String> {
    programs
        .iter()
        .map(|program| format!("--pid={}", program.process.id()))
        .collect()
}
