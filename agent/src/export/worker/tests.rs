//! A scripted transport, and time that stands still until all wait for it.

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

/// What came: when, and the span ids in order.
type Log = Arc<Mutex<Vec<(Duration, Vec<u64>)>>>;

/// Answers by a script, then as it is told to.
struct Scripted {
    begun: Instant,
    /// How long an answer takes.
    takes: Duration,
    script: VecDeque<Outcome>,
    /// Away until then.
    back: Option<Instant>,
    hangs: bool,
    /// The largest request that it takes.
    most_bytes: usize,
    log: Log,
}

impl Transport for Scripted {
    async fn send(&mut self, request: Bytes) -> Outcome {
        assert!(request.len() <= MAX_REQUEST_BYTES);
        if self.hangs {
            std::future::pending().await
        }
        if self.back.is_some_and(|back| Instant::now() < back) {
            return again(None);
        }
        let outcome = (request.len() > self.most_bytes).then(too_large);
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
            encoder: Encoder::default(),
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

/// The warnings that this thread logs.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// Until the guard is dropped.
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let warnings = Self::default();
        let writer = warnings.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .finish();
        (warnings, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_is_told_when_it_begins_and_when_it_is_over() {
    local(async {
        let (warnings, _guard) = Warnings::capture();
        let limits = Limits {
            max_spans: 1000,
            max_batch_spans: 100,
            ..LIMITS
        };
        // 100 spans a second, and three times as many come.
        let mut rig = Rig::new(limits, |transport| transport.takes = Duration::from_secs(1));
        for _ in 0..10 {
            rig.push(300, 0);
            sleep_ms(1000).await;
        }
        let dropped = rig.metrics.export.dropped.queue_spans.get();
        assert!((900..=1300).contains(&dropped), "{dropped}");
        assert_eq!(warnings.lines().len(), 1, "{:?}", warnings.lines());
        sleep_ms(60_000).await;
        let lines = warnings.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("spans are dropped, the oldest first: the queue is full (1000 spans, ")
                && lines[0].contains(
                    "because a test takes them too slowly (its last answer took 1000 ms); mend that, or raise"
                ),
            "{lines:?}"
        );
        assert!(
            lines[1].contains(&format!("dropping is over: {dropped} spans were lost within "))
                && lines[1].ends_with("because the queue was full"),
            "{lines:?}"
        );
        let (_, metrics, _) = rig.shutdown().await;
        assert_eq!(counts(&metrics), (3000 - dropped, [dropped, 0, 0, 0], 0, 0, 0));
        assert_eq!(warnings.lines().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_day_without_collector_is_two_lines_and_what_is_refused_is_told_once() {
    local(async {
        let (warnings, _guard) = Warnings::capture();
        let limits = Limits {
            max_spans: 10,
            ..LIMITS
        };
        let mut rig = Rig::new(limits, |transport| {
            transport.back = Some(Instant::now() + Duration::from_secs(86_400));
            transport.script = (0..99)
                .map(|_| Outcome::Refused {
                    reason: "HTTP status 401".to_owned(),
                })
                .collect();
        });
        for _ in 0..1440 {
            rig.push(10, 0);
            sleep_ms(60_000).await;
        }
        let lines = warnings.lines();
        let begins = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(
            begins("spans cannot be sent to a test: scripted; 10 are kept"),
            1,
            "{lines:?}"
        );
        // Ten spans a minute are lost all day. The first minutes count as episodes of their own.
        assert!((1..=3).contains(&begins("spans are dropped")), "{lines:?}");
        rig.push(10, 0);
        for _ in 0..20 {
            sleep_ms(1000).await;
            rig.push(10, 0);
        }
        let lines = warnings.lines();
        let refused = "a test refuses spans, 10 are lost: HTTP status 401; are endpoint, protocol and";
        assert_eq!(
            lines.iter().filter(|line| line.contains(refused)).count(),
            1,
            "{lines:?}"
        );
        rig.shutdown().await;
        assert!(
            warnings
                .lines()
                .last()
                .unwrap()
                .ends_with("because a test refused them")
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_bound_the_queue_and_the_request() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| transport.hangs = true);
        rig.push(1, 5 << 20);
        for _ in 0..100 {
            rig.push(1, 1 << 20);
        }
        let bytes = rig.metrics.export.queue_bytes.get();
        assert!((63 << 20..=64 << 20).contains(&bytes), "{bytes} bytes");
        assert_eq!(counts(&rig.metrics).1, [0, 37, 1, 0]);
        rig.worker.abort();

        let mut rig = Rig::new(LIMITS, |_| ());
        for _ in 0..10 {
            rig.push(1, 1 << 20);
        }
        let (log, metrics, _) = rig.shutdown().await;
        let sizes: Vec<usize> = log.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [3, 3, 3, 1]);
        assert_eq!(counts(&metrics), (10, [0; 4], 0, 0, 0));
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
async fn what_is_too_large_is_halved_once_and_then_lost() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = [too_large(), taken(), too_large(), too_large()].into();
        });
        rig.push(9, 100);
        sleep_ms(2000).await;
        rig.push(1, 0);
        let (log, metrics, _) = rig.shutdown().await;
        let ids: Vec<Vec<u64>> = log.iter().map(|(_, ids)| ids.clone()).collect();
        let all: Vec<u64> = (1..=9).collect();
        assert_eq!(ids, [all.clone(), all[..4].to_vec(), all[4..].to_vec(), vec![10]]);
        // Both halves at once: nothing is to be waited for.
        assert_eq!(log[0].0, log[2].0);
        // A single span has no halves.
        assert_eq!(metrics.export.failed.request_too_large.get(), 5 + 1);
        assert_eq!(counts(&metrics), (4, [0; 4], 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_half_that_fails_is_sent_again_as_a_half() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = [too_large(), again(None), again(None)].into();
        });
        rig.push(8, 0);
        sleep_ms(20_000).await;
        let (log, metrics, _) = rig.shutdown().await;
        let sizes: Vec<usize> = log.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [8, 4, 4, 4, 4]);
        assert_eq!(counts(&metrics), (8, [0; 4], 0, 0, 2));

        // At the end, each is counted.
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = [too_large()].into_iter().chain((0..99).map(|_| again(None))).collect();
        });
        rig.push(8, 0);
        sleep_ms(3000).await;
        let (_, metrics, _) = rig.shutdown().await;
        assert_eq!(counts(&metrics).1, [0, 0, 0, 8]);
    })
    .await;
}

