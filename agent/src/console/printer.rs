//! The printer: a thread that assembles traces and writes them to a stream.

use std::{
    io::{self, IsTerminal, Write},
    mem,
    ops::ControlFlow,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Style, render};
use crate::{
    engine::trace::Span,
    export::{
        losses::{Loss, Losses},
        thread::{ExportThread, Unsent},
    },
    metrics::Metrics,
    screen::{SCREEN, Stream, Unread},
    traces::{Assembler, QUIET, Trace},
};

/// Columns of a stream that is no terminal.
const PLAIN_COLUMNS: usize = 120;
/// Time from when a trace is due to its print. Traces that become due meanwhile are printed with it, ordered by start. Longer
/// than the reader's longest pause, 30 ms: exchanges that end at one time can be in two of its batches.
const GATHER: Duration = Duration::from_millis(100);

/// Prints traces, on a thread of its own that sleeps while no trace is due.
#[derive(Debug)]
pub struct Printer {
    shared: Arc<Shared>,
    thread: ExportThread,
}

/// State that [`Printer`] and its thread share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    losses: Losses,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    assembler: Assembler,
    /// Spans that found no room since the last output.
    unseen: u64,
    /// Spans whose trace is being printed.
    in_flight: usize,
    /// No more spans come: print all that is there, and end.
    is_closed: bool,
    /// Set by [`Shared::give_up`]: all spans are counted, so a write that ends later counts none.
    is_given_up: bool,
    sleep: Sleep,
}

/// Sleep of the thread.
#[derive(Debug, Default)]
enum Sleep {
    #[default]
    Awake,
    /// Until then, unless it is woken.
    Until(Instant),
    /// Until it is woken.
    UntilWoken,
}

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(stream: Stream, unread: Unread, metrics: Arc<Metrics>) -> io::Result<Self> {
        match stream {
            Stream::Stdout => Self::spawn(io::stdout(), unread, metrics),
            Stream::Stderr => Self::spawn(io::stderr(), unread, metrics),
        }
    }

    fn spawn(
        stream: impl Write + IsTerminal + AsFd + Send + 'static,
        unread: Unread,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            losses: Losses::new("the console".to_owned()),
            metrics,
        });
        let of_thread = Arc::clone(&shared);
        let thread = ExportThread::spawn("spoor-console", move || run(&of_thread, Writer::new(stream, unread)))?;
        Ok(Self { shared, thread })
    }

    /// Adds spans. Never waits for a write.
    pub fn push(&self, spans: Vec<Span>) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let mut unseen = 0;
        for span in spans {
            if state.assembler.add(span, now).is_err() {
                unseen += 1;
            }
        }
        state.unseen += unseen;
        // The new spans make no trace due before it has been quiet for a while.
        let wakes = match state.sleep {
            Sleep::Awake => false,
            Sleep::Until(until) => until > now + QUIET,
            Sleep::UntilWoken => true,
        };
        if wakes {
            state.sleep = Sleep::Awake;
            self.shared.changed.notify_one();
        }
        drop(state);
        self.shared.tell_unseen(unseen);
    }

    /// Returns which part of the room for spans is taken, from 0 to 1.
    pub fn fill(&self) -> f64 {
        self.shared.lock().assembler.fill()
    }

    /// Prints all that is there, for at most `within`, and ends. Spans that are left then are counted as dropped.
    pub fn shutdown(self, within: Duration) {
        let Self { shared, thread } = self;
        shared.lock().is_closed = true;
        shared.changed.notify_one();
        if !thread.join(within) {
            let unsent = shared.give_up();
            shared.metrics.export.dropped.shutdown.inc_by(unsent.spans() as u64);
            tracing::warn!("{}", unsent.warning(shared.losses.destination(), within));
        }
        shared.losses.finish();
    }
}

