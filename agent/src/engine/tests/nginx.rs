//! nginx, whose one loop makes a call in the turn that read the request.

use agent_ebpf::abi::LOST;

use super::*;

/// A call of process 1 for this target, and the answer that is passed back to `front`.
fn passed_on(world: &mut World, call: &mut End, front: &mut End, target: &str) {
    world.feed(call.writes(1, &get(target)));
    world.feed(call.reads(1, OK));
    world.feed(front.writes(1, OK));
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
    // One is passed on, the other may be anybody's.
    assert_eq!(world.tree().iter().filter(|line| line.contains("(thread)")).count(), 1);
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
fn nginx_that_is_known_between_connect_and_call_connected_for_what_nobody_saw() {
    let mut world = World::new();
    let mut back = world.server(10);
    world.feed(back.reads(10, &get("/a")));
    // One is made for this request, and the others for those of connections that are older than the agent.
    let mut calls = [(); 3].map(|()| world.client(10, 10));
    world.process(10, "front", Runtime::Nginx);
    for call in &mut calls {
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
    }
    world.feed(back.writes(10, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /a <- front server GET /a (opener)",
            "front client GET /a <- root",
            "front client GET /a <- root",
            "front server GET /a <- root",
        ]
    );
}

/// When it is told what a process is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    First,
    BetweenConnectAndCall,
    BeforeTheAnswer,
    Last,
}

/// Requests for these targets come on connections of their own, then two calls like the last one are made in the same turn.
fn two_calls(runtime: Runtime, told: Told, targets: &[&str]) -> Vec<String> {
    let mut world = World::new();
    let tell = |world: &mut World, now| {
        if now == told {
            world.process(10, "front", runtime);
        }
    };
    tell(&mut world, Told::First);
    let mut backs: Vec<End> = targets.iter().map(|_| world.server(10)).collect();
    for (back, target) in backs.iter_mut().zip(targets) {
        world.feed(back.reads(10, &get(target)));
    }
    let mut calls = [(); 2].map(|()| world.client(10, 10));
    tell(&mut world, Told::BetweenConnectAndCall);
    for call in &mut calls {
        world.feed(call.writes(10, &get(targets.last().unwrap())));
    }
    for call in &mut calls {
        world.feed(call.reads(10, OK));
    }
    tell(&mut world, Told::BeforeTheAnswer);
    for back in &mut backs {
        world.feed(back.writes(10, OK));
    }
    tell(&mut world, Told::Last);
    world.tree()
}

/// Each rule's answer is kept until it is known which of them holds.
#[test]
fn calls_of_a_process_that_is_not_known_yet_are_decided_as_if_it_had_been() {
    for (runtime, targets, expected) in [
        // Known by the turn, but only one of them: the process may be busy with others.
        (Runtime::Nginx, &["/a", "/b"][..], ["server GET /b (opener)", "root"]),
        (Runtime::Nginx, &["/b"], ["server GET /b (opener)", "root"]),
        (Runtime::Unknown, &["/a", "/b"], ["root", "root"]),
        (
            Runtime::Unknown,
            &["/b"],
            ["server GET /b (opener)", "server GET /b (opener)"],
        ),
        (Runtime::Go, &["/b"], ["root", "root"]),
    ] {
        for told in [
            Told::First,
            Told::BetweenConnectAndCall,
            Told::BeforeTheAnswer,
            Told::Last,
        ] {
            let calls: Vec<String> = two_calls(runtime, told, targets)
                .into_iter()
                .filter_map(|line| Some(line.strip_prefix("front client GET /b <- ")?.to_owned()))
                .collect();
            let expected = expected.map(|parent| parent.replace("server", "front server"));
            assert_eq!(calls, expected, "{runtime:?} {told:?} {targets:?}");
        }
    }
}

