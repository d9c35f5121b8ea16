//! Terminal that traces and logs share with a line at its foot. Each write erases the line before, and draws it again
//! after.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing_subscriber::fmt::MakeWriter;
use unicode_width::UnicodeWidthChar;

/// One of the process's own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Reaction to a stream whose reader is gone (EPIPE). The spans for it are counted as lost in any case.
pub enum Unread {
    /// Logs that spans are lost. The session goes on.
    Log,
    /// Calls this for each write that nobody reads, and logs nothing: the session ends.
    End(Box<dyn Fn() + Send>),
}

/// Moves to the first column and erases the row (ECMA-48: EL 2).
const ERASE: &str = "\r\x1b[2K";

/// Terminal of the process. A static, as the process's streams are.
pub static SCREEN: Screen = Screen {
    has_line: AtomicBool::new(false),
    line: Mutex::new(None),
};

/// Terminal with a line at its foot.
#[derive(Debug)]
pub struct Screen {
    /// A line may be drawn. Otherwise a write takes no lock.
    has_line: AtomicBool,
    line: Mutex<Option<Line>>,
}

/// Line at the foot of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The stream that leads to the terminal.
    pub stream: Stream,
    /// Text, without control characters.
    pub text: String,
    /// Draw the line faint: colours are wanted.
    pub faint: bool,
}

impl Screen {
    /// Allows lines to be drawn. To be called before other threads write.
    pub fn reserve(&self) {
        self.has_line.store(true, Ordering::Relaxed);
    }

    /// Writes to the terminal, without the line meanwhile. Only for writes to the terminal: other writers wait.
    pub fn around<T>(&self, write: impl FnOnce() -> T) -> T {
        if !self.has_line.load(Ordering::Relaxed) {
            return write();
        }
        let line = self.lock();
        if let Some(line) = &*line {
            line.emit(ERASE);
        }
        let written = write();
        if let Some(line) = &*line {
            line.emit(&line.drawn());
        }
        written
    }

    /// Replaces the line; `None` erases it.
    pub fn draw(&self, next: Option<Line>) {
        let mut line = self.lock();
        if *line == next {
            return;
        }
        match (&*line, &next) {
            (_, Some(next)) => next.emit(&next.drawn()),
            (Some(before), None) => before.emit(ERASE),
            (None, None) => {}
        }
        *line = next;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn drawn(&self) -> String {
        if self.faint {
            format!("{ERASE}\x1b[2m{}\x1b[0m", self.text)
        } else {
            format!("{ERASE}{}", self.text)
        }
    }

    /// Writes to the terminal. One that cannot be written to is no reason to stop.
    fn emit(&self, text: &str) {
        let _ = match self.stream {
            Stream::Stdout => emit(io::stdout(), text),
            Stream::Stderr => emit(io::stderr(), text),
        };
    }
}

fn emit(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// Cuts a text to what fits without a wrap: after the last column, some terminals go to the next row.
pub fn fitted(text: &str, columns: usize) -> &str {
    let mut width = 0;
    for (at, c) in text.char_indices() {
        width += c.width().unwrap_or(0);
        if width >= columns {
            return &text[..at];
        }
    }
    text
}

/// Writes a line to standard error, whatever the log level is. An error of that is no reason to stop.
pub fn say(what: impl fmt::Display) {
    let _ = writeln!(Log::to_stderr(), "spoor: {what}");
}

/// Writer of logs: to standard error, around the line at the foot if that is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    is_terminal: bool,
}

impl Log {
    /// Uses standard error as it is now.
    pub fn to_stderr() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
        }
    }
}

impl Write for Log {
    /// Writes a log line, which comes as a whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_terminal {
            SCREEN.around(|| io::stderr().write(bytes))
        } else {
            io::stderr().write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_never_wrap() {
        assert_eq!(fitted("3 workloads", 12), "3 workloads");
        assert_eq!(fitted("3 workloads", 11), "3 workload");
        assert_eq!(fitted("日本語", 6), "日本");
        assert_eq!(fitted("日本語", 4), "日");
        assert_eq!((fitted("x", 1), fitted("x", 0), fitted("", 0)), ("", "", ""));
    }

    #[test]
    fn writes_go_on_without_a_line() {
        let screen = Screen {
            has_line: AtomicBool::new(true),
            line: Mutex::new(None),
        };
        assert_eq!(screen.around(|| 7), 7);
        screen.draw(None);
        assert_eq!(*screen.lock(), None);
    }
}
