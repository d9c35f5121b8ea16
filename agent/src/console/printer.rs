//! The console on a thread, with a clock and a stream.

use std::{
    io::{self, IsTerminal, Write},
    mem,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Console, QUIET, Style, nanos};
use crate::{
    engine::trace::Span,
    export::{
        ExportThread, blocked,
        config::Stream,
        losses::{Loss, Losses},
        queue::Unsent,
    },
    metrics::Metrics,
    screen::SCREEN,
};

/// Columns of what is not a terminal.
const PLAIN_COLUMNS: usize = 120;
/// Traces that are due within so long are printed together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(50);

/// Prints traces, on a thread of its own that sleeps while there are none.
#[derive(Debug)]
pub struct Printer {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    thread: ExportThread,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    begun: Instant,
    losses: Losses,
}

#[derive(Debug, Default)]
struct State {
    console: Console,
    /// Spans whose trace is being printed.
    in_flight: usize,
    closed: bool,
    /// All spans are counted, whatever becomes of those in flight.
    is_given_up: bool,
    /// Until when the thread sleeps; `None` if it is awake.
    sleeps_until_ns: Option<u64>,
}

impl Shared {
    fn now_ns(&self) -> u64 {
        nanos(self.begun.elapsed())
    }

    /// Ends the flight of so many spans, which the caller then counts. False if [`Shared::give_up`] has counted them.
    fn land(&self, spans: usize) -> bool {
        let mut state = self.lock();
        if !state.is_given_up {
            state.in_flight -= spans;
        }
        !state.is_given_up
    }

    /// Forgets all spans that were not printed in the time that the end may take.
    fn give_up(&self) -> Unsent {
        let mut state = self.lock();
        state.is_given_up = true;
        Unsent {
            waiting: mem::take(&mut state.console).spans,
            in_flight: mem::take(&mut state.in_flight),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(stream: Stream, metrics: Arc<Metrics>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            begun: Instant::now(),
            losses: Losses::new("the console".to_owned()),
        });
        let (of_thread, counts) = (shared.clone(), metrics.clone());
        let thread = ExportThread::spawn(move || match stream {
            Stream::Stdout => run(&of_thread, io::stdout(), &counts),
            Stream::Stderr => run(&of_thread, io::stderr(), &counts),
        })?;
        Ok(Self {
            shared,
            metrics,
            thread,
        })
    }

    /// Adds spans.
    pub fn push(&self, spans: &[Span]) {
        let now_ns = self.shared.now_ns();
        let mut state = self.shared.lock();
        let unseen = spans.iter().filter(|span| !state.console.add(span, now_ns)).count();
        // No trace is due earlier than when it has been quiet for a while.
        if state
            .sleeps_until_ns
            .is_some_and(|until_ns| until_ns > now_ns.saturating_add(nanos(QUIET)))
        {
            state.sleeps_until_ns = None;
            self.shared.changed.notify_one();
        }
        drop(state);
        let losses = &self.shared.losses;
        if unseen > 0 {
            let unseen = unseen as u64;
            self.metrics.export.dropped.console_full.inc_by(unseen);
            losses.lost(Loss::Console, unseen, || {
                "spans are dropped: more come at once than the console keeps; select fewer processes, or use a collector"
                    .to_owned()
            });
        }
        losses.poll();
    }

    /// Which part of the room for spans is taken.
    pub fn fill(&self) -> f64 {
        self.shared.lock().console.fill()
    }

    /// Prints all that is there, and ends, for which it has so long.
    pub fn shutdown(self, within: Duration) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if !self.thread.join(within) {
            let unsent = self.shared.give_up();
            self.metrics.export.dropped.shutdown.inc_by(unsent.spans() as u64);
            tracing::warn!("{}", blocked(self.shared.losses.destination(), within, unsent));
        }
        self.shared.losses.finish();
    }
}

