//! Parents of spans.

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

pub(super) fn call_on_one_thread(world: &mut World, front: &mut End, call: &mut End, writer: u32) -> Vec<String> {
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
fn calls_after_the_response_are_roots() {
    let mut world = two_services(Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.kept(10, 11));
    world.feed(front.reads(11, &get("/metrics")));
    world.feed(front.writes(11, OK));
    let mut opened_late = world.client(10, 11);
    for call in [&mut call, &mut opened_late] {
        world.feed(call.writes(11, &get("/scrape")));
        world.feed(call.reads(11, OK));
    }
    assert_eq!(
        world.tree(),
        [
            "front client GET /scrape <- root",
            "front client GET /scrape <- root",
            "front server GET /metrics <- root",
        ]
    );
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
