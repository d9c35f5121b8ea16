//! Cases of copied bytes, one by one.

use std::{format, string::String, vec, vec::Vec};

use super::{
    host::{Connection, Record},
    stream::{Conversation, Moved, Side},
};
use crate::abi::{Hint, Mode, WayState};

/// A conversation whose test gives each call.
struct Talk {
    talk: Conversation,
    connection: Connection,
}

impl Talk {
    fn new() -> Self {
        let sides = [Side::default(), Side::default()];
        Self {
            talk: Conversation { sides },
            connection: Connection::new(false, true),
        }
    }

    /// Reports a call with these bytes. Returns offset and length of each record, and the last one's claim.
    fn call(&mut self, side: usize, bytes: &[u8]) -> (Vec<(u64, u64)>, u64) {
        self.talk.sides[side].bytes.extend_from_slice(bytes);
        let end = self.talk.sides[side].bytes.len() as u64;
        let before = self.connection.records.borrow().len();
        let moved = Moved {
            side,
            end,
            visible: true,
        };
        self.connection.call(&self.talk, moved);
        let records = self.connection.records.borrow();
        let shape = |record: &Record| (record.offset, record.captured);
        let claim = records[before..].last().map_or(0, |record| record.until);
        (records[before..].iter().map(shape).collect(), claim)
    }

    fn request(&mut self, head: &str) -> (Vec<(u64, u64)>, u64) {
        self.call(0, format!("{head}\r\n\r\n").as_bytes())
    }

    fn hint(&mut self, until: [u64; 2], modes: [Mode; 2], epoch: u32) {
        let hint = |side: usize| Hint {
            until: until[side],
            state: WayState::new(modes[side], side == 1).with_epoch(epoch),
        };
        self.connection.hint(&[hint(0), hint(1)]);
    }
}

#[test]
fn a_large_body_makes_two_records() {
    let mut talk = Talk::new();
    assert_eq!(talk.request("GET /a HTTP/1.1"), (vec![(0, 19)], 19));
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n";
    let end = head.len() as u64 + 50_000;
    let first = [head.as_bytes(), &[b'x'; 9958]].concat();
    assert_eq!(talk.call(1, &first), (vec![(0, 1024)], end));
    for _ in 0..4 {
        assert_eq!(talk.call(1, &[b'x'; 10_000]).0, []);
    }
    // The last call reports the body's end.
    assert_eq!(talk.call(1, &vec![b'x'; end as usize - 50_000]), (vec![(end, 0)], end));
    // The boundary of the next exchange is known as well.
    assert_eq!(talk.request("GET /b HTTP/1.1"), (vec![(19, 19)], 38));
    assert_eq!(talk.call(1, &first).1, end + end);
}

#[test]
fn a_request_with_large_cookies_is_one_record() {
    let mut talk = Talk::new();
    let head = format!("GET /a HTTP/1.1\r\nCookie: {}", "y".repeat(1500));
    let bytes = head.len() as u64 + 4;
    assert_eq!(talk.request(&head), (vec![(0, bytes)], bytes));
    // A head longer than the scan is copied, and no boundary is concluded.
    let long = "y".repeat(5000);
    assert_eq!(talk.request(&format!("GET /a HTTP/1.1\r\nCookie: {long}")).1, 0);
}

#[test]
fn chunks_make_a_record_for_each_line() {
    let mut talk = Talk::new();
    talk.request("GET /a HTTP/1.1");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let data = "z".repeat(0x1000);
    let body = format!("1000\r\n{data}\r\n1000\r\n{data}\r\n0\r\n\r\n");
    let (records, claim) = talk.call(1, format!("{head}{body}").as_bytes());
    assert_eq!(
        records,
        [(0, 47), (47, 6), (47 + 6 + 4096, 8), (47 + 6 + 4096 + 8 + 4096, 7)]
    );
    assert_eq!(claim, head.len() as u64 + body.len() as u64);
    // The same bytes in calls that cut lines off.
    talk.request("GET /b HTTP/1.1");
    talk.call(1, head.as_bytes());
    let start = claim + head.len() as u64;
    for (from, to) in [(0, 2), (2, 4103), (4103, 8209), (8209, body.len())] {
        talk.call(1, &body.as_bytes()[from..to]);
    }
    let end = start + body.len() as u64;
    assert!(!talk.connection.is_hidden(1, end - 1));
    assert_eq!(talk.connection.claim(1), end);
}

