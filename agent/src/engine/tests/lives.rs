//! Connections that begin, end and are held.

use super::{processes::exchange, *};
use agent_ebpf::abi::{FAMILY_UNIX, LOST, SEGMENT_EOF};

use crate::record::{ConnectionId, lost_end};

#[test]
fn connects_that_fail() {
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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

/// The two ends of a later connection whose sockets have the addresses of [`unix`]'s.
fn later_unix(conn: u64, tgid: u32, role: Role) -> Open {
    Open {
        conn: conn + 100,
        ..unix(conn, tgid, role, 1)
    }
}

/// The records of the first client, of the first server's end and of the second server were lost.
#[test]
fn a_later_client_at_the_same_addresses_is_not_the_parent() {
    let mut world = two_services(Runtime::Unknown);
    let mut back = world.open(unix(101, 20, Role::Server, 1));
    exchange(&mut world, &mut back, 20);
    let mut call = world.open(later_unix(100, 10, Role::Client));
    world.connect(call.conn, 10, 10, 0);
    world.feed(call.writes(10, &get("/b")));
    world.feed(call.reads(10, OK));
    world.feed(call.state(StateChange::Closed, 3, 0));
    assert_eq!(world.counter("uncertain_peer"), 1);
    world.pass(20 * SECOND);
    assert_eq!(
        world.tree(),
        ["back server GET /a <- root", "front client GET /b <- root"]
    );
}

/// The records of the first server, of the first client's end and of the second client were lost.
#[test]
fn an_earlier_client_at_the_same_addresses_is_not_the_parent() {
    let mut world = two_services(Runtime::Unknown);
    let mut call = world.open(unix(100, 10, Role::Client, 1));
    world.feed(call.writes(10, &get("/b")));
    world.feed(call.reads(10, OK));
    let mut back = world.open(later_unix(101, 20, Role::Server));
    exchange(&mut world, &mut back, 20);
    world.feed(back.state(StateChange::Closed, 3, 0));
    world.pass(20 * SECOND);
    assert_eq!(world.counter("uncertain_peer"), 1);
    assert_eq!(
        world.tree(),
        ["back server GET /a <- root", "front client GET /b <- root"]
    );
}

/// A client sends a request and leaves. A server at the same addresses comes, and gets `GET /a`.
fn server_after_a_client(request: impl FnOnce(&mut End) -> Record) -> World {
    let mut world = two_services(Runtime::Unknown);
    let mut call = world.open(unix(100, 10, Role::Client, 1));
    world.feed(request(&mut call));
    world.feed(call.state(StateChange::Closed, 3, 0));
    let mut back = world.open(later_unix(101, 20, Role::Server));
    exchange(&mut world, &mut back, 20);
    world.feed(back.state(StateChange::Closed, 3, 0));
    world.pass(20 * SECOND);
    world
}

/// The records of its server, and of the later client, were lost.
#[test]
fn requests_are_left_behind_to_no_later_server_at_the_same_address() {
    let mut world = server_after_a_client(|call| call.writes(10, &get("/b")).flagged(LOST));
    assert_eq!(world.counter("uncertain_peer"), 1);
    assert_eq!(
        world.tree(),
        ["back server GET /a <- root", "front client GET /b !cancelled <- root"]
    );
}

#[test]
fn a_client_left_before_its_server_accepted() {
    let mut world = server_after_a_client(|call| call.writes(10, &get("/a")));
    assert_eq!(
        world.tree(),
        [
            "back server GET /a <- front client GET /a !cancelled (same-host)",
            "front client GET /a !cancelled <- root"
        ]
    );
}

/// The client's next record shows that it was there when its server was.
#[test]
fn a_request_that_was_sent_before_its_connection_was_accepted() {
    for closes_first in [false, true] {
        let mut world = two_services(Runtime::Unknown);
        let mut call = world.open(unix(100, 10, Role::Client, 1));
        world.feed(call.writes(10, &get("/a")));
        let mut back = world.open(unix(101, 20, Role::Server, 1));
        exchange(&mut world, &mut back, 20);
        assert_eq!(world.tree(), [""; 0], "the parent may be found");
        if closes_first {
            world.feed(back.state(StateChange::Closed, 3, 0));
        }
        world.feed(call.reads(10, OK));
        assert_eq!(
            world.tree(),
            [
                "back server GET /a <- front client GET /a (same-host)",
                "front client GET /a <- root"
            ]
        );
        world.feed(call.state(StateChange::Closed, 3, 0));
        assert_eq!(world.counter("uncertain_peer"), 0);
    }
}

#[test]
fn ends_that_cannot_be_compared_do_not_wait_for_each_other() {
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    world.pass(SECOND);
    world.pass(920 * SECOND);
    assert_eq!(world.core.under_way(), (0, 0));
    assert_eq!((world.counter("idle_forgotten"), world.counter("missed")), (1, 1));
}

#[test]
fn what_was_under_way_at_the_end_is_counted() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(11, &get("/a")));
    assert_eq!(world.core.flush(), []);
    assert_eq!(world.counter("missed"), 1);
}

