//! Messages that two parsers may understand in two ways: one answer, however they come in pieces; and what the programs in
//! the kernel pass over is body here, too.

use agent_ebpf::frame::head::{self, Body};
use proptest::{prelude::*, sample::Index};

use super::{GET, OK, Q, R, Talk, told};
use crate::engine::proto::{Data, Event, Half, http1::Http1};

/// The exchange is there, and no boundary behind its head is believed.
const DOUBT: &str = "1 lost Doubtful";
/// The body cannot be read.
const LOST: &str = "0 lost Malformed";
/// The first line cannot be read.
const REFUSED: &str = "0 lost Malformed";

/// Bytes behind the request line and `Host`, and the story up to the next request, which follows at once.
const REQUESTS: &[(&str, &[&str])] = &[
    ("Content-Length: 3\r\n\r\nabc", &["0 sent 3"]),
    ("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", &["0 sent 3"]),
    ("Content-Length: 3, 3\r\n\r\nabc", &["0 sent 3"]),
    ("Content-Length: 0003\r\n\r\nabc", &["0 sent 3"]),
    ("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", &[DOUBT]),
    ("Content-Length: 3, 4\r\n\r\nabc", &[DOUBT]),
    ("Content-Length: 3 3\r\n\r\nabc", &[DOUBT]),
    ("Content-Length: -3\r\n\r\nabc", &[DOUBT]),
    ("Content-Length: +3\r\n\r\nabc", &[DOUBT]),
    ("Content-Length: 0x3\r\n\r\nabc", &[DOUBT]),
    ("Content-Length:\r\n\r\n", &[DOUBT]),
    ("Content-Length: 9223372036854775808\r\n\r\n", &[DOUBT]),
    ("Content-Length: 18446744073709551619\r\n\r\nabc", &[DOUBT]),
    ("Content-Length: 3\r\n 0\r\n\r\nabc", &[DOUBT]),
    ("Content-Length : 3\r\n\r\nabc", &[DOUBT]),
    (" Content-Length: 3\r\n\r\nabc", &[DOUBT]),
    ("Content\tLength: 3\r\n\r\n", &[DOUBT]),
    ("Content-Length 3\r\n\r\n", &[DOUBT]),
    (": 3\r\n\r\n", &[DOUBT]),
    ("X: a\0b\r\n\r\n", &[DOUBT]),
    ("X\0Y: a\r\n\r\n", &[DOUBT]),
    ("X: a\rContent-Length: 3\r\n\r\n", &[DOUBT]),
    ("X: a\r\n Content-Length: 3\r\n\r\n", &[DOUBT]),
    ("X: a\nContent-Length: 3\n\nabc", &["0 sent 3"]),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        &["0 sent 0"],
    ),
    (
        "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &["0 sent 0"],
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &["0 sent 0"],
    ),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &["0 sent 0"]),
    ("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", &[DOUBT]),
    ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[DOUBT]),
    ("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", &[DOUBT]),
    (
        "Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0;c\r\nT: u\r\n\r\n",
        &["0 sent 3"],
    ),
    ("Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", &["0 sent 3", DOUBT]),
    (
        "Transfer-Encoding: chunked\r\n\r\n3;x\ny\r\n3\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    ("Transfer-Encoding:\x0cchunked\r\n\r\n0\r\n\r\n", &[DOUBT]),
    ("Transfer-Encoding: chunked\r\n ,gzip\r\n\r\n0\r\n\r\n", &[DOUBT]),
    ("Content-Length: 3\r\nTransfer-Encoding : chunked\r\n\r\nabc", &[DOUBT]),
    (
        "Content-Length: 3\r\nTransfer-Encoding\x0b: chunked\r\n\r\nabc",
        &[DOUBT],
    ),
    ("Content-Length: 3\r\nTransfer Encoding chunked\r\n\r\nabc", &[DOUBT]),
    ("X: a\r\n \r\n\r\n", &[DOUBT]),
    ("X-Content-Length: 9\r\n\r\n", &["0 sent 0"]),
    ("X: a\r\n b\r\nX[1]: c\r\nFoo\r\nX : d\r\n\r\n", &["0 sent 0"]),
    (
        "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabc\r\n0\r\n\r\n",
        &["0 sent 4", DOUBT],
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n3\rabc\r\n0\r\n\r\n",
        &["0 POST /", LOST],
    ),
];

