//! Groups spans by trace id, and decides when a trace is given out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{footprint::Footprint, tree::Trace};
use crate::engine::trace::{Span, TraceId};

/// A trace that has its topmost span is complete when no span came for this long.
pub const QUIET: Duration = Duration::from_secs(1);
/// Longest time that a trace is kept after its first span. After it the trace leaves, complete or not.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Upper bound on the traces that are kept.
pub const MAX_TRACES: usize = 20_000;
/// Upper bound on the memory of the spans that are kept: some 20,000 ordinary ones.
pub const MAX_BYTES: usize = 32 << 20;

/// Collects spans until their traces are due.
///
/// A trace is due, whichever comes first:
/// - [`QUIET`] after its last span, if its topmost span is there: the trace is complete;
/// - [`PATIENCE`] after its first span: the trace is given out incomplete. A span that comes later begins a new [`Trace`]
///   with the same id.
#[derive(Debug, Default)]
pub struct Assembler {
    open: HashMap<TraceId, Open>,
    spans: usize,
    footprint: Footprint,
}

/// No room for another span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{MAX_TRACES} traces or {} MiB of spans are kept already", MAX_BYTES >> 20)]
pub struct Full;

/// A trace that is not due yet.
#[derive(Debug)]
struct Open {
    spans: Vec<Span>,
    has_topmost: bool,
    first: Instant,
    last: Instant,
}

impl Open {
    fn quiet_at(&self) -> Option<Instant> {
        self.has_topmost.then(|| self.last + QUIET)
    }

    fn due_at(&self) -> Instant {
        let at_the_latest = self.first + PATIENCE;
        self.quiet_at()
            .map_or(at_the_latest, |quiet_at| quiet_at.min(at_the_latest))
    }
}

impl Assembler {
    /// Adds a span that arrives at `now`.
    ///
    /// # Errors
    /// If there is no room for it. The span is dropped; the caller counts it.
    pub fn add(&mut self, span: Span, now: Instant) -> Result<(), Full> {
        if self.open.len() >= MAX_TRACES && !self.open.contains_key(&span.trace_id) {
            return Err(Full);
        }
        self.footprint.add(&span);
        if self.footprint.bytes() > MAX_BYTES {
            self.footprint.remove(&span);
            return Err(Full);
        }
        self.spans += 1;
        let trace = self.open.entry(span.trace_id).or_insert_with(|| Open {
            spans: Vec::new(),
            has_topmost: false,
            first: now,
            last: now,
        });
        trace.last = now;
        trace.has_topmost |= span.is_topmost();
        trace.spans.push(span);
        Ok(())
    }

    /// Returns when the next trace is due, if no span comes until then.
    pub fn next_due(&self) -> Option<Instant> {
        self.open.values().map(Open::due_at).min()
    }

    /// Removes and returns the traces that are due at `now`, ordered by start.
    pub fn take_due(&mut self, now: Instant) -> Vec<Trace> {
        let due = self.open.extract_if(|_, trace| trace.due_at() <= now);
        let due = due
            .map(|(id, trace)| {
                let is_complete = trace.quiet_at().is_some_and(|quiet_at| quiet_at <= now);
                (id, trace, is_complete)
            })
            .collect();
        self.give_out(due)
    }

    /// Removes and returns all traces, ordered by start: no span comes any more. Those with a topmost span are complete.
    pub fn take_all(&mut self) -> Vec<Trace> {
        let all = self.open.drain();
        let all = all.map(|(id, trace)| {
            let is_complete = trace.has_topmost;
            (id, trace, is_complete)
        });
        let all = all.collect();
        self.give_out(all)
    }

    /// Returns the number of spans that are kept.
    pub fn spans(&self) -> usize {
        self.spans
    }

    /// Returns which part of the room is taken, from 0 to 1: of that for traces or of that for bytes, whichever is more.
    pub fn fill(&self) -> f64 {
        let traces = self.open.len() as f64 / MAX_TRACES as f64;
        traces.max(self.footprint.bytes() as f64 / MAX_BYTES as f64)
    }

    fn give_out(&mut self, traces: Vec<(TraceId, Open, bool)>) -> Vec<Trace> {
        for span in traces.iter().flat_map(|(_, trace, _)| &trace.spans) {
            self.spans -= 1;
            self.footprint.remove(span);
        }
        let mut traces: Vec<Trace> = traces
            .into_iter()
            .map(|(id, trace, is_complete)| Trace::new(id, trace.spans, is_complete))
            .collect();
        // Traces of one batch of spans became known at the same time, and the map has no order.
        traces.sort_by_key(|trace| (trace.start_unix_ns(), trace.id));
        traces
    }
}