impl Shared {
    /// Ends the flight of some spans, which the caller then counts. Returns false if [`Shared::give_up`] has counted
    /// them.
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
            waiting: mem::take(&mut state.assembler).spans(),
            in_flight: mem::take(&mut state.in_flight),
        }
    }

    fn tell_unseen(&self, unseen: u64) {
        if unseen > 0 {
            self.metrics.export.dropped.console_full.inc_by(unseen);
            self.losses.lost(Loss::Console, unseen, || {
                "spans are dropped: more come at once than the console can keep; select fewer processes, or use a collector"
                    .to_owned()
            });
        }
        // Also where the thread hangs in a write.
        self.losses.poll();
    }

    /// Waits until a trace is due, spans come or the end is near. Returns the text to print then.
    fn next(&self) -> Output {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let is_time = state.assembler.next_due().is_some_and(|due| due + GATHER <= now);
            let traces = if state.is_closed {
                state.assembler.take_all()
            } else if is_time {
                state.assembler.take_due(now)
            } else {
                Vec::new()
            };
            // Spans that found no room are reported with the next trace, or now if no trace comes.
            let only_unseen = state.unseen > 0 && state.assembler.spans() == 0;
            if state.is_closed || only_unseen || !traces.is_empty() {
                state.in_flight = traces.iter().map(|trace| trace.nodes.len()).sum();
                return Output {
                    traces,
                    unseen: mem::take(&mut state.unseen),
                    is_last: state.is_closed,
                };
            }
            state = self.sleep(state, now);
        }
    }

    fn sleep<'a>(&'a self, mut awake: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let mut woken = match awake.assembler.next_due() {
            None => {
                awake.sleep = Sleep::UntilWoken;
                self.changed.wait(awake).unwrap_or_else(PoisonError::into_inner)
            }
            Some(due) => {
                awake.sleep = Sleep::Until(due);
                let wait = due.saturating_duration_since(now) + GATHER;
                let woken = self.changed.wait_timeout(awake, wait);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        woken.sleep = Sleep::Awake;
        woken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Traces that are to be printed now.
struct Output {
    traces: Vec<Trace>,
    unseen: u64,
    is_last: bool,
}

fn run<S: Write + AsFd>(shared: &Shared, mut writer: Writer<S>) {
    loop {
        let output = shared.next();
        if writer.write(shared, &output).is_break() || output.is_last {
            return;
        }
    }
}

/// Writes traces to a stream.
struct Writer<S> {
    stream: S,
    is_terminal: bool,
    has_colour: bool,
    /// The stream's reader is gone.
    is_broken: bool,
    unread: Unread,
}

impl<S: Write + AsFd> Writer<S> {
    fn new(stream: S, unread: Unread) -> Self
    where
        S: IsTerminal,
    {
        let is_terminal = stream.is_terminal();
        // https://no-color.org
        let has_colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            stream,
            is_terminal,
            has_colour,
            is_broken: false,
            unread,
        }
    }

    /// Writes the traces, and counts their spans. Breaks if the spans in flight have been counted already.
    fn write(&mut self, shared: &Shared, output: &Output) -> ControlFlow<()> {
        let style = self.style();
        for trace in &output.traces {
            self.print(shared, &render(trace, style), trace.nodes.len())?;
        }
        match output.unseen {
            0 => ControlFlow::Continue(()),
            unseen => self.print(shared, &format!("… {unseen} spans more than can be shown\n\n"), 0),
        }
    }

    fn print(&mut self, shared: &Shared, text: &str, spans: usize) -> ControlFlow<()> {
        let written = self.emit(text);
        if !shared.land(spans) {
            return ControlFlow::Break(());
        }
        let spans = spans as u64;
        match written {
            Ok(()) => {
                shared.metrics.export.exported.inc_by(spans);
            }
            Err(reason) => {
                shared.metrics.export.failed.write.inc_by(spans);
                match &self.unread {
                    Unread::End(end) if self.is_broken => end(),
                    _ => {
                        let line = || format!("traces cannot be printed, their spans are lost: {reason}");
                        shared.losses.lost(Loss::NotWritten, spans, line);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Writes a text, or returns why it cannot be written.
    ///
    /// A pipe without a reader ends nothing here: the agent may be the parent of a traced command.
    fn emit(&mut self, text: &str) -> Result<(), String> {
        if self.is_broken {
            return Err("nobody reads them any more".to_owned());
        }
        let stream = &mut self.stream;
        let mut write = || stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
        let written = if self.is_terminal {
            SCREEN.around(write)
        } else {
            write()
        };
        written.map_err(|error| {
            self.is_broken = error.kind() == io::ErrorKind::BrokenPipe;
            error.to_string()
        })
    }

    /// Returns the style for the stream as it is now: a terminal's width may change.
    fn style(&self) -> Style {
        Style {
            colour: self.has_colour,
            columns: terminal_size::terminal_size_of(&self.stream).map_or(PLAIN_COLUMNS, |(width, _)| width.0.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{BufRead, BufReader, Read, pipe},
        os::fd::OwnedFd,
        sync::mpsc::channel,
    };

    use super::*;
    use crate::export::tests::span;

    fn start(stream: OwnedFd) -> (Printer, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let printer = Printer::spawn(File::from(stream), Unread::Log, metrics.clone()).unwrap();
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
        printer.push(vec![orphan]);
        std::thread::sleep(Duration::from_millis(20));
        printer.push(vec![span(2)]);
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
    fn traces_that_come_soon_after_each_other_are_printed_by_start() {
        let (reader, writer) = pipe().unwrap();
        let (printer, _) = start(writer.into());
        let [late, mut early] = [1, 2].map(span);
        early.trace_id = crate::engine::trace::TraceId::new([2; 16]).unwrap();
        early.start_unix_ns -= 1;
        let ids = [&early, &late].map(|span| span.trace_id.to_string());
        let mut state = printer.shared.lock();
        let now = Instant::now();
        state.assembler.add(late, now).unwrap();
        // As in the reader's next batch.
        state.assembler.add(early, now + GATHER / 2).unwrap();
        printer.shared.changed.notify_one();
        drop(state);
        let heads = BufReader::new(reader).lines().map(Result::unwrap);
        let heads = heads.filter_map(|line| Some(line.strip_prefix("── trace ")?.split_once(' ')?.0.to_owned()));
        assert!(heads.take(2).eq(ids));
        printer.shutdown(Duration::from_secs(5));
    }

    #[test]
    fn survives_a_reader_that_went_away() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (printer, metrics) = start(writer.into());
        printer.push(vec![span(1), span(2)]);
        printer.shutdown(Duration::from_secs(5));
        assert_eq!(
            (metrics.export.exported.get(), metrics.export.failed.write.get()),
            (0, 2)
        );
    }

    #[test]
    fn ends_the_session_when_its_reader_has_gone() {
        let (mut reader, writer) = pipe().unwrap();
        let metrics = Arc::new(Metrics::default());
        let (sender, ends) = channel();
        let end = Unread::End(Box::new(move || sender.send(()).unwrap()));
        let printer = Printer::spawn(File::from(OwnedFd::from(writer)), end, metrics.clone()).unwrap();
        printer.push(vec![span(1)]);
        let mut first = [0; 8];
        reader.read_exact(&mut first).unwrap();
        assert!(ends.try_recv().is_err());
        drop(reader);
        printer.push(vec![span(2), span(3)]);
        ends.recv_timeout(Duration::from_secs(30)).unwrap();
        printer.shutdown(Duration::from_secs(5));
        assert_eq!(
            (metrics.export.exported.get(), metrics.export.failed.write.get()),
            (1, 2)
        );
    }

    #[test]
    fn does_not_wait_for_a_reader_that_does_not_read() {
        let (reader, writer) = pipe().unwrap();
        let (printer, metrics) = start(writer.into());
        let spans: Vec<Span> = (1..5000).map(span).collect();
        printer.push(spans.clone());
        // The thread begins to print them, and more come.
        while printer.shared.lock().in_flight == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        printer.push(spans[..7].to_vec());
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
