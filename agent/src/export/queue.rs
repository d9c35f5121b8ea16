//! The bounded queue between Core and the exporter.
//!
//! Pushing takes a lock for as long as moving some pointers takes, and wakes the exporter only when it has something to
//! do: when the queue was empty, and when a batch is full. An empty queue has no timer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    encode::{Batch, EncodedSpan},
    losses::{Loss, Losses},
    thread::Unsent,
};
use crate::metrics::Metrics;

/// The largest request, in bytes. Collectors take gRPC messages of 4 MiB unless told otherwise (the default of
/// grpc-go's `MaxRecvMsgSize`).
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Bounds of the queue, and of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Upper bound on the spans that wait.
    pub max_spans: usize,
    /// Upper bound on the bytes that wait.
    pub max_bytes: usize,
    /// Upper bound on the spans of a batch.
    pub max_batch_spans: usize,
}

/// Queue of spans that wait for export. When it is full, the oldest are dropped.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    metrics: Arc<Metrics>,
    losses: Arc<Losses>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    spans: VecDeque<EncodedSpan>,
    bytes: usize,
    waiting: Waiting,
    /// Spans that the worker has taken, and has not booked yet.
    in_flight: usize,
    /// Set by [`Queue::give_up`]: all spans are counted, so what becomes of those in flight does not count.
    is_given_up: bool,
    /// Set by [`Queue::close`]: the time by which all must have been sent.
    close_by: Option<Instant>,
}

/// Event that the exporter waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    /// Nothing: it is busy.
    #[default]
    Nothing,
    /// Any span.
    Any,
    /// A full batch. A timer ends the wait with fewer spans.
    Batch,
}

/// Spans that had no room.
struct Overflow {
    dropped: usize,
    /// Spans that the queue held with them.
    spans: usize,
    bytes: usize,
}

