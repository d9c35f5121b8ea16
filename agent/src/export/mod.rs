//! Sends spans away: to a collector, to a file, or as trees to a terminal.
//!
//! The way of a span: [`Exporter::push`] encodes it ([`encode`]) and puts it into the [`queue`]; on a thread of its own
//! the [`worker`] takes batches from there and hands them to a transport ([`otlp_grpc`], [`otlp_http`], [`json`]). Those to
//! a collector compress them ([`gzip`]) and have their connections made ([`mod@connect`], [`tls`]).
//! For people, [`crate::console`] collects spans to traces instead and prints those that are complete.

mod answer;
pub mod config;
pub mod connect;
pub mod encode;
pub mod gzip;
pub mod json;
pub mod losses;
pub mod otlp_grpc;
pub mod otlp_http;
pub mod queue;
pub mod tls;
pub mod worker;

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Stdout},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use thiserror::Error;
use tokio::{runtime, time::Instant};

use self::{
    config::{ExportConfig, Output, Target},
    connect::ConnectorError,
    encode::Encoder,
    json::JsonTransport,
    losses::Losses,
    otlp_grpc::GrpcTransport,
    otlp_http::HttpTransport,
    queue::{Limits, Queue, Unsent},
    worker::{Outcome, Pace, Transport},
};
use crate::{console::Printer, engine::trace::Span, metrics::Metrics};

/// How long connecting may take. A collector's host that is away is tried again rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What the export thread may take to end beyond the time that it has for sending.
const END_GRACE: Duration = Duration::from_millis(100);
/// Who we say we are.
const USER_AGENT_NAME: &str = concat!("spoor/", env!("CARGO_PKG_VERSION"));

/// Takes finished spans and sends them away, on a thread of its own.
#[derive(Debug)]
pub struct Exporter {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Requests(Requests),
    Console(Printer),
}

/// Why the export cannot begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The file of `otlp-json` cannot be opened.
    #[error("cannot open {} for appending spans: {source}; name a file in a directory that can be written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No thread, or no runtime on it.
    #[error("cannot start the export thread: {0}; raise the limits on threads and open files (ulimit -u, ulimit -n)")]
    Thread(#[source] io::Error),
    /// TLS was asked for and cannot be done.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The endpoint is no server.
    #[error("cannot use {url} for HTTP: {source}; write it as http://HOST:PORT")]
    Http {
        /// The endpoint.
        url: String,
        /// Why not.
        source: hyper::http::Error,
    },
    /// The endpoint is no server.
    #[error("cannot use {url} for gRPC: {source}; write it as http://HOST:PORT")]
    Grpc {
        /// The endpoint.
        url: String,
        /// Why not.
        source: hyper::http::Error,
    },
}

impl Exporter {
    /// Starts the thread. A collector that is away is no error: it may come.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread not be started.
    pub fn start(config: ExportConfig, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let inner = match config.output.clone() {
            Output::Console(stream) => Inner::Console(Printer::start(stream, metrics).map_err(StartError::Thread)?),
            Output::Requests(target) => Inner::Requests(Requests::start(target, &config, metrics)?),
        };
        Ok(Self { inner })
    }

    /// Takes spans over. Never waits for whoever gets them.
    pub fn push(&self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        match &self.inner {
            Inner::Requests(requests) => {
                let mut encoder = requests.encoder.lock().unwrap_or_else(PoisonError::into_inner);
                // Under the lock, so that spans of several threads keep their order.
                requests.queue.push(encoder.encode(&spans));
                drop(encoder);
                // Also where the export thread hangs in a write.
                requests.losses.poll();
            }
            Inner::Console(printer) => printer.push(&spans),
        }
    }

