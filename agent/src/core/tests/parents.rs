//! Who is whose parent.

use super::*;

/// `front` (10) calls `back` (20): one whole exchange at each, made by thread `tid` of front.
fn two_services(runtime: Runtime) -> World {
    let mut world = World::new();
    world.process(10, "front", runtime);
    world.process(20, "back", Runtime::Unknown);
    world
}

const LINKED: [&str; 3] = [
    "back server GET /b <- front client GET /b (same-host)",
    "front client GET /b <- front server GET /a (opener)",
    "front server GET /a <- root",
];

#[test]
fn a_request_alone() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    world.core.clock(0, 5_000_000_000_000);
    let mut server = world.server(10);
    let start = world.now_ns;
    world.feed(server.reads(11, "GET /a/17?x=1 HT"));
    world.feed(server.reads(11, "TP/1.1\r\nHost: shop:8080\r\n\r\n"));
    world.feed(server.writes(11, OK));
    let spans = world.spans();
    assert_eq!(tree(&spans), ["front server GET /a/{id} <- root"]);
    let span = &spans[0];
    assert_eq!(span.start_unix_ns, 5_000_000_000_000 + start + 1000);
    assert_eq!(span.end_unix_ns, 5_000_000_000_000 + start + 3000);
    assert_eq!(attribute(span, "url.path").as_deref(), Some("/a/17"));
    assert_eq!(attribute(span, "server.address").as_deref(), Some("shop"));
    assert_eq!(
        attribute(span, "http.response.status_code").as_deref(),
        Some("Int(200)")
    );
    assert_eq!(world.core.under_way(), (1, 0));
}

#[test]
fn the_thread_rule_and_the_far_end() {
    for order in 0..2 {
        let mut world = two_services(Runtime::Python);
        let mut front = world.server(10);
        world.feed(front.reads(11, &get("/a")));
        let (mut call, mut back) = world.pair((10, 11), 20);
        if order == 0 {
            world.feed(call.writes(11, &get("/b")));
            world.feed(back.reads(21, &get("/b")));
            world.feed(back.writes(21, OK));
        } else {
            // The far end is faster than the return of the write.
            world.feed(back.reads(21, &get("/b")));
            world.feed(back.writes(21, OK));
            assert_eq!(world.tree(), [""; 0]);
            world.feed(call.writes(11, &get("/b")));
        }
        world.feed(call.reads(11, OK));
        assert_eq!(world.tree(), [""; 0], "all wait for the response");
        world.feed(front.writes(11, OK));
        assert_eq!(world.tree(), LINKED);
        assert_eq!(world.core.under_way().1, 0);
    }
}