/// First lines, and why they are given up, on a connection that begins with them.
const LINES: &[(&str, &str)] = &[
    ("GET / b HTTP/1.1", REFUSED),
    ("GET /\0 HTTP/1.1", REFUSED),
    ("GET / HTTP/1.1\r", REFUSED),
    ("GET / HTTP/1.x", REFUSED),
    ("GET\t/\tHTTP/1.1", "opaque OtherProtocol"),
    ("GET / HTTP/2.0", "opaque OtherProtocol"),
    ("GET / HTTP/2 HTTP/1.1", "opaque OtherProtocol"),
    ("GET / http/1.1", "opaque OtherProtocol"),
    ("GET /", "opaque OtherProtocol"),
    ("G@T / HTTP/1.1", "opaque OtherProtocol"),
    (" GET / HTTP/1.1", "opaque OtherProtocol"),
    ("\0GET / HTTP/1.1", "opaque OtherProtocol"),
];

/// The requests of [`REQUESTS`] whole.
fn request(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}")
}

#[test]
fn one_reading_of_each_request() {
    for (lines, expected) in REQUESTS {
        let story = told(&[(Q, &format!("{}{GET}", request(lines)))]);
        let first: Vec<&str> = story.iter().map(String::as_str).collect();
        if let Some(given_up @ (&DOUBT | &LOST)) = expected.last() {
            assert_eq!(first.last(), Some(given_up), "{lines:?}");
            assert_eq!(first[0], "0 POST / @0", "{lines:?}");
            // Nothing is found behind it that a server may have taken for its body.
            assert!(!story.iter().any(|line| line.contains("GET")), "{lines:?}: {story:?}");
        } else {
            assert_eq!(first[1], expected[0], "{lines:?}");
            assert_eq!(first[2], format!("1 GET / @{}", request(lines).len()), "{lines:?}");
        }
    }
    for (line, expected) in LINES {
        assert_eq!(
            told(&[(Q, &format!("{line}\r\nHost: a\r\n\r\n"))]),
            [*expected],
            "{line:?}"
        );
    }
}

#[test]
fn spaces_between_the_words_of_the_first_line_are_one() {
    for line in [
        "GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1 \t",
        "GET / HTTP/1.2",
        "GET / HTTP/1.01",
    ] {
        assert_eq!(
            told(&[(Q, &format!("{line}\r\n\r\n"))]),
            ["0 GET / @0", "0 sent 0"],
            "{line}"
        );
    }
}

#[test]
fn nothing_is_served_behind_the_last() {
    let close = "GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n";
    let keeps = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let both = "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    for (calls, last) in [
        (&[(Q, close), (Q, GET)][..], Some(0)),
        (&[(Q, "GET / HTTP/1.0\r\n\r\n"), (Q, GET)], Some(0)),
        (&[(Q, both), (Q, GET)], Some(0)),
        (&[(Q, GET), (Q, GET), (Q, GET), (R, OK), (R, closing)], Some(1)),
        (&[(Q, GET), (Q, keeps), (Q, GET), (R, OK)], None),
    ] {
        let mut talk = Talk::new(true);
        for (half, bytes) in calls {
            talk.call(*half, bytes);
        }
        let unserved = (0..9).find(|exchange| talk.http.is_unserved(*exchange));
        assert_eq!(unserved, last.map(|last| last + 1), "{calls:?}");
    }
}

