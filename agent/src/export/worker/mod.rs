//! Takes batches from the queue and gets them across: again and again if need be.
//!
//! A batch that could not be sent goes back to the front of the queue, where it is the oldest. So nothing is given up
//! for its age, only when the queue is full (or at the end, when time is up).

use std::{
    collections::VecDeque,
    future::Future,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    encode::Batch,
    losses::{Loss, Losses},
    queue::{MAX_REQUEST_BYTES, Queue},
};
use crate::metrics::Metrics;

/// The first pause after a failure. Each further one is twice as long, and shortened by up to a half at random.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. Short, because what the queue bridges is the collector's absence and this pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// The longest pause that a collector may ask for.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken, except for so many spans.
    Taken {
        /// OTLP's `rejected_spans`.
        rejected: u64,
        /// OTLP's `error_message`: why, or a warning.
        message: String,
    },
    /// It was not taken, and may be sent again.
    Again {
        /// How long the collector asks to wait.
        after: Option<Duration>,
        /// What happened.
        reason: String,
    },
    /// It is too large: parts of it may be taken.
    TooLarge {
        /// What happened.
        reason: String,
    },
    /// The answer cannot be read: it is not known whether it was taken, and it must not be sent again.
    Malformed {
        /// What happened.
        reason: String,
    },
    /// It will never be taken.
    Refused {
        /// What happened.
        reason: String,
    },
    /// It could not be written.
    NotWritten {
        /// What happened.
        reason: String,
    },
}

/// Something that takes requests.
pub trait Transport {
    /// Sends an `ExportTraceServiceRequest`.
    fn send(&mut self, request: Bytes) -> impl Future<Output = Outcome>;
}

/// How the worker paces itself.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a span waits for others.
    pub schedule_delay: Duration,
    /// How long a request may take.
    pub timeout: Duration,
}

/// Exports until the queue is closed and either empty or out of time.
pub async fn run(queue: &Queue, mut transport: impl Transport, pace: Pace, losses: &Losses, metrics: &Metrics) {
    let mut worker = Worker {
        queue,
        losses,
        metrics,
        failures: 0,
        halves: VecDeque::new(),
        limit: RequestLimit::default(),
    };
    let mut delay = pace.schedule_delay;
    let mut buf = BytesMut::new();
    while let Some(part) = worker.next(delay).await {
        let closing = queue.close_by();
        let started = Instant::now();
        let request = part.batch.to_request(&mut buf);
        let request_bytes = request.len();
        let outcome = tokio::select! {
            biased;
            outcome = timeout(pace.timeout, transport.send(request)) => outcome.unwrap_or_else(|_| Outcome::Again {
                after: None,
                reason: format!("no answer within {} ms", pace.timeout.as_millis()),
            }),
            () = queue.out_of_time() => {
                worker.halves.push_front(part.batch);
                break;
            }
        };
        delay = pace.schedule_delay;
        let sent = Sent {
            started,
            answered: Instant::now(),
            bytes: request_bytes,
        };
        if let Some(until) = worker.settle(part, outcome, sent) {
            // What was sent once has waited for others already.
            delay = Duration::ZERO;
            match closing {
                // Cut short when the queue is closed: one more attempt, then the pauses count again.
                None => queue.pause(until).await,
                Some(close_by) if until < close_by => sleep_until(until).await,
                Some(_) => break,
            }
        }
    }
    for half in std::mem::take(&mut worker.halves).into_iter().rev() {
        queue.give_back(half);
    }
    let lost = queue.give_up().spans();
    if lost > 0 {
        let destination = losses.destination();
        tracing::warn!("{lost} spans were not sent to {destination} before the end");
    }
}

/// The batch of one request.
struct Part {
    batch: Batch,
    /// It is one half of a batch that was too large.
    is_half: bool,
}

/// When a request was sent, and how large it was.
struct Sent {
    started: Instant,
    answered: Instant,
    bytes: usize,
}

struct Worker<'a> {
    queue: &'a Queue,
    losses: &'a Losses,
    metrics: &'a Metrics,
    /// Failures in a row.
    failures: u32,
    /// What is left of a batch that was too large: two parts at most, sent before anything else.
    halves: VecDeque<Batch>,
    limit: RequestLimit,
}

