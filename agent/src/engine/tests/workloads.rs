//! Facts about processes that are shown to people.

use agent_ebpf::abi::{SEGMENT_NOT_HTTP, SEGMENT_OPAQUE};

use super::*;
use crate::engine::Workload;

/// A segment that the programs flagged.
fn flagged(end: &mut End, flags: u16, bytes: &[u8], total: u64) -> Record {
    let Record(mut header, body) = end.moved(end.tgid, Direction::Write, bytes);
    header.flags = flags;
    end.written += total - bytes.len() as u64;
    match body {
        Body::Segment(segment, bytes) => {
            let segment = Segment {
                header,
                end: segment.offset + total,
                ..segment
            };
            Record(header, Body::Segment(segment, bytes))
        }
        other => Record(header, other),
    }
}

#[test]
fn each_process_with_what_it_did_and_what_is_not_visible() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Nginx);
    let mut front = world.server(10);
    for _ in 0..2 {
        world.feed(front.reads(10, &get("/a")));
        world.feed(front.writes(10, OK));
    }
    let mut call = world.client(10, 11);
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    // nginx to PHP-FPM: the programs look at the first bytes and tell nothing more.
    for _ in 0..2 {
        let mut php = world.client(10, 10);
        let opening = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        world.feed(flagged(&mut php, SEGMENT_NOT_HTTP, opening, 900));
    }
    // One that the programs take for HTTP, maybe.
    let mut shell = world.client(10, 10);
    world.feed(shell.reads(10, "SSH-2.0-OpenSSH_9.2\r\n"));
    // Older than the agent: nothing of it is captured.
    world.connections += 2;
    let older = Open {
        role: Role::Unknown as u8,
        from_birth: 0,
        ..open(world.connections, 20, 20, Role::Unknown)
    };
    let mut older = world.open(older);
    world.feed(flagged(&mut older, SEGMENT_OPAQUE, b"", 10));
    // Cut off in the middle of a head, and closed.
    let mut cut = world.server(10);
    world.feed(cut.reads(10, &get("/c")));
    cut.written += 5;
    world.feed(cut.writes(10, "00 OK\r\n\r\n"));
    assert_eq!(world.spans().len(), 3);

    let expected = [
        Workload {
            tgid: crate::record::Tgid(10),
            service: Some("front".to_owned()),
            runtime: Some(Runtime::Nginx),
            provisional: false,
            connections: 6,
            requests: 2,
            calls: 1,
            missed: 1,
            unseen: vec![("FastCGI", 2), ("SSH", 1), ("waiting for a request boundary", 1)],
        },
        Workload {
            tgid: crate::record::Tgid(20),
            service: None,
            runtime: None,
            provisional: false,
            connections: 1,
            requests: 0,
            calls: 0,
            missed: 0,
            unseen: vec![("waiting for a request boundary", 1)],
        },
    ];
    assert_eq!(world.core.workloads(), expected);
    assert_eq!(world.counter("opaque"), 3);
    world.exit(10);
    assert_eq!(world.core.workloads(), expected[1..]);
}
