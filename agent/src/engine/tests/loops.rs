//! Threads that work for several requests at once.

use agent_ebpf::abi::POLLED;

use super::{parents::call_on_one_thread, *};

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

/// Returns what is told of a call that a thread makes for a request. `changed` changes the records of the request's `head`, of
/// the `call`, of its `answer` and of the request's `response`.
fn changed_call(
    world: &mut World,
    front: &mut End,
    call: &mut End,
    changed: impl Fn(Record, &str) -> Record,
) -> Vec<String> {
    world.feed(changed(front.reads(11, &get("/a")), "head"));
    world.feed(changed(call.writes(11, &get("/b")), "call"));
    world.feed(changed(call.reads(11, OK), "answer"));
    world.feed(changed(front.writes(11, OK), "response"));
    let mut tree = world.tree();
    tree.truncate(1);
    tree
}

#[test]
fn a_thread_that_waits_in_epoll_with_a_request_open_has_no_calls() {
    let child = ["front client GET /b <- front server GET /a (thread)"];
    let root = ["front client GET /b <- root"];
    for waits_at in ["head", "call", "answer", "response"] {
        let mut world = two_services(Runtime::Python);
        let (mut front, mut call) = (world.server(10), world.kept(10, 11));
        let changed = |record: Record, at: &str| if at == waits_at { record.waited() } else { record };
        let tree = changed_call(&mut world, &mut front, &mut call, changed);
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
fn a_thread_that_calls_on_a_watched_connection_has_no_calls() {
    let child = ["front client GET /b <- front server GET /a (thread)"];
    let root = ["front client GET /b <- root"];
    for watched_at in ["head", "call", "answer", "response"] {
        let mut world = two_services(Runtime::Python);
        let (mut front, mut call) = (world.server(10), world.kept(10, 11));
        let changed = |record: Record, at: &str| {
            let record = if at == watched_at { record.watched() } else { record };
            record.turned()
        };
        let tree = changed_call(&mut world, &mut front, &mut call, changed);
        // Another thread may have epoll watch the connections of requests.
        let is_call = matches!(watched_at, "call" | "answer");
        assert_eq!(tree, if is_call { root } else { child }, "{watched_at}");
    }
}

/// Where no program sees epoll_wait(2), a thread that sleeps between its calls on sockets may have waited for epoll. A worker's
/// connections are not watched while it serves them, or another thread waits for them.
#[test]
fn a_thread_of_watched_connections_that_sleeps_before_it_sends_may_be_a_loop() {
    let child = ["front client GET /b <- front server GET /a (thread)"];
    let root = ["front client GET /b <- root"];
    let both: &[&str] = &["head", "response"];
    for (watched_at, slept_before, polled, tree) in [
        (both, "call", false, root),
        (both, "response", false, root),
        (both, "answer", false, child),
        (both, "", false, child),
        (both, "call", true, child),
        (&["head"], "call", false, child),
        (&["response"], "call", false, child),
    ] {
        let mut world = two_services(Runtime::Python);
        let (mut front, mut call) = (world.server(10), world.kept(10, 11));
        let changed = |mut record: Record, at: &str| {
            if at == slept_before {
                record = record.turned();
            }
            if watched_at.contains(&at) {
                record = record.watched();
            }
            if polled && at == "response" {
                record = record.flagged(POLLED);
            }
            record
        };
        let found = changed_call(&mut world, &mut front, &mut call, changed);
        assert_eq!(found, tree, "{watched_at:?} {slept_before} {polled}");
    }
}

#[test]
fn a_watched_connection_has_no_opener() {
    let mut world = two_services(Runtime::Python);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(11, &get("/b")).watched());
    world.feed(call.reads(11, OK).watched());
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

/// The kernel side does not know that it is a client's, and tells only whether it is watched now.
#[test]
fn a_connection_that_was_watched_once_stays_a_loops() {
    let mut world = two_services(Runtime::Python);
    let (mut front, mut call) = (world.server(10), world.kept(10, 11));
    let watched = |record: Record, at: &str| if at == "answer" { record.watched() } else { record };
    let root = ["front client GET /b <- root"];
    assert_eq!(changed_call(&mut world, &mut front, &mut call, watched), root);
    // Longer than a process is distrusted.
    world.pass(61 * SECOND);
    let unwatched = |record: Record, _: &str| record;
    assert_eq!(changed_call(&mut world, &mut front, &mut call, unwatched), root);
}
