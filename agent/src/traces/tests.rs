//! Virtual time.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;
use crate::engine::trace::{Attribute, ParentMethod, Resource, Span, SpanId, SpanKind, Status, TraceId};

const SECOND: Duration = Duration::from_secs(1);

/// 2026-01-02 03:04:05.678
const BEGIN: u64 = 1_767_323_045_678_000_000;

pub fn span_id(id: u8) -> SpanId {
    SpanId::new([id; 8]).unwrap()
}

pub fn span(id: u8, parent: Option<(u8, ParentMethod)>, service: &str, kind: SpanKind, ms: Range<u64>) -> Span {
    Span {
        trace_id: TraceId::new([0xab; 16]).unwrap(),
        span_id: span_id(id),
        parent: parent.map(|(id, method)| (span_id(id), method)),
        parent_is_remote: parent.is_some_and(|(_, method)| method == ParentMethod::SameHost),
        trace_state: None,
        trace_flags: 1,
        kind,
        name: "GET /buy/{id}".into(),
        start_unix_ns: BEGIN + ms.start * 1_000_000,
        end_unix_ns: BEGIN + ms.end * 1_000_000,
        attributes: vec![Attribute::int("http.response.status_code", 200)],
        status: Status::Unset,
        links: vec![],
        resource: Arc::new(Resource {
            service_name: service.to_owned(),
            attributes: vec![],
        }),
    }
}

/// A trace in the order in which its spans end; two of them fail.
pub fn shop() -> Vec<Span> {
    use ParentMethod::{SameHost, Thread};
    use SpanKind::{Client, Server};
    let mut failing = span(5, Some((4, SameHost)), "stock", Server, 25..60);
    failing.attributes = vec![
        Attribute::int("http.response.status_code", 503),
        Attribute::str("error.type", "503"),
    ];
    failing.status = Status::Error("".into());
    let mut caller = span(4, Some((1, Thread)), "shop", Client, 20..65);
    caller.attributes = failing.attributes.clone();
    caller.status = Status::Error("".into());
    vec![
        failing,
        span(3, Some((2, SameHost)), "prices", Server, 3..10),
        span(2, Some((1, Thread)), "shop", Client, 2..11),
        caller,
        span(1, None, "shop", Server, 0..100),
    ]
}

/// The tree of `spans`, given out at once.
pub fn trace(spans: impl IntoIterator<Item = Span>) -> Trace {
    let mut assembler = Assembler::default();
    for span in spans {
        assembler.add(span, Instant::now()).unwrap();
    }
    let [trace] = assembler.take_all().try_into().unwrap();
    trace
}

/// Ids and depths; children that are the last of their parent are marked.
fn outline(trace: &Trace) -> Vec<(u8, usize, bool)> {
    let nodes = trace.nodes.iter();
    nodes
        .map(|node| (node.span.span_id.to_bytes()[0], node.depth, node.is_last_child))
        .collect()
}

#[test]
fn a_quiet_trace_with_a_root_is_given_out_as_a_tree() {
    let mut assembler = Assembler::default();
    let begun = Instant::now();
    for (span, nth) in shop().into_iter().zip(0..) {
        assembler.add(span, begun + nth * SECOND / 2).unwrap();
    }
    assert_eq!(assembler.next_due(), Some(begun + 3 * SECOND));
    assert_eq!(
        assembler.take_due(begun + 3 * SECOND - Duration::from_nanos(1)),
        [],
        "not quiet for long enough"
    );
    assert_eq!(assembler.spans(), 5);
    let [trace] = assembler.take_due(begun + 3 * SECOND).try_into().unwrap();
    assert_eq!(
        outline(&trace),
        [(1, 0, false), (2, 1, false), (3, 2, true), (4, 1, true), (5, 2, true)]
    );
    assert!(trace.is_complete);
    assert_eq!(
        (trace.id, trace.start_unix_ns(), trace.end_unix_ns()),
        (TraceId::new([0xab; 16]).unwrap(), BEGIN, BEGIN + 100_000_000)
    );
    assert_eq!(
        (assembler.next_due(), assembler.spans(), assembler.fill()),
        (None, 0, 0.0)
    );
}

#[test]
fn without_a_root_it_takes_ten_seconds_and_is_incomplete() {
    let mut assembler = Assembler::default();
    let begun = Instant::now();
    assembler.add(shop().remove(1), begun).unwrap();
    assembler.add(shop().remove(2), begun + 8 * SECOND).unwrap();
    assert_eq!(assembler.next_due(), Some(begun + 10 * SECOND));
    let [trace] = assembler.take_due(begun + 10 * SECOND).try_into().unwrap();
    assert_eq!(outline(&trace), [(2, 0, false), (3, 1, true)]);
    assert!(!trace.is_complete);
    let missing: Vec<bool> = trace.nodes.iter().map(Node::misses_parent).collect();
    assert_eq!(missing, [true, false]);
}