impl Queue {
    /// Creates an empty queue.
    pub fn new(limits: Limits, metrics: Arc<Metrics>, losses: Arc<Losses>) -> Self {
        Self {
            limits,
            metrics,
            losses,
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Adds spans. Never waits for the exporter.
    pub fn push(&self, spans: Vec<EncodedSpan>) {
        let mut state = self.lock();
        let mut too_large = 0;
        for span in spans {
            if span.request_bytes() > MAX_REQUEST_BYTES {
                too_large += 1;
                continue;
            }
            state.bytes += span.footprint();
            state.spans.push_back(span);
        }
        let dropped = self.drop_oldest(&mut state);
        let wake = match state.waiting {
            Waiting::Nothing => false,
            Waiting::Any => !state.spans.is_empty(),
            Waiting::Batch => state.spans.len() >= self.limits.max_batch_spans,
        };
        if wake {
            state.waiting = Waiting::Nothing;
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        if too_large > 0 {
            self.metrics.export.dropped.too_large.inc_by(too_large);
            self.losses.lost(Loss::SpanTooLarge, too_large, || {
                format!(
                    "{too_large} spans are dropped: each alone is larger than a request may be ({} MiB); capture fewer headers",
                    MAX_REQUEST_BYTES >> 20
                )
            });
        }
        self.tell(dropped);
    }

    /// Returns which part of the room is taken, from 0 to 1: of that for spans or of that for bytes, whichever is more.
    pub fn fill(&self) -> f64 {
        let state = self.lock();
        let spans = state.spans.len() as f64 / self.limits.max_spans as f64;
        spans.max(state.bytes as f64 / self.limits.max_bytes as f64)
    }

    /// Puts a batch that was not taken back to the front.
    pub fn give_back(&self, batch: Batch) {
        let mut state = self.lock();
        if state.is_given_up {
            return;
        }
        state.in_flight -= batch.len();
        for span in batch.into_spans().into_iter().rev() {
            state.bytes += span.footprint();
            state.spans.push_front(span);
        }
        let dropped = self.drop_oldest(&mut state);
        drop(state);
        self.tell(dropped);
    }

    /// Waits until there is a span, then for at most `delay` for a full batch, and takes the spans.
    ///
    /// Takes no more than one request of `max_bytes` holds, but at least one span. Returns `None` when the queue was
    /// closed and is empty.
    pub async fn batch(&self, delay: Duration, max_bytes: usize) -> Option<Batch> {
        let mut full_by = None;
        loop {
            let woken = {
                let mut state = self.lock();
                let due = full_by.is_some_and(|full_by| Instant::now() >= full_by);
                if state.spans.is_empty() {
                    if state.close_by.is_some() {
                        return None;
                    }
                    // Also if spans were there before: all may have been dropped.
                    full_by = None;
                    state.waiting = Waiting::Any;
                } else if due || state.close_by.is_some() || state.spans.len() >= self.limits.max_batch_spans {
                    state.waiting = Waiting::Nothing;
                    return Some(self.take(&mut state, max_bytes));
                } else {
                    full_by.get_or_insert_with(|| Instant::now() + delay);
                    state.waiting = Waiting::Batch;
                }
                self.wake.notified()
            };
            match full_by {
                Some(full_by) => drop(tokio::time::timeout_at(full_by, woken).await),
                None => woken.await,
            }
        }
    }

    /// Closes the queue: its spans must leave by then, and batches no longer wait to be full.
    pub fn close(&self, close_by: Instant) {
        self.lock().close_by = Some(close_by);
        self.wake.notify_one();
    }

    /// Returns the time by which all must have been sent, once the queue has been closed.
    pub fn close_by(&self) -> Option<Instant> {
        self.lock().close_by
    }

    /// Waits until `until`, or until the queue is closed.
    pub async fn pause(&self, until: Instant) {
        while self.close_by().is_none() {
            // A permit can be left from a push; it is used up here and only costs a turn.
            if tokio::time::timeout_at(until, self.wake.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the queue is closed and the time that was given then is over.
    pub async fn out_of_time(&self) {
        loop {
            match self.close_by() {
                Some(close_by) => return tokio::time::sleep_until(close_by).await,
                None => self.wake.notified().await,
            }
        }
    }

    /// Ends the flight of some spans, which the caller then counts. Returns false if [`Queue::give_up`] has counted
    /// them.
    pub fn land(&self, spans: u64) -> bool {
        let mut state = self.lock();
        if !state.is_given_up {
            state.in_flight -= spans as usize;
        }
        !state.is_given_up
    }

    /// Counts all that waits or is in flight as dropped: the time that a shutdown may take is over. The worker may hang in
    /// a write; what it says later of spans in flight does not count.
    pub fn give_up(&self) -> Unsent {
        let mut state = self.lock();
        let unsent = Unsent {
            waiting: state.spans.len(),
            in_flight: state.in_flight,
        };
        state.spans.clear();
        state.bytes = 0;
        state.in_flight = 0;
        state.is_given_up = true;
        self.metrics.export.dropped.shutdown.inc_by(unsent.spans() as u64);
        self.tell_levels(&state);
        unsent
    }

    fn take(&self, state: &mut State, max_bytes: usize) -> Batch {
        let mut batch = Batch::default();
        while let Some(span) = state.spans.front()
            && batch.len() < self.limits.max_batch_spans
            && (batch.is_empty() || batch.bytes_with(span) <= max_bytes)
            && let Some(span) = state.spans.pop_front()
        {
            state.bytes -= span.footprint();
            batch.add(span);
        }
        state.in_flight += batch.len();
        // After a time without collector the deque is large: its present length decides how much is kept.
        if state.spans.len() < state.spans.capacity() / 8 {
            state
                .spans
                .shrink_to(4 * self.limits.max_batch_spans.max(state.spans.len()));
        }
        self.tell_levels(state);
        batch
    }

    /// Makes the queue fit into its bounds. Returns how many spans that costs.
    fn drop_oldest(&self, state: &mut State) -> Option<Overflow> {
        let Limits {
            max_spans, max_bytes, ..
        } = self.limits;
        let (spans, bytes) = (state.spans.len(), state.bytes);
        while state.spans.len() > max_spans || state.bytes > max_bytes {
            let dropped = &self.metrics.export.dropped;
            let cause = if state.spans.len() > max_spans {
                &dropped.queue_spans
            } else {
                &dropped.queue_bytes
            };
            cause.inc();
            let Some(oldest) = state.spans.pop_front() else { break };
            state.bytes -= oldest.footprint();
        }
        self.tell_levels(state);
        let dropped = spans - state.spans.len();
        (dropped > 0).then_some(Overflow { dropped, spans, bytes })
    }

    /// Logs an overflow; not under the lock, for a log may be slow.
    fn tell(&self, overflow: Option<Overflow>) {
        if let Some(Overflow { dropped, spans, bytes }) = overflow {
            self.losses.queue_full(dropped as u64, spans - dropped, bytes);
        }
    }

    fn tell_levels(&self, state: &State) {
        self.metrics.export.queue_spans.set(state.spans.len() as u64);
        self.metrics.export.queue_bytes.set(state.bytes as u64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is right after each statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
