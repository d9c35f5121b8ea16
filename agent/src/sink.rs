//! The way out of finished spans: the exporter, or the console.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    config::Output,
    console::Printer,
    engine::trace::Span,
    export::{
        Exporter, StartError,
        config::{Choice, ConfigError, ExportConfig},
    },
    metrics::Metrics,
    screen::{Stream, Unread},
};

/// Destination of spans, with all that is needed to bring them there.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// People: trees on one of the process's own streams.
    Console(Stream),
    /// A collector or a file.
    Export(ExportConfig),
}

impl Destination {
    /// Returns the destination chosen on the command line, with OpenTelemetry's environment variables. `console`: the
    /// stream for trees.
    ///
    /// # Errors
    /// If an environment variable of the exporter has a value that cannot be followed.
    pub fn new(output: &Output, console: Stream, max_queue_bytes: usize) -> Result<Self, ConfigError> {
        let choice = match output {
            Output::Console => return Ok(Self::Console(console)),
            Output::Otlp => Choice::Otlp,
            Output::OtlpJson(path) => Choice::OtlpJson(path.clone()),
        };
        Ok(Self::Export(ExportConfig {
            max_queue_bytes,
            ..ExportConfig::from_env(choice, |name| std::env::var_os(name))?
        }))
    }
}

/// Takes finished spans to their destination, on a thread of its own.
#[derive(Debug)]
pub enum SpanSink {
    /// To people.
    Console(Printer),
    /// To a collector or a file.
    Export(Exporter),
}

impl SpanSink {
    /// Starts the thread. A collector that is away is no error: it may come. `unread`: what is done once nobody
    /// reads the process's own stream that spans go to.
    ///
    /// # Errors
    /// If the thread cannot be started, the file not be opened, or TLS not be set up.
    pub fn start(destination: Destination, unread: Unread, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        Ok(match destination {
            Destination::Console(stream) => {
                Self::Console(Printer::start(stream, unread, metrics).map_err(StartError::Thread)?)
            }
            Destination::Export(config) => Self::Export(Exporter::start(config, unread, metrics)?),
        })
    }

    /// Takes spans over. Never waits for the destination.
    pub fn push(&self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        match self {
            Self::Console(printer) => printer.push(spans),
            Self::Export(exporter) => exporter.push(&spans),
        }
    }

    /// Waits until half of the room for spans is free: spans of a tape come as fast as the tape is read. Not for ever: if
    /// nothing leaves for `patience`, this returns, and spans may be dropped.
    pub fn wait_for_room(&self, patience: Duration) {
        let mut least = f64::MAX;
        let mut since = Instant::now();
        loop {
            let fill = self.fill();
            if fill <= 0.5 {
                return;
            }
            if fill < least {
                (least, since) = (fill, Instant::now());
            } else if since.elapsed() >= patience {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn fill(&self) -> f64 {
        match self {
            Self::Console(printer) => printer.fill(),
            Self::Export(exporter) => exporter.fill(),
        }
    }

    /// Takes what waits to its destination, for at most `within`, and ends. Spans that are left then are counted as
    /// dropped.
    pub fn shutdown(self, within: Duration) {
        match self {
            Self::Console(printer) => printer.shutdown(within),
            Self::Export(exporter) => exporter.shutdown(within),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{config::Target, tests::span};

    #[test]
    fn a_producer_that_waits_for_room_loses_nothing() {
        let metrics = Arc::new(Metrics::default());
        let destination = Destination::Export(ExportConfig {
            max_queue_spans: 64,
            max_batch_spans: 16,
            ..ExportConfig::new(Target::JsonLines(Some("/dev/null".into())))
        });
        let sink = SpanSink::start(destination, Unread::Log, metrics.clone()).unwrap();
        for id in 1..=5000 {
            sink.wait_for_room(Duration::from_secs(60));
            sink.push(vec![span(id), span(id)]);
        }
        sink.shutdown(Duration::from_secs(60));
        assert_eq!((metrics.export.exported.get(), metrics.export.lost()), (10_000, 0));
    }
}