#[test]
fn a_root_whose_parent_only_a_header_names_misses_nothing() {
    let root = span(1, Some((9, ParentMethod::Header)), "shop", SpanKind::Server, 0..100);
    let trace = trace([root]);
    assert!(trace.is_complete && !trace.nodes[0].misses_parent());
}

#[test]
fn a_trace_that_is_never_quiet_is_incomplete_too() {
    let mut assembler = Assembler::default();
    let begun = Instant::now();
    for tenth in 0..=100 {
        assembler.add(shop().remove(4), begun + tenth * SECOND / 10).unwrap();
    }
    assert_eq!(assembler.next_due(), Some(begun + 10 * SECOND));
    let [trace] = assembler.take_due(begun + 10 * SECOND).try_into().unwrap();
    assert_eq!((trace.nodes.len(), trace.is_complete), (101, false));
}

#[test]
fn a_trace_that_is_late_but_quiet_is_complete() {
    let mut assembler = Assembler::default();
    let begun = Instant::now();
    assembler.add(shop().remove(4), begun).unwrap();
    let [trace] = assembler.take_due(begun + 60 * SECOND).try_into().unwrap();
    assert!(trace.is_complete);
}

#[test]
fn at_the_end_all_is_given_out_by_start() {
    let mut assembler = Assembler::default();
    let begun = Instant::now();
    let mut other = shop().remove(0);
    other.trace_id = TraceId::new([1; 16]).unwrap();
    assembler.add(other, begun).unwrap();
    assembler.add(shop().remove(4), begun + SECOND).unwrap();
    let traces = assembler.take_all();
    let facts: Vec<(bool, usize)> = traces
        .iter()
        .map(|trace| (trace.is_complete, trace.nodes.len()))
        .collect();
    // The one that came later began earlier.
    assert_eq!(facts, [(true, 1), (false, 1)]);
    assert_eq!((assembler.next_due(), assembler.spans()), (None, 0));
}

#[test]
fn parents_in_a_circle_are_cut_open_at_the_earliest() {
    let mut circle = shop();
    circle.truncate(2);
    circle[0].parent = Some((span_id(3), ParentMethod::Header));
    circle[1].parent = Some((span_id(5), ParentMethod::Header));
    let mut own = shop().remove(4);
    own.parent = Some((own.span_id, ParentMethod::Header));
    circle.push(own);
    assert_eq!(outline(&trace(circle)), [(1, 0, false), (3, 0, false), (5, 1, true)]);
}

#[test]
fn a_chain_as_long_as_a_trace_needs_no_deep_stack() {
    let chain = (1..=15_000_u64).map(|id| {
        let of = |id: u64| SpanId::new(id.to_be_bytes()).unwrap();
        let mut span = shop().remove(4);
        span.span_id = of(id);
        span.parent = (id > 1).then(|| (of(id - 1), ParentMethod::Thread));
        span
    });
    let trace = trace(chain);
    assert!(trace.nodes.iter().map(|node| node.depth).eq(0..15_000));
}

#[test]
fn traces_are_bounded() {
    let mut assembler = Assembler::default();
    let now = Instant::now();
    let of_trace = |nth: usize| Span {
        trace_id: TraceId::new((nth as u128 + 1).to_be_bytes()).unwrap(),
        ..shop().remove(4)
    };
    let taken = (0..MAX_TRACES + 3).filter(|&nth| assembler.add(of_trace(nth), now).is_ok());
    assert_eq!(taken.count(), MAX_TRACES);
    assert_eq!(assembler.fill(), 1.0);
    assert_eq!(assembler.add(of_trace(0), now), Ok(()), "its trace has room");
    assert_eq!(assembler.take_all().len(), MAX_TRACES);
    assert_eq!(assembler.add(of_trace(0), now), Ok(()));
}

#[test]
fn bytes_are_bounded() {
    let mut assembler = Assembler::default();
    let now = Instant::now();
    let mut large = shop().remove(4);
    large.attributes.push(Attribute::str("a", "x".repeat(1 << 20)));
    let taken = (0..40).filter(|_| assembler.add(large.clone(), now).is_ok()).count();
    assert_eq!(taken, 31, "32 MiB with all that a span has beside the attribute");
    assert!(assembler.fill() > 0.96);
    assert_eq!(assembler.add(large.clone(), now), Err(Full));
    assert_eq!(assembler.add(shop().remove(4), now), Ok(()), "a small one fits");
    assembler.take_all();
    assert_eq!(assembler.add(large, now), Ok(()));
}
