//! Bytes that no record told.

use agent_ebpf::abi::{FAMILY_UNIX, LOST, STATE_LOST_READ, STATE_LOST_WRITTEN, STATE_OPEN, STATE_RELEASED};

use super::*;

/// The same record, of a call that moved more bytes than were told.
fn cut(end: &mut End, mut record: Record, more: u64) -> Record {
    let Body::Segment(segment, _) = &mut record.1 else {
        panic!("no segment");
    };
    segment.end += more;
    segment.call_bytes += more as u32;
    if record.0.direction == Direction::Read as u8 {
        end.read += more;
    } else {
        end.written += more;
    }
    record
}

fn answered(head: &str, gap: u64, then: &str) -> World {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(10, &get("/a")));
    let record = front.writes(10, head);
    let record = cut(&mut front, record, gap);
    world.feed(record);
    if !then.is_empty() {
        world.feed(front.writes(10, then));
    }
    world
}

#[test]
fn the_tail_of_a_call_counts_as_far_as_it_is_no_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    for (gap, missed) in [(0, 0), (999, 0), (1000, 0), (1001, 1), (5000, 4000)] {
        assert_eq!(answered(head, gap, "").counter("gap_bytes"), missed, "{gap}");
    }
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n";
    assert_eq!(answered(head, 1000, "\r\n0\r\n\r\n").counter("gap_bytes"), 0);
    assert_eq!(answered(head, 1007, "").counter("gap_bytes"), 7);
    // A head that is not complete: all of it.
    let head = "HTTP/1.1 200 OK\r\nX-A: b";
    assert_eq!(answered(head, 100, "").counter("gap_bytes"), 100);
    // A body until the connection's end is all there is.
    assert_eq!(answered("HTTP/1.1 200 OK\r\n\r\n", 5000, "").counter("gap_bytes"), 0);
}

#[test]
fn a_lost_record_counts_as_far_as_it_is_no_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    for (lost, missed) in [(1000, 0), (1300, 300)] {
        let mut world = World::new();
        world.process(10, "front", Runtime::Unknown);
        let mut front = world.server(10);
        world.feed(front.reads(10, &get("/a")));
        world.feed(front.writes(10, head));
        front.written += lost;
        world.feed(front.writes(10, OK));
        assert_eq!(world.counter("gap_bytes"), missed, "{lost}");
    }
}

/// A process whose buffers cannot be read, as a 32-bit one.
#[test]
fn exchanges_of_which_nothing_was_told_are_missed() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    for connection in 1..=3 {
        let mut front = world.server(10);
        let request = front.reads(10, "");
        let request = cut(&mut front, request, 100);
        world.feed(request);
        let response = front.writes(10, "");
        let response = cut(&mut front, response, 100);
        world.feed(response);
        let missed: Vec<u64> = world.core.workloads().iter().map(|workload| workload.missed).collect();
        assert_eq!((world.counter("missed"), missed), (connection, vec![connection]));
    }
    assert!(world.spans().is_empty());
}

const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

#[test]
fn what_ends_behind_a_response_that_was_lost_has_not_failed() {
    for (lost, spans, missed) in [(0, 1, 0), (STATE_LOST_READ, 1, 0), (STATE_LOST_WRITTEN, 0, 1)] {
        let mut world = World::new();
        world.process(10, "front", Runtime::Unknown);
        let mut front = world.server(10);
        world.feed(front.reads(10, &get("/a")));
        for end in [
            front.state_of(STATE_OPEN | lost, ESTABLISHED, StateChange::RemoteFin, 1),
            front.state_of(STATE_RELEASED | lost, CLOSE_WAIT, StateChange::LocalFin, 3),
        ] {
            world.feed(end);
        }
        assert_eq!(world.spans().len(), spans, "{lost}");
        assert_eq!(
            (world.counter("missed"), world.counter("missed_gap")),
            (missed, missed),
            "{lost}"
        );
    }
}

#[test]
fn what_is_answered_behind_a_record_that_was_lost_has_a_span() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    let mut call = world.client(10, 10);
    world.feed(call.writes(10, &get("/a")));
    // The server has answered and closed before the client reads.
    let lost = STATE_OPEN | STATE_LOST_READ | STATE_LOST_WRITTEN;
    world.feed(call.state_of(lost, ESTABLISHED, StateChange::RemoteFin, 1));
    world.feed(call.reads(10, OK));
    world.feed(call.state_of(STATE_RELEASED, CLOSE_WAIT, StateChange::LocalFin, 3));
    assert_eq!(world.tree(), ["front client GET /a <- root"]);
    assert_eq!(world.counter("missed"), 0);
}

/// Nothing else tells the end of a Unix connection whose process is killed.
#[test]
fn what_a_killed_process_lost_has_not_failed() {
    for (lost, spans, missed) in [(0, 1, 0), (LOST, 0, 1)] {
        let mut world = World::new();
        world.process(10, "front", Runtime::Unknown);
        let mut front = world.open(Open {
            family: FAMILY_UNIX,
            counted: 1,
            ..open(900, 10, 10, Role::Server)
        });
        world.feed(front.reads(10, &get("/a")));
        world.exit_flagged(10, lost);
        assert_eq!(world.spans().len(), spans, "{lost}");
        assert_eq!(world.counter("missed_gap"), missed, "{lost}");
    }
}

/// A thread reads a request, and a record of it is lost: the call that it makes next may be for one that nobody knows.
#[test]
fn a_call_behind_a_record_that_was_lost_is_a_root() {
    for runtime in [Runtime::Unknown, Runtime::Nginx] {
        for (lost, roots) in [(false, 1), (true, 2)] {
            let mut world = two_services(runtime);
            world.pass(61 * SECOND);
            let (mut front, mut call) = (world.server(10), world.kept(10, 10));
            world.feed(front.reads(10, &get("/a")));
            let sent = call.writes(10, &get("/a"));
            world.feed(if lost { sent.flagged(LOST) } else { sent });
            world.feed(call.reads(10, OK));
            world.feed(front.writes(10, OK));
            let tree = world.tree();
            let found = tree.iter().filter(|line| line.ends_with("<- root")).count();
            assert_eq!(found, roots, "{runtime:?} {lost}: {tree:?}");
        }
    }
}

#[test]
fn calls_of_a_worker_before_a_record_that_was_lost_are_no_later_requests() {
    for (lost, parent) in [(false, "front server GET /a (family)"), (true, "root")] {
        let mut world = World::new();
        world.process(10, "front", Runtime::Puma);
        let (mut front, mut call) = (world.server(10), world.client(10, 11));
        world.feed(front.reads(10, &get("/a")));
        world.feed(call.writes(11, &get("/b")));
        world.feed(call.reads(11, OK));
        // What was lost may be the response that this call was made for.
        let answer = front.writes(11, OK);
        world.feed(if lost { answer.flagged(LOST) } else { answer });
        assert_eq!(
            world.tree(),
            [
                format!("front client GET /b <- {parent}"),
                "front server GET /a <- root".to_owned()
            ]
        );
    }
}
