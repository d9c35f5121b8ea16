//! The worker against a scripted transport, in virtual time.

mod sizes;
mod warnings;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::*;
use crate::{
    engine::trace::{Attribute, Resource, Span, SpanId, SpanKind, Status, TraceId},
    export::{
        config::Encoding,
        encode::Encoder,
        queue::{Limits, MAX_REQUEST_BYTES},
    },
    metrics::{Dropped, ExportMetrics},
};

const PACE: Pace = Pace {
    schedule_delay: Duration::from_secs(1),
    timeout: Duration::from_secs(10),
};
const LIMITS: Limits = Limits {
    max_spans: 65_536,
    max_bytes: 64 << 20,
    max_batch_spans: 2048,
};

fn taken() -> Outcome {
    Outcome::Taken {
        rejected: 0,
        message: String::new(),
    }
}

fn again(after: Option<Duration>) -> Outcome {
    let reason = "scripted".to_owned();
    Outcome::Again { after, reason }
}

fn too_large() -> Outcome {
    let reason = "HTTP status 413".to_owned();
    Outcome::TooLarge { reason }
}

/// Requests that came: the time of each, and its span ids in order.
type Log = Arc<Mutex<Vec<(Duration, Vec<u64>)>>>;

/// A transport that answers by a script, then takes all requests.
struct Scripted {
    begun: Instant,
    /// Delay of each answer.
    takes: Duration,
    script: VecDeque<Outcome>,
    /// Every request before this time fails.
    back: Option<Instant>,
    hangs: bool,
    /// The largest request that is taken.
    most_bytes: usize,
    log: Log,
}

impl Transport for Scripted {
    async fn send(&mut self, request: Payload) -> Outcome {
        assert!(request.remaining() <= MAX_REQUEST_BYTES);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.back.is_some_and(|back| Instant::now() < back) {
            return again(None);
        }
        let outcome = (request.remaining() > self.most_bytes).then(too_large);
        let request = ExportTraceServiceRequest::decode(request).unwrap();
        let spans = request
            .resource_spans
            .iter()
            .flat_map(|group| &group.scope_spans[0].spans);
        let ids = spans
            .map(|span| u64::from_be_bytes(span.span_id.clone().try_into().unwrap()))
            .collect();
        self.log.lock().unwrap().push((self.begun.elapsed(), ids));
        tokio::time::sleep(self.takes).await;
        outcome.or_else(|| self.script.pop_front()).unwrap_or_else(taken)
    }
}

struct Rig {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    encoder: Encoder,
    resource: Arc<Resource>,
    log: Log,
    next_id: u64,
    worker: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn new(limits: Limits, configure: impl FnOnce(&mut Scripted)) -> Self {
        let metrics = Arc::new(Metrics::default());
        let losses = Arc::new(Losses::new("a test".to_owned()));
        let queue = Arc::new(Queue::new(limits, metrics.clone(), losses.clone()));
        let log = Log::default();
        let mut transport = Scripted {
            begun: Instant::now(),
            takes: Duration::ZERO,
            script: VecDeque::new(),
            back: None,
            hangs: false,
            most_bytes: MAX_REQUEST_BYTES,
            log: log.clone(),
        };
        configure(&mut transport);
        let (of_worker, counts) = (queue.clone(), metrics.clone());
        let worker = tokio::task::spawn_local(async move {
            tokio::select! {
                () = run(&of_worker, transport, PACE, &losses, &counts) => losses.finish(),
                () = losses.watch() => {}
            }
        });
        Self {
            queue,
            metrics,
            encoder: Encoder::new(Encoding::Protobuf),
            resource: Arc::default(),
            log,
            next_id: 1,
            worker,
        }
    }

    fn push(&mut self, count: u64, padding: usize) {
        let spans: Vec<Span> = (self.next_id..self.next_id + count)
            .map(|id| Span {
                trace_id: TraceId::new([7; 16]).unwrap(),
                span_id: SpanId::new(id.to_be_bytes()).unwrap(),
                parent: None,
                parent_is_remote: false,
                trace_state: None,
                trace_flags: 1,
                kind: SpanKind::Server,
                name: "GET".into(),
                start_unix_ns: 1,
                end_unix_ns: 2,
                attributes: vec![Attribute::str("pad", "x".repeat(padding))],
                status: Status::Unset,
                links: vec![],
                resource: self.resource.clone(),
            })
            .collect();
        self.next_id += count;
        self.queue.push(self.encoder.encode(&spans));
    }

