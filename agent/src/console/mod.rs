//! Traces for people: each is printed as a tree with bars when it seems to be complete.
//!
//! Core hands over spans when they have ended, so a trace is complete when its root is there and nothing came for a
//! second. A trace whose root does not come is printed after ten seconds, marked incomplete. [`Console`] does no IO and
//! reads no clock; [`Printer`] puts it on a thread and writes.

mod printer;
mod render;
mod row;

use std::{collections::HashMap, mem, time::Duration};

pub use printer::Printer;
pub use render::Style;
use render::render;
use row::Row;
pub use row::printable;

use crate::engine::trace::{Span, TraceId};

/// So long must nothing have come for a trace with a root.
const QUIET: Duration = Duration::from_secs(1);
/// So long is a trace kept at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many spans are kept at most. More cannot be read anyway.
const MAX_SPANS: usize = 20_000;

/// Collects spans to traces, and says when they are to be printed. Times are monotonic, in nanoseconds.
#[derive(Debug, Default)]
pub struct Console {
    traces: HashMap<TraceId, Trace>,
    spans: usize,
    /// Spans that found no room since the last output.
    unseen: u64,
}

#[derive(Debug, Default)]
struct Trace {
    rows: Vec<Row>,
    has_root: bool,
    first_ns: u64,
    last_ns: u64,
}

impl Trace {
    fn due_ns(&self) -> u64 {
        let at_the_latest = self.first_ns.saturating_add(nanos(PATIENCE));
        if self.has_root {
            at_the_latest.min(self.last_ns.saturating_add(nanos(QUIET)))
        } else {
            at_the_latest
        }
    }

    fn is_quiet(&self, now_ns: u64) -> bool {
        self.has_root && now_ns >= self.last_ns.saturating_add(nanos(QUIET))
    }
}

impl Console {
    /// Which part of the room for spans is taken.
    pub fn fill(&self) -> f64 {
        self.spans as f64 / MAX_SPANS as f64
    }

    /// Adds a span. False if there was no room for it, which the next output will mention.
    pub fn add(&mut self, span: &Span, now_ns: u64) -> bool {
        if self.spans >= MAX_SPANS {
            self.unseen += 1;
            return false;
        }
        self.spans += 1;
        let trace = self.traces.entry(span.trace_id).or_insert_with(|| Trace {
            first_ns: now_ns,
            ..Trace::default()
        });
        trace.last_ns = now_ns;
        trace.has_root |= span.is_topmost();
        trace.rows.push(Row::from(span));
        true
    }

    /// When [`Console::due`] will have something, if nothing comes until then.
    pub fn next_due(&self) -> Option<u64> {
        self.traces.values().map(Trace::due_ns).min()
    }

    /// The texts of the traces that are to be printed now, each with the number of its spans.
    pub fn due(&mut self, now_ns: u64, style: Style) -> Vec<(String, usize)> {
        let due: Vec<TraceId> = self
            .traces
            .iter()
            .filter(|(_, trace)| trace.due_ns() <= now_ns)
            .map(|(id, _)| *id)
            .collect();
        self.print(due, now_ns, style)
    }

    /// The texts of all traces: it is the end. What has a root counts as complete.
    pub fn finish(&mut self, style: Style) -> Vec<(String, usize)> {
        let all = self.traces.keys().copied().collect();
        self.print(all, u64::MAX, style)
    }

    fn print(&mut self, ids: Vec<TraceId>, now_ns: u64, style: Style) -> Vec<(String, usize)> {
        let mut traces: Vec<(TraceId, Trace)> = ids
            .into_iter()
            .filter_map(|id| Some((id, self.traces.remove(&id)?)))
            .collect();
        // By when they began: those of one batch became known at one time.
        traces.sort_by_key(|(id, trace)| (trace.rows.iter().map(|row| row.start_ns).min(), *id));
        let mut texts = Vec::with_capacity(traces.len() + 1);
        for (id, trace) in traces {
            let spans = trace.rows.len();
            self.spans -= spans;
            let complete = trace.is_quiet(now_ns);
            texts.push((render(id, trace.rows, complete, style), spans));
        }
        let unseen = mem::take(&mut self.unseen);
        if unseen > 0 {
            texts.push((format!("… {unseen} spans more than can be shown\n\n"), 0));
        }
        texts
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
