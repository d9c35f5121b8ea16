//! Connections of which one direction ends before the other, and sockets that are read after their connection is over.

use super::*;
use agent_ebpf::abi::{SEGMENT_EOF, STATE_OPEN, STATE_RELEASED};

const ESTABLISHED: u8 = 1;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const SHUT_WR: u8 = 2;
const BOTH: u8 = 3;

/// A call whose client (thread 11 of process 10) has sent its request, and the server's end (process 20).
fn call(world: &mut World) -> (End, End) {
    let client = Open {
        sock: 0xc0,
        inode: 70,
        ..open(100, 10, 11, Role::Client)
    };
    let mut client = world.open(client);
    world.connect(client.conn, 10, 11, 0);
    let server = world.open(open(101, 20, 20, Role::Server));
    world.feed(client.writes(11, &get("/b")));
    (client, server)
}

/// The client's socket is read after its connection is over: the programs describe it again, and count the SYN.
fn reads_late(world: &mut World, client: &mut End, conn: u64, bytes: &str) {
    let again = Open {
        sock: 0xc0,
        inode: 70,
        role: Role::Unknown as u8,
        from_birth: 0,
        read: client.read,
        written: client.written + 1,
        ..open(100, 10, 11, Role::Unknown)
    };
    let mut end = world.open(Open { conn, ..again });
    world.feed(end.reads(11, bytes));
    client.read = end.read;
}

/// Bytes up to here were received and not read.
fn unread(client: &End, bytes: u64) -> Record {
    let header = Header {
        flags: SEGMENT_EOF,
        ..header(Kind::Segment, 0, 0)
    };
    let at = client.read + bytes;
    let segment = Segment {
        header,
        conn: client.conn,
        offset: at,
        end: at,
        ..Segment::default()
    };
    Record(header, Body::Segment(segment, vec![]))
}

/// The server reads, answers and closes, while the client's socket, which is half closed, is not read. Then it is over.
fn answered_unread(world: &mut World, client: &End, server: &mut End, response: &str) {
    world.feed(client.state_of(STATE_OPEN, ESTABLISHED, StateChange::LocalFin, SHUT_WR));
    world.feed(server.reads(21, &get("/b")));
    world.feed(server.state_of(STATE_OPEN, ESTABLISHED, StateChange::RemoteFin, 1));
    world.feed(server.writes(21, response));
    world.feed(server.state_of(STATE_RELEASED, CLOSE_WAIT, StateChange::LocalFin, BOTH));
    world.feed(client.state_of(STATE_OPEN, FIN_WAIT2, StateChange::Closed, BOTH));
    world.feed(unread(client, response.len() as u64));
    world.feed(server.state_of(STATE_RELEASED, LAST_ACK, StateChange::Closed, BOTH));
}

const BOTH_ENDS: [&str; 2] = [
    "back server GET /b <- front client GET /b (same-host)",
    "front client GET /b <- root",
];

#[test]
fn a_response_is_read_after_the_connection_is_over() {
    for until_close in [OK, "HTTP/1.1 200 OK\r\n\r\nall there is"] {
        let mut world = two_services(Runtime::Unknown);
        let (mut client, mut server) = call(&mut world);
        answered_unread(&mut world, &client, &mut server, until_close);
        world.pass(3 * SECOND);
        let (first, rest) = until_close.split_at(20);
        reads_late(&mut world, &mut client, 102, first);
        world.pass(3 * SECOND);
        reads_late(&mut world, &mut client, 104, rest);
        assert_eq!(world.tree(), BOTH_ENDS);
        assert_eq!(world.core.under_way(), (0, 0));
        assert_eq!(world.counter("left_unread") + world.counter("unknown_connection"), 0);
    }
}

/// The reader's record, which another processor writes, comes before the one that tells of unread bytes.
#[test]
fn a_response_that_was_read_already_is_not_waited_for() {
    let mut world = two_services(Runtime::Unknown);
    let (mut client, mut server) = call(&mut world);
    world.feed(client.state_of(STATE_OPEN, ESTABLISHED, StateChange::LocalFin, SHUT_WR));
    world.feed(server.reads(21, &get("/b")));
    world.feed(server.writes(21, OK));
    world.feed(server.state_of(STATE_RELEASED, CLOSE_WAIT, StateChange::LocalFin, BOTH));
    world.feed(client.state_of(STATE_OPEN, FIN_WAIT2, StateChange::Closed, BOTH));
    let told = unread(&client, OK.len() as u64);
    reads_late(&mut world, &mut client, 102, OK);
    world.feed(told);
    world.feed(server.state_of(STATE_RELEASED, LAST_ACK, StateChange::Closed, BOTH));
    assert_eq!(world.tree(), BOTH_ENDS);
    assert_eq!((world.core.under_way(), world.counter("left_unread")), ((0, 0), 0));
}

