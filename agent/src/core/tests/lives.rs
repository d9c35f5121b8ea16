//! Connections and processes that begin, end and are held.

use super::*;
use agent_ebpf::abi::{Exec, FAMILY_UNIX, Fork, SEGMENT_EOF};

fn world() -> World {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    world.process(20, "back", Runtime::Unknown);
    world
}

fn exec(world: &mut World, tgid: u32, provisional: u32) {
    world.now_ns += 1000;
    let exec = Exec {
        header: Header {
            time_ns: world.now_ns,
            ..header(Kind::Exec, tgid, tgid)
        },
        strings_len: 0,
        pad: 0,
        cmdline_len: 0,
        provisional,
        comm: [0; 16],
    };
    world.core.record(bytes_of(&exec));
}

fn exchange(world: &mut World, end: &mut End, tid: u32) {
    world.feed(end.reads(tid, &get("/a")));
    world.feed(end.writes(tid, OK));
}

#[test]
fn a_provisional_process_waits_until_it_is_selected() {
    for selected in [true, false] {
        let mut world = World::new();
        exec(&mut world, 10, 1);
        let mut front = world.server(10);
        let mut open = world.server(10);
        exchange(&mut world, &mut front, 10);
        world.feed(open.reads(10, &get("/b")));
        world.process(10, "front", Runtime::Unknown);
        assert_eq!(world.tree(), [""; 0]);
        assert!(world.core.take_wanted().is_empty(), "it is asked about already");
        world.core.selected(10, selected);
        let expected: &[&str] = if selected {
            &["front server GET /a <- root"]
        } else {
            &[]
        };
        assert_eq!(world.tree(), expected);
        let under_way = if selected { (2, 1) } else { (0, 0) };
        assert_eq!(world.core.under_way(), under_way);
        assert_eq!(world.counter("not_selected"), u64::from(!selected) * 2);
        let given_up = world
            .core
            .take_advice()
            .iter()
            .filter(|(_, until)| *until == [u64::MAX; 2])
            .count();
        assert_eq!(
            given_up,
            usize::from(!selected) * 2,
            "the programs report no more of them"
        );
        // Of what is not selected, some was told before they knew.
        exchange(&mut world, &mut front, 10);
        world.feed(front.state(StateChange::Closed, 3, 0));
        let expected: &[&str] = if selected {
            &["front server GET /a <- root"]
        } else {
            &[]
        };
        assert_eq!(world.tree(), expected);
        assert_eq!(world.counter("unknown_connection"), 0);
        assert_eq!(world.core.under_way().0, usize::from(selected));
    }
}

#[test]
fn a_request_waits_until_it_is_known_whether_its_caller_is_selected() {
    for selected in [true, false] {
        let mut world = World::new();
        exec(&mut world, 10, 1);
        world.process(20, "back", Runtime::Unknown);
        let (mut call, mut back) = world.pair((10, 10), 20);
        world.feed(call.writes(10, &get("/a")));
        exchange(&mut world, &mut back, 20);
        world.feed(call.reads(10, OK));
        assert_eq!(world.tree(), [""; 0], "its parent may be no span");
        world.process(10, "front", Runtime::Unknown);
        world.core.selected(10, selected);
        let expected: &[&str] = if selected {
            &[
                "back server GET /a <- front client GET /a (same-host)",
                "front client GET /a <- root",
            ]
        } else {
            &["back server GET /a <- root"]
        };
        assert_eq!(world.tree(), expected);
    }
}

#[test]
fn children_of_a_provisional_process_wait_too() {
    for selected in [true, false] {
        let mut world = World::new();
        exec(&mut world, 10, 1);
        let fork = Fork {
            header: Header {
                time_ns: world.now_ns + 1,
                ..header(Kind::Fork, 10, 10)
            },
            child: 11,
            pad: 0,
        };
        world.core.record(bytes_of(&fork));
        // It was a target already.
        exec(&mut world, 11, 0);
        let mut front = world.server(11);
        exchange(&mut world, &mut front, 11);
        world.process(11, "front", Runtime::Unknown);
        assert_eq!(world.tree(), [""; 0]);
        world.core.selected(11, selected);
        let expected: &[&str] = if selected {
            &["front server GET /a <- root"]
        } else {
            &[]
        };
        assert_eq!(world.tree(), expected);
    }
}

