//! Sends spans away as OTLP requests: to a collector, or as JSON lines to a file or to standard output.
//!
//! The way of a span: [`Exporter::push`] writes it once, in the encoding of its destination ([`encode`]), and puts it into
//! the [`queue`]; on a thread of its own the [`worker`] takes batches from there and hands them to a transport ([`otlp_grpc`], [`otlp_http`], [`json`]). Those to
//! a collector compress them ([`gzip`]) and have their connections made ([`mod@connect`], [`tls`]).

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
pub mod thread;
pub mod tls;
pub mod worker;

use std::{
    fs::File,
    io::{self, Stdout},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{runtime, time::Instant};

use self::{
    config::{ExportConfig, Target},
    connect::ConnectorError,
    encode::{Encoder, Payload},
    json::JsonTransport,
    losses::Losses,
    otlp_grpc::GrpcTransport,
    otlp_http::HttpTransport,
    queue::{Limits, Queue},
    thread::ExportThread,
    worker::{Outcome, Pace, Transport},
};
use crate::{engine::trace::Span, metrics::Metrics, screen::Unread};

/// Longest time that connecting may take. A host that does not answer is tried again rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that the export thread has to end, beyond the time that it has for sending.
const END_GRACE: Duration = Duration::from_millis(100);
/// Value of `user-agent`.
const USER_AGENT_NAME: &str = concat!("spoor/", env!("CARGO_PKG_VERSION"));

/// Takes finished spans and sends them away as OTLP requests, on a thread of its own.
#[derive(Debug)]
pub struct Exporter {
    encoder: Mutex<Encoder>,
    queue: Arc<Queue>,
    losses: Arc<Losses>,
    thread: ExportThread,
}

/// Reason why the export cannot begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The file of `otlp-json` cannot be opened.
    #[error("cannot open {} for appending spans: {source}; name a file in a writable directory", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no thread, or no runtime on it.
    #[error("cannot start the export thread: {0}; raise the limits on threads and open files (ulimit -u, ulimit -n)")]
    Thread(#[source] io::Error),
    /// TLS is asked for, and its files or the host's name cannot be used.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The endpoint names no server.
    #[error("cannot use {url} for HTTP: {source}; write it as http://HOST:PORT")]
    Http {
        /// The endpoint.
        url: String,
        /// The cause.
        source: hyper::http::Error,
    },
    /// The endpoint names no server.
    #[error("cannot use {url} for gRPC: {source}; write it as http://HOST:PORT")]
    Grpc {
        /// The endpoint.
        url: String,
        /// The cause.
        source: hyper::http::Error,
    },
}

impl Exporter {
    /// Starts the thread. A collector that is away is no error: it may come. `unread`: what is done once nobody reads standard
    /// output, if spans go there.
    ///
    /// # Errors
    /// If the thread cannot be started, the file not be opened, or TLS not be set up.
    pub fn start(config: ExportConfig, unread: Unread, metrics: Arc<Metrics>) -> Result<Self, StartError> {
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
        let encoder = Encoder::new(config.target.encoding());
        let (transport, destination) = {
            let _within = runtime.enter();
            AnyTransport::new(config.target, unread)?
        };
        let losses = Arc::new(Losses::new(destination));
        let queue = Arc::new(Queue::new(limits, metrics.clone(), losses.clone()));
        let (of_thread, told) = (queue.clone(), losses.clone());
        let thread = ExportThread::spawn("spoor-export", move || {
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
            encoder: Mutex::new(encoder),
            queue,
            losses,
            thread,
        })
    }

    /// Takes spans over. Never waits for the collector.
    pub fn push(&self, spans: &[Span]) {
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that spans of several threads keep their order.
        self.queue.push(encoder.encode(spans));
        drop(encoder);
        // Also where the export thread hangs in a write.
        self.losses.poll();
    }

    /// Returns which part of the room for spans is taken, from 0 to 1.
    pub fn fill(&self) -> f64 {
        self.queue.fill()
    }

    /// Sends what waits, for at most `within`, and ends. Spans that are left then are counted as dropped.
    pub fn shutdown(self, within: Duration) {
        let Self {
            encoder: _,
            queue,
            losses,
            thread,
        } = self;
        queue.close(Instant::now() + within);
        let within = within + END_GRACE;
        let has_ended = thread.join(within);
        let unsent = queue.give_up();
        if !has_ended {
            tracing::warn!("{}", unsent.warning(losses.destination(), within));
        }
        losses.finish();
    }
}

/// The transports: a closed set, so that the worker has no boxed futures.
enum AnyTransport {
    Grpc(GrpcTransport),
    Http(HttpTransport),
    File(JsonTransport<File>),
    Stdout(JsonTransport<Stdout>),
}

impl AnyTransport {
    /// Returns the transport, and the name of its destination for log lines. To be called within a tokio runtime.
    fn new(target: Target, unread: Unread) -> Result<(Self, String), StartError> {
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
                Ok(file) => (
                    Self::File(JsonTransport::new(file, Unread::Log)),
                    path.display().to_string(),
                ),
                Err(source) => return Err(StartError::File { path, source }),
            },
            Target::JsonLines(None) => {
                let transport = JsonTransport::new(io::stdout(), unread);
                (Self::Stdout(transport), "stdout".to_owned())
            }
        })
    }
}

impl Transport for AnyTransport {
    async fn send(&mut self, request: Payload) -> Outcome {
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
