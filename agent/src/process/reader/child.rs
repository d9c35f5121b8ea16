//! One reader, as the agent sees it: the process and the pipes.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::serve::{GREETING, NAME, tag};

/// Upper bound on bytes of an answer: more than any question asks for.
const MOST_ANSWER_BYTES: u32 = 8 << 20;
/// Longest wait for a reader's start.
const START_LIMIT: Duration = Duration::from_secs(5);

/// A running reader: a child of the agent.
#[derive(Debug)]
pub(super) struct Reader {
    /// The process.
    pub(super) child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

/// Reason why there is no answer.
#[derive(Clone, Copy)]
pub(super) enum Failure {
    /// The reader shows no sign of life.
    Silent,
    /// The reader has ended.
    Ended,
}

impl Reader {
    /// Starts this program as a reader.
    ///
    /// # Errors
    /// If the reader cannot be started, or is another program.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        // A group of its own: Ctrl-C is for the agent. An empty environment: the agent's may hold secrets.
        command.arg0(NAME).env_clear().process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut reader = Self {
            child,
            questions,
            answers,
        };
        let mut greeting = [0; GREETING.len()];
        match reader.read(&mut greeting, START_LIMIT) {
            Ok(()) if greeting == GREETING => Ok(reader),
            Ok(()) | Err(_) => {
                reader.end();
                Err(io::Error::other("it is another program, or does not start"))
            }
        }
    }

    /// Sends questions. The pipe is empty and has room for all of them.
    pub(super) fn send(&mut self, encoded: &[Vec<u8>]) -> Result<(), Failure> {
        let framed = encoded
            .iter()
            .flat_map(|question| [&(question.len() as u32).to_le_bytes(), question.as_slice()].concat());
        self.questions
            .write_all(&framed.collect::<Vec<u8>>())
            .map_err(|_| Failure::Ended)
    }

    /// Receives the answer to the next question.
    pub(super) fn receive(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let mut tag = [0];
            self.read(&mut tag, patience)?;
            match tag[0] {
                tag::ALIVE => {}
                tag::NOTHING => return Ok(None),
                tag::FOUND => {
                    let mut length = [0; 4];
                    self.read(&mut length, patience)?;
                    let length = u32::from_le_bytes(length);
                    if length > MOST_ANSWER_BYTES {
                        return Err(Failure::Ended);
                    }
                    let mut bytes = vec![0; length as usize];
                    self.read(&mut bytes, patience)?;
                    return Ok(Some(bytes));
                }
                _ => return Err(Failure::Ended),
            }
        }
    }

    /// Fills `bytes`; each piece of it may take as long as `patience`.
    fn read(&mut self, mut bytes: &mut [u8], patience: Duration) -> Result<(), Failure> {
        while !bytes.is_empty() {
            self.wait(patience)?;
            match self.answers.read(bytes) {
                Ok(0) => return Err(Failure::Ended),
                Ok(count) => bytes = std::mem::take(&mut bytes).get_mut(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Failure::Ended),
            }
        }
        Ok(())
    }

    fn wait(&self, patience: Duration) -> Result<(), Failure> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut answers = [PollFd::new(&self.answers, PollFlags::IN)];
            let timeout = Timespec::try_from(left).map_err(|_| Failure::Silent)?;
            match poll(&mut answers, Some(&timeout)) {
                Ok(0) => return Err(Failure::Silent),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Failure::Ended),
            }
        }
    }

    /// Ends a reader that is in no read.
    pub(super) fn end(mut self) {
        // The reader may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
