//! Takes batches from the queue and sends each until it is taken or refused.
//!
//! A batch that could not be sent goes back to the front of the queue, where it is the oldest. So nothing is given up
//! for its age, only when the queue is full (or at the end, when time is up).

use std::{
    collections::VecDeque,
    future::Future,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BytesMut};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    encode::{Batch, Payload},
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

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The collector took the request, except for this many spans.
    Taken {
        /// OTLP's `rejected_spans`.
        rejected: u64,
        /// OTLP's `error_message`: why, or a warning.
        message: String,
    },
    /// The request was not taken, and may be sent again.
    Again {
        /// The pause that the collector asks for.
        after: Option<Duration>,
        /// The cause, for log lines.
        reason: String,
    },
    /// The request is too large: parts of it may be taken.
    TooLarge {
        /// The cause, for log lines.
        reason: String,
    },
    /// The answer cannot be read: whether the request was taken is not known, and it must not be sent again.
    Malformed {
        /// The cause, for log lines.
        reason: String,
    },
    /// The collector will never take the request.
    Refused {
        /// The cause, for log lines.
        reason: String,
    },
    /// The request could not be written to the file or stream.
    NotWritten {
        /// The cause, for log lines.
        reason: String,
    },
    /// Nobody reads the stream any more, and the session ends for that.
    Unread,
}

/// A destination that takes requests.
pub trait Transport {
    /// Sends an `ExportTraceServiceRequest`.
    fn send(&mut self, request: Payload) -> impl Future<Output = Outcome>;
}

/// Delays of the worker.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest time that a span waits for others to share its request.
    pub schedule_delay: Duration,
    /// Longest time that a request may take.
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
        let request_bytes = request.remaining();
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
    /// One half of a batch that was too large.
    is_half: bool,
}

/// Times and size of a request.
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
    /// Halves of a batch that was too large: two at most, sent before anything else.
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

    /// Books the outcome. Returns when to send again, if the batch is kept for that.
    fn settle(&mut self, part: Part, outcome: Outcome, sent: Sent) -> Option<Instant> {
        let spans = part.batch.len() as u64;
        let is_kept = match outcome {
            Outcome::Again { .. } => true,
            Outcome::TooLarge { .. } => !part.is_half && spans > 1,
            _ => false,
        };
        if !is_kept && !self.queue.land(spans) {
            return None;
        }
        let destination = self.losses.destination();
        let failed = &self.metrics.export.failed;
        match outcome {
            Outcome::Again { after, reason } => return Some(self.send_again(part, after, &reason, &sent)),
            Outcome::Taken { rejected, message } => self.taken(spans, rejected.min(spans), &message, &sent),
            Outcome::TooLarge { reason } => self.too_large(part, &reason, &sent),
            Outcome::Malformed { reason } => self.lose(Loss::MalformedAnswer, &failed.malformed_answer, spans, &reason, || {
                format!("{destination} may have taken {spans} spans or not, they are not sent again: {reason}; is it a collector?")
            }),
            Outcome::Refused { reason } => self.lose(Loss::Refused, &failed.refused, spans, &reason, || {
                format!(
                    "{destination} refuses spans, {spans} are lost: {reason}; are endpoint, protocol and \
                     OTEL_EXPORTER_OTLP_HEADERS right?"
                )
            }),
            Outcome::NotWritten { reason } => self.lose(Loss::NotWritten, &failed.write, spans, &reason, || {
                format!("spans cannot be written to {destination}, {spans} are lost: {reason}; free space, or write elsewhere")
            }),
            Outcome::Unread => {
                failed.write.inc_by(spans);
            }
        }
        None
    }

    fn taken(&mut self, spans: u64, rejected: u64, message: &str, sent: &Sent) {
        let export = &self.metrics.export;
        self.failures = 0;
        self.limit.taken();
        self.losses.taken(sent.answered - sent.started);
        export.batches.inc();
        export.exported.inc_by(spans - rejected);
        export.failed.partial_success.inc_by(rejected);
        if rejected > 0 || !message.is_empty() {
            self.losses.lost(Loss::PartialSuccess, rejected, || {
                let destination = self.losses.destination();
                format!("{destination} rejects {rejected} of the {spans} spans of a request, and says: {message:?}")
            });
        }
    }

    /// Gives the batch back to where it came from. Returns when to send it again.
    fn send_again(&mut self, part: Part, after: Option<Duration>, reason: &str, sent: &Sent) -> Instant {
        let Part { batch, is_half } = part;
        let destination = self.losses.destination();
        let export = &self.metrics.export;
        export.retries.inc();
        self.losses.failed(reason);
        if is_half {
            self.halves.push_front(batch);
        } else {
            self.queue.give_back(batch);
        }
        self.losses.lost(Loss::Late, 1, || {
            let waiting = export.queue_spans.get();
            format!(
                "spans cannot be sent to {destination}: {reason}; {waiting} are kept and sent later; is a collector running there?"
            )
        });
        tracing::debug!("a request to {destination} failed: {reason}");
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let backoff = sent.started + pause.mul_f64(1.0 - fastrand::f64() / 2.0);
        // From the answer on (RFC 9110, section 10.2.3), and never sooner than without being asked: a collector that asks
        // for no pause at all must not be asked in a loop.
        let asked = after.map(|after| sent.answered + after.min(LONGEST_ASKED_PAUSE));
        asked.map_or(backoff, |asked| asked.max(backoff))
    }

    /// Halves the batch, which is sent next. A batch that is a half already, or a single span, is lost.
    fn too_large(&mut self, part: Part, reason: &str, sent: &Sent) {
        let Part { batch, is_half } = part;
        let spans = batch.len() as u64;
        self.limit.refused(sent.bytes);
        match batch.split() {
            Ok(halves) if !is_half => {
                self.losses.failed(reason);
                self.halves.extend(halves);
            }
            _ => {
                let destination = self.losses.destination();
                let counter = &self.metrics.export.failed.request_too_large;
                self.lose(Loss::RequestTooLarge, counter, spans, reason, || {
                    format!(
                        "{destination} refuses a request of {} KiB as too large, and each half of it, {spans} spans are lost: \
                         {reason}; requests become smaller now, raise the collector's limit if this goes on",
                        sent.bytes / 1024
                    )
                });
            }
        }
    }

    /// Counts spans as lost. `line` is logged if an episode begins with it.
    fn lose(&self, loss: Loss, counter: &Counter, spans: u64, reason: &str, line: impl FnOnce() -> String) {
        counter.inc_by(spans);
        self.losses.failed(reason);
        self.losses.lost(loss, spans, line);
    }
}

/// Largest request in bytes, as the collector's answers show it.
///
/// A refused request is halved once, and lost if that does not help. So later requests are made smaller, and larger again
/// after many that were taken.
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
    /// Smallest limit. A collector that refuses so little does so for another reason.
    const LEAST: usize = 64 << 10;
    /// Requests that must be taken before larger ones are tried. If the larger one is refused, it is sent again in halves.
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

/// Returns the pause of a `Retry-After` header (RFC 9110, section 10.2.3): seconds or a date.
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
