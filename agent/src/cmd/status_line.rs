//! Status line at the foot of a terminal: the processes traced and the losses, once a second.

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::fs::FileType;

use crate::{
    config::Output,
    metrics::{ExportMetrics, Metrics},
    screen::{Line, SCREEN, Stream, fitted},
    session::{Published, Snapshot},
};

/// Period of drawing.
const PERIOD: Duration = Duration::from_secs(1);

/// Room for the `^C` that a terminal shows behind the line: in the next row it would push the line up for good.
const ECHO_COLUMNS: usize = 2;

/// Returns the stream for a status line: stderr, or else stdout, if that is a terminal that can erase.
///
/// Not beside a launched command, whose output would mix with it, nor where spans go to the terminal as JSON, nor
/// before a pipe: its reader may be a pager, which has the terminal.
pub fn place(launched: bool, output: &Output) -> Option<Stream> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let stdout = io::stdout().is_terminal();
    let is_pipe = rustix::fs::fstat(io::stdout()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_fifo());
    if launched || is_dumb || is_pipe || *output == Output::OtlpJson(None) && stdout {
        return None;
    }
    if io::stderr().is_terminal() {
        return Some(Stream::Stderr);
    }
    stdout.then_some(Stream::Stdout)
}

/// Status line, drawn by a thread of its own until it is dropped.
pub struct StatusLine {
    /// Dropping it ends the thread.
    ended: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StatusLine {
    /// Draws the line until it is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(stream: Stream, published: Arc<Published>, metrics: Arc<Metrics>) -> io::Result<Self> {
        // https://no-color.org
        let faint = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (ended, end) = mpsc::channel();
        let thread = thread::Builder::new().name("spoor-status".to_owned()).spawn(move || {
            let mut rate = Rate::default();
            loop {
                let snapshot = published.snapshot();
                let text = text(
                    &snapshot,
                    &metrics.export,
                    rate.per_second(spans(&snapshot), Instant::now()),
                );
                SCREEN.draw(columns(stream).map(|columns| Line {
                    stream,
                    text: fitted(&text, columns.saturating_sub(ECHO_COLUMNS)).to_owned(),
                    faint,
                }));
                if end.recv_timeout(PERIOD) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            SCREEN.draw(None);
        })?;
        Ok(Self {
            ended: Some(ended),
            thread: Some(thread),
        })
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.ended = None;
        if let Some(thread) = self.thread.take() {
            // The thread only draws: nothing in it panics.
            let _ = thread.join();
        }
    }
}

/// Returns the terminal's width; `None` while another job of the shell has the terminal.
fn columns(stream: Stream) -> Option<usize> {
    fn of(stream: impl AsFd) -> Option<usize> {
        let own = rustix::process::getpgrp();
        // A terminal that is not the session's own has no jobs.
        if rustix::termios::tcgetpgrp(&stream).is_ok_and(|foreground| foreground != own) {
            return None;
        }
        terminal_size::terminal_size_of(&stream).map(|(columns, _)| columns.0.into())
    }
    match stream {
        Stream::Stdout => of(io::stdout()),
        Stream::Stderr => of(io::stderr()),
    }
}

/// Growth of a count.
#[derive(Debug, Default)]
struct Rate(Option<(u64, Instant)>);

impl Rate {
    fn per_second(&mut self, count: u64, now: Instant) -> u64 {
        let before = self.0.replace((count, now));
        before.map_or(0, |(counted, at)| {
            let seconds = now.duration_since(at).as_secs_f64();
            if seconds > 0.0 {
                (count.saturating_sub(counted) as f64 / seconds).round() as u64
            } else {
                0
            }
        })
    }
}

fn spans(snapshot: &Snapshot) -> u64 {
    counted(&snapshot.core, &["spans"])
}

fn counted(counters: &[(&'static str, u64)], names: &[&str]) -> u64 {
    let of_names = counters.iter().filter(|(name, _)| names.contains(name));
    of_names.map(|(_, count)| count).sum()
}

fn text(snapshot: &Snapshot, export: &ExportMetrics, spans_per_second: u64) -> String {
    let lost = [
        (counted(&snapshot.kernel, &["ring_full"]), "records"),
        (counted(&snapshot.core, &["missed"]), "exchanges"),
        (export.lost(), "spans"),
    ];
    let lost: Vec<String> = lost
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let lost = if lost.is_empty() {
        "nothing lost".to_owned()
    } else {
        format!("lost {}", lost.join(", "))
    };
    let processes = match snapshot.targets {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    format!("{processes} · {spans_per_second} spans/s · {lost}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_much_and_what_is_lost() {
        let metrics = Metrics::default();
        let mut snapshot = Snapshot {
            targets: 3,
            ..Snapshot::default()
        };
        assert_eq!(
            text(&snapshot, &metrics.export, 12),
            "3 processes · 12 spans/s · nothing lost"
        );
        snapshot.targets = 1;
        snapshot.kernel = vec![("ring_full", 5)];
        snapshot.kernel_events = vec![("reader_wakeups", 9)];
        snapshot.core = vec![("missed", 2), ("spans", 7)];
        metrics.export.dropped.queue_spans.inc_by(3);
        metrics.export.failed.write.inc();
        assert_eq!(
            text(&snapshot, &metrics.export, 0),
            "1 process · 0 spans/s · lost 5 records, 2 exchanges, 4 spans"
        );
        assert_eq!(spans(&snapshot), 7);
    }

    #[test]
    fn a_rate_is_what_came_since_the_last_look() {
        let begun = Instant::now();
        let mut rate = Rate::default();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        assert_eq!(rate.per_second(1000, at(0)), 0, "nothing is known yet");
        assert_eq!(rate.per_second(1030, at(2000)), 15);
        assert_eq!(rate.per_second(1030, at(3000)), 0);
        assert_eq!(rate.per_second(1031, at(3500)), 2);
        assert_eq!(rate.per_second(1031, at(3500)), 0, "no time has passed");
        assert_eq!(rate.per_second(0, at(4500)), 0);
    }
}
