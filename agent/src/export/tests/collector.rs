//! A collector that does as its script says, over real sockets, by each of OTLP's protocols, with TLS and without.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket},
    runtime,
    sync::{Notify, oneshot},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::super::{
    answer::{RetryInfo, RpcDetail, RpcDuration, RpcStatus},
    connect::Stream,
    gzip,
};

/// Protocol of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    HttpProtobuf,
    HttpJson,
}

/// Action of the collector, one a request (or, for `Reset`, a connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Takes it.
    Take,
    /// Takes it after a while.
    TakeLate(Duration),
    /// Takes it but for so many spans.
    TakePart(i64),
    /// HTTP 503, gRPC UNAVAILABLE; with how long to wait: seconds over HTTP, as many tenths over gRPC.
    Busy(Option<u64>),
    /// HTTP 429, gRPC RESOURCE_EXHAUSTED, with how long to wait.
    Throttled(u64),
    /// HTTP 503 with a date so many seconds ahead in `Retry-After`; over gRPC as [`Step::Busy`] with as many tenths.
    BusyUntil(u64),
    /// HTTP 413, gRPC RESOURCE_EXHAUSTED with no word of when.
    TooLarge,
    /// Takes it, with so many bytes of answer, and does not say beforehand how many.
    LongAnswer(usize),
    /// Takes it, with so many bytes of answer, and says so; over gRPC compressed to nearly nothing, if that is spoken.
    ToldLongAnswer(usize),
    /// Any status: of HTTP, or of gRPC.
    Status(u16),
    /// HTTP 400, gRPC INVALID_ARGUMENT.
    Refuse,
    /// Takes it and says nothing.
    Silent,
    /// Takes it and closes the connection without an answer.
    Cut,
    /// Resets the connection when so many bytes of it came.
    Reset(usize),
}

/// A request that came as a whole, and what was done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// The request's spans.
    pub spans: Vec<u64>,
    /// The collector's action.
    pub step: Step,
}

/// The running collector; ends when it is dropped, with all of its connections.
pub struct Collector {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    protocol: Protocol,
    gzip: bool,
    script: Mutex<VecDeque<Step>>,
    came: Mutex<Vec<Came>>,
    connections: Mutex<usize>,
    /// Bytes of long answers that were handed to the connection.
    answered: Arc<AtomicUsize>,
}

impl Collector {
    /// Does the script, then takes all that comes. Port 0 means any.
    pub fn start(protocol: Protocol, gzip: bool, tls: Option<ServerConfig>, port: u16, script: &[Step]) -> Self {
        let shared = Arc::new(Shared {
            protocol,
            gzip,
            script: Mutex::new(script.iter().copied().collect()),
            came: Mutex::default(),
            connections: Mutex::default(),
            answered: Arc::default(),
        });
        let acceptor = tls.map(|mut tls| {
            let alpn: &[u8] = if protocol == Protocol::Grpc { b"h2" } else { b"http/1.1" };
            tls.alpn_protocols = vec![alpn.to_vec()];
            TlsAcceptor::from(Arc::new(tls))
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind((Ipv4Addr::LOCALHOST, port).into()).unwrap();
            socket.listen(64).unwrap()
        });
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let of_thread = shared.clone();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, acceptor, of_thread) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Returns the requests that came, in order.
    pub fn came(&self) -> Vec<Came> {
        self.shared.came.lock().unwrap().clone()
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }
}

impl Collector {
    /// Bytes of long answers that somebody read, or that are in buffers.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }
}

/// Zeros, of which nobody says how many will come.
struct Zeros {
    left: usize,
    given: Arc<AtomicUsize>,
}

impl hyper::body::Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        static SOME: [u8; 64 << 10] = [0; 64 << 10];
        let some = self.left.min(SOME.len());
        if some == 0 {
            return Poll::Ready(None);
        }
        self.left -= some;
        self.given.fetch_add(some, Ordering::Relaxed);
        Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&SOME[..some])))))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there is told here, unless this is one already.
            let result = thread.join();
            assert!(result.is_ok() || thread::panicking(), "the collector panicked");
        }
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        *shared.connections.lock().unwrap() += 1;
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let mut stream: Stream = match acceptor {
                None => Box::new(stream),
                // Callers may not trust us: theirs to tell.
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
            };
            let reset = {
                let mut script = shared.script.lock().unwrap();
                match script.front() {
                    Some(&Step::Reset(bytes)) => {
                        script.pop_front();
                        Some(bytes)
                    }
                    _ => None,
                }
            };
            if let Some(bytes) = reset {
                // What came and is not read makes the kernel reset the connection.
                let mut some = vec![0; bytes];
                drop(stream.read_exact(&mut some).await);
                return;
            }
            serve(stream, shared).await;
        });
    }
}