#[test]
fn a_process_of_which_nothing_is_told() {
    let mut world = World::new();
    let mut front = world.server(10);
    exchange(&mut world, &mut front, 10);
    assert_eq!(world.core.take_wanted(), [10]);
    assert_eq!((world.tree(), world.core.waits_for_facts()), (vec![], true));
    world.pass(11 * SECOND);
    assert_eq!((world.tree(), world.core.waits_for_facts()), (vec![], false));
    assert_eq!(world.counter("unknown_process"), 1);
}

#[test]
fn a_new_program_and_a_process_id_used_again() {
    let mut world = world();
    let mut front = world.server(10);
    exchange(&mut world, &mut front, 10);
    exec(&mut world, 10, 0);
    let mut again = world.server(10);
    exchange(&mut world, &mut again, 10);
    assert_eq!(
        world.tree(),
        ["front server GET /a <- root"],
        "the first is the first program's"
    );
    world.process(10, "second", Runtime::Unknown);
    assert_eq!(world.tree(), ["second server GET /a <- root"]);
    world.exit(10);
    world.now_ns += 1000;
    let fork = Fork {
        header: Header {
            time_ns: world.now_ns,
            ..header(Kind::Fork, 1, 1)
        },
        child: 10,
        pad: 0,
    };
    world.core.record(bytes_of(&fork));
    let mut third = world.server(10);
    exchange(&mut world, &mut third, 10);
    assert_eq!(world.tree(), [""; 0]);
    world.process(10, "third", Runtime::Unknown);
    // What is kept of those that ended goes; the new one stays.
    world.pass(60 * SECOND);
    exchange(&mut world, &mut third, 10);
    assert_eq!(world.tree(), ["third server GET /a <- root"; 2]);
    assert!(world.core.take_wanted().is_empty());
}

#[test]
fn facts_that_come_after_the_end_are_forgotten_all_the_same() {
    let mut world = world();
    let mut front = world.server(10);
    exchange(&mut world, &mut front, 10);
    world.exit(10);
    world.process(10, "front", Runtime::Unknown);
    assert_eq!(world.tree(), ["front server GET /a <- root"]);
    world.feed(front.state(StateChange::Closed, 3, 0));
    world.pass(60 * SECOND);
    assert!(!world.core.processes.contains_key(&10));
    world.pass(1000 * SECOND);
    assert!(
        world.core.processes.is_empty(),
        "nor is one that does nothing kept for ever"
    );
    assert_eq!(world.core.next_deadline_ns(), None);
}

#[test]
fn a_killed_process_gives_no_status() {
    let mut world = world();
    let mut front = world.server(10);
    world.feed(front.reads(10, &get("/a")));
    world.exit(10);
    world.feed(front.state(StateChange::Closed, 3, 0));
    let spans = world.spans();
    assert_eq!(tree(&spans), ["front server GET /a !process_exit <- root"]);
    assert_eq!(attribute(&spans[0], "http.response.status_code"), None);
}

#[test]
fn connects_that_fail() {
    let mut world = world();
    let mut front = world.server(10);
    world.feed(front.reads(10, &get("/a")));
    world.connect(100, 10, 10, -libc::ECONNREFUSED);
    world.connect(102, 10, 10, -libc::EINPROGRESS);
    let started = world.now_ns;
    world.pass(3 * SECOND);
    let end = End {
        conn: 102,
        tgid: 10,
        read: 0,
        written: 0,
    };
    world.feed(end.never_connected(0, libc::ETIMEDOUT));
    world.feed(front.writes(10, OK));
    let spans = world.spans();
    let errors: Vec<_> = spans
        .iter()
        .filter(|span| span.kind == SpanKind::Client)
        .map(|span| {
            let ends = span.end_unix_ns - span.start_unix_ns;
            (
                span.name.to_string(),
                attribute(span, "server.address"),
                ends >= 3 * SECOND,
            )
        })
        .collect();
    let address = Some("127.0.0.1".to_owned());
    assert_eq!(
        errors,
        [
            ("connect".to_owned(), address.clone(), false),
            ("connect".to_owned(), address, true)
        ]
    );
    let tree = tree(&spans);
    assert!(
        tree.iter()
            .filter(|line| line.ends_with("<- front server GET /a (opener)"))
            .count()
            == 2,
        "{tree:#?} {started}"
    );
    assert_eq!(world.core.under_way(), (1, 0));
}

