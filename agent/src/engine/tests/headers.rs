//! Parents that a `traceparent` names.

use super::*;

#[test]
fn a_constant_header_outlives_the_program_that_received_it() {
    let mut world = two_services(Runtime::Loop);
    let (mut one, mut two) = (world.server(10), world.server(10));
    world.feed(one.reads(11, &get_with("/a", TRACEPARENT)));
    // Another program under the same process id; then the end of the first one's connection.
    let process = world.core.executions.process(crate::record::Tgid(10));
    world.core.begin_life(process);
    world.process(10, "front", Runtime::Loop);
    world.feed(two.reads(11, &get_with("/b", TRACEPARENT)));
    world.feed(one.state(StateChange::Closed, 3, 0));
    let mut call = world.client(10, 11);
    world.feed(call.writes(11, &get_with("/c", TRACEPARENT)));
    world.feed(call.reads(11, OK));
    world.feed(two.writes(11, OK));
    let tree = world.tree();
    assert!(
        tree.contains(&"front client GET /c <- front server GET /b (content)".to_owned()),
        "{tree:?}"
    );
}

#[test]
fn the_header_wins() {
    let mut world = two_services(Runtime::Unknown);
    let (mut client, mut back) = world.pair((10, 11), 20);
    // The caller's own library made it: the caller received none.
    world.feed(client.writes(11, &get_with("/b", TRACEPARENT)));
    world.feed(back.reads(21, &get_with("/b", TRACEPARENT)));
    world.feed(back.writes(21, OK));
    world.feed(client.reads(11, OK));
    assert_eq!(
        world.tree(),
        [
            format!("back server GET /b <- {PARENT_ID} (header, remote true)"),
            format!("front client GET /b <- {PARENT_ID} (header, remote false)"),
        ]
    );
}

#[test]
fn a_call_with_a_header_of_its_own_process_joins_that_trace() {
    // Whatever the thread rule, the opener or a worker would say, and at once.
    for runtime in [Runtime::Unknown, Runtime::Puma, Runtime::Nginx, Runtime::Loop] {
        let mut world = two_services(runtime);
        let mut front = world.server(10);
        world.feed(front.reads(11, &get("/b")));
        let (mut call, mut back) = world.pair((10, 11), 20);
        world.feed(call.writes(11, &get_with("/b", TRACEPARENT)));
        world.feed(back.reads(21, &get_with("/b", TRACEPARENT)));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        let spans = world.spans();
        assert_eq!(
            tree(&spans),
            [
                format!("back server GET /b <- {PARENT_ID} (header, remote true)"),
                format!("front client GET /b <- {PARENT_ID} (header, remote false)"),
            ],
            "{runtime:?}"
        );
        assert_eq!(spans[0].trace_id, spans[1].trace_id);
        world.feed(front.writes(11, OK));
        assert_eq!(world.tree(), ["front server GET /b <- root"]);
    }
}

#[test]
fn the_trace_state_and_the_flags_of_a_header_hold_at_both_ends() {
    for (flags, expected) in [("01", 2), ("00", 0)] {
        let mut world = two_services(Runtime::Unknown);
        let (mut call, mut back) = world.pair((10, 11), 20);
        let request = format!(
            "GET /b HTTP/1.1\r\nHost: h\r\ntraceparent: {}{flags}\r\ntracestate: a=1\r\n\r\n",
            &TRACEPARENT[..53]
        );
        world.feed(call.writes(11, &request));
        world.feed(back.reads(21, &request));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        let spans = world.spans();
        assert_eq!(spans.len(), expected, "{flags}");
        assert!(spans.iter().all(|span| span.trace_state.as_deref() == Some("a=1")));
        assert!(spans.iter().all(|span| span.trace_flags == 1));
        assert_eq!(world.counter("not_sampled"), 2 - expected as u64);
    }
}

#[test]
fn calls_that_all_carry_one_fixed_header_are_children_of_its_span() {
    let mut world = two_services(Runtime::Unknown);
    for _ in 0..3 {
        let (mut call, mut back) = world.pair((10, 11), 20);
        world.feed(call.writes(11, &get_with("/b", TRACEPARENT)));
        world.feed(back.reads(21, &get_with("/b", TRACEPARENT)));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        assert_eq!(
            world.tree(),
            [
                format!("back server GET /b <- {PARENT_ID} (header, remote true)"),
                format!("front client GET /b <- {PARENT_ID} (header, remote false)"),
            ]
        );
    }
}

#[test]
fn a_header_behind_long_cookies_counts() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    let request = format!(
        "GET /a HTTP/1.1\r\nHost: h\r\nCookie: {}\r\ntraceparent: {TRACEPARENT}\r\n\r\n",
        "c".repeat(3 * 1024)
    );
    world.feed(front.reads(11, &request));
    world.feed(front.writes(11, OK));
    assert_eq!(
        world.tree(),
        [format!("front server GET /a <- {PARENT_ID} (header, remote true)")]
    );
}

