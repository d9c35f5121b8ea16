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
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener},
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

/// Where it listens unless told otherwise. Not on port 9464, OpenTelemetry's default for Prometheus, which belongs to the
/// services that we trace.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9469);

/// Connections at once; more wait in the kernel for a place.
const MAX_CONNECTIONS: usize = 32;
/// So long may a connection be open, so that nobody keeps the others out.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// So long may a request's head take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// So long may it take also where others want the place. Who means it sends the head at once; and somebody who opens
/// connections all the time gets no more than 32 of them in this time.
const HEAD_GRACE: Duration = Duration::from_millis(20);
/// After a connection could not be accepted (too many open files), a pause.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// How the agent fares, a reason a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why it does not do its work: 503.
    pub problems: Vec<String>,
    /// What it cannot do for some workloads, through no fault of its own: it is degraded, and a restart helps nobody.
    pub limits: Vec<String>,
}

/// A running server, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Dropping it ends the thread.
    _running: oneshot::Sender<Infallible>,
}

/// Why there is no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody else listens there.
    #[error(
        "cannot serve metrics and health on {0}: the port is taken, perhaps by another spoor; choose another one with \
             --metrics-listen, or port 0 for any"
    )]
    Taken(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot serve metrics and health on {address}: {source}; choose an address of this host")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No thread, or no runtime on it.
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

    /// Where it listens.
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
    /// The head of its request is whole.
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
                // Between two requests it would wait for a head again; no scraper comes back within HEAD_TIMEOUT.
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // How a scraper leaves is its own affair.
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
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
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
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n".to_owned()),
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
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::atomic::{AtomicU8, AtomicUsize},
        time::Instant,
    };

    use super::*;

    fn ask(address: SocketAddr, line: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[test]
    fn pages() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let metrics = Arc::new(Metrics::default());
        let sick = Arc::new(AtomicU8::new(0));
        let health = {
            let sick = sick.clone();
            move || {
                let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
                match sick.load(Ordering::Relaxed) {
                    0 => Health::default(),
                    1 => Health {
                        problems: vec![],
                        limits: words(&["three"]),
                    },
                    _ => Health {
                        problems: words(&["one", "two"]),
                        limits: words(&["three"]),
                    },
                }
            }
        };
        let server = Server::start(any, metrics.clone(), health).unwrap();
        let address = server.address();
        metrics.export.exported.inc_by(42);
        let answer = |line: &str, body: &str| (line.to_owned(), body.to_owned());

        assert_eq!(
            ask(address, "GET /metrics"),
            answer("HTTP/1.1 200 OK", &metrics.render())
        );
        assert_eq!(ask(address, "GET /healthz?x"), answer("HTTP/1.1 200 OK", "ok\n"));
        sick.store(1, Ordering::Relaxed);
        assert_eq!(
            ask(address, "GET /healthz"),
            answer("HTTP/1.1 200 OK", "degraded\nthree\n")
        );
        sick.store(2, Ordering::Relaxed);
        assert_eq!(
            ask(address, "GET /healthz"),
            answer("HTTP/1.1 503 Service Unavailable", "one\ntwo\nthree\n")
        );
        assert_eq!(
            ask(address, "GET /"),
            answer("HTTP/1.1 404 Not Found", "there are /metrics and /healthz\n")
        );
        assert_eq!(
            ask(address, "POST /metrics"),
            answer("HTTP/1.1 405 Method Not Allowed", "only GET\n")
        );
        assert!(matches!(
            Server::start(address, metrics.clone(), Health::default),
            Err(ServeError::Taken(taken)) if taken == address
        ));
        drop(server);
        let begun = Instant::now();
        while StdListener::bind(address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(5), "the port is not given back");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    #[test]
    fn half_heads_that_are_opened_again_keep_nobody_out() {
        const HALF: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::start(any, Arc::default(), Health::default).unwrap();
        let address = server.address();
        let (ended, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        let mut stream = open(address, HALF);
                        opened.fetch_add(1, Ordering::Relaxed);
                        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                        // Until it is closed, or it is the test's end.
                        let mut is_open = true;
                        while is_open && !ended.load(Ordering::Relaxed) {
                            is_open = matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock);
                        }
                    }
                });
            }
            while opened.load(Ordering::Relaxed) < 200 {
                thread::sleep(Duration::from_millis(1));
            }
            let took: Vec<Duration> = (0..5)
                .map(|_| {
                    let begun = Instant::now();
                    let (line, body) = ask(address, "GET /healthz");
                    assert_eq!((line.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok\n"));
                    begun.elapsed()
                })
                .collect();
            ended.store(true, Ordering::Relaxed);
            assert!(took.iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
        });
    }

    #[tokio::test]
    async fn only_a_connection_without_a_whole_head_makes_room() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::default();
        let mut place = |has_head: bool, age: Duration| {
            let task = connections.tasks.spawn(std::future::pending());
            connections.open.push_back(Connection {
                task,
                since: tokio::time::Instant::now() - age,
                has_head: Arc::new(AtomicBool::new(has_head)),
            });
        };
        // From the oldest on: one that is answered, two that wait for their heads, the rest is answered.
        place(true, Duration::from_secs(3));
        place(false, Duration::from_secs(2));
        place(false, Duration::ZERO);
        (3..MAX_CONNECTIONS).for_each(|_| place(true, Duration::ZERO));
        let waiting = |connections: &Connections| {
            let open = connections.open.iter();
            open.filter(|connection| !connection.has_head.load(Ordering::Relaxed))
                .count()
        };
        connections.make_room().await;
        assert_eq!(
            (connections.open.len(), waiting(&connections)),
            (MAX_CONNECTIONS - 1, 1)
        );
        let pages = Arc::new(Pages {
            metrics: Arc::default(),
            health: Box::new(Health::default),
        });
        let _client = TcpStream::connect(address).unwrap();
        connections.serve(listener.accept().await.unwrap().0, pages);
        // The older one of the two goes, when its grace is over.
        connections.make_room().await;
        assert_eq!(
            (connections.open.len(), waiting(&connections)),
            (MAX_CONNECTIONS - 1, 1)
        );
        assert_eq!(
            connections
                .open
                .back()
                .map(|newest| newest.has_head.load(Ordering::Relaxed)),
            Some(false)
        );
        // Where all are answered, the new one waits.
        connections
            .open
            .iter()
            .for_each(|connection| connection.has_head.store(true, Ordering::Relaxed));
        connections.open.push_back(Connection {
            task: connections.tasks.spawn(std::future::pending()),
            since: tokio::time::Instant::now(),
            has_head: Arc::new(AtomicBool::new(true)),
        });
        let patience = Duration::from_millis(100);
        assert!(timeout(patience, connections.make_room()).await.is_err());
        connections.open[0].task.abort();
        connections.make_room().await;
        assert_eq!(connections.open.len(), MAX_CONNECTIONS - 1);
    }
}