fn run(shared: &Shared, mut stream: impl Write + IsTerminal + AsFd, metrics: &Metrics) {
    // https://no-color.org
    let is_terminal = stream.is_terminal();
    let colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut broken = false;
    let mut state = shared.lock();
    loop {
        let closed = state.closed;
        let now_ns = shared.now_ns();
        let style = Style {
            colour,
            columns: terminal_size::terminal_size_of(&stream).map_or(PLAIN_COLUMNS, |(width, _)| width.0.into()),
        };
        let texts = if closed {
            state.console.finish(style)
        } else {
            state.console.due(now_ns, style)
        };
        state.in_flight = texts.iter().map(|(_, spans)| spans).sum();
        drop(state);
        for (text, spans) in texts {
            let mut write = || stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
            // A pipe that nobody reads any more does not end the agent: it may be a traced command's parent.
            let lost = |reason: &str| {
                metrics.export.failed.write.inc_by(spans as u64);
                let line = || format!("traces cannot be printed, their spans are lost: {reason}");
                shared.losses.lost(Loss::NotWritten, spans as u64, line);
            };
            let written = match broken {
                true => None,
                false if is_terminal => Some(SCREEN.around(write)),
                false => Some(write()),
            };
            if !shared.land(spans) {
                return;
            }
            match written {
                None => lost("nobody reads them any more"),
                Some(Err(error)) => {
                    broken = error.kind() == io::ErrorKind::BrokenPipe;
                    lost(&error.to_string());
                }
                Some(Ok(())) => {
                    metrics.export.exported.inc_by(spans as u64);
                }
            }
        }
        if closed {
            return;
        }
        state = shared.lock();
        if state.closed {
            continue;
        }
        let due_ns = state.console.next_due();
        state.sleeps_until_ns = Some(due_ns.unwrap_or(u64::MAX));
        state = match due_ns {
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(due_ns) => {
                let wait = Duration::from_nanos(due_ns.saturating_sub(shared.now_ns())).max(SHORTEST_SLEEP);
                let (state, _) = shared
                    .changed
                    .wait_timeout(state, wait)
                    .unwrap_or_else(PoisonError::into_inner);
                state
            }
        };
        state.sleeps_until_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, pipe},
        os::fd::OwnedFd,
    };

    use super::*;
    use crate::export::tests::span;

    fn start(stream: OwnedFd) -> (Printer, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            begun: Instant::now(),
            losses: Losses::new("the console".to_owned()),
        });
        let (of_thread, counts) = (shared.clone(), metrics.clone());
        let thread = ExportThread::spawn(move || run(&of_thread, File::from(stream), &counts)).unwrap();
        let printer = Printer {
            shared,
            metrics: metrics.clone(),
            thread,
        };
        (printer, metrics)
    }

    #[test]
    fn prints_after_a_second_and_the_rest_at_the_end() {
        let (mut reader, writer) = pipe().unwrap();
        let (printer, metrics) = start(writer.into());
        let begun = Instant::now();
        let mut orphan = span(1);
        orphan.trace_id = crate::engine::trace::TraceId::new([1; 16]).unwrap();
        orphan.parent = Some((orphan.span_id, crate::engine::trace::ParentMethod::Thread));
        printer.push(&[orphan]);
        std::thread::sleep(Duration::from_millis(20));
        printer.push(&[span(2)]);
        let mut first = [0; 8];
        reader.read_exact(&mut first).unwrap();
        let took = begun.elapsed();
        assert!(took >= QUIET && took < 3 * QUIET, "{took:?}");
        printer.shutdown(Duration::from_secs(5));
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.matches("incomplete").count(), 1, "{rest}");
        assert_eq!(metrics.export.exported.get(), 2);
    }

    #[test]
    fn survives_a_reader_that_went_away() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (printer, metrics) = start(writer.into());
        printer.push(&[span(1), span(2)]);
        printer.shutdown(Duration::from_secs(5));
        assert_eq!(
            (metrics.export.exported.get(), metrics.export.failed.write.get()),
            (0, 2)
        );
    }

    #[test]
    fn does_not_wait_for_a_reader_that_does_not_read() {
        let (reader, writer) = pipe().unwrap();
        let (printer, metrics) = start(writer.into());
        let spans: Vec<Span> = (1..5000).map(span).collect();
        printer.push(&spans);
        // The thread begins to print them, and more come.
        while printer.shared.lock().in_flight == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        printer.push(&spans[..7]);
        let begun = Instant::now();
        let shared = printer.shared.clone();
        printer.shutdown(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(2));
        // All are counted, also if the write goes on.
        let counts = || (metrics.export.exported.get(), metrics.export.dropped.shutdown.get());
        assert_eq!((counts(), metrics.export.lost()), ((0, 5006), 5006));
        drop(reader);
        while Arc::strong_count(&shared) > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!((counts(), metrics.export.lost()), ((0, 5006), 5006));
    }
}