    async fn shutdown(self) -> (Vec<(Duration, Vec<u64>)>, Arc<Metrics>, Duration) {
        let begun = Instant::now();
        self.queue.close(begun + Duration::from_secs(5));
        self.worker.await.unwrap();
        (self.log.lock().unwrap().clone(), self.metrics, begun.elapsed())
    }
}

/// Exported, dropped by cause (spans, bytes, size, shutdown), refused, partial success, retries.
fn counts(metrics: &Metrics) -> (u64, [u64; 4], u64, u64, u64) {
    let ExportMetrics {
        exported,
        dropped,
        failed,
        retries,
        ..
    } = &metrics.export;
    let Dropped {
        queue_spans,
        queue_bytes,
        too_large,
        shutdown,
        ..
    } = dropped;
    (
        exported.get(),
        [queue_spans.get(), queue_bytes.get(), too_large.get(), shutdown.get()],
        failed.refused.get(),
        failed.partial_success.get(),
        retries.get(),
    )
}

fn all(log: &[(Duration, Vec<u64>)]) -> Vec<u64> {
    log.iter().flat_map(|(_, ids)| ids.clone()).collect()
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_leaves_when_it_is_full_or_its_delay_is_over() {
    local(async {
        let mut rig = Rig::new(LIMITS, |_| ());
        sleep_ms(5000).await;
        rig.push(3, 0);
        sleep_ms(400).await;
        rig.push(2, 0);
        sleep_ms(2000).await;
        rig.push(2047, 0);
        sleep_ms(1).await;
        rig.push(2, 0);
        sleep_ms(2000).await;
        let (log, metrics, _) = rig.shutdown().await;
        let shape: Vec<(u128, usize)> = log.iter().map(|(at, ids)| (at.as_millis(), ids.len())).collect();
        assert_eq!(shape, [(6000, 5), (7401, 2048), (8401, 1)]);
        assert_eq!(all(&log), (1..=2054).collect::<Vec<u64>>());
        assert_eq!(counts(&metrics), (2054, [0; 4], 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_collector_loses_nothing() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.back = Some(Instant::now() + Duration::from_secs(61));
        });
        sleep_ms(1000).await;
        for _ in 0..700 {
            rig.push(100, 550);
            sleep_ms(100).await;
        }
        let (log, metrics, _) = rig.shutdown().await;
        assert_eq!(all(&log), (1..=70_000).collect::<Vec<u64>>());
        let (exported, dropped, refused, partial, retries) = counts(&metrics);
        assert_eq!((exported, dropped, refused, partial), (70_000, [0; 4], 0, 0));
        assert!((15..45).contains(&retries), "{retries} retries");
        assert!(log[0].0 < Duration::from_secs(65), "{:?}", log[0].0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn longer_loses_the_oldest_and_counts() {
    local(async {
        let limits = Limits {
            max_spans: 1000,
            max_batch_spans: 300,
            ..LIMITS
        };
        let mut rig = Rig::new(limits, |transport| {
            transport.back = Some(Instant::now() + Duration::from_secs(30));
        });
        for _ in 0..25 {
            rig.push(100, 0);
            sleep_ms(1000).await;
        }
        sleep_ms(20_000).await;
        let (log, metrics, _) = rig.shutdown().await;
        assert_eq!(all(&log), (1501..=2500).collect::<Vec<u64>>());
        let (exported, dropped, ..) = counts(&metrics);
        assert_eq!((exported, dropped), (1000, [1500, 0, 0, 0]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn retry_after_partial_success_and_refusal() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            let partial = Outcome::Taken {
                rejected: 2,
                message: "too old".to_owned(),
            };
            let refused = Outcome::Refused {
                reason: "HTTP status 400".to_owned(),
            };
            transport.script = [again(Some(Duration::from_secs(20))), partial, refused].into();
        });
        rig.push(5, 0);
        sleep_ms(30_000).await;
        rig.push(3, 0);
        sleep_ms(2000).await;
        rig.push(1, 0);
        let (log, metrics, _) = rig.shutdown().await;
        let shape: Vec<(u128, usize)> = log.iter().map(|(at, ids)| (at.as_millis(), ids.len())).collect();
        assert_eq!(shape[..3], [(1000, 5), (21_000, 5), (31_000, 3)]);
        assert_eq!(counts(&metrics), (3 + 1, [0; 4], 3, 2, 1));
    })
    .await;
}

fn shape(log: &[(Duration, Vec<u64>)]) -> Vec<(u128, usize)> {
    log.iter().map(|(at, ids)| (at.as_millis(), ids.len())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_asked_for_begins_with_the_answer_and_has_bounds() {
    local(async {
        let script = [
            again(Some(Duration::from_secs(2))),
            again(Some(Duration::MAX)),
            again(Some(Duration::ZERO)),
            again(Some(Duration::ZERO)),
        ];
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.takes = Duration::from_secs(5);
            transport.script = script.into();
        });
        rig.push(5, 0);
        sleep_ms(400_000).await;
        let (log, metrics, _) = rig.shutdown().await;
        let at: Vec<u128> = log.iter().map(|(at, _)| at.as_millis()).collect();
        // 5 s for an answer, then 2 s, 300 s in place of ever, and nothing: the backoff is over before the answer came.
        assert_eq!(at, [1000, 8000, 313_000, 318_000, 323_000]);
        assert_eq!(counts(&metrics), (5, [0; 4], 0, 0, 4));

        // Who answers at once and asks for no pause is asked again with the pauses of anybody else.
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = (0..1000).map(|_| again(Some(Duration::ZERO))).collect();
        });
        rig.push(5, 0);
        sleep_ms(60_000).await;
        let (log, ..) = rig.shutdown().await;
        assert!((14..45).contains(&log.len()), "{:?}", shape(&log));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_costs_its_spans_once() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            let reason = "scripted".to_owned();
            transport.script = [Outcome::Malformed { reason }].into();
        });
        rig.push(5, 0);
        sleep_ms(2000).await;
        rig.push(3, 0);
        let (log, metrics, _) = rig.shutdown().await;
        assert_eq!(shape(&log)[0], (1000, 5));
        assert_eq!(log.len(), 2);
        assert_eq!(metrics.export.failed.malformed_answer.get(), 5);
        assert_eq!(counts(&metrics), (3, [0; 4], 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_without_answer_is_sent_again() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| transport.hangs = true);
        rig.push(5, 0);
        sleep_ms(10_999).await;
        assert_eq!(
            (rig.metrics.export.retries.get(), rig.metrics.export.queue_spans.get()),
            (0, 0)
        );
        sleep_ms(2).await;
        // The pause counts from the request's start, so the next one has begun (and, to be full, taken the spans).
        assert_eq!(rig.metrics.export.retries.get(), 1);
        let (_, metrics, took) = rig.shutdown().await;
        assert_eq!(took, Duration::from_secs(5));
        assert_eq!(counts(&metrics), (0, [0, 0, 0, 5], 0, 0, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_flushes_at_once_and_gives_up_in_time() {
    local(async {
        let mut rig = Rig::new(LIMITS, |_| ());
        rig.push(5000, 0);
        let (log, metrics, took) = rig.shutdown().await;
        assert_eq!((all(&log).len(), took), (5000, Duration::ZERO));
        assert_eq!(counts(&metrics), (5000, [0; 4], 0, 0, 0));

        let mut rig = Rig::new(LIMITS, |transport| {
            transport.back = Some(Instant::now() + Duration::from_secs(60));
        });
        rig.push(10, 0);
        sleep_ms(20_000).await;
        let (_, metrics, took) = rig.shutdown().await;
        assert!(took <= Duration::from_secs(5), "{took:?}");
        let (exported, dropped, ..) = counts(&metrics);
        assert_eq!((exported, dropped), (0, [0, 0, 0, 10]));

        let rig = Rig::new(LIMITS, |_| ());
        assert_eq!(rig.shutdown().await.2, Duration::ZERO);
    })
    .await;
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
    assert_eq!(
        retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now),
        Some(Duration::from_secs(60))
    );
    assert_eq!(retry_after("Sun, 06 Nov 1994 08:48:37 GMT", now), Some(Duration::ZERO));
    assert_eq!(retry_after("soon", now), None);
    assert_eq!(retry_after("-1", now), None);
}
