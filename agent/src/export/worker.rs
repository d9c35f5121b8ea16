//! Takes batches from the queue and gets them across: again and again if need be.
//!
//! A batch that could not be sent goes back to the front of the queue, where it is the oldest. So nothing is given up
//! for its age, only when the queue is full (or at the end, when time is up).

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until, timeout};

use super::{encode::Batch, queue::Queue};
use crate::metrics::Metrics;

/// The first pause after a failure. Each further one is twice as long, and shortened by up to a half at random.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. Short, because what the queue bridges is the collector's absence and this pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// The longest pause that a collector may ask for.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);
/// Warnings about the same matter have at least this distance.
const WARNING_INTERVAL: Duration = Duration::from_secs(30);

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
pub async fn run(queue: &Queue, mut transport: impl Transport, pace: Pace, destination: &str, metrics: &Metrics) {
    let mut worker = Worker {
        queue,
        destination,
        metrics,
        failures: 0,
        delivery: Warnings::default(),
        partial: Warnings::default(),
    };
    let mut delay = pace.schedule_delay;
    let mut buf = BytesMut::new();
    while let Some(batch) = queue.batch(delay).await {
        let closing = queue.close_by();
        let started = Instant::now();
        let outcome = tokio::select! {
            biased;
            outcome = timeout(pace.timeout, transport.send(batch.to_request(&mut buf))) => outcome.unwrap_or_else(|_| Outcome::Again {
                after: None,
                reason: format!("no answer within {} ms", pace.timeout.as_millis()),
            }),
            () = queue.out_of_time() => {
                queue.give_back(batch);
                break;
            }
        };
        delay = pace.schedule_delay;
        if let Some(pause) = worker.settle(batch, outcome) {
            // What was sent once has waited for others already.
            delay = Duration::ZERO;
            let until = started + pause;
            match closing {
                // Cut short when the queue is closed: one more attempt, then the pauses count again.
                None => queue.pause(until).await,
                Some(close_by) if until < close_by => sleep_until(until).await,
                Some(_) => break,
            }
        }
    }
    let lost = queue.give_up();
    if lost > 0 {
        tracing::warn!("{lost} spans were not sent to {destination} before the end");
    }
}

struct Worker<'a> {
    queue: &'a Queue,
    destination: &'a str,
    metrics: &'a Metrics,
    /// Failures in a row.
    failures: u32,
    delivery: Warnings,
    partial: Warnings,
}

impl Worker<'_> {
    /// Books the outcome. A pause, counted from the start of the request, if it is to be sent again.
    fn settle(&mut self, batch: Batch, outcome: Outcome) -> Option<Duration> {
        let destination = self.destination;
        let spans = batch.len() as u64;
        let export = &self.metrics.export;
        match outcome {
            Outcome::Taken { rejected, message } => {
                if self.failures > 0 {
                    tracing::info!("spans reach {destination} again");
                    self.failures = 0;
                    self.delivery = Warnings::default();
                }
                let rejected = rejected.min(spans);
                export.batches.inc();
                export.exported.inc_by(spans - rejected);
                export.failed.partial_success.inc_by(rejected);
                if (rejected > 0 || !message.is_empty()) && self.partial.due() {
                    tracing::warn!("{destination} refused {rejected} of {spans} spans and says: {message:?}");
                }
                None
            }
            Outcome::Again { after, reason } => {
                self.queue.give_back(batch);
                self.metrics.export.retries.inc();
                if self.delivery.due() {
                    let waiting = export.queue_spans.get();
                    tracing::warn!(
                        "spans cannot be sent to {destination}: {reason}; \
                         {waiting} are kept and sent later, is a collector running there?"
                    );
                }
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                let pause = pause.mul_f64(1.0 - fastrand::f64() / 2.0);
                Some(after.map_or(pause, |after| after.min(LONGEST_ASKED_PAUSE)))
            }
            Outcome::Refused { reason } => {
                export.failed.refused.inc_by(spans);
                if self.delivery.due() {
                    tracing::warn!("{destination} refuses spans, {spans} are lost: {reason}");
                }
                None
            }
            Outcome::NotWritten { reason } => {
                export.failed.write.inc_by(spans);
                if self.delivery.due() {
                    tracing::warn!("spans cannot be written to {destination}, {spans} are lost: {reason}");
                }
                None
            }
        }
    }
}

/// Lets a warning through now and then. What is held back is in the counters.
#[derive(Debug, Default)]
struct Warnings {
    last: Option<Instant>,
}

impl Warnings {
    fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now - last >= WARNING_INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
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