#[test]
fn a_response_that_is_never_read_is_not_waited_for_longer_than_spans_are_held() {
    let mut world = two_services(Runtime::Unknown);
    let (client, mut server) = call(&mut world);
    answered_unread(&mut world, &client, &mut server, OK);
    world.pass(9 * SECOND);
    assert_eq!(world.core.under_way().0, 1);
    world.pass(2 * SECOND);
    assert_eq!(
        world.tree(),
        [
            "back server GET /b <- front client GET /b !connection_closed (same-host)",
            "front client GET /b !connection_closed <- root",
        ]
    );
    assert_eq!(world.core.under_way(), (0, 0));
    assert_eq!(world.counter("left_unread"), 1);
}

#[test]
fn nor_longer_than_its_process_lives() {
    let mut world = two_services(Runtime::Unknown);
    let (client, mut server) = call(&mut world);
    answered_unread(&mut world, &client, &mut server, OK);
    // Another process's end changes nothing.
    world.exit(20);
    assert_eq!(world.core.under_way().0, 1);
    world.exit(10);
    assert!(
        world
            .tree()
            .contains(&"front client GET /b !process_exit <- root".to_owned())
    );
    assert_eq!(world.core.under_way(), (0, 0));
}

/// shutdown(2) of the sending side behind the server's FIN: both directions are shut, and the response is not read.
#[test]
fn the_other_end_closes_first() {
    let mut world = two_services(Runtime::Unknown);
    let (mut client, mut server) = call(&mut world);
    world.feed(server.reads(21, &get("/b")));
    world.feed(server.writes(21, OK));
    world.feed(server.state_of(STATE_RELEASED, ESTABLISHED, StateChange::LocalFin, BOTH));
    world.feed(client.state_of(STATE_OPEN, ESTABLISHED, StateChange::RemoteFin, 1));
    world.feed(client.state_of(STATE_OPEN, CLOSE_WAIT, StateChange::LocalFin, BOTH));
    world.feed(server.state_of(STATE_RELEASED, FIN_WAIT2, StateChange::Closed, BOTH));
    world.feed(client.state_of(STATE_OPEN, LAST_ACK, StateChange::Closed, BOTH));
    world.feed(unread(&client, OK.len() as u64));
    world.pass(SECOND);
    reads_late(&mut world, &mut client, 102, OK);
    assert_eq!(world.tree(), BOTH_ENDS);
    assert_eq!(world.core.under_way(), (0, 0));
}

/// close(2) behind shutdown(2), before the answer, which then meets a closed socket.
#[test]
fn a_client_gives_up_after_its_half_close() {
    let mut world = two_services(Runtime::Unknown);
    let (client, mut server) = call(&mut world);
    world.feed(client.state_of(STATE_OPEN, ESTABLISHED, StateChange::LocalFin, SHUT_WR));
    world.feed(server.reads(21, &get("/b")));
    world.feed(client.state_of(STATE_RELEASED, FIN_WAIT2, StateChange::LocalFin, BOTH));
    let gave_up = world.now_ns;
    world.feed(client.state_of(STATE_RELEASED, FIN_WAIT2, StateChange::Closed, BOTH));
    world.feed(server.writes(21, OK));
    let spans = world.spans();
    assert_eq!(
        tree(&spans),
        [
            "back server GET /b <- front client GET /b !cancelled (same-host)",
            "front client GET /b !cancelled <- root",
        ]
    );
    let client = spans.iter().find(|span| span.kind == SpanKind::Client).unwrap();
    assert_eq!(client.end_unix_ns, gave_up);
}