#[test]
fn calls_with_and_without_a_header_on_one_connection() {
    let mut world = two_services(Runtime::Unknown);
    let (mut call, mut back) = world.pair((10, 11), 20);
    for (n, request) in [get("/a"), get_with("/b", TRACEPARENT), get("/c")].iter().enumerate() {
        world.feed(call.writes(11, request));
        world.feed(back.reads(21, request));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        let target = ["/a", "/b", "/c"][n];
        let expected = match n {
            1 => [
                format!("back server GET /b <- {PARENT_ID} (header, remote true)"),
                format!("front client GET /b <- {PARENT_ID} (header, remote false)"),
            ],
            _ => [
                format!("back server GET {target} <- front client GET {target} (same-host)"),
                format!("front client GET {target} <- root"),
            ],
        };
        assert_eq!(world.tree(), expected);
    }
}

#[test]
fn a_header_that_was_only_forwarded() {
    // By nginx, by a loop that names it, and by a program on threads.
    for (runtime, method) in [
        (Runtime::Nginx, "opener"),
        (Runtime::Loop, "content"),
        (Runtime::Unknown, "content"),
    ] {
        let mut world = two_services(runtime);
        let mut front = world.server(10);
        let request = get_with("/a", TRACEPARENT);
        world.feed(front.reads(11, &request));
        let (mut call, mut back) = world.pair((10, 11), 20);
        world.feed(call.writes(11, &request));
        world.feed(back.reads(21, &request));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        world.feed(front.writes(11, OK));
        assert_eq!(
            world.tree(),
            [
                "back server GET /a <- front client GET /a (same-host)".to_owned(),
                format!("front client GET /a <- front server GET /a ({method})"),
                format!("front server GET /a <- {PARENT_ID} (header, remote true)"),
            ]
        );
    }
}

#[test]
fn a_header_that_several_open_requests_came_with() {
    let mut world = two_services(Runtime::Loop);
    let (mut one, mut two) = (world.server(10), world.server(10));
    let (mut call, mut back) = world.pair((10, 11), 20);
    for end in [&mut one, &mut two] {
        world.feed(end.reads(11, &get_with("/a", TRACEPARENT)));
    }
    world.feed(call.writes(11, &get_with("/b", TRACEPARENT)));
    world.feed(back.reads(21, &get_with("/b", TRACEPARENT)));
    world.feed(back.writes(21, OK));
    world.feed(call.reads(11, OK));
    assert_eq!(
        world.tree(),
        [
            "back server GET /b <- front client GET /b (same-host)".to_owned(),
            format!("front client GET /b <- {PARENT_ID} (header, remote true)"),
        ]
    );
}

#[test]
fn not_sampled_and_invalid_headers() {
    let mut world = two_services(Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    world.feed(front.reads(11, &get_with("/a", NOT_SAMPLED)));
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(front.writes(11, OK));
    assert_eq!((world.tree(), world.counter("not_sampled")), (vec![], 2));
    world.feed(front.reads(11, &get_with("/a", "00-0000-1-01")));
    world.feed(front.writes(11, OK));
    assert_eq!(world.tree(), ["front server GET /a <- root"]);
    assert_eq!(world.counter("invalid_trace_context"), 1);
}

#[test]
fn the_sampler_decides_whole_traces() {
    let exchanges = |name: &str, ratio: &str, header: Option<&str>| {
        let mut world = World::with(&CoreSettings {
            sampler: Sampler::new(name, Some(ratio)).unwrap().0,
            ..settings()
        });
        world.process(10, "front", Runtime::Unknown);
        let (mut front, mut call) = (world.server(10), world.client(10, 11));
        for _ in 0..100 {
            let request = header.map_or_else(|| get("/a"), |header| get_with("/a", header));
            world.feed(front.reads(11, &request));
            world.feed(call.writes(11, &get("/b")));
            world.feed(call.reads(11, OK));
            world.feed(front.writes(11, OK));
        }
        let mut spans = world.spans();
        spans.sort_by_key(|span| span.trace_id);
        let traces: Vec<&[Span]> = spans.chunk_by(|a, b| a.trace_id == b.trace_id).collect();
        let whole = traces
            .iter()
            .filter(|spans| spans.iter().any(|span| span.kind == SpanKind::Server));
        assert!(spans.iter().all(|span| span.trace_flags & 1 == 1));
        (
            whole.count(),
            spans.len() as u64,
            world.counter("left_out"),
            world.counter("not_sampled"),
        )
    };
    // A call that is not its request's has a trace of its own, and a decision of its own.
    let (whole, spans, left_out, not_sampled) = exchanges("traceidratio", "0.5", None);
    assert!((30..=70).contains(&whole), "{whole}");
    assert_eq!((spans + left_out, not_sampled), (200, 0));
    assert_eq!(exchanges("always_off", "", None), (0, 0, 200, 0));
    assert_eq!(
        exchanges("parentbased_traceidratio", "0", Some(NOT_SAMPLED)),
        (0, 0, 0, 200)
    );
    assert_eq!(
        exchanges("parentbased_traceidratio", "0", Some(TRACEPARENT)),
        (1, 200, 0, 0)
    );
    assert_eq!(
        exchanges("parentbased_always_off", "", Some(TRACEPARENT)),
        (1, 200, 0, 0)
    );
    assert_eq!(exchanges("always_on", "", Some(NOT_SAMPLED)), (1, 200, 0, 0));
}