#[test]
fn a_connect_that_its_process_does_not_live_to_see_is_no_call() {
    let mut world = world();
    for (conn, tgid) in [(102, 10), (103, 20)] {
        world.connect(conn, tgid, tgid, -libc::EINPROGRESS);
    }
    world.exit(10);
    for (conn, tgid) in [(102, 10), (103, 20)] {
        let end = End {
            conn,
            tgid,
            read: 0,
            written: 0,
        };
        world.feed(end.never_connected(3, 0));
    }
    // The other one's process closed the socket itself: it gave up.
    let tree = world.tree();
    assert_eq!(tree.len(), 1, "{tree:#?}");
    assert!(tree[0].starts_with("back client connect"), "{tree:#?}");
    assert_eq!(world.counter("connects_abandoned"), 1);
}

#[test]
fn a_connection_that_carried_nothing_is_no_failed_call() {
    let mut world = world();
    for (conn, error) in [(102, 0), (104, libc::ECONNRESET)] {
        world.connect(conn, 10, 10, -libc::EINPROGRESS);
        let end = End {
            conn,
            tgid: 10,
            read: 0,
            written: 0,
        };
        if error == 0 {
            world.feed(end.state(StateChange::LocalFin, 3, 0));
        }
        world.feed(end.state(StateChange::Closed, 3, error));
    }
    assert_eq!(world.tree(), Vec::<String>::new());
    assert_eq!(world.core.under_way(), (0, 0));
}

#[test]
fn a_connection_whose_description_was_lost_is_no_failed_connect() {
    let mut world = world();
    world.connect(102, 10, 10, -libc::EINPROGRESS);
    let mut end = End {
        conn: 102,
        tgid: 10,
        read: 0,
        written: 0,
    };
    world.feed(end.writes(10, &get("/a")));
    world.feed(end.reads(10, OK));
    world.feed(end.writes(10, &get("/b")));
    world.feed(end.state(StateChange::Closed, 1, libc::EPIPE));
    assert_eq!(
        world.tree(),
        [
            "front client GET /a <- root",
            "front client GET /b !connection_reset <- root"
        ]
    );
    assert_eq!(world.core.under_way(), (0, 0));
}

#[test]
fn a_reset_of_a_reused_connection_is_the_clients_error_alone() {
    let mut world = world();
    let (mut call, mut back) = world.pair((10, 11), 20);
    world.feed(call.writes(11, &get("/b")));
    world.feed(back.reads(21, &get("/b")));
    world.feed(back.writes(21, OK));
    world.feed(call.reads(11, OK));
    world.feed(back.state(StateChange::LocalFin, 3, 0));
    world.feed(call.writes(11, &get("/c")));
    world.feed(call.state(StateChange::Closed, 0, libc::ECONNRESET));
    world.feed(back.state(StateChange::Closed, 3, 0));
    // The reset may have come inside of a call that is still to be told.
    world.core.tick(world.now_ns + 60_000_000);
    let tree = world.tree();
    assert_eq!(tree.len(), 3, "{tree:#?}");
    assert_eq!(tree[0], "back server GET /b <- front client GET /b (same-host)");
    assert!(
        tree[2].starts_with("front client GET /c !") && tree[2].ends_with("<- root"),
        "{tree:#?}"
    );
}

#[test]
fn half_closed_is_not_closed() {
    let mut world = world();
    let (mut call, mut back) = world.pair((10, 11), 20);
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.state(StateChange::LocalFin, 2, 0));
    world.feed(back.reads(21, &get("/b")));
    world.feed(back.state(StateChange::RemoteFin, 0, 0));
    // A body that ends with the connection.
    let until_close = "HTTP/1.1 200 OK\r\n\r\nall there is";
    world.feed(back.writes(21, until_close));
    world.feed(back.state(StateChange::LocalFin, 3, 0));
    world.feed(call.reads(11, until_close));
    world.feed(call.state(StateChange::Closed, 3, 0));
    world.feed(back.state(StateChange::Closed, 3, 0));
    assert_eq!(
        world.tree(),
        [
            "back server GET /b <- front client GET /b (same-host)",
            "front client GET /b <- root"
        ]
    );
}

