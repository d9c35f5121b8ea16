//! A collector that only counts: OTLP over gRPC and over HTTP, in a thread of the benchmark, so that no figure includes its
//! cost.

mod grpc;
mod http;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

/// The collector.
pub struct Sink {
    /// Address at which it listens for gRPC.
    pub grpc: SocketAddr,
    /// Address at which it listens for protobuf over HTTP/1.1.
    pub http: SocketAddr,
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
        let received = Arc::new(Received::default());
        let [grpc, http] = [listen()?, listen()?];
        let addresses = (grpc.local_addr()?, http.local_addr()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let shared = Arc::clone(&received);
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let ended = tokio::try_join!(
                    accept(grpc, Arc::clone(&shared), grpc::connection),
                    accept(http, shared, http::connection),
                );
                if let Err(error) = ended {
                    eprintln!("the sink cannot listen: {error:#}");
                }
            });
        });
        Ok(Self {
            grpc: addresses.0,
            http: addresses.1,
            received,
        })
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
        settle(|| self.spans(), expected, patience);
    }
}

impl Received {
    /// Counts the spans of a request, and keeps their arrivals if that is wanted.
    ///
    /// # Errors
    /// If it is no ExportTraceServiceRequest.
    fn take(&self, request: &[u8]) -> Result<()> {
        let at = SystemTime::now();
        let request = Export::decode(request).context("no ExportTraceServiceRequest")?;
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        let spans: Vec<Span> = scopes.flat_map(|scope| scope.spans).collect();
        self.spans.fetch_add(spans.len() as u64, Ordering::Relaxed);
        if self.keep.load(Ordering::Relaxed) {
            let arrivals = spans.iter().map(|span| Arrival {
                at,
                end_unix_ns: span.end_time_unix_nano,
            });
            let mut kept = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(arrivals);
        }
        Ok(())
    }
}

/// Waits until a count has reached what is expected, or has not grown for a time. Returns the count.
pub fn settle(mut count: impl FnMut() -> u64, expected: u64, patience: Duration) -> u64 {
    let (mut last, mut changed) = (count(), Instant::now());
    while last < expected && changed.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(5));
        let now = count();
        if now != last {
            (last, changed) = (now, Instant::now());
        }
    }
    last
}

fn listen() -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts connections and handles each in a task of its own.
async fn accept<F>(
    listener: std::net::TcpListener,
    received: Arc<Received>,
    handle: fn(TcpStream, Arc<Received>) -> F,
) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(handle(socket, Arc::clone(&received)));
    }
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
        let received = Received::default();
        received.take(&export.encode_to_vec()).unwrap();
        assert_eq!(received.spans.load(Ordering::Relaxed), 3);
        assert!(received.take(&[1, 2, 3]).is_err());
        assert_eq!(received.arrivals.lock().unwrap().len(), 0);
        received.keep.store(true, Ordering::Relaxed);
        received.take(&export.encode_to_vec()).unwrap();
        let ends: Vec<u64> = received
            .arrivals
            .lock()
            .unwrap()
            .iter()
            .map(|arrival| arrival.end_unix_ns)
            .collect();
        assert_eq!(ends, [1, 2, 3]);
    }

    #[test]
    fn waits_for_what_still_comes_and_no_longer() {
        let mut count = 0;
        let mut growing = || {
            count += 1;
            count
        };
        assert_eq!(settle(&mut growing, 4, Duration::from_secs(60)), 4);
        assert_eq!(settle(|| 2, 4, Duration::from_millis(20)), 2);
    }
}