#[test]
fn the_read_of_a_response_before_its_write() {
    let mut world = two_services(Runtime::Python);
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    let (mut call, mut back) = world.pair((10, 11), 20);
    world.feed(call.writes(11, &get("/b")));
    world.feed(back.reads(21, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(front.writes(11, OK));
    world.feed(back.writes(21, OK));
    assert_eq!(world.tree(), LINKED);
}

#[test]
fn the_opener_is_only_the_first_requests() {
    let mut world = two_services(Runtime::Python);
    let mut front = world.server(10);
    let mut call = None;
    for target in ["/a", "/b"] {
        world.feed(front.reads(11, &get(target)));
        let call = call.get_or_insert_with(|| world.client(10, 11));
        world.feed(call.writes(11, &get("/x")));
        world.feed(call.reads(11, OK));
        world.feed(front.writes(11, OK));
    }
    assert_eq!(
        world.tree(),
        [
            "front client GET /x <- front server GET /a (opener)",
            "front client GET /x <- front server GET /b (thread)",
            "front server GET /a <- root",
            "front server GET /b <- root",
        ]
    );
}

#[test]
fn a_call_by_another_thread_is_a_root() {
    let mut world = two_services(Runtime::Jvm);
    let (mut front, mut call) = (world.server(10), world.client(10, 12));
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(12, &get("/b")));
    world.feed(call.reads(12, OK));
    world.feed(front.writes(11, OK));
    assert_eq!(
        world.tree(),
        ["front client GET /b <- root", "front server GET /a <- root"]
    );
}

fn call_on_one_thread(world: &mut World, front: &mut End, call: &mut End, writer: u32) -> Vec<String> {
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(front.writes(writer, OK));
    let tree = world.tree();
    assert_eq!(tree.len(), 2);
    tree.into_iter().filter(|line| line.contains("client")).collect()
}

#[test]
fn a_response_from_another_thread_ends_the_trust_for_a_minute() {
    let mut world = two_services(Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    let child = ["front client GET /b <- front server GET /a (thread)"];
    let root = ["front client GET /b <- root"];
    assert_eq!(call_on_one_thread(&mut world, &mut front, &mut call, 11), child);
    assert_eq!(call_on_one_thread(&mut world, &mut front, &mut call, 12), root);
    world.pass(59 * SECOND);
    assert_eq!(call_on_one_thread(&mut world, &mut front, &mut call, 11), root);
    world.pass(SECOND);
    assert_eq!(call_on_one_thread(&mut world, &mut front, &mut call, 11), child);
    assert_eq!(world.counter("calls_not_certain"), 2);
}

#[test]
fn runtimes_that_multiplex_have_no_thread_rule() {
    for runtime in [Runtime::Go, Runtime::Node, Runtime::Loop, Runtime::Beam] {
        let mut world = two_services(runtime);
        let mut front = world.server(10);
        world.feed(front.reads(11, &get("/a")));
        let mut call = world.client(10, 11);
        world.feed(call.writes(11, &get("/b")));
        world.feed(call.reads(11, OK));
        assert_eq!(world.tree(), ["front client GET /b <- root"], "nothing to wait for");
        world.feed(front.writes(11, OK));
        assert_eq!(world.tree(), ["front server GET /a <- root"]);
    }
}

#[test]
fn two_open_requests_on_one_thread_have_no_calls() {
    let mut world = two_services(Runtime::Unknown);
    let (mut one, mut two, mut call) = (world.server(10), world.server(10), world.client(10, 11));
    world.feed(one.reads(11, &get("/a")));
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(two.reads(11, &get("/c")));
    world.feed(one.writes(11, OK));
    world.feed(two.writes(11, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /b <- root",
            "front server GET /a <- root",
            "front server GET /c <- root",
        ]
    );
}

#[test]
fn a_response_that_was_lost_leaves_no_span_and_no_child() {
    let mut world = two_services(Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    call_on_one_thread(&mut world, &mut front, &mut call, 11);
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    front.written += 100;
    world.feed(front.writes(11, "rest of a body"));
    assert_eq!(world.tree(), ["front client GET /b <- root"]);
    assert_eq!((world.counter("missed"), world.core.under_way().1), (1, 0));
}

#[test]
fn a_connection_that_ends_without_a_response() {
    // Nobody has shown yet that this process answers on the thread that reads: no parent. Later: one.
    for kept in [false, true] {
        let mut world = two_services(Runtime::Unknown);
        let (mut front, mut call) = (world.server(10), world.client(10, 11));
        if kept {
            call_on_one_thread(&mut world, &mut front, &mut call, 11);
        }
        world.feed(front.reads(11, &get("/a")));
        world.feed(call.writes(11, &get("/b")));
        world.feed(call.reads(11, OK));
        world.feed(front.state(StateChange::RemoteFin, 0, 0));
        world.feed(front.state(StateChange::Closed, 3, 0));
        let server = "front server GET /a !connection_closed";
        let parent = if kept {
            format!("{server} (thread)")
        } else {
            "root".to_owned()
        };
        assert_eq!(
            world.tree(),
            [format!("front client GET /b <- {parent}"), format!("{server} <- root")]
        );
    }
}

#[test]
fn nginx_passes_on_what_it_read_last() {
    let mut world = two_services(Runtime::Nginx);
    let (mut one, mut two) = (world.server(10), world.server(10));
    let (mut call, mut other) = (world.kept(10, 10), world.kept(10, 10));
    world.feed(one.reads(10, &get("/a")));
    world.feed(call.writes(10, &get("/a")));
    world.feed(two.reads(10, &get("/b")));
    world.feed(other.writes(10, &get("/elsewhere")));
    world.feed(other.reads(10, OK));
    world.feed(two.writes(10, OK));
    world.feed(call.reads(10, OK));
    world.feed(one.writes(10, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /a <- front server GET /a (thread)",
            "front client GET /elsewhere <- root",
            "front server GET /a <- root",
            "front server GET /b <- root",
        ]
    );
}

#[test]
fn nginx_that_was_busy_when_it_was_found_makes_calls_for_what_nobody_saw() {
    let calls = |world: &mut World| {
        let (mut one, mut two) = (world.kept(10, 10), world.kept(10, 10));
        let mut back = world.server(10);
        world.feed(back.reads(10, &get("/a")));
        for end in [&mut one, &mut two] {
            world.feed(end.writes(10, &get("/a")));
            world.feed(end.reads(10, OK));
        }
        world.feed(back.writes(10, OK));
        let roots = |line: &String| line.ends_with("client GET /a <- root");
        world.tree().iter().filter(|line| roots(line)).count()
    };
    let mut world = two_services(Runtime::Nginx);
    assert_eq!(calls(&mut world), 1, "one is passed on, the other may be anybody's");
    world.pass(61 * SECOND);
    assert_eq!(calls(&mut world), 0, "one request is there: both are made for it");
}

/// A request comes, then another one, and only then is a call known that was made for neither: its connection is older than
/// the agent, and shows where its requests begin when the response comes.
fn a_call_that_is_known_late(world: &mut World) {
    let (mut one, mut two) = (world.server(10), world.server(10));
    let mut call = world.open(Open {
        from_birth: 0,
        written: 100,
        read: 100,
        ..open(900, 10, 10, Role::Unknown)
    });
    world.feed(call.writes(10, &get("/a")));
    world.feed(one.reads(10, &get("/a")));
    world.feed(call.reads(10, OK));
    world.feed(two.reads(10, &get("/a")));
    for end in [&mut one, &mut two] {
        world.feed(end.writes(10, OK));
    }
}

#[test]
fn what_is_known_late_of_nginx_is_nobodys_call() {
    let roots = [
        "front client GET /a <- root",
        "front server GET /a <- root",
        "front server GET /a <- root",
    ];
    let mut world = two_services(Runtime::Nginx);
    a_call_that_is_known_late(&mut world);
    assert_eq!(world.tree(), roots);
    // What it is may be known only behind all of that.
    let mut world = World::new();
    a_call_that_is_known_late(&mut world);
    assert_eq!(world.tree(), Vec::<String>::new());
    world.process(10, "front", Runtime::Nginx);
    assert_eq!(world.tree(), roots);
}

#[test]
fn nginx_that_is_known_only_now_was_busy_when_it_was_found() {
    let mut world = World::new();
    let (mut back, mut call) = (world.server(10), world.client(10, 10));
    world.feed(back.reads(10, &get("/a")));
    for _ in 0..2 {
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
    }
    world.feed(back.writes(10, OK));
    world.process(10, "front", Runtime::Nginx);
    assert_eq!(world.tree().iter().filter(|line| line.contains("(thread)")).count(), 0);
}

#[test]
fn nginx_that_connected_before_it_was_found_did_so_for_what_nobody_saw() {
    let mut world = two_services(Runtime::Nginx);
    let mut back = world.server(10);
    let mut call = world.open(open(900, 10, 10, Role::Client));
    world.feed(back.reads(10, &get("/a")));
    for _ in 0..2 {
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
    }
    world.feed(back.writes(10, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /a <- front server GET /a (thread)",
            "front client GET /a <- root",
            "front server GET /a <- root",
        ]
    );
}

#[test]
fn nginx_tries_again_in_the_turn_of_another_request() {
    let mut world = two_services(Runtime::Nginx);
    let (mut one, mut two) = (world.server(10), world.server(10));
    let (mut first, mut second, mut again) = (world.kept(10, 10), world.kept(10, 10), world.kept(10, 10));
    world.feed(one.reads(10, &get("/a")));
    world.feed(first.writes(10, &get("/a")));
    world.feed(two.reads(10, &get("/a")));
    world.feed(second.writes(10, &get("/a")));
    world.feed(first.state(StateChange::Closed, 0, libc::ECONNRESET));
    world.now_ns += 60_000_000;
    world.core.tick(world.now_ns);
    // For the first request; the second was read last, and has the same target.
    world.feed(again.writes(10, &get("/a")));
    for end in [&mut again, &mut second] {
        world.feed(end.reads(10, OK));
    }
    for end in [&mut one, &mut two] {
        world.feed(end.writes(10, OK));
    }
    let tree = world.tree();
    let roots = tree
        .iter()
        .filter(|line| line.contains("client") && line.ends_with("root"))
        .count();
    assert_eq!((tree.len(), roots), (5, 1), "{tree:#?}");
}

#[test]
fn nginx_reads_a_body_before_it_passes_it_on() {
    let mut world = two_services(Runtime::Nginx);
    let (mut one, mut two) = (world.server(10), world.server(10));
    let post = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n";
    world.feed(one.reads(10, post));
    world.feed(two.reads(10, post));
    world.feed(one.reads(10, "1111"));
    let mut call = world.client(10, 10);
    world.feed(call.writes(10, &format!("{post}1111")));
    world.feed(call.reads(10, OK));
    world.feed(one.writes(10, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"));
    let spans = world.spans();
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    let client = spans.iter().find(|span| span.kind == SpanKind::Client).unwrap();
    assert_eq!(
        client.parent.map(|(id, method)| (id, method.name())),
        Some((server.span_id, "opener"))
    );
    assert_eq!(
        attribute(server, "http.response.status_code").as_deref(),
        Some("Int(201)")
    );
}

#[test]
fn pipelined_requests_are_open_one_after_the_other() {
    let mut world = two_services(Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    world.feed(front.reads(11, &(get("/a") + &get("/b"))));
    for target in ["/x", "/y"] {
        world.feed(call.writes(11, &get(target)));
        world.feed(call.reads(11, OK));
        world.feed(front.writes(11, OK));
    }
    assert_eq!(
        world.tree(),
        [
            "front client GET /x <- front server GET /a (opener)",
            "front client GET /y <- front server GET /b (thread)",
            "front server GET /a <- root",
            "front server GET /b <- root",
        ]
        .map(|line| line.replace("(opener)", "(thread)"))
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
            "front client GET /b <- root".to_owned(),
        ]
    );
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
    assert_eq!(exchanges("always_on", "", Some(NOT_SAMPLED)), (1, 200, 0, 0));
}

#[test]
fn the_clock_is_set_between_the_two_ends() {
    let mut world = two_services(Runtime::Unknown);
    world.core.clock(0, 1_000 * SECOND);
    let (mut call, mut back) = world.pair((10, 11), 20);
    world.feed(call.writes(11, &get("/b")));
    // A reading of the clocks that was interrupted, and a step back.
    world.core.clock(0, 1_000 * SECOND + 500_000);
    world.core.clock(0, 900 * SECOND);
    world.feed(back.reads(21, &get("/b")));
    world.feed(back.writes(21, OK));
    world.feed(call.reads(11, OK));
    let spans = world.spans();
    assert_eq!(tree(&spans).len(), 2);
    assert!(
        spans
            .iter()
            .all(|span| span.start_unix_ns >= 1_000 * SECOND && span.start_unix_ns < 1_010 * SECOND)
    );
}

#[test]
fn nginx_on_connections_that_are_older_than_the_agent() {
    let mut world = World::new();
    world.process(1, "proxy", Runtime::Nginx);
    // Where requests begin on it is not known yet.
    let mut old = world.open(Open {
        from_birth: 0,
        ..open(101, 1, 1, Role::Server)
    });
    let mut known = world.server(1);
    world.feed(known.reads(1, &get("/a")));
    world.feed(old.reads(1, &get("/a")));
    // Made for the request that was read last, and that one is not known.
    let mut call = world.client(1, 1);
    world.feed(call.writes(1, &get("/a")));
    world.feed(call.reads(1, OK));
    world.feed(old.writes(1, OK));
    world.feed(known.writes(1, OK));
    let tree = world.tree();
    assert_eq!(
        tree.iter().filter(|line| line.ends_with("<- root")).count(),
        3,
        "{tree:#?}"
    );
    // Connected for a request that was read before the agent came.
    let mut call = world.client(1, 1);
    let mut known = world.server(1);
    world.feed(known.reads(1, &get("/a")));
    world.feed(call.writes(1, &get("/a")));
    world.feed(call.reads(1, OK));
    world.feed(known.writes(1, OK));
    let tree = world.tree();
    assert_eq!(
        tree.iter().filter(|line| line.ends_with("<- root")).count(),
        2,
        "{tree:#?}"
    );
    // From now on nothing is hidden.
    world.feed(old.reads(1, &get("/b")));
    let mut call = world.client(1, 1);
    world.feed(call.writes(1, &get("/b")));
    world.feed(call.reads(1, OK));
    world.feed(old.writes(1, OK));
    let tree = world.tree();
    assert_eq!(
        tree.iter().filter(|line| line.contains("(opener)")).count(),
        1,
        "{tree:#?}"
    );
}