/// shutdown(2) of both directions is no close(2): the response that was there is read, one that was not is not wanted.
#[test]
fn both_directions_are_shut_before_the_response_is_read() {
    for was_there in [true, false] {
        let mut world = two_services(Runtime::Unknown);
        let (mut client, mut server) = call(&mut world);
        world.feed(server.reads(21, &get("/b")));
        if was_there {
            world.feed(server.writes(21, OK));
        }
        world.feed(client.state_of(STATE_OPEN, ESTABLISHED, StateChange::LocalFin, BOTH));
        if was_there {
            world.feed(client.reads(11, OK));
        }
        world.feed(server.state_of(STATE_OPEN, ESTABLISHED, StateChange::RemoteFin, 1));
        world.feed(server.state_of(STATE_RELEASED, CLOSE_WAIT, StateChange::LocalFin, BOTH));
        world.feed(client.state_of(STATE_OPEN, FIN_WAIT2, StateChange::Closed, BOTH));
        world.pass(SECOND);
        let expected = if was_there {
            BOTH_ENDS
        } else {
            [
                "back server GET /b !connection_closed <- front client GET /b !cancelled (same-host)",
                "front client GET /b !cancelled <- root",
            ]
        };
        assert_eq!(world.tree(), expected);
    }
}

/// A server that will send no more has not answered, though its socket is still open.
#[test]
fn a_server_that_shuts_its_sending_side_ends_what_it_did_not_answer() {
    let mut world = two_services(Runtime::Unknown);
    let (mut client, mut server) = call(&mut world);
    world.feed(server.reads(21, &get("/b")));
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789";
    world.feed(server.writes(21, begun));
    world.feed(server.state_of(STATE_OPEN, ESTABLISHED, StateChange::LocalFin, SHUT_WR));
    world.feed(client.reads(11, begun));
    world.feed(client.state_of(STATE_OPEN, ESTABLISHED, StateChange::RemoteFin, 1));
    world.feed(client.state_of(STATE_RELEASED, CLOSE_WAIT, StateChange::LocalFin, BOTH));
    assert_eq!(
        world.tree(),
        [
            "back server GET /b !cancelled <- front client GET /b !connection_closed (same-host)",
            "front client GET /b !connection_closed <- root",
        ]
    );
}

/// A client with a time limit is gone, and its span has left, when the server accepts its connection.
#[test]
fn a_server_reads_the_request_of_a_client_that_has_left() {
    for traceparent in [false, true] {
        let mut world = two_services(Runtime::Unknown);
        let request = if traceparent {
            get_with("/b", TRACEPARENT)
        } else {
            get("/b")
        };
        let mut client = world.client(10, 11);
        world.feed(client.writes(11, &request));
        world.feed(client.state_of(STATE_RELEASED, ESTABLISHED, StateChange::LocalFin, BOTH));
        let early = world.spans();
        world.feed(client.state_of(STATE_RELEASED, FIN_WAIT2, StateChange::Closed, BOTH));
        assert_eq!(early.len(), 1);
        world.pass(SECOND / 2);
        let mut server = world.open(open(client.conn + 1, 20, 20, Role::Server));
        world.feed(server.reads(21, &request));
        world.feed(server.state_of(STATE_RELEASED, CLOSE_WAIT, StateChange::LocalFin, BOTH));
        let late = world.spans();
        let parent = late[0].parent.unwrap();
        if traceparent {
            assert_eq!((parent.0.to_string().as_str(), parent.1.name()), (PARENT_ID, "header"));
        } else {
            assert_eq!((parent.0, parent.1.name()), (early[0].span_id, "same-host"));
            assert_eq!(late[0].trace_id, early[0].trace_id);
        }
        assert_eq!(world.core.under_way().1, 0);
    }
}

#[test]
fn a_request_is_not_waited_for_longer_than_spans_are_held() {
    let mut world = two_services(Runtime::Unknown);
    let mut client = world.client(10, 11);
    world.feed(client.writes(11, &get("/b")));
    world.feed(client.state_of(STATE_RELEASED, ESTABLISHED, StateChange::LocalFin, BOTH));
    world.feed(client.state_of(STATE_RELEASED, FIN_WAIT2, StateChange::Closed, BOTH));
    assert_eq!(world.tree(), ["front client GET /b !cancelled <- root"]);
    world.pass(11 * SECOND);
    let mut server = world.open(open(client.conn + 1, 20, 20, Role::Server));
    world.feed(server.reads(21, &get("/b")));
    world.feed(server.writes(21, OK));
    assert_eq!(world.tree(), ["back server GET /b <- root"]);
}
