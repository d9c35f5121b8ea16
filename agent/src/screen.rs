//! The terminal that traces and logs share with one line that is drawn again and again at its foot. Whatever is written
//! there takes the line away before, and puts it back behind.

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

/// To the first column; then the row is erased (ECMA-48: EL 2).
const ERASE: &str = "\r\x1b[2K";

/// The process's own terminal. A static, as its streams are.
pub static SCREEN: Screen = Screen {
    has_line: AtomicBool::new(false),
    line: Mutex::new(None),
};

/// A terminal, whose last line may be taken.
#[derive(Debug)]
pub struct Screen {
    /// Somebody may draw a line. While nobody does, a write costs nothing, and waits for nobody.
    has_line: AtomicBool,
    line: Mutex<Option<Line>>,
}

/// What is at the foot of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The stream that leads to the terminal.
    pub stream: Stream,
    /// What it says, without control characters.
    pub text: String,
    /// Faint, where colours are wanted.
    pub faint: bool,
}

impl Screen {
    /// Says that lines may be drawn from now on. To be called before others write.
    pub fn reserve(&self) {
        self.has_line.store(true, Ordering::Relaxed);
    }

    /// Writes to the terminal, with the line taken away meanwhile. Only for what is written to a terminal: others wait.
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

    /// Draws this line in the place of the one before, or none.
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

    /// A terminal that cannot be written to is no reason to stop.
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

/// As much of a text as fits without a wrap: in the last column, some terminals go to the next row.
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

/// Says something on standard error, whatever is logged. That nobody can read it is no reason to stop.
pub fn say(what: impl fmt::Display) {
    let _ = writeln!(Log::to_stderr(), "spoor: {what}");
}

/// Where logs go: standard error, around the line if that is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    is_terminal: bool,
}

impl Log {
    /// For standard error as it is now.
    pub fn to_stderr() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
        }
    }
}

impl Write for Log {
    /// A log line comes as a whole.
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