#[test]
fn connections_older_than_the_agent() {
    let mut world = world();
    // The programs counted the client's SYN as a byte: they did not see it connect.
    let older = |conn, tgid, syn: u64| Open {
        role: Role::Unknown as u8,
        from_birth: 0,
        written: 500 + syn,
        read: 500,
        sent_base: if syn == 1 { 999 } else { 2000 },
        received_base: if syn == 1 { 2000 } else { 1000 },
        ..open(conn, tgid, tgid, Role::Unknown)
    };
    let mut call = world.open(older(100, 10, 1));
    let mut back = world.open(older(101, 20, 0));
    for _ in 0..3 {
        world.feed(call.writes(11, &get("/b")));
        world.feed(back.reads(21, &get("/b")));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
        world.pass(SECOND);
    }
    assert_eq!(
        world.tree(),
        [
            ["back server GET /b <- front client GET /b (same-host)"; 3],
            ["front client GET /b <- root"; 3]
        ]
        .concat()
    );
    assert_eq!(world.core.under_way(), (2, 0));
}

fn unix(conn: u64, tgid: u32, role: Role, from_birth: u8) -> Open {
    Open {
        sock: conn,
        peer: conn ^ 1,
        family: FAMILY_UNIX,
        counted: 1,
        from_birth,
        ..open(conn, tgid, tgid, role)
    }
}

#[test]
fn unix_sockets() {
    let mut world = world();
    let mut call = world.open(unix(100, 10, Role::Client, 1));
    let mut back = world.open(unix(101, 20, Role::Server, 1));
    world.feed(call.writes(11, &get("/b")));
    world.feed(back.reads(21, &get("/b")));
    let until_close = "HTTP/1.1 200 OK\r\n\r\nall there is";
    world.feed(back.writes(21, until_close));
    world.feed(call.reads(11, until_close));
    world.feed(back.state(StateChange::Closed, 3, 0));
    let mut record = call.reads(11, "");
    record.0.flags = SEGMENT_EOF;
    world.feed(record);
    assert_eq!(
        world.tree(),
        [
            "back server GET /b <- front client GET /b (same-host)",
            "front client GET /b <- root"
        ]
    );
}

#[test]
fn ends_that_cannot_be_compared_do_not_wait_for_each_other() {
    let mut world = world();
    let mut call = world.open(unix(100, 10, Role::Unknown, 0));
    let mut back = world.open(unix(101, 20, Role::Unknown, 0));
    for _ in 0..2 {
        world.feed(call.writes(11, &get("/b")));
        world.feed(back.reads(21, &get("/b")));
        world.feed(back.writes(21, OK));
        world.feed(call.reads(11, OK));
    }
    assert_eq!(
        world.tree(),
        [["back server GET /b <- root"; 2], ["front client GET /b <- root"; 2]].concat()
    );
}

#[test]
fn what_is_held_leaves_in_time() {
    let mut world = world();
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    let ended = world.now_ns;
    assert_eq!(
        world.core.next_deadline_ns(),
        Some(0),
        "the first look for what is idle"
    );
    world.pass(10 * SECOND - 1);
    assert_eq!(world.tree(), [""; 0]);
    assert_eq!(world.core.next_deadline_ns(), Some(ended + 10 * SECOND));
    world.pass(1);
    assert_eq!(world.tree(), ["front client GET /b <- root"]);
    assert_eq!(world.counter("held_too_long"), 1);
    world.feed(front.writes(11, OK));
    assert_eq!(world.tree(), ["front server GET /a <- root"]);
}

#[test]
fn as_much_is_held_as_is_allowed() {
    let mut world = World::with(&CoreSettings {
        hold_bytes: 3 * 1536,
        ..settings()
    });
    world.process(10, "front", Runtime::Unknown);
    let (mut front, mut call) = (world.server(10), world.client(10, 11));
    world.feed(front.reads(11, &get("/a")));
    for _ in 0..5 {
        world.feed(call.writes(11, &get("/b")));
        world.feed(call.reads(11, OK));
    }
    assert_eq!(world.tree(), ["front client GET /b <- root"; 2]);
    assert_eq!(world.counter("held_too_many"), 2);
    world.feed(front.writes(11, OK));
    assert_eq!(world.tree().len(), 4);
}