/// A proxy that takes 1 MiB, in front of spans of 4 KiB: what is lost is what it takes to learn that.
#[tokio::test(start_paused = true)]
async fn requests_become_as_small_as_the_collector_wants_them_and_larger_again() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| transport.most_bytes = 1 << 20);
        for _ in 0..40 {
            rig.push(1000, 4096);
            sleep_ms(1000).await;
        }
        let (log, metrics, _) = rig.shutdown().await;
        let lost = metrics.export.failed.request_too_large.get();
        assert!(lost > 0 && lost <= 1100, "{lost} lost");
        assert_eq!(counts(&metrics), (40_000 - lost, [0; 4], 0, 0, 0));
        let sizes: Vec<usize> = log.iter().map(|(_, ids)| ids.len()).collect();
        assert!(sizes[10..].iter().all(|&size| size <= 260), "{sizes:?}");
    })
    .await;
    let mut limit = RequestLimit::default();
    limit.refused(4 << 20);
    limit.refused(2 << 20);
    assert_eq!(limit.bytes, 1 << 20);
    for taken in 0..2 * RequestLimit::TAKEN {
        assert!(limit.bytes < MAX_REQUEST_BYTES, "{taken}");
        limit.taken();
    }
    assert_eq!(limit.bytes, MAX_REQUEST_BYTES);
    for _ in 0..20 {
        limit.refused(1000);
    }
    assert_eq!(limit.bytes, RequestLimit::LEAST);
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

/// Spans of processes that live for one request: their resources are bounded with them.
#[tokio::test(start_paused = true)]
async fn the_resources_of_brief_processes_count() {
    local(async {
        let limits = Limits {
            max_bytes: 1 << 20,
            ..LIMITS
        };
        let mut rig = Rig::new(limits, |transport| transport.hangs = true);
        for number in 0..1000 {
            rig.resource = Arc::new(Resource {
                service_name: format!("job-{number}"),
                attributes: vec![Attribute::str("process.command_line", "x".repeat(4000))],
            });
            rig.push(1, 0);
        }
        let spans = rig.metrics.export.queue_spans.get();
        assert!((200..=262).contains(&spans), "{spans} spans of 4 KB in 1 MiB");
        assert_eq!(counts(&rig.metrics).1, [0, 1000 - spans, 0, 0]);
        rig.worker.abort();
    })
    .await;
}
