//! A collector that only counts: OTLP over gRPC, in a thread of the benchmark, so that no figure includes its cost.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

/// The collector.
pub struct Sink {
    /// Address at which it listens.
    pub address: SocketAddr,
    received: Arc<Received>,
}

/// A span that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Time at which its request was complete.
    pub at: SystemTime,
    /// End of the span, in ns since 1970.
    pub end_unix_ns: u64,
}

#[derive(Default)]
struct Received {
    spans: AtomicU64,
    keep: AtomicBool,
    arrivals: Mutex<Vec<Arrival>>,
}

impl Sink {
    /// Starts the collector, until this process ends.
    pub fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let received = Arc::new(Received::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let shared = Arc::clone(&received);
        std::thread::spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => accept(listener, shared).await,
                    Err(error) => eprintln!("the sink cannot listen: {error}"),
                }
            });
        });
        Ok(Self { address, received })
    }

    /// Returns the number of spans since the start.
    pub fn spans(&self) -> u64 {
        self.received.spans.load(Ordering::Relaxed)
    }

    /// Keeps arrivals from now on, not only their number; forgets earlier ones.
    pub fn keep(&self) {
        self.received.keep.store(true, Ordering::Relaxed);
        self.take();
    }

    /// Takes the arrivals since the last call.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.received.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this many spans have arrived since the start, or no more come.
    pub fn settle(&self, expected: u64, patience: Duration) {
        let (mut last, mut changed) = (self.spans(), Instant::now());
        while last < expected && changed.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.spans();
            if now != last {
                (last, changed) = (now, Instant::now());
            }
        }
    }
}

async fn accept(listener: TcpListener, received: Arc<Received>) {
    while let Ok((socket, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            // An agent that is killed may close its connection at any point.
            if let Err(error) = connection(socket, received).await
                && !error.is_io()
            {
                eprintln!("the sink's connection failed: {error}");
            }
        });
    }
}

async fn connection(socket: TcpStream, received: Arc<Received>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            if let Err(error) = answer(request, respond, &received).await {
                eprintln!("the sink could not take a request: {error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, received: &Received) -> Result<()> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let at = SystemTime::now();
    let spans = decode(&bytes)?;
    received.spans.fetch_add(spans.len() as u64, Ordering::Relaxed);
    if received.keep.load(Ordering::Relaxed) {
        let arrivals = spans.iter().map(|span| Arrival {
            at,
            end_unix_ns: span.end_time_unix_nano,
        });
        let mut kept = received.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(arrivals);
    }
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    let mut stream = respond.send_response(response, false)?;
    // An empty message: all spans were accepted.
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

/// Decodes the spans of a gRPC message: a byte for compression, four for the length, an ExportTraceServiceRequest.
fn decode(message: &[u8]) -> Result<Vec<Span>> {
    let (prefix, message) = message.split_at_checked(5).context("no gRPC message")?;
    ensure!(prefix[0] == 0, "the message is compressed, which was not asked for");
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    ensure!(
        length == message.len(),
        "a gRPC message of {length} bytes in {} bytes",
        message.len()
    );
    let request = Export::decode(message).context("no ExportTraceServiceRequest")?;
    let scopes = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans);
    Ok(scopes.flat_map(|scope| scope.spans).collect())
}

// opentelemetry/proto/collector/trace/v1/trace_service.proto and trace/v1/trace.proto, the fields that are looked at: the
// others are passed over unread.

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_all_resources_and_scopes() {
        let span = |end_time_unix_nano| Span { end_time_unix_nano };
        let scope = |spans: &[Span]| ScopeSpans { spans: spans.to_vec() };
        let export = Export {
            resource_spans: vec![
                ResourceSpans {
                    scope_spans: vec![scope(&[span(1), span(2)]), scope(&[])],
                },
                ResourceSpans {
                    scope_spans: vec![scope(&[span(3)])],
                },
            ],
        };
        let message = export.encode_to_vec();
        let framed = [&[0], (message.len() as u32).to_be_bytes().as_slice(), &message].concat();
        assert_eq!(decode(&framed).unwrap(), [span(1), span(2), span(3)]);
        assert!(decode(&framed[..framed.len() - 1]).is_err());
        assert!(decode(&[1, 0, 0, 0, 0]).is_err());
    }
}