#[test]
fn idle_connections_are_forgotten() {
    let mut world = world();
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    world.pass(SECOND);
    world.pass(920 * SECOND);
    assert_eq!(world.core.under_way(), (0, 0));
    assert_eq!((world.counter("idle_forgotten"), world.counter("missed")), (1, 1));
}

#[test]
fn what_was_under_way_at_the_end_is_counted() {
    let mut world = world();
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    assert_eq!(world.core.flush(), []);
    assert_eq!(world.counter("missed"), 1);
}

#[test]
fn nothing_grows() {
    let mut world = world();
    for thread in 0..3000 {
        let (mut call, mut back) = world.pair((10, thread + 1), 20);
        for _ in 0..2 {
            world.feed(call.writes(thread + 1, &get("/b")));
            world.feed(back.reads(thread + 1, &get("/b")));
            world.feed(back.writes(thread + 1, OK));
            world.feed(call.reads(thread + 1, OK));
            world.spans();
        }
        assert!(world.core.flow.get(back.conn).unwrap().offsets.len() <= 1);
        for end in [&call, &back] {
            world.feed(end.state(StateChange::Closed, 3, 0));
        }
        world.pass(SECOND);
    }
    assert_eq!(world.core.under_way(), (0, 0));
    assert_eq!(world.core.causality.threads(), 0);
    assert_eq!(world.counter("held_too_long"), 0);
}

#[test]
fn a_server_that_has_answered_and_ended_before_the_write_of_its_request_is_told() {
    let mut world = world();
    let (mut call, mut back) = world.pair((10, 1), 20);
    let asked = call.writes(1, &get("/b"));
    world.feed(back.reads(20, &get("/b")));
    world.feed(back.writes(20, OK));
    world.feed(back.state(StateChange::Closed, 3, 0));
    world.feed(asked);
    world.feed(call.reads(1, OK));
    assert_eq!(
        world.tree(),
        [
            "back server GET /b <- front client GET /b (same-host)",
            "front client GET /b <- root"
        ]
    );
    world.feed(call.state(StateChange::Closed, 3, 0));
    assert_eq!(world.core.under_way(), (0, 0));
}

#[test]
fn a_socket_that_is_connected_to_itself() {
    let mut world = world();
    let mut end = world.open(Open {
        sent_base: 999,
        received_base: 1000,
        ..open(100, 10, 10, Role::Client)
    });
    world.feed(end.writes(10, &get("/a")));
    world.feed(end.reads(10, OK));
    assert_eq!(world.tree(), ["front client GET /a <- root"]);
}

#[test]
fn a_unix_connection_that_ended_unseen() {
    let mut world = world();
    let mut tcp = world.server(10);
    exchange(&mut world, &mut tcp, 10);
    assert!(!world.core.needs_unix_ends(), "TCP tells its ends");
    let mut end = world.open(Open {
        family: FAMILY_UNIX,
        counted: 1,
        inode: 77,
        ..open(9, 10, 10, Role::Server)
    });
    assert!(!world.core.needs_unix_ends(), "nothing was said on it");
    exchange(&mut world, &mut end, 10);
    assert!(world.core.needs_unix_ends());
    let known: Vec<_> = world.core.unix_connections();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].conn, known[0].tgid, known[0].inode), (9, 10, 77));
    world.feed(end.reads(10, &get("/cut-off")));
    world.feed(end.state(StateChange::Gone, 0, 0));
    assert_eq!(world.tree(), ["front server GET /a <- root"; 2]);
    assert_eq!(world.counter("missed"), 1);
    assert!(world.core.unix_connections().is_empty());
}

#[test]
fn a_unix_connection_that_ended_unseen_after_its_other_end() {
    let mut world = world();
    let mut call = world.open(unix(100, 10, Role::Client, 1));
    world.feed(call.writes(10, &get("/b")));
    let mut record = call.reads(10, "");
    record.0.flags = SEGMENT_EOF;
    world.feed(record);
    world.feed(call.state(StateChange::Gone, 0, 0));
    assert_eq!(world.tree(), ["front client GET /b !connection_closed <- root"]);
    assert_eq!(world.counter("missed"), 0);
}