#[test]
fn what_follows_a_malformed_request_is_found() {
    for (lines, expected) in REQUESTS {
        let answers = match expected.last() {
            Some(&DOUBT) => 4,
            Some(&LOST) => 3,
            _ => continue,
        };
        let mut talk = Talk::new(true);
        talk.call(Q, GET).call(R, OK).call(Q, request(lines));
        talk.call(R, "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno");
        talk.call(Q, GET).call(R, OK).call(Q, GET).call(R, OK);
        let story = talk.story();
        assert!(talk.http.is_synchronised(), "{lines:?}");
        let answered = story.iter().filter(|line| line.contains(" got 2")).count();
        assert_eq!(answered, answers, "{lines:?}: {story:?}");
    }
}

proptest! {
    #[test]
    fn requests_in_pieces_tell_the_same(
        which in any::<Index>(),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let texts: Vec<String> = REQUESTS
            .iter()
            .map(|(lines, _)| format!("{}{GET}", request(lines)))
            .chain(LINES.iter().map(|(line, _)| format!("{line}\r\nHost: a\r\n\r\n{GET}")))
            .collect();
        let text = which.get(&texts);
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let mut talk = Talk::new(true);
        for range in at.windows(2) {
            // One call's bytes: what begins a call may be a boundary.
            talk.piece(Q, range[0] == 0 && range[1] > 0, Data::Bytes(&text.as_bytes()[range[0]..range[1]]));
        }
        prop_assert_eq!(talk.end(Q).end(R).story(), told(&[(Q, text)]));
    }

    /// Where the programs find a head's end and a length, this parser finds the same end, and at least as much body.
    #[test]
    fn the_programs_pass_over_nothing_but_body(
        response in any::<bool>(),
        parts in prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..8),
        end in prop::sample::select(vec!["\r\n\r\n", "\n\n", "\r\n", "\n", "\n\r\n", ""]),
        behind in prop::sample::select(vec!["", "a\r\nContent-Length: 9\r\n\r\n", "\n\n", "HTTP/1.1 200 OK\r\n\r\n"]),
    ) {
        let first = if response { "HTTP/1.1 200 OK" } else { "PUT / HTTP/1.1" };
        let text = format!("{first}{}{end}{behind}", parts.concat());
        let text = text.as_bytes();
        let (head_bytes, body) = head::read(text, b'\n');
        if head_bytes > 0 && body != Body::Unknown {
            let mut talk = Talk::new(true);
            let half = if response { R } else { Q };
            if response {
                talk.call(Q, GET);
            }
            talk.call(half, &text[..head_bytes]);
            check_agreement(&talk.http, half, &talk.out, head_bytes, body)?;
        }
    }
}

/// Pieces of heads.
const PARTS: &[&str] = &[
    "\r\nContent-Length: 5",
    "\nContent-Length: 5",
    "\r\ncontent-length:7",
    "\r\nContent-Length: 5, 5",
    "\r\nContent-Length: -1",
    "\r\nTransfer-Encoding: chunked",
    "\nTransfer-Encoding: identity",
    "\r\nTransfer-Id: 1",
    "\r\nContent-Length : 5",
    "\r\n Content-Length: 5",
    "\r\nX-Content-Length: 5",
    "\r\na:",
    "\na:",
    "\r\nX: 12345678",
    "\rX: y",
    "\n",
];

fn check_agreement(
    http: &Http1,
    half: Half,
    out: &[Event],
    head_bytes: usize,
    body: Body,
) -> Result<(), TestCaseError> {
    if out
        .iter()
        .any(|event| matches!(event, Event::Lost { .. } | Event::Opaque { .. }))
    {
        return Ok(());
    }
    let found = out.iter().any(|event| match event {
        Event::Begins { .. } => half == Q,
        Event::Answered { .. } => half == R,
        _ => false,
    });
    prop_assert!(found, "the programs end the head elsewhere: {:?}", out);
    if let Body::Length(length @ 1..) = body {
        prop_assert!(http.body_until(half) == head_bytes as u64 + length, "{:?}", out);
    }
    Ok(())
}
