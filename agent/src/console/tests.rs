//! Plain text, unless colours are the point.

use unicode_width::UnicodeWidthStr;

use super::*;
use crate::{
    engine::trace::{ParentMethod, SpanKind},
    traces::tests::{shop, span, trace},
};

const PLAIN: Style = Style {
    colour: false,
    columns: 100,
};

#[test]
fn a_trace_is_a_tree_with_bars() {
    let expected = "\
── trace abababababababababababababababab · 03:04:05.678Z · 100 ms · 5 spans · 3 services · 2 errors
████████████████████    100 ms  shop GET /buy/{id}          200
██▏                    9.00 ms  ├─ shop → GET /buy/{id}     200  ← thread
██                     7.00 ms  │  └─ prices GET /buy/{id}  200  ← same-host
    █████████          45.0 ms  └─ shop → GET /buy/{id}     503  ← thread
     ███████           35.0 ms     └─ stock GET /buy/{id}   503  ← same-host

";
    let printed = render(&trace(shop()), PLAIN);
    assert_eq!(printed, expected, "\n{printed}");
}

#[test]
fn an_incomplete_trace_is_marked() {
    let expected = "\
── trace abababababababababababababababab · 03:04:05.680Z · 9.00 ms · 2 spans · 2 services · incomplete
████████████████████   9.00 ms  shop → GET /buy/{id}     200  ← thread, parent not seen
  ███████████████▊     7.00 ms  └─ prices GET /buy/{id}  200  ← same-host

";
    let spans = shop().drain(1..3).collect::<Vec<_>>();
    let printed = render(&trace(spans), PLAIN);
    assert_eq!(printed, expected, "\n{printed}");
}

#[test]
fn one_span_is_singular() {
    let printed = render(&trace(shop().drain(4..)), PLAIN);
    let head = printed.lines().next().unwrap();
    assert!(head.ends_with(" · 100 ms · 1 span · 1 service"), "{head}");
}

#[test]
fn names_from_outside_cannot_steer_the_terminal_and_are_cut() {
    let mut evil = shop().remove(4);
    evil.name = format!("\x1b[2J\u{202e}{}", "x".repeat(300)).into();
    let printed = render(&trace([evil]), PLAIN);
    let line = printed.lines().nth(1).unwrap();
    assert!(line.contains("shop \u{fffd}[2J\u{fffd}xxx"), "{line}");
    assert!(line.contains("xxx…  200"), "{line}");
    assert_eq!(line.width(), 100, "{line}");
}

#[test]
fn deep_traces_are_printed_and_indented_only_so_far() {
    let chain = (1..=200u8).map(|id| {
        let parent = (id > 1).then(|| (id - 1, ParentMethod::Thread));
        span(id, parent, "s", SpanKind::Server, 0..1)
    });
    let printed = render(&trace(chain), PLAIN);
    assert_eq!(printed.lines().count(), 1 + 200 + 1);
    let widest = printed.lines().map(UnicodeWidthStr::width).max();
    assert!(widest <= Some(100), "{widest:?}");
    let indent = |line: usize| printed.lines().nth(line).unwrap().find("s GET");
    assert_eq!((indent(15), indent(14)), (indent(200), indent(200)), "{printed}");
}

#[test]
fn colours() {
    let style = Style { colour: true, ..PLAIN };
    let printed = render(&trace(shop()), style);
    assert!(printed.contains("\x1b[31m503\x1b[0m"), "{printed}");
    assert!(printed.contains("\x1b[2m← thread\x1b[0m"), "{printed}");
}