async fn serve(stream: Stream, shared: Arc<Shared>) {
    let cut = Arc::new(Notify::new());
    let protocol = shared.protocol;
    let service = {
        let cut = cut.clone();
        service_fn(move |request: Request<Incoming>| answer(request, shared.clone(), cut.clone()))
    };
    let io = TokioIo::new(stream);
    let served = async {
        // How a connection ends is its caller's matter.
        drop(match protocol {
            Protocol::Grpc => {
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await
            }
            _ => http1::Builder::new().serve_connection(io, service).await,
        });
    };
    tokio::select! {
        () = served => {}
        () = cut.notified() => {}
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>, cut: Arc<Notify>) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let spans = shared.read(&head.headers, &body);
    let step = {
        let mut script = shared.script.lock().unwrap();
        script.pop_front().unwrap_or(Step::Take)
    };
    shared.came.lock().unwrap().push(Came { spans, step });
    match step {
        Step::TakeLate(after) => tokio::time::sleep(after).await,
        Step::Silent => std::future::pending().await,
        Step::Cut => {
            cut.notify_one();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    Ok(shared.respond(step))
}

impl Shared {
    /// The ids of the spans in a request, which must be written as was agreed.
    fn read(&self, headers: &HeaderMap, body: &Bytes) -> Vec<u64> {
        const LIMIT: usize = 16 << 20;
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        let encoding = self.gzip.then_some("gzip");
        let message: Bytes = if self.protocol == Protocol::Grpc {
            assert_eq!(text("grpc-encoding"), encoding);
            let (prefix, message) = body.split_at(5);
            assert_eq!(prefix[0], u8::from(self.gzip));
            assert_eq!(
                u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize,
                message.len()
            );
            Bytes::copy_from_slice(message)
        } else {
            assert_eq!(text(CONTENT_ENCODING.as_str()), encoding);
            body.clone()
        };
        let message = if self.gzip {
            gzip::decompress(&message, LIMIT).unwrap()
        } else {
            message
        };
        let (kind, request) = match self.protocol {
            Protocol::Grpc => ("application/grpc", ExportTraceServiceRequest::decode(message).unwrap()),
            Protocol::HttpProtobuf => (
                "application/x-protobuf",
                ExportTraceServiceRequest::decode(message).unwrap(),
            ),
            Protocol::HttpJson => ("application/json", serde_json::from_slice(&message).unwrap()),
        };
        assert_eq!(text(CONTENT_TYPE.as_str()), Some(kind));
        let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
        groups
            .flat_map(|group| &group.spans)
            .map(|span| u64::from_be_bytes(span.span_id.as_slice().try_into().unwrap()))
            .collect()
    }

    fn respond(&self, step: Step) -> Response<Body> {
        let response = ExportTraceServiceResponse {
            partial_success: match step {
                Step::TakePart(rejected_spans) => Some(ExportTracePartialSuccess {
                    rejected_spans,
                    error_message: "too old".to_owned(),
                }),
                _ => None,
            },
        };
        if let Step::LongAnswer(left) = step {
            let given = self.answered.clone();
            let mut answer = Response::new(Zeros { left, given }.boxed());
            let kind = if self.protocol == Protocol::Grpc {
                "application/grpc"
            } else {
                "application/x-protobuf"
            };
            answer
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            return answer;
        }
        match self.protocol {
            Protocol::Grpc => self.grpc(step, &response),
            Protocol::HttpProtobuf => http(step, "application/x-protobuf", response.encode_to_vec()),
            Protocol::HttpJson => {
                // 64-bit integers are texts, as protobuf's JSON writes them.
                let json = match response.partial_success {
                    Some(partial) => serde_json::json!({"partialSuccess": {
                        "rejectedSpans": partial.rejected_spans.to_string(),
                        "errorMessage": partial.error_message,
                    }}),
                    None => serde_json::json!({}),
                };
                http(step, "application/json", json.to_string().into_bytes())
            }
        }
    }

    fn grpc(&self, step: Step, response: &ExportTraceServiceResponse) -> Response<Body> {
        let (code, tenths) = match step {
            Step::Busy(wait) => (14, wait),
            Step::BusyUntil(wait) => (14, Some(wait)),
            Step::Throttled(wait) => (8, Some(wait)),
            Step::TooLarge => (8, None),
            Step::Status(code) => (code, None),
            Step::Refuse => (3, None),
            _ => (0, None),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.into());
        if let Some(tenths) = tenths {
            let nanos = i32::try_from(tenths * 100_000_000).unwrap();
            let info = RetryInfo {
                retry_delay: Some(RpcDuration { seconds: 0, nanos }),
            };
            let status = RpcStatus {
                message: String::new(),
                details: vec![RpcDetail {
                    type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                    value: info.encode_to_vec(),
                }],
            };
            let details = STANDARD_NO_PAD.encode(status.encode_to_vec());
            trailers.insert("grpc-status-details-bin", details.parse().unwrap());
        }
        let mut body = Vec::new();
        let mut head = vec![(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))];
        if code == 0 {
            // As grpc-go does: compressed as the request was.
            let mut message: Bytes = match step {
                Step::ToldLongAnswer(bytes) => vec![0; bytes].into(),
                _ => response.encode_to_vec().into(),
            };
            if self.gzip {
                message = gzip::compress(message);
                let encoding = HeaderName::from_static("grpc-encoding");
                head.push((encoding, HeaderValue::from_static("gzip")));
            }
            body.push(u8::from(self.gzip));
            body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend(message);
        }
        let body = Full::new(body.into()).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut answer = Response::new(body.boxed());
        answer.headers_mut().extend(head);
        answer
    }
}

fn http(step: Step, kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let (status, wait) = match step {
        Step::Busy(wait) => (503, wait),
        Step::Throttled(wait) => (429, Some(wait)),
        Step::BusyUntil(_) => (503, None),
        Step::TooLarge => (413, None),
        Step::Status(status) => (status, None),
        Step::Refuse => (400, None),
        _ => (200, None),
    };
    let body = match step {
        Step::ToldLongAnswer(bytes) => vec![0; bytes],
        _ => body,
    };
    let mut response = Response::new(Full::from(body).boxed());
    *response.status_mut() = status.try_into().unwrap();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(wait) = wait {
        response.headers_mut().insert("retry-after", wait.into());
    }
    if let Step::BusyUntil(seconds) = step {
        // A date has whole seconds: one more, so that as many are left at least.
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds + 1));
        response.headers_mut().insert("retry-after", date.parse().unwrap());
    }
    response
}
