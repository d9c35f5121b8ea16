//! Connections in odd hands.

use super::*;
use agent_ebpf::abi::FAMILY_UNIX;

fn world() -> World {
    let mut world = World::new();
    world.process(10, "parent", Runtime::Unknown);
    world.process(11, "child", Runtime::Unknown);
    world
}

fn unix(conn: u64, tgid: u32) -> Open {
    Open {
        sock: conn,
        family: FAMILY_UNIX,
        counted: 1,
        ..open(conn, tgid, tgid, Role::Server)
    }
}

/// The same connection, in the hands of another process.
fn by(end: &mut End, tgid: u32) -> &mut End {
    end.tgid = tgid;
    end
}

fn released(world: &mut World, end: &End, tgid: u32) {
    let mut record = end.state(StateChange::Released, 3, 0);
    record.0 = header(Kind::State, tgid, tgid);
    world.feed(record);
}

#[test]
fn a_child_that_ends_leaves_a_unix_connection_to_its_parent() {
    let mut world = world();
    let mut end = world.open(unix(101, 10));
    world.feed(by(&mut end, 10).reads(10, &get("/a")));
    world.feed(by(&mut end, 11).writes(11, OK));
    world.exit(11);
    world.feed(by(&mut end, 10).reads(10, &get("/b")));
    world.feed(by(&mut end, 10).writes(10, OK));
    assert_eq!(world.tree().len(), 2);
    world.feed(by(&mut end, 10).reads(10, &get("/c")));
    world.exit(10);
    assert_eq!(world.tree(), ["parent server GET /c !process_exit <- root"]);
    assert_eq!(world.core.under_way(), (0, 0));
    assert_eq!(world.counter("unknown_connection"), 0);
}

#[test]
fn a_parent_that_closed_its_descriptor_has_no_part_in_it() {
    let mut world = world();
    let mut end = world.open(unix(101, 10));
    released(&mut world, &end, 10);
    world.feed(by(&mut end, 11).reads(11, &get("/a")));
    world.exit(11);
    assert_eq!(world.tree(), ["child server GET /a !process_exit <- root"]);
    assert_eq!(world.core.under_way(), (0, 0));
}

#[test]
fn who_closed_it_may_end_before_the_others_use_it() {
    let mut world = world();
    let mut end = world.open(unix(101, 10));
    world.feed(by(&mut end, 10).reads(10, &get("/a")));
    released(&mut world, &end, 10);
    world.exit(10);
    assert_eq!(world.tree(), [""; 0]);
    world.feed(by(&mut end, 11).writes(11, OK));
    assert_eq!(world.tree(), ["parent server GET /a <- root"]);
}

#[test]
fn a_refused_unix_connect_says_where_to() {
    for (address, shown) in [
        (&b"/run/db.sock"[..], Some("/run/db.sock")),
        (b"/run/db.sock\0rest", Some("/run/db.sock")),
        (b"\0hidden", Some("@hidden")),
        (b"", None),
    ] {
        let mut world = world();
        let header = Header {
            time_ns: world.now_ns,
            ..header(Kind::Connect, 10, 10)
        };
        let connect = Connect {
            header,
            conn: 100,
            start_ns: world.now_ns - 1000,
            result: -libc::ECONNREFUSED,
            family: FAMILY_UNIX,
            path_bytes: address.len() as u8,
            ..Connect::default()
        };
        world.core.raw_record(&[bytes_of(&connect), address, &[0; 20]].concat());
        let spans = world.spans();
        assert_eq!(attribute(&spans[0], "server.address").as_deref(), shown);
        assert_eq!(
            attribute(&spans[0], "error.type").as_deref(),
            Some("connection_refused")
        );
        // Cut off in its address.
        world
            .core
            .raw_record(&[bytes_of(&connect), address.get(1..).unwrap_or_default()].concat());
        assert_eq!(world.counter("malformed_records"), u64::from(!address.is_empty()));
    }
}

#[test]
fn multipath_connections_are_counted_and_their_ends_apart() {
    let mut world = world();
    let counted = |open: Open| Open { counted: 1, ..open };
    let mut call = world.open(counted(open(100, 10, 10, Role::Client)));
    let mut back = world.open(counted(open(101, 11, 11, Role::Server)));
    world.feed(call.writes(10, &get("/a")));
    world.feed(back.reads(11, &get("/a")));
    world.feed(back.writes(11, OK));
    world.feed(call.reads(10, OK));
    assert_eq!(
        world.tree(),
        ["child server GET /a <- root", "parent client GET /a <- root"]
    );
    assert_eq!(world.counter("mptcp"), 2);
}

#[test]
fn a_connection_that_sent_with_its_syn_is_described_twice() {
    let mut world = world();
    let early = open(100, 10, 10, Role::Client);
    let mut call = world.open(Open {
        received_base: 0,
        ..early
    });
    world.feed(call.writes(10, &get("/a")));
    world.open(Open {
        written: call.written,
        ..early
    });
    let mut back = world.open(open(101, 11, 11, Role::Server));
    world.feed(back.reads(11, &get("/a")));
    world.feed(back.writes(11, OK));
    world.feed(call.reads(10, OK));
    assert_eq!(
        world.tree(),
        [
            "child server GET /a <- parent client GET /a (same-host)",
            "parent client GET /a <- root"
        ]
    );
}

#[test]
fn a_server_refuses_what_it_cannot_read() {
    let mut world = world();
    let mut end = world.open(open(101, 10, 10, Role::Server));
    world.feed(end.reads(10, "GET\r\n\r\n"));
    world.feed(end.writes(10, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    // Its client's end: what it sent may be anything.
    let mut other = world.open(open(102, 11, 11, Role::Client));
    world.feed(other.writes(11, "GET\r\n\r\n"));
    world.feed(other.reads(11, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(world.tree(), ["parent server HTTP <- root"]);
    assert_eq!(world.counter("malformed"), 2);
}

#[test]
fn what_is_no_http_is_named_when_its_connection_ends() {
    let mut world = world();
    let mut end = world.open(open(101, 10, 10, Role::Server));
    world.feed(end.reads(10, "get key\r\n"));
    assert_eq!(world.counter("opaque"), 0);
    world.feed(end.state(StateChange::Closed, 3, 0));
    assert_eq!(world.counter("opaque"), 1);
    assert_eq!(world.tree(), [""; 0]);
}