/// A request whose read was lost is called for in a later turn, when only another one is known.
#[test]
fn nginx_that_lost_a_record_may_be_busy_with_what_nobody_saw() {
    for (lost, parent) in [(false, "front server GET /a (opener)"), (true, "root")] {
        let mut world = two_services(Runtime::Nginx);
        world.pass(61 * SECOND);
        let mut first = world.server(10);
        world.feed(first.reads(10, &get("/a")));
        world.feed(first.writes(10, OK));
        world.pass(61 * SECOND);
        let mut back = world.server(10);
        let read = back.reads(10, &get("/a"));
        world.feed(if lost { read.flagged(LOST) } else { read });
        // Its connect tells that nginx has waited since.
        world.connections += 2;
        let conn = world.connections;
        let mut call = world.open(open(conn, 10, 10, Role::Client));
        let connected = world.connected(conn, 10, 10, 0).waited();
        world.feed(connected);
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
        world.feed(back.writes(10, OK));
        let tree = world.tree();
        assert!(
            tree.contains(&format!("front client GET /a <- {parent}")),
            "{lost}: {tree:?}"
        );
    }
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
    passed_on(&mut world, &mut call, &mut old, "/a");
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
    passed_on(&mut world, &mut call, &mut known, "/a");
    let tree = world.tree();
    assert_eq!(
        tree.iter().filter(|line| line.ends_with("<- root")).count(),
        2,
        "{tree:#?}"
    );
    // From now on nothing is hidden.
    world.feed(old.reads(1, &get("/b")));
    let mut call = world.client(1, 1);
    passed_on(&mut world, &mut call, &mut old, "/b");
    let tree = world.tree();
    assert_eq!(
        tree.iter().filter(|line| line.contains("(opener)")).count(),
        1,
        "{tree:#?}"
    );
}

#[test]
fn nginx_that_delays_requests_calls_in_later_turns() {
    // limit_req: both requests are read, and their calls come when timers are over.
    let mut world = two_services(Runtime::Nginx);
    let mut known = world.server(10);
    world.feed(known.reads(10, &get("/known")));
    world.feed(known.writes(10, OK));
    assert_eq!(world.spans().len(), 1);
    world.pass(61 * SECOND);
    let (mut one, mut two) = (world.server(10), world.server(10));
    let (mut first, mut second) = (world.kept(10, 10), world.kept(10, 10));
    world.feed(one.reads(10, &get("/a")).waited());
    world.feed(two.reads(10, &get("/a")).waited());
    for (call, front) in [(&mut first, &mut one), (&mut second, &mut two)] {
        world.feed(call.writes(10, &get("/a")).waited());
        world.feed(call.reads(10, OK).waited());
        world.feed(front.writes(10, OK));
    }
    let tree = world.tree();
    // Whose the first one is, nobody knows; the second one is the only request that is left.
    assert_eq!(
        tree.iter()
            .filter(|line| line.ends_with("client GET /a <- root"))
            .count(),
        1,
        "{tree:?}"
    );
    // A delayed request that is alone has its call.
    let (mut front, mut call) = (world.server(10), world.kept(10, 10));
    world.feed(front.reads(10, &get("/a")).waited());
    world.feed(call.writes(10, &get("/a")).waited());
    world.feed(call.reads(10, OK).waited());
    world.feed(front.writes(10, OK));
    assert_eq!(
        world.tree(),
        [
            "front client GET /a <- front server GET /a (thread)",
            "front server GET /a <- root"
        ]
    );
}

#[test]
fn a_header_that_nginx_passes_on_overrules_the_turn() {
    let mut world = two_services(Runtime::Nginx);
    let (mut one, mut two) = (world.server(10), world.server(10));
    let mut call = world.kept(10, 10);
    let other = TRACEPARENT.replace("00f067aa0ba902b7", "00f067aa0ba902b8");
    world.feed(one.reads(10, &get_with("/a", TRACEPARENT)));
    world.feed(two.reads(10, &get_with("/a", &other)));
    world.feed(call.writes(10, &get_with("/a", TRACEPARENT)));
    world.feed(call.reads(10, OK));
    world.feed(one.writes(10, OK));
    let spans = world.spans();
    let of = |kind| spans.iter().find(|span| span.kind == kind).unwrap();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let parent = of(SpanKind::Client).parent.map(|(parent, _)| parent);
    assert_eq!(parent, Some(of(SpanKind::Server).span_id), "{spans:?}");
}
