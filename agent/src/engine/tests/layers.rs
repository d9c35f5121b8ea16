//! Layers of a connection, and records of several slices.

use agent_ebpf::abi::{Layer, SEGMENT_EOF, SEGMENT_NOT_HTTP, Slice, StreamName};

use super::*;
use crate::{engine::flow::IGNORE, record::Tgid};

/// The first bytes of a TLS connection (RFC 8446 section 5.1): a handshake record with a ClientHello.
const CLIENT_HELLO: &str = "\x16\x03\x01\x01\x00\x01";

/// The same record, of the plaintext.
fn plaintext(mut record: Record) -> Record {
    let Body::Segment(segment, _) = &mut record.1 else {
        panic!("no segment");
    };
    segment.layer = Layer::Tls as u8;
    record
}

/// One call that moves these parts, of which the program captures every second one, beginning with the first.
fn sliced(end: &mut End, tid: u32, direction: Direction, parts: &[&str]) -> Record {
    let whole = parts.concat();
    let mut record = end.moved(tid, direction, whole.as_bytes());
    let Body::Segment(segment, bytes) = &mut record.1 else {
        panic!("no segment");
    };
    bytes.clear();
    let mut offset = segment.offset;
    for (index, part) in parts.iter().enumerate() {
        if index == 0 {
            segment.captured = part.len() as u32;
            bytes.extend(part.as_bytes());
        } else if index % 2 == 0 {
            segment.slices += 1;
            let slice = Slice {
                offset,
                bytes: part.len() as u32,
                pad: 0,
            };
            // The struct of a segment is a multiple of eight bytes long.
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(bytes_of(&slice));
            bytes.extend(part.as_bytes());
        }
        offset += part.len() as u64;
    }
    record
}

#[test]
fn the_plaintext_of_a_tls_library_is_read_in_place_of_the_wire() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    let mut wire = world.server(10);
    let mut tls = End {
        read: 0,
        written: 0,
        ..wire.clone()
    };
    world.feed(wire.reads(10, CLIENT_HELLO).flagged(SEGMENT_NOT_HTTP));
    for path in ["/a", "/b"] {
        world.feed(plaintext(tls.reads(10, &get(path))));
        // The wire carries what no parser reads, as long as the programs have not seen the hint.
        world.feed(wire.reads(10, "\x17\x03\x03 ciphertext"));
        world.feed(plaintext(tls.writes(10, OK)));
        world.feed(wire.writes(10, "\x17\x03\x03 ciphertext"));
    }
    assert_eq!(
        world.tree(),
        ["front server GET /a <- root", "front server GET /b <- root"]
    );
    assert_eq!(world.counter("gap_bytes"), 0);
    let hints = world.core.take_hints();
    assert!(hints.contains(&(StreamName::new(wire.conn, Layer::Wire), IGNORE)));
    assert!(!hints.contains(&(StreamName::new(wire.conn, Layer::Tls), IGNORE)));
}

#[test]
fn a_tunnel_and_the_plaintext_in_it_are_two_streams() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    world.process(20, "back", Runtime::Unknown);
    let (mut wire, mut far) = world.pair((10, 10), 20);
    let mut tls = End {
        read: 0,
        written: 0,
        ..wire.clone()
    };
    // One call in plain text, then a tunnel, and a call in it.
    world.feed(wire.writes(10, &get("/plain")));
    world.feed(far.reads(20, &get("/plain")));
    world.feed(far.writes(20, OK));
    world.feed(wire.reads(10, OK));
    world.feed(wire.writes(10, "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"));
    world.feed(plaintext(tls.writes(10, &get("/inside"))));
    // The tunnel's own answer is read late, and what it carries tells nothing of the call inside.
    world.feed(wire.reads(10, "HTTP/1.1 200 Connection established\r\n\r\n"));
    world.feed(wire.writes(10, CLIENT_HELLO).flagged(SEGMENT_NOT_HTTP));
    world.feed(far.reads(20, "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"));
    world.feed(far.writes(20, "HTTP/1.1 200 Connection established\r\n\r\n"));
    world.feed(plaintext(tls.reads(10, OK)));
    assert_eq!(
        world.tree(),
        [
            "back server CONNECT <- front client CONNECT (same-host)",
            "back server GET /plain <- front client GET /plain (same-host)",
            "front client CONNECT <- root",
            "front client GET /inside <- root",
            "front client GET /plain <- root",
        ]
    );
    assert_eq!(world.counter("missed"), 0);
}

#[test]
fn cipher_text_that_looks_like_http_asks_and_loses_nothing() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    let mut wire = world.server(10);
    let mut tls = wire.clone();
    world.feed(wire.reads(10, &get("/upgrade")));
    world.feed(plaintext(tls.reads(10, &get("/inside"))));
    // A request of cipher text, and a response that cannot be read.
    world.feed(wire.reads(10, &get("/cipher")));
    world.feed(wire.writes(10, "HTTP/1.1 2\r\n\r\n"));
    world.feed(plaintext(tls.writes(10, OK)));
    assert_eq!(world.tree(), ["front server GET /inside <- root"]);
    assert_eq!(world.counter("missed"), 1, "the request for the upgrade");
    world.feed(wire.state(StateChange::Closed, 3, 0));
    world.core.tick(u64::MAX - 1);
    world.core.flush();
    assert_eq!(world.core.under_way(), (0, 0));
}

#[test]
fn plaintext_of_a_refused_process_is_asked_for_no_more() {
    let mut world = World::new();
    let mut wire = world.server(10);
    world.core.selected(Tgid(10), false);
    world.core.take_hints();
    let record = plaintext(wire.reads(10, &get("/a")));
    world.feed(record);
    let hints = world.core.take_hints();
    assert_eq!(hints, [(StreamName::new(wire.conn, Layer::Tls), IGNORE)]);
}

#[test]
fn the_end_of_plaintext_ends_no_response_on_the_wire() {
    let until_close = "HTTP/1.1 200 OK\r\n\r\nuntil the end";
    for (layer, expected) in [(Layer::Tls, 0), (Layer::Wire, 1)] {
        let mut world = World::new();
        world.process(10, "front", Runtime::Unknown);
        let mut front = world.client(10, 10);
        world.feed(front.writes(10, &get("/a")));
        world.feed(front.reads(10, until_close));
        let mut end = front.reads(10, "").flagged(SEGMENT_EOF);
        let Body::Segment(segment, _) = &mut end.1 else {
            panic!("no segment");
        };
        segment.layer = layer as u8;
        world.feed(end);
        assert_eq!(world.tree().len(), expected, "{layer:?}");
    }
}

#[test]
fn a_record_of_several_slices_is_read_like_a_record_of_each() {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    let mut front = world.server(10);
    let (body, long) = ("b".repeat(500), "Content-Length: 500\r\n\r\n");
    let (post, ok) = (
        format!("POST /a HTTP/1.1\r\nHost: h\r\n{long}"),
        format!("HTTP/1.1 200 OK\r\n{long}"),
    );
    world.feed(sliced(&mut front, 10, Direction::Read, &[&post, &body, &get("/b")]));
    world.feed(sliced(&mut front, 10, Direction::Write, &[&ok, &body, &ok, &body]));
    assert_eq!(
        world.tree(),
        ["front server GET /b <- root", "front server POST /a <- root"]
    );
    assert_eq!(world.counter("gap_bytes"), 0, "what was not captured is body");
    // What is lost between two slices is counted.
    world.feed(sliced(
        &mut front,
        10,
        Direction::Read,
        &[&get("/c"), "lost", &get("/d")],
    ));
    assert_eq!(world.counter("gap_bytes"), 4);
}
