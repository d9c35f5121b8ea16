//! Plain text, unless colours are the point.

use unicode_width::UnicodeWidthStr;

use super::*;
use crate::{
    engine::trace::{Attribute, ParentMethod, SpanKind, Status},
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
fn a_call_says_where_it_went_unless_its_server_is_below() {
    let expected = "\
── trace abababababababababababababababab · 03:04:05.678Z · 100 ms · 5 spans · 2 services · 1 error
████████████████████    100 ms  shop GET /buy/{id}                  200
██▏                    9.00 ms  ├─ shop → GET /buy/{id}             200                 ← thread
██                     7.00 ms  │  └─ prices GET /buy/{id}          200                 ← same-host
    ███                15.0 ms  ├─ shop → GET /buy/{id} stock:8080  200                 ← thread
        ███            15.0 ms  └─ shop → connect 10.0.0.9:81       connection_refused  ← thread

";
    let mut spans: Vec<_> = shop()
        .into_iter()
        .filter(|span| ![4, 5].contains(&span.span_id.to_bytes()[0]))
        .collect();
    for span in &mut spans {
        span.attributes.push(Attribute::str("server.address", "prices"));
    }
    let mut call = span(6, Some((1, ParentMethod::Thread)), "shop", SpanKind::Client, 20..35);
    call.attributes.extend(at("stock", Some(8080), "10.0.0.2", Some(9090)));
    let mut connect = span(7, Some((1, ParentMethod::Thread)), "shop", SpanKind::Client, 40..55);
    connect.name = "connect".into();
    connect.attributes = at("10.0.0.9", Some(81), "10.0.0.9", Some(81));
    connect
        .attributes
        .push(Attribute::str("error.type", "connection_refused"));
    connect.status = Status::Error("".into());
    spans.extend([call, connect]);
    let printed = render(&trace(spans), PLAIN);
    assert_eq!(printed, expected, "\n{printed}");
}

#[test]
fn a_peer_is_as_a_url_has_it_or_a_path() {
    for (attributes, expected) in [
        (at("example.com", Some(80), "10.0.0.2", Some(9090)), "example.com:80"),
        (at("example.com", None, "10.0.0.2", Some(9090)), "example.com"),
        (at("::1", Some(80), "::1", Some(80)), "[::1]:80"),
        (at("[::1]", Some(80), "::1", Some(80)), "[::1]:80"),
        (at("::1", Some(80), "::1", Some(80)).split_off(2), "[::1]:80"),
        (at("localhost", Some(80), "/run/app.sock", None), "/run/app.sock"),
        (at("localhost", Some(80), "\x1b[2J", None), "\u{fffd}[2J"),
        (vec![], ""),
    ] {
        let mut call = span(1, None, "shop", SpanKind::Client, 0..1);
        call.attributes = attributes;
        let printed = render(&trace([call]), PLAIN);
        let row = printed.lines().nth(1).unwrap().trim_end();
        let (_, peer) = row.split_once("→ GET /buy/{id}").unwrap();
        assert_eq!(peer.trim(), expected, "{row}");
    }
}

/// Returns the attributes that say where a call went. A socket without a port is a Unix one.
fn at(server: &str, server_port: Option<i64>, peer: &str, peer_port: Option<i64>) -> Vec<Attribute> {
    let mut attributes = vec![Attribute::str("server.address", server)];
    attributes.extend(server_port.map(|port| Attribute::int("server.port", port)));
    attributes.push(Attribute::str("network.peer.address", peer));
    attributes.push(match peer_port {
        Some(port) => Attribute::int("network.peer.port", port),
        None => Attribute::str("network.transport", "unix"),
    });
    attributes
}

#[test]
fn a_long_name_leaves_room_for_the_peer() {
    let mut call = span(1, None, "shop", SpanKind::Client, 0..1);
    call.name = "x".repeat(300).into();
    call.attributes = at("stock", Some(8080), "10.0.0.2", Some(9090));
    let printed = render(&trace([call.clone()]), PLAIN);
    let row = printed.lines().nth(1).unwrap();
    assert!(row.contains("xxx… stock:8080"), "{row}");
    // Half of the columns, and no more.
    call.attributes = at(&"y".repeat(300), Some(8080), "10.0.0.2", Some(9090));
    let printed = render(&trace([call]), PLAIN);
    let row = printed.lines().nth(1).unwrap();
    assert!(
        row.contains("→ xxx") && row.contains("x… yyy") && row.ends_with("yyy…"),
        "{row}"
    );
    assert_eq!(row.width(), 95, "{row}");
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
