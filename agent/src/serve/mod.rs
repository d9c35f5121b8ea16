//! The agent's own HTTP server: `/metrics` for Prometheus, `/healthz` for people and orchestrators.
//!
//! A connection has one place among `MAX_CONNECTIONS` and one request:
//!
//! ```text
//! Waiting ── a whole head ──► Answering ── the answer is sent, or CONNECTION_TIMEOUT ──► closed
//!    └── HEAD_TIMEOUT, or it is the oldest one when a new one needs its place ──► closed
//! ```

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use crate::metrics::{self, Metrics};

/// Upper bound on open connections. More wait in the kernel for a place.
const MAX_CONNECTIONS: usize = 32;
/// Longest time that a connection may be open, so that no client keeps the others out.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a head may take although another connection wants the place. Honest clients send the head at once, and a client
/// that opens connections all the time gets no more than 32 of them in this time.
const HEAD_GRACE: Duration = Duration::from_millis(20);
/// Pause after a connection could not be accepted (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Health of the agent. `/healthz` shows each reason in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Reasons why it does not do its work: status 503.
    pub problems: Vec<String>,
    /// Features that some workloads go without, through no fault of the agent. It is degraded, and a restart does not help.
    pub limits: Vec<String>,
}

/// A running server, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Dropping it ends the thread.
    _running: oneshot::Sender<Infallible>,
}

/// Reason why there is no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another process listens there.
    #[error(
        "cannot serve metrics and health on {0}: the port is taken, perhaps by another spoor; choose another one with \
         --metrics-listen, or port 0 for any free one"
    )]
    Taken(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot serve metrics and health on {address}: {source}; choose an address of this host")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// There is no thread, or no runtime on it.
    #[error("cannot start the server's thread: {0}; raise the limits on threads and open files (ulimit -u, ulimit -n)")]
    Thread(#[source] io::Error),
}

impl Server {
    /// Listens on `address` (port 0: any) and answers from a thread of its own.
    ///
    /// # Errors
    /// If it cannot listen there, or not start the thread.
    pub fn start(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        health: impl Fn() -> Health + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => ServeError::Taken(address),
            _ => ServeError::Listen { address, source },
        };
        let listener = StdListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Thread)?;
        let listener = {
            let _within = runtime.enter();
            TcpListener::from_std(listener).map_err(ServeError::Thread)?
        };
        let (running, ended) = oneshot::channel();
        let pages = Arc::new(Pages {
            metrics,
            health: Box::new(health),
        });
        thread::Builder::new()
            .name("spoor-serve".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = ended => {}
                        never = accept(listener, pages) => match never {},
                    }
                });
            })
            .map_err(ServeError::Thread)?;
        Ok(Self {
            address,
            _running: running,
        })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>) -> Infallible {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.make_room().await;
                connections.serve(stream, pages.clone());
            }
            Err(error) => {
                tracing::debug!("a connection for metrics or health could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The open connections.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first. At most `MAX_CONNECTIONS`.
    open: VecDeque<Connection>,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    since: Instant,
    /// True once the head of its request is whole.
    has_head: Arc<AtomicBool>,
}

impl Connections {
    /// Waits for a free place. At the limit, closes the oldest connection that has not sent a whole head.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|connection| !connection.task.is_finished());
            if self.open.len() < MAX_CONNECTIONS {
                return;
            }
            let mut open = self.open.iter();
            let Some(oldest) = open.find(|connection| !connection.has_head.load(Ordering::Relaxed)) else {
                self.tasks.join_next().await;
                continue;
            };
            let grace = HEAD_GRACE.saturating_sub(oldest.since.elapsed());
            if grace.is_zero() {
                oldest.task.abort();
                // Its end is the abort, unless it ended by itself.
                self.tasks.join_next().await;
            } else {
                // It may send its head meanwhile, or another one end.
                drop(timeout(grace, self.tasks.join_next()).await);
            }
        }
    }

    fn serve(&mut self, stream: TcpStream, pages: Arc<Pages>) {
        let has_head = Arc::new(AtomicBool::new(false));
        let of_task = has_head.clone();
        let task = self.tasks.spawn(async move {
            let service = service_fn(|request| {
                of_task.store(true, Ordering::Relaxed);
                let response = pages.answer(&request);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                // A kept connection would wait for the next head; no scraper comes back within HEAD_TIMEOUT.
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that breaks off is no error of ours.
            drop(timeout(CONNECTION_TIMEOUT, connection).await);
        });
        self.open.push_back(Connection {
            task,
            since: Instant::now(),
            has_head,
        });
    }
}

struct Pages {
    metrics: Arc<Metrics>,
    health: Box<dyn Fn() -> Health + Send + Sync>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => page(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.render()),
            "/healthz" => {
                let Health { problems, limits } = (self.health)();
                let (status, word) = match (problems.is_empty(), limits.is_empty()) {
                    (true, true) => (StatusCode::OK, Some("ok")),
                    (true, false) => (StatusCode::OK, Some("degraded")),
                    (false, _) => (StatusCode::SERVICE_UNAVAILABLE, None),
                };
                let lines = word.map(str::to_owned).into_iter().chain(problems).chain(limits);
                text(status, lines.map(|line| line + "\n").collect())
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "not found: the pages are /metrics and /healthz\n".to_owned(),
            ),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