#[test]
fn nothing_grows() {
    let mut world = two_services(Runtime::Unknown);
    for thread in 0..3000 {
        let (mut call, mut back) = world.pair((10, thread + 1), 20);
        for _ in 0..2 {
            world.feed(call.writes(thread + 1, &get("/b")));
            world.feed(back.reads(thread + 1, &get("/b")));
            world.feed(back.writes(thread + 1, OK));
            world.feed(call.reads(thread + 1, OK));
            world.spans();
        }
        assert!(
            world
                .core
                .flow
                .get(crate::record::ConnectionId(back.conn))
                .unwrap()
                .offsets
                .len()
                <= 1
        );
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    let mut world = two_services(Runtime::Unknown);
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
    assert_eq!((known[0].conn.0, known[0].tgid.0, known[0].inode), (9, 10, 77));
    world.feed(end.reads(10, &get("/cut-off")));
    world.feed(end.state(StateChange::Gone, 0, 0));
    assert_eq!(world.tree(), ["front server GET /a <- root"; 2]);
    assert_eq!(world.counter("missed"), 1);
    assert!(world.core.unix_connections().is_empty());
}

#[test]
fn a_unix_connection_that_ended_unseen_after_its_other_end() {
    let mut world = two_services(Runtime::Unknown);
    let mut call = world.open(unix(100, 10, Role::Client, 1));
    world.feed(call.writes(10, &get("/b")));
    let mut record = call.reads(10, "");
    record.0.flags = SEGMENT_EOF;
    world.feed(record);
    world.feed(call.state(StateChange::Gone, 0, 0));
    assert_eq!(world.tree(), ["front client GET /b !connection_closed <- root"]);
    assert_eq!(world.counter("missed"), 0);
}

/// The kernel's table of connections shows the end, and nothing shows what happened before it.
#[test]
fn a_connection_whose_end_was_lost() {
    let mut world = two_services(Runtime::Unknown);
    let (mut call, mut back) = (world.client(10, 11), world.server(20));
    world.feed(call.writes(11, &get("/b")));
    world.feed(back.reads(20, &get("/a")));
    world.feed(back.state(StateChange::RemoteFin, 0, 0));
    let read_at = world.now_ns + 1;
    let mut later = world.server(20);
    // It ended, and waits for its last calls.
    let reset = world.client(10, 12);
    world.feed(reset.state(StateChange::Closed, 0, libc::ECONNRESET));
    world.now_ns += SECOND / 1000;
    let quiet = world.core.quiet_connections(read_at);
    assert_eq!(quiet.iter().map(|id| id.0).collect::<Vec<_>>(), [call.conn, back.conn]);
    let all = world.core.quiet_connections(u64::MAX);
    assert!(!all.contains(&ConnectionId(reset.conn)), "{all:?}");
    for id in quiet {
        world.core.raw_record(&lost_end(id, world.now_ns));
    }
    world.pass(SECOND);
    exchange(&mut world, &mut later, 20);
    assert_eq!(world.tree(), ["back server GET /a <- root"]);
    assert_eq!((world.counter("ends_lost"), world.counter("missed")), (2, 2));
    assert_eq!(world.core.under_way(), (1, 0));
}

/// The end of a body that was moved by splice(2) is seen at the next call, whichever thread makes that.
#[test]
fn bytes_that_nobody_is_known_to_have_read_leave_a_connection_to_its_process() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(11, "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"));
    let Record(header, Body::Segment(segment, _)) = front.reads(11, "abcde") else {
        unreachable!()
    };
    let header = Header {
        tgid: 0,
        tid: 0,
        ..header
    };
    let body = Segment {
        header,
        captured: 0,
        ..segment
    };
    world.feed(Record(header, Body::Segment(body, Vec::new())));
    world.exit(10);
    world.feed(front.state(StateChange::Closed, 3, 0));
    world.pass(SECOND);
    assert_eq!(world.tree(), ["front server PUT /a !process_exit <- root"]);
}

/// A connection that is older than the agent, and ends in the middle of its first exchange.
#[test]
fn bytes_that_waited_for_a_boundary_are_counted_when_their_connection_ends() {
    let mut world = two_services(Runtime::Unknown);
    let mut call = world.open(Open {
        from_birth: 0,
        ..open(100, 10, 10, Role::Unknown)
    });
    let request = get("/b");
    world.feed(call.writes(10, &request));
    assert_eq!(world.counter("unsynchronised_bytes"), 0, "a response may follow");
    world.feed(call.state(StateChange::Closed, 3, 0));
    world.pass(20 * SECOND);
    assert_eq!(world.counter("unsynchronised_bytes"), request.len() as u64);
}
