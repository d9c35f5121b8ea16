//! Bytes that no record told.

use agent_ebpf::abi::{STATE_LOST, STATE_OPEN, STATE_RELEASED};

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

#[test]
fn what_ends_behind_a_record_that_was_lost_has_not_failed() {
    const ESTABLISHED: u8 = 1;
    const CLOSE_WAIT: u8 = 8;
    let ends = |server: &End, flags| {
        [
            server.state_of(STATE_OPEN | flags, ESTABLISHED, StateChange::RemoteFin, 1),
            server.state_of(STATE_RELEASED | flags, CLOSE_WAIT, StateChange::LocalFin, 3),
        ]
    };
    for (lost, spans, missed) in [(0, 1, 0), (STATE_LOST, 0, 1)] {
        let mut world = World::new();
        world.process(10, "front", Runtime::Unknown);
        let mut front = world.server(10);
        world.feed(front.reads(10, &get("/a")));
        for end in ends(&front, lost) {
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
