//! Requests that a rule of the user's names.

use super::*;

fn world(rules: &[&str], runtime: Runtime) -> World {
    let mut world = World::with(&CoreSettings {
        ignore: rules.iter().map(|&rule| rule.parse().unwrap()).collect(),
        ..settings()
    });
    world.process(10, "front", runtime);
    world.process(20, "back", Runtime::Unknown);
    world
}

#[test]
fn an_ignored_request_gives_no_span_and_its_calls_no_parent() {
    // By the opener's rule, by nginx's, and with a header that front passes on.
    for (runtime, passed, request) in [
        (Runtime::Unknown, get("/b"), get("/healthz")),
        (Runtime::Nginx, get("/b/healthz"), get("/healthz")),
        (
            Runtime::Loop,
            get_with("/b", TRACEPARENT),
            get_with("/healthz", TRACEPARENT),
        ),
    ] {
        let mut world = world(&["GET /healthz"], runtime);
        let mut front = world.server(10);
        world.feed(front.reads(11, &request));
        let (mut call, mut back) = world.pair((10, 11), 20);
        world.feed(call.writes(11, &passed));
        world.feed(back.reads(21, &passed));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        world.feed(front.writes(11, OK));
        let name = passed.split(' ').nth(1).unwrap();
        assert_eq!(
            world.tree(),
            [
                format!("back server GET {name} <- front client GET {name} (same-host)"),
                format!("front client GET {name} <- root"),
            ]
        );
        assert_eq!((world.counter("ignored"), world.core.under_way().1), (1, 0));
    }
}

#[test]
fn both_ends_of_an_ignored_call_are_ignored() {
    let mut world = world(&["user-agent: probe/*"], Runtime::Unknown);
    let mut front = world.server(10);
    let (mut call, mut back) = world.pair((10, 11), 20);
    let probe = "GET /b HTTP/1.1\r\nUser-Agent: probe/1\r\n\r\n";
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(11, probe));
    world.feed(back.reads(21, probe));
    world.feed(back.writes(21, OK));
    world.feed(call.reads(11, OK));
    world.feed(front.writes(11, OK));
    assert_eq!(world.tree(), ["front server GET /a <- root"]);
    assert_eq!((world.counter("ignored"), world.core.under_way().1), (2, 0));
    let unseen: Vec<_> = world.core.workloads().into_iter().map(|row| row.unseen).collect();
    assert_eq!(unseen, [[("ignored by --ignore", 1)], [("ignored by --ignore", 1)]]);
}

#[test]
fn an_ignored_request_still_makes_its_thread_doubtful() {
    let mut world = world(&["/healthz"], Runtime::Unknown);
    let (mut one, mut probe, mut call) = (world.server(10), world.server(10), world.client(10, 12));
    world.feed(one.reads(11, &get("/a")));
    world.feed(probe.reads(11, &get("/healthz")));
    // For which of the two?
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(probe.writes(11, OK));
    world.feed(one.writes(11, OK));
    assert_eq!(
        world.tree(),
        ["front client GET /b <- root", "front server GET /a <- root"]
    );
}

#[test]
fn tapes_of_before_ignore_nothing() {
    let mut json = serde_json::to_value(settings()).unwrap();
    json.as_object_mut().unwrap().remove("ignore").unwrap();
    let read: CoreSettings = serde_json::from_value(json).unwrap();
    assert_eq!(read, settings());
}

/// A path that ends like OTLP's is an ordinary application's, until content type and body say the same.
#[test]
fn telemetry_is_told_by_path_type_and_body() {
    const PROTOBUF: &str = "application/x-protobuf";
    const JSON: &str = "application/json";
    for (target, content_type, body, together, ignored) in [
        ("/api/v1/logs", JSON, "{\"message\":1}", true, 0),
        ("/tenant/7/v1/traces", "text/plain", "\n\u{1}a", true, 0),
        ("/v1/traces", PROTOBUF, "\n\u{1}a", true, 1),
        ("/v1/traces", PROTOBUF, "\u{12}\u{1}a", true, 0),
        ("/otlp/v1/logs", JSON, "{\"resourceLogs\":[]}", true, 1),
        // The body comes by a call of its own.
        ("/v1/traces", PROTOBUF, "\n\u{1}a", false, 1),
        ("/tenant/7/v1/traces", PROTOBUF, "\n\u{1}a", false, 0),
        ("/v1/logs", JSON, "{\"resourceLogs\":[]}", false, 0),
    ] {
        let mut world = world(&[], Runtime::Unknown);
        let mut front = world.server(10);
        let length = body.len();
        let head =
            format!("POST {target} HTTP/1.1\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n");
        if together {
            world.feed(front.reads(10, &[&head, body].concat()));
        } else {
            world.feed(front.reads(10, &head));
            world.feed(front.reads(10, body));
        }
        world.feed(front.writes(10, OK));
        let spans = world.spans();
        assert_eq!(
            (world.counter("telemetry_ignored"), spans.len()),
            (ignored, 1 - ignored as usize),
            "{target} {content_type} {body}"
        );
        // What the parser keeps for this is no captured header.
        let captured = |span: &Span| span.attributes.iter().any(|attribute| attribute.key.contains("header"));
        assert!(!spans.iter().any(captured));
    }
}

#[test]
fn spoors_own_exports_are_those_that_say_so_and_post() {
    for (method, agent, ignored) in [("POST", "spoor/1", 1), ("GET", "spoor/1", 0), ("POST", "spoors/1", 0)] {
        let mut world = world(&[], Runtime::Unknown);
        let mut front = world.server(10);
        world.feed(front.reads(10, &format!("{method} /a HTTP/1.1\r\nUser-Agent: {agent}\r\n\r\n")));
        world.feed(front.writes(10, OK));
        assert_eq!(
            (world.counter("telemetry_ignored"), world.tree().len()),
            (ignored, 1 - ignored as usize)
        );
    }
}