impl Worker<'_> {
    async fn next(&mut self, delay: Duration) -> Option<Part> {
        if let Some(batch) = self.halves.pop_front() {
            return Some(Part { batch, is_half: true });
        }
        let batch = self.queue.batch(delay, self.limit.bytes).await?;
        Some(Part { batch, is_half: false })
    }

    /// Books the outcome. If it is to be sent again: when.
    fn settle(&mut self, part: Part, outcome: Outcome, sent: Sent) -> Option<Instant> {
        let Part { batch, is_half } = part;
        let destination = self.losses.destination();
        let spans = batch.len() as u64;
        let export = &self.metrics.export;
        let is_sent_again = match outcome {
            Outcome::Again { .. } => true,
            Outcome::TooLarge { .. } => !is_half && spans > 1,
            _ => false,
        };
        if !is_sent_again && !self.queue.land(spans) {
            return None;
        }
        match outcome {
            Outcome::Taken { rejected, message } => {
                self.failures = 0;
                self.limit.taken();
                self.losses.taken(sent.answered - sent.started);
                let rejected = rejected.min(spans);
                export.batches.inc();
                export.exported.inc_by(spans - rejected);
                export.failed.partial_success.inc_by(rejected);
                if rejected > 0 || !message.is_empty() {
                    self.losses.lost(Loss::PartialSuccess, rejected, || {
                        format!("{destination} takes a request, but {rejected} of its {spans} spans not, and says: {message:?}")
                    });
                }
                None
            }
            Outcome::Again { after, reason } => {
                export.retries.inc();
                self.losses.failed(&reason);
                if is_half {
                    self.halves.push_front(batch);
                } else {
                    self.queue.give_back(batch);
                }
                self.losses.lost(Loss::Late, 1, || {
                    let waiting = export.queue_spans.get();
                    format!(
                        "spans cannot be sent to {destination}: {reason}; {waiting} are kept and sent later, is a collector \
                         running there?"
                    )
                });
                tracing::debug!("a request to {destination} failed: {reason}");
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                let backoff = sent.started + pause.mul_f64(1.0 - fastrand::f64() / 2.0);
                // From the answer on (RFC 9110, section 10.2.3), and never sooner than without being asked: a collector that
                // asks for no pause at all must not be asked in a loop.
                let asked = after.map(|after| sent.answered + after.min(LONGEST_ASKED_PAUSE));
                Some(asked.map_or(backoff, |asked| asked.max(backoff)))
            }
            Outcome::TooLarge { reason } => {
                self.limit.refused(sent.bytes);
                self.losses.failed(&reason);
                match batch.split() {
                    Ok(halves) if !is_half => self.halves.extend(halves),
                    _ => {
                        export.failed.request_too_large.inc_by(spans);
                        self.losses.lost(Loss::RequestTooLarge, spans, || {
                            format!(
                                "{destination} refuses a request of {} KiB for its size, halved too, {spans} spans are lost: \
                                 {reason}; requests become smaller now, raise the limit there if this goes on",
                                sent.bytes / 1024
                            )
                        });
                    }
                }
                None
            }
            Outcome::Malformed { reason } => {
                export.failed.malformed_answer.inc_by(spans);
                self.losses.failed(&reason);
                self.losses.lost(Loss::MalformedAnswer, spans, || {
                    format!("whether {destination} took {spans} spans is not known, they are not sent again: {reason}; is it a collector?")
                });
                None
            }
            Outcome::Refused { reason } => {
                export.failed.refused.inc_by(spans);
                self.losses.failed(&reason);
                self.losses.lost(Loss::Refused, spans, || {
                    format!(
                        "{destination} refuses spans, {spans} are lost: {reason}; are endpoint, protocol and \
                         OTEL_EXPORTER_OTLP_HEADERS right?"
                    )
                });
                None
            }
            Outcome::NotWritten { reason } => {
                export.failed.write.inc_by(spans);
                self.losses.failed(&reason);
                self.losses.lost(Loss::NotWritten, spans, || {
                    format!("spans cannot be written to {destination}, {spans} are lost: {reason}; free space, or write elsewhere")
                });
                None
            }
        }
    }
}

/// How large requests may be, as far as the collector has let us know. What it refuses is lost but for what fits when it is
/// halved once, so the later ones are made smaller, and after many that were taken larger again.
#[derive(Debug)]
struct RequestLimit {
    bytes: usize,
    taken: u32,
}

impl Default for RequestLimit {
    fn default() -> Self {
        Self {
            bytes: MAX_REQUEST_BYTES,
            taken: 0,
        }
    }
}

impl RequestLimit {
    /// Not smaller: who refuses that does so for another reason.
    const LEAST: usize = 64 << 10;
    /// So many requests must be taken before larger ones are tried. The first of those costs being sent once more in halves.
    const TAKEN: u32 = 256;

    fn refused(&mut self, request_bytes: usize) {
        self.bytes = (request_bytes / 2).clamp(Self::LEAST, self.bytes);
        self.taken = 0;
    }

    fn taken(&mut self) {
        self.taken += 1;
        if self.taken >= Self::TAKEN {
            self.bytes = (2 * self.bytes).min(MAX_REQUEST_BYTES);
            self.taken = 0;
        }
    }
}

/// The pause of a `Retry-After` header (RFC 9110, section 10.2.3): seconds or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(
            httpdate::parse_http_date(value.trim())
                .ok()?
                .duration_since(now)
                .unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests;