#[test]
fn hints_skip_strings_of_what_the_programs_do_not_frame() {
    let mut talk = Talk::new();
    assert_eq!(talk.call(0, b"*3\r\n$3\r\nSET\r\n"), (vec![(0, 13)], 0));
    talk.hint([33, 0], [Mode::Unknown, Mode::Unknown], 1);
    assert_eq!(talk.call(0, b"0123456789"), (vec![], 0));
    assert_eq!(talk.call(1, b"+OK\r\n"), (vec![(0, 5)], 0));
    // The string ends within a call, or with one: behind it all is copied.
    assert_eq!(talk.call(0, b"0123456789\r\n"), (vec![(33, 2)], 0));
    assert_eq!(talk.call(0, b"*1\r\n$4\r\nPING\r\n"), (vec![(35, 14)], 0));
    talk.hint([59, 0], [Mode::Unknown, Mode::Unknown], 2);
    assert_eq!(talk.call(0, b"0123456789"), (vec![(59, 0)], 0));
    assert_eq!(talk.call(0, b"\r\n"), (vec![(59, 2)], 0));
}

#[test]
fn hints_lower_and_raise_what_the_programs_know() {
    let post = |length: u64| format!("POST / HTTP/1.1\r\nContent-Length: {length}");
    let mut talk = Talk::new();
    let (_, claim) = talk.request(&post(1 << 50));
    assert!(claim > 1 << 50);
    assert_eq!(talk.call(0, b"xxxx").0, []);
    // Core knows a shorter body: the byte at the offset makes a record.
    let at = talk.connection.offsets()[0] + 2;
    talk.hint([at, 0], [Mode::Head, Mode::Head], 1);
    let (records, claim) = talk.call(0, b"xxGET / HTTP/1.1\r\n\r\n");
    assert_eq!((records, claim), (vec![(at, 18)], at + 18));
    // A repeated hint has no effect.
    assert_eq!(talk.request(&post(9)).1, talk.connection.offsets()[0] + 9);
    // A late hint costs bytes.
    talk.hint([at, 0], [Mode::Head, Mode::Head], 2);
    assert_eq!(
        talk.call(0, b"123456789"),
        (vec![(talk.connection.offsets()[0] - 9, 9)], 0)
    );
    // A hint in time is believed again.
    talk.hint([talk.connection.offsets()[0], 0], [Mode::Head, Mode::Head], 3);
    assert!(talk.request(&post(7)).1 > talk.connection.offsets()[0]);
}

#[test]
fn responses_are_framed_by_their_requests() {
    let large = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let cases: [(&[&str], bool); 8] = [
        (&["GET / HTTP/1.1\r\n\r\n"], true),
        (&["HEAD / HTTP/1.1\r\n\r\n"], false),
        // The method alone counts.
        (&["POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nxxxxx"], true),
        (&["PROPFIND / HTTP/1.1\r\n\r\n"], true),
        (&["PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n"], false),
        (&["G", "ET / HTTP/1.1\r\n\r\n"], false),
        (&["\r\nGET / HTTP/1.1\r\n\r\n"], false),
        (&["CONNECT a:1 HTTP/1.1\r\n\r\n"], false),
    ];
    for (requests, framed) in cases {
        let mut talk = Talk::new();
        for request in requests {
            talk.call(0, request.as_bytes());
        }
        let (_, claim) = talk.call(1, large.as_bytes());
        assert_eq!(claim > large.len() as u64, framed, "{requests:?}");
    }
    // Without a counted request, no response is framed.
    assert_eq!(Talk::new().call(1, large.as_bytes()).1, 0);
    // Two requests in one call: the second one is not scanned.
    let mut talk = Talk::new();
    talk.call(0, "GET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n".as_bytes());
    let small = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.";
    assert_eq!(talk.call(1, small.as_bytes()).1, small.len() as u64);
    assert_eq!(talk.call(1, large.as_bytes()).1, 0);
    // Informational responses are passed over, except the one that switches protocols.
    for (first, framed) in [
        ("100 Continue", true),
        ("103 X", true),
        ("101 X", false),
        ("  100 X", false),
    ] {
        let mut talk = Talk::new();
        talk.request("GET / HTTP/1.1");
        talk.call(1, format!("HTTP/1.1 {first}\r\n\r\n").as_bytes());
        assert_eq!(talk.call(1, large.as_bytes()).1 > 1_000_000, framed, "{first}");
    }
}

