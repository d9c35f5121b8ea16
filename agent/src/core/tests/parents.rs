//! Who is whose parent.

use super::*;

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
fn a_connection_that_another_thread_uses_first_is_not_the_openers() {
    let back = ["front server GET /a <- root", "front server GET /b <- root"];
    let of_its_own = "front client GET /x <- front server GET /b (thread)";
    // The sender has a request of its own, or none.
    for (serves, call) in [(true, of_its_own), (false, "front client GET /x <- root")] {
        let mut world = two_services(Runtime::Jvm);
        let (mut one, mut two) = (world.server(10), world.server(10));
        world.feed(one.reads(11, &get("/a")));
        let mut dialed = world.client(10, 11);
        if serves {
            world.feed(two.reads(12, &get("/b")));
        }
        world.feed(dialed.writes(12, &get("/x")));
        world.feed(dialed.reads(12, OK));
        world.feed(one.writes(11, OK));
        if serves {
            world.feed(two.writes(12, OK));
        }
        let mut expected = vec![call, back[0]];
        expected.extend(serves.then_some(back[1]));
        assert_eq!(world.tree(), expected);
    }
}

#[test]
fn a_connection_that_was_opened_for_an_earlier_request_is_the_present_ones() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    let mut dialed = world.client(10, 11);
    world.feed(front.writes(11, OK));
    world.feed(front.reads(11, &get("/b")));
    world.feed(dialed.writes(11, &get("/x")));
    world.feed(dialed.reads(11, OK));
    world.feed(front.writes(11, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /x <- front server GET /b (thread)",
            "front server GET /a <- root",
            "front server GET /b <- root",
        ]
    );
}

#[test]
fn a_connection_that_another_process_uses_first_is_not_the_openers() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    let mut dialed = world.client(10, 11);
    dialed.tgid = 20;
    world.feed(dialed.writes(20, &get("/x")));
    world.feed(dialed.reads(20, OK));
    world.feed(front.writes(11, OK));
    assert_eq!(
        world.tree(),
        ["back client GET /x <- root", "front server GET /a <- root"]
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
    for runtime in [
        Runtime::Go,
        Runtime::Node,
        Runtime::Loop,
        Runtime::Beam,
        Runtime::Dotnet,
    ] {
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
fn a_thread_that_waits_in_epoll_with_a_request_open_has_no_calls() {
    let child = ["front client GET /b <- front server GET /a (thread)"];
    let root = ["front client GET /b <- root"];
    for waits_at in ["head", "call", "answer", "response"] {
        let mut world = two_services(Runtime::Python);
        let (mut front, mut call) = (world.server(10), world.kept(10, 11));
        let mut feed = |record: Record, at: &str| {
            let record = if at == waits_at { record.waited() } else { record };
            world.feed(record);
        };
        feed(front.reads(11, &get("/a")), "head");
        feed(call.writes(11, &get("/b")), "call");
        feed(call.reads(11, OK), "answer");
        feed(front.writes(11, OK), "response");
        let mut tree = world.tree();
        tree.truncate(1);
        // Before its head, whoever serves a request may wait in any way.
        let expected = if waits_at == "head" { child } else { root };
        assert_eq!(tree, expected, "{waits_at}");
        // Such a process is a loop for a minute.
        let expected = if waits_at == "head" { child } else { root };
        assert_eq!(call_on_one_thread(&mut world, &mut front, &mut call, 11), expected);
        world.pass(60 * SECOND);
        assert_eq!(call_on_one_thread(&mut world, &mut front, &mut call, 11), child);
    }
}

#[test]
fn a_loop_that_waits_before_it_connects_is_no_opener() {
    let mut world = two_services(Runtime::Jvm);
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    world.connections += 2;
    let open = open(world.connections, 10, 11, Role::Client);
    let header = header(Kind::Connect, 10, 11);
    let connect = Connect {
        conn: open.conn,
        result: -libc::EINPROGRESS,
        family: FAMILY_INET,
        ..Connect::default()
    };
    world.feed(Record(header, Body::Connect(connect)).waited());
    let mut call = world.open(open);
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(front.writes(11, OK));
    assert_eq!(
        world.tree(),
        ["front client GET /b <- root", "front server GET /a <- root"]
    );
}

#[test]
fn another_thread_that_waits_in_epoll_changes_nothing() {
    let mut world = two_services(Runtime::Jvm);
    let (mut front, mut call, mut other) = (world.server(10), world.client(10, 11), world.client(10, 12));
    world.feed(front.reads(11, &get("/a")));
    world.feed(other.writes(12, &get("/c")).waited());
    world.feed(call.writes(11, &get("/b")));
    world.feed(other.reads(12, OK).waited());
    world.feed(call.reads(11, OK));
    world.feed(front.writes(11, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /b <- front server GET /a (thread)",
            "front client GET /c <- root",
            "front server GET /a <- root",
        ]
    );
}

#[test]
fn a_request_that_lasts_keeps_only_the_calls_that_wait() {
    let mut world = two_services(Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    world.feed(front.reads(11, &get("/a")));
    let mut most = 0;
    for _ in 0..2_000 {
        world.feed(call.writes(11, &get("/b")));
        world.feed(call.reads(11, OK));
        world.pass(SECOND);
        world.spans();
        most = most.max(world.core.causality.candidates());
    }
    // Those of the last ten seconds, and as much room again.
    assert!(most <= 32, "{most}");
}

#[test]
fn a_constant_header_outlives_the_program_that_received_it() {
    let mut world = two_services(Runtime::Loop);
    let (mut one, mut two) = (world.server(10), world.server(10));
    world.feed(one.reads(11, &get_with("/a", TRACEPARENT)));
    // Another program under the same process id; then the end of the first one's connection.
    world.core.begin_life(10);
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
fn a_parent_is_remote_if_it_is_of_another_process() {
    // To another process, and to itself.
    for server in [20, 10] {
        let mut world = two_services(Runtime::Python);
        let mut front = world.server(10);
        world.feed(front.reads(11, &get("/a")));
        let (mut call, mut back) = world.pair((10, 11), server);
        world.feed(call.writes(11, &get("/b")));
        world.feed(back.reads(21, &get("/b")));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        world.feed(front.writes(11, OK));
        let mut spans = world.spans();
        spans.sort_by_key(|span| span.start_unix_ns);
        let remote: Vec<_> = spans
            .iter()
            .map(|span| (span.name.as_ref(), span.kind, span.parent_is_remote))
            .collect();
        assert_eq!(
            remote,
            [
                ("GET /a", SpanKind::Server, false),
                ("GET /b", SpanKind::Client, false),
                ("GET /b", SpanKind::Server, server == 20),
            ]
        );
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
