//! Processes that a benchmark starts from its own binary. They read commands from their standard input, answer on their
//! standard output, and end with their input.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result};
use spoor_tests::process::Process;

/// A process in a role.
pub struct Role {
    process: Process,
    name: String,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Role {
    /// Starts the process.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        let mut process = Process::start_with(name, command, Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        let pipes = process.take_stdin().zip(process.take_stdout());
        let (input, output) = pipes.with_context(|| format!("{name} has no pipes"))?;
        Ok(Self {
            process,
            name: name.to_owned(),
            input,
            output: BufReader::new(output),
        })
    }

    /// Sends a line, and waits for the line that answers it.
    pub fn ask(&mut self, question: &str) -> Result<String> {
        writeln!(self.input, "{question}").with_context(|| format!("cannot ask {}", self.name))?;
        self.line()
    }

    /// Waits for the next line.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            self.process.check_running()?;
            anyhow::bail!("{} closed its output", self.name);
        }
        Ok(line)
    }
}