#[test]
fn bytes_like_a_head_are_body_where_they_are_body() {
    let mut talk = Talk::new();
    let hostile = "PUT / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n";
    let end = talk
        .request(&format!("GET /a HTTP/1.1\r\nContent-Length: {}", hostile.len()))
        .1;
    assert_eq!(talk.call(0, hostile.as_bytes()), (vec![(end, 0)], end));
    let next = talk.request("GET /b HTTP/1.1").1;
    assert_eq!(next, end + 19);
    // A head that the programs do not understand is copied like other bytes.
    for odd in [
        "X\r\n y: z",
        "Content-Length : 52",
        "Content-Length: 52\r\nContent-Length: 52",
    ] {
        let mut talk = Talk::new();
        assert_eq!(talk.request(&format!("DELETE /a HTTP/1.1\r\n{odd}")).1, 0);
        let at = talk.connection.offsets()[0];
        let expected: (Vec<_>, _) = (vec![(at, hostile.len() as u64)], 0);
        assert_eq!(talk.call(0, hostile.as_bytes()), expected, "{odd:?}");
    }
}

#[test]
fn old_connections_are_reported_from_the_first_head_on() {
    let talk = Conversation {
        sides: [Side::default(), Side::default()],
    };
    let mut talk = Talk {
        talk,
        connection: Connection::new(false, false),
    };
    let captured = |talk: &mut Talk, text: &str| talk.call(0, text.as_bytes()).0;
    assert_eq!(captured(&mut talk, "rest of a body"), [(0, 0)]);
    let long: String = format!("GET /a HTTP/1.1\r\nX: {}", "y".repeat(3000));
    let at = talk.connection.offsets()[0];
    let bytes: u64 = captured(&mut talk, &long).iter().map(|(_, captured)| captured).sum();
    assert_eq!(bytes, long.len() as u64);
    // The rest of the head is copied, although Core has sent no hint.
    let at = at + long.len() as u64;
    assert_eq!(captured(&mut talk, "yyyy\r\n\r\n"), [(at, 8)]);
}

#[test]
fn a_chunk_line_in_memory_that_cannot_be_read_is_a_gap() {
    let mut talk = Talk::new();
    let head = talk.request("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked").1;
    let call = [b"c00\r\n".as_slice(), &[b'x'; 0xc00], b"\r\n0\r\n\r\n"].concat();
    let line = head + 5 + 0xc00;
    talk.connection.faults_at = line;
    assert_eq!(talk.call(0, &call), (vec![(head, 5), (line, 0)], 0));
}

#[test]
fn numbers_of_requests_that_core_does_not_know_frame_no_response() {
    const RESPONSE: u16 = 65_533;
    let mut talk = Talk::new();
    for (epoch, requests, framed) in [(1, RESPONSE, false), (2, RESPONSE + 1, true)] {
        let until = talk.connection.offsets();
        let state = |mode, responses, number| WayState::new(mode, responses).with_number(number).with_epoch(epoch);
        let states = [state(Mode::Unknown, false, requests), state(Mode::Head, true, RESPONSE)];
        talk.connection.hint(&[0, 1].map(|side| Hint {
            until: until[side],
            state: states[side],
        }));
        talk.call(0, b"half a head");
        let claim = talk.call(1, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").1;
        assert_eq!(claim > 0, framed, "{requests}");
    }
}