    /// Waits until half of the room for spans is free, for those that come as fast as a tape is read. Not for ever: a
    /// collector that takes nothing for `patience` loses the oldest, as always.
    pub fn wait_for_room(&self, patience: Duration) {
        let mut least = f64::MAX;
        let mut since = Instant::now();
        loop {
            let fill = match &self.inner {
                Inner::Requests(requests) => requests.queue.fill(),
                Inner::Console(printer) => printer.fill(),
            };
            if fill <= 0.5 {
                return;
            }
            if fill < least {
                (least, since) = (fill, Instant::now());
            } else if since.elapsed() >= patience {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends what waits, for at most `within`, and ends. What is left then is counted as dropped.
    pub fn shutdown(self, within: Duration) {
        match self.inner {
            Inner::Requests(Requests {
                encoder: _,
                queue,
                losses,
                thread,
            }) => {
                queue.close(Instant::now() + within);
                let within = within + END_GRACE;
                let has_ended = thread.join(within);
                let unsent = queue.give_up();
                if !has_ended {
                    tracing::warn!("{}", blocked(losses.destination(), within, unsent));
                }
                losses.finish();
            }
            Inner::Console(printer) => printer.shutdown(within),
        }
    }
}

/// Spans that leave as OTLP requests.
#[derive(Debug)]
struct Requests {
    encoder: Mutex<Encoder>,
    queue: Arc<Queue>,
    losses: Arc<Losses>,
    thread: ExportThread,
}

impl Requests {
    fn start(target: Target, config: &ExportConfig, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let limits = Limits {
            max_spans: config.max_queue_spans,
            max_bytes: config.max_queue_bytes,
            max_batch_spans: config.max_batch_spans,
        };
        let pace = Pace {
            schedule_delay: config.schedule_delay,
            timeout: config.timeout,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let (transport, destination) = {
            let _within = runtime.enter();
            AnyTransport::new(target)?
        };
        let losses = Arc::new(Losses::new(destination));
        let queue = Arc::new(Queue::new(limits, metrics.clone(), losses.clone()));
        let (of_thread, told) = (queue.clone(), losses.clone());
        let thread = ExportThread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = worker::run(&of_thread, transport, pace, &told, &metrics) => {}
                    () = told.watch() => {}
                }
            });
            // A name lookup that is under way is not worth waiting for.
            runtime.shutdown_background();
        })
        .map_err(StartError::Thread)?;
        Ok(Self {
            encoder: Mutex::default(),
            queue,
            losses,
            thread,
        })
    }
}

/// The thread that does the export, whose end is waited for only so long: it may hang in a write to a pipe that nobody
/// reads, or to a terminal that is stopped.
#[derive(Debug)]
pub(crate) struct ExportThread {
    /// Disconnected when the thread ends.
    running: mpsc::Receiver<Infallible>,
}

impl ExportThread {
    pub(crate) fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (runs, running) = mpsc::sync_channel(0);
        thread::Builder::new().name("spoor-export".to_owned()).spawn(move || {
            let _runs = runs;
            run();
        })?;
        Ok(Self { running })
    }

    /// Waits for its end. False if it has not ended in time.
    pub(crate) fn join(self, within: Duration) -> bool {
        self.running.recv_timeout(within) != Err(mpsc::RecvTimeoutError::Timeout)
    }
}

/// The warning at the end, if the export thread hangs.
pub(crate) fn blocked(destination: &str, within: Duration, unsent: Unsent) -> String {
    format!(
        "the export to {destination} has not ended within {} ms, {} spans are lost ({} waiting, {} in a write): is what it \
         writes to blocked?",
        within.as_millis(),
        unsent.spans(),
        unsent.waiting,
        unsent.in_flight,
    )
}

/// The transports: a closed set, so that the worker has no boxed futures.
enum AnyTransport {
    Grpc(GrpcTransport),
    Http(HttpTransport),
    File(JsonTransport<File>),
    Stdout(JsonTransport<Stdout>),
}

impl AnyTransport {
    /// The transport, and what to call its other end. To be called within a tokio runtime.
    fn new(target: Target) -> Result<(Self, String), StartError> {
        Ok(match target {
            Target::Grpc(endpoint) => {
                let url = endpoint.url.to_string();
                (Self::Grpc(GrpcTransport::new(*endpoint)?), url)
            }
            Target::Http(endpoint, encoding) => {
                let url = endpoint.url.to_string();
                (Self::Http(HttpTransport::new(*endpoint, encoding)?), url)
            }
            Target::JsonLines(Some(path)) => match json::open(&path) {
                Ok(file) => (Self::File(JsonTransport::new(file)), path.display().to_string()),
                Err(source) => return Err(StartError::File { path, source }),
            },
            Target::JsonLines(None) => (Self::Stdout(JsonTransport::new(io::stdout())), "stdout".to_owned()),
        })
    }
}

impl Transport for AnyTransport {
    async fn send(&mut self, request: Bytes) -> Outcome {
        match self {
            Self::Grpc(transport) => transport.send(request).await,
            Self::Http(transport) => transport.send(request).await,
            Self::File(transport) => transport.send(request).await,
            Self::Stdout(transport) => transport.send(request).await,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
