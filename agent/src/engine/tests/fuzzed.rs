//! Streams that the fuzz target `core` found, and what went wrong with them.

use agent_ebpf::abi::SEGMENT_NOT_HTTP;

use super::*;

/// Ends all that is open, and gives how much is still held.
fn left(world: &mut World, connections: &[&End]) -> (usize, usize) {
    for end in connections {
        world.feed(end.state(StateChange::Closed, 0, 0));
    }
    world.core.tick(u64::MAX - 1);
    world.core.drain();
    world.core.flush();
    world.core.under_way()
}

#[test]
fn a_connect_that_fails_on_a_connection_with_requests_leaves_none() {
    let mut world = World::new();
    world.process(10, "s", Runtime::Unknown);
    let mut end = world.server(10);
    world.feed(end.reads(10, &get("/a")));
    world.connect(end.conn, 10, 10, -libc::ECONNREFUSED);
    assert_eq!(left(&mut world, &[&end]), (0, 0));
    assert_eq!(world.counter("missed"), 1);
}

#[test]
fn a_request_whose_answer_is_no_http_is_missed() {
    let mut world = World::new();
    world.process(10, "s", Runtime::Unknown);
    let mut end = world.client(10, 10);
    world.feed(end.writes(10, &get("/a")));
    world.feed(end.reads(10, "HTTP/2.0 200 OK\r\n").flagged(SEGMENT_NOT_HTTP));
    assert_eq!(left(&mut world, &[&end]), (0, 0));
    assert_eq!((world.counter("missed"), world.counter("opaque")), (1, 1));
    assert_eq!(world.tree(), Vec::<String>::new());
}

#[test]
fn what_is_no_http_is_a_request_if_a_server_of_http_refuses_it() {
    let hello = "\x16\x03\x01\0\x31\x01\0\0\x2d\x03\x03";
    let mut world = World::new();
    world.process(10, "s", Runtime::Unknown);
    let mut refused = world.server(10);
    world.feed(refused.reads(10, hello).flagged(SEGMENT_NOT_HTTP));
    world.feed(refused.writes(10, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    // What follows is looked at again: the programs are told so.
    world.feed(refused.reads(10, &get("/a")));
    world.feed(refused.writes(10, OK));
    assert_eq!(world.tree(), ["s server GET /a <- root", "s server HTTP <- root"]);
    let mut taken = world.server(10);
    world.feed(taken.reads(10, hello).flagged(SEGMENT_NOT_HTTP));
    world.feed(
        taken
            .writes(10, "\x16\x03\x03\0\x31\x02\0\0\x2d")
            .flagged(SEGMENT_NOT_HTTP),
    );
    assert_eq!(left(&mut world, &[&refused, &taken]), (0, 0));
    assert_eq!((world.counter("opaque"), world.tree()), (1, vec![]));
}

#[test]
fn what_is_over_at_a_time_that_no_clock_tells_leaves_at_the_end() {
    let mut world = World::new();
    world.now_ns = u64::MAX - 2000;
    // Nothing was told of the process.
    world.connect(1, 10, 10, -libc::ECONNREFUSED);
    assert_eq!(left(&mut world, &[]), (0, 0));
    assert_eq!(world.counter("unknown_process"), 1);
}

#[test]
fn a_connect_that_failed_with_no_error_that_there_is_fails() {
    let mut world = World::new();
    world.process(10, "s", Runtime::Unknown);
    world.connect(1, 10, 10, i32::MIN);
    assert_eq!(world.tree(), ["s client connect !_OTHER <- root"]);
}
