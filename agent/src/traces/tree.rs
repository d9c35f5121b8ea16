//! A trace as the tree of its spans.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use crate::engine::trace::{Span, SpanId, TraceId};

/// Spans of one trace, as a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The id that the spans share.
    pub id: TraceId,
    /// False if spans may be missing: no topmost span came, or others still came when the trace was given out.
    pub is_complete: bool,
    /// Nodes of the tree, at least one. Each stands before its children (depth first); siblings are ordered by start.
    pub nodes: Vec<Node>,
}

/// A span with its place in the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The span.
    pub span: Span,
    /// The number of its ancestors in the trace; 0 at the top.
    pub depth: usize,
    /// True if it has a parent in the trace, and no sibling follows.
    pub is_last_child: bool,
}

impl Node {
    /// Returns whether the span has a parent that Spoor should have seen, and that is not in the trace.
    pub fn misses_parent(&self) -> bool {
        self.depth == 0 && !self.span.is_topmost()
    }
}

impl Trace {
    /// Builds the tree of `spans`.
    pub fn new(id: TraceId, spans: Vec<Span>, is_complete: bool) -> Self {
        Self {
            id,
            is_complete,
            nodes: depth_first(spans),
        }
    }

    /// Returns when the first span began, in nanoseconds since the Unix epoch.
    pub fn start_unix_ns(&self) -> u64 {
        let starts = self.nodes.iter().map(|node| node.span.start_unix_ns);
        starts.min().unwrap_or_default()
    }

    /// Returns when the last span ended, in nanoseconds since the Unix epoch.
    pub fn end_unix_ns(&self) -> u64 {
        let ends = self.nodes.iter().map(|node| node.span.end_unix_ns);
        ends.max().unwrap_or_default()
    }
}

/// Places each span below its parent. Spans without a parent among `spans` are at the top.
fn depth_first(mut spans: Vec<Span>) -> Vec<Node> {
    spans.sort_by_key(|span| (span.start_unix_ns, Reverse(span.end_unix_ns), span.span_id));
    let ids: HashSet<SpanId> = spans.iter().map(|span| span.span_id).collect();
    let mut children: HashMap<SpanId, Vec<usize>> = HashMap::new();
    let mut tops = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        match span.parent {
            Some((parent, _)) if parent != span.span_id && ids.contains(&parent) => {
                children.entry(parent).or_default().push(index);
            }
            _ => tops.push(index),
        }
    }
    let count = spans.len();
    let mut unplaced: Vec<Option<Span>> = spans.into_iter().map(Some).collect();
    let mut nodes = Vec::with_capacity(count);
    // Spans below no top are parents of each other in a circle (a header can name any id): the second pass cuts each
    // circle open at the span that began first. Spans that are placed by then are skipped.
    for top in tops.into_iter().chain(0..count) {
        // A stack of our own: a chain of parents can be as long as the trace.
        let mut stack = vec![(top, 0, false)];
        while let Some((index, depth, is_last_child)) = stack.pop() {
            let Some(span) = unplaced.get_mut(index).and_then(Option::take) else {
                continue;
            };
            let below = children.remove(&span.span_id).unwrap_or_default();
            nodes.push(Node {
                span,
                depth,
                is_last_child,
            });
            let from_last = below.into_iter().rev().enumerate();
            stack.extend(from_last.map(|(nth, child)| (child, depth + 1, nth == 0)));
        }
    }
    nodes
}
