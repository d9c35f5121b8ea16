//! Virtual time, plain text.

use std::sync::Arc;

use super::*;
use crate::engine::trace::{Attribute, ParentMethod, Resource, SpanId, SpanKind, Status};

const SECOND: u64 = 1_000_000_000;
const PLAIN: Style = Style {
    colour: false,
    columns: 100,
};

fn span_id(id: u8) -> SpanId {
    SpanId::new([id; 8]).unwrap()
}

/// 2026-01-02 03:04:05.678
const BEGIN: u64 = 1_767_323_045_678_000_000;

fn span(id: u8, parent: Option<(u8, ParentMethod)>, service: &str, kind: SpanKind, ms: std::ops::Range<u64>) -> Span {
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

fn shop() -> Vec<Span> {
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

fn texts(printed: Vec<(String, usize)>) -> Vec<String> {
    printed.into_iter().map(|(text, _)| text).collect()
}

#[test]
fn a_quiet_trace_with_a_root_is_printed_as_a_tree() {
    let mut console = Console::default();
    for (index, span) in shop().iter().enumerate() {
        assert!(console.add(span, index as u64 * SECOND / 2));
    }
    assert_eq!(console.next_due(), Some(3 * SECOND));
    assert_eq!(console.due(3 * SECOND - 1, PLAIN), []);
    let expected = "\
── trace abababababababababababababababab · 03:04:05.678Z · 100 ms · 5 spans · 3 services · 2 errors
████████████████████    100 ms  shop GET /buy/{id}          200
██▏                    9.00 ms  ├─ shop → GET /buy/{id}     200  ← thread
██                     7.00 ms  │  └─ prices GET /buy/{id}  200  ← same-host
    █████████          45.0 ms  └─ shop → GET /buy/{id}     503  ← thread
     ███████           35.0 ms     └─ stock GET /buy/{id}   503  ← same-host

";
    let printed = console.due(3 * SECOND, PLAIN);
    assert_eq!(printed, [(expected.to_owned(), 5)], "\n{}", printed[0].0);
    assert_eq!((console.next_due(), console.spans), (None, 0));
}

#[test]
fn without_a_root_it_takes_ten_seconds_and_is_incomplete() {
    let mut console = Console::default();
    console.add(&shop()[1], 0);
    console.add(&shop()[2], 8 * SECOND);
    assert_eq!(console.next_due(), Some(10 * SECOND));
    let expected = "\
── trace abababababababababababababababab · 03:04:05.680Z · 9.00 ms · 2 spans · 2 services · incomplete
████████████████████   9.00 ms  shop → GET /buy/{id}     200  ← thread, parent not seen
  ███████████████▊     7.00 ms  └─ prices GET /buy/{id}  200  ← same-host

";
    assert_eq!(texts(console.due(10 * SECOND, PLAIN)), [expected]);
}

#[test]
fn a_trace_that_never_is_quiet_is_incomplete_too() {
    let mut console = Console::default();
    for tenth in 0..=100 {
        console.add(&shop()[4], tenth * SECOND / 10);
    }
    assert_eq!(console.next_due(), Some(10 * SECOND));
    let printed = texts(console.due(10 * SECOND, PLAIN));
    assert!(
        printed[0]
            .lines()
            .next()
            .unwrap()
            .ends_with(" · 101 spans · 1 service · incomplete")
    );
}

#[test]
fn at_the_end_all_is_printed() {
    let mut console = Console::default();
    let mut other = shop().remove(0);
    other.trace_id = TraceId::new([1; 16]).unwrap();
    console.add(&other, 5);
    console.add(&shop()[4], 6);
    let printed = console.finish(PLAIN);
    let heads: Vec<(bool, usize)> = printed
        .iter()
        .map(|(text, spans)| (text.contains("incomplete"), *spans))
        .collect();
    // The one that came later began earlier.
    assert_eq!(heads, [(false, 1), (true, 1)]);
}

#[test]
fn names_from_outside_cannot_steer_the_terminal_and_are_cut() {
    let mut console = Console::default();
    let mut evil = shop().remove(4);
    evil.name = format!("\x1b[2J\u{202e}{}", "x".repeat(300)).into();
    console.add(&evil, 0);
    let printed = texts(console.finish(PLAIN));
    let line = printed[0].lines().nth(1).unwrap();
    assert!(line.contains("shop \u{fffd}[2J\u{fffd}xxx"), "{line}");
    assert!(line.contains("xxx…  200"), "{line}");
    assert_eq!(unicode_width::UnicodeWidthStr::width(line), 100, "{line}");
}

#[test]
fn parents_in_a_circle_and_deep_traces_are_printed() {
    let mut console = Console::default();
    let mut circle = shop();
    circle.truncate(2);
    circle[0].parent = Some((span_id(3), ParentMethod::Header));
    circle[1].parent = Some((span_id(5), ParentMethod::Header));
    for span in &circle {
        console.add(span, 0);
    }
    assert_eq!(texts(console.finish(PLAIN))[0].lines().count(), 1 + 2 + 1);

    for id in 1..=200u8 {
        let parent = (id > 1).then(|| (id - 1, ParentMethod::Thread));
        console.add(&span(id, parent, "s", SpanKind::Server, 0..1), 0);
    }
    let printed = texts(console.finish(PLAIN));
    assert_eq!(printed[0].lines().count(), 1 + 200 + 1);
    let widest = printed[0].lines().map(unicode_width::UnicodeWidthStr::width).max();
    assert!(widest <= Some(100), "{widest:?}");
}

#[test]
fn memory_is_bounded_and_what_is_left_out_is_said() {
    let mut console = Console::default();
    let span = &shop()[4];
    let taken = (0..MAX_SPANS + 3).filter(|_| console.add(span, 0)).count();
    assert_eq!(taken, MAX_SPANS);
    let printed = texts(console.finish(PLAIN));
    assert_eq!(printed.last().unwrap(), "… 3 spans more than can be shown\n\n");
    assert!(console.add(span, 0));
}

#[test]
fn colours() {
    let mut console = Console::default();
    for span in &shop() {
        console.add(span, 0);
    }
    let style = Style { colour: true, ..PLAIN };
    let printed = texts(console.finish(style));
    assert!(printed[0].contains("\x1b[31m503\x1b[0m"), "{}", printed[0]);
    assert!(printed[0].contains("\x1b[2m← thread\x1b[0m"), "{}", printed[0]);
}
