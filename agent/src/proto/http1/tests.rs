//! Conversations with every kind of framing, and what the parser must say of them.

use super::connection::MAX_PENDING;
use super::{Cause, Config, Event, Header, Http1, RequestHead, ResponseHead};
use crate::event::Stamp;
use crate::proto::{Data, Half};

pub(super) const Q: Half = Half::Request;
pub(super) const R: Half = Half::Response;

/// A parser, how far each half is, and what came out.
pub(super) struct Talk {
    pub http: Http1,
    pub config: Config,
    pub offsets: [u64; 2],
    pub now: u64,
    pub out: Vec<Event>,
}

impl Talk {
    pub fn new(from_birth: bool) -> Self {
        let http = Http1::new(from_birth);
        Self {
            http,
            config: Config::default(),
            offsets: [0; 2],
            now: 0,
            out: Vec::new(),
        }
    }

    /// One system call that moves `bytes`.
    pub fn call(&mut self, half: Half, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.piece(half, true, Data::Bytes(bytes.as_ref()))
    }

    pub fn gap(&mut self, half: Half, n: u64) -> &mut Self {
        self.piece(half, false, Data::Gap(n))
    }

    pub fn piece(&mut self, half: Half, segment_start: bool, data: Data<'_>) -> &mut Self {
        self.now += 1;
        let offset = &mut self.offsets[half as usize];
        self.http.feed(
            &self.config,
            half,
            *offset,
            segment_start,
            data,
            stamp(self.now),
            &mut self.out,
        );
        *offset += match data {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Gap(n) => n,
        };
        self
    }

    pub fn end(&mut self, half: Half) -> &mut Self {
        self.now += 1;
        self.http.end(half, stamp(self.now), &mut self.out);
        self
    }

    /// The events in short, one a line.
    pub fn story(&self) -> Vec<String> {
        self.out.iter().map(brief).collect()
    }
}

pub(super) fn stamp(time_ns: u64) -> Stamp {
    Stamp {
        time_ns,
        ..Stamp::default()
    }
}

/// An event without its stamps.
pub(super) fn brief(event: &Event) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match event {
        Event::RequestHead {
            exchange, head, offset, ..
        } => {
            format!("{exchange} {} {} @{offset}", text(&head.method), text(&head.target))
        }
        Event::RequestEnd {
            exchange, body_bytes, ..
        } => format!("{exchange} sent {body_bytes}"),
        Event::ResponseHead {
            exchange, head, offset, ..
        } => format!("{exchange} {} @{offset}", head.status),
        Event::ResponseEnd {
            exchange, body_bytes, ..
        } => format!("{exchange} got {body_bytes}"),
        Event::Lost { exchange, cause } => format!("{exchange} lost {cause:?}"),
        Event::Opaque { cause } => format!("opaque {cause:?}"),
    }
}

/// A connection from its birth: each word one system call. The story that comes out.
pub(super) fn told(calls: &[(Half, &str)]) -> Vec<String> {
    let mut talk = Talk::new(true);
    for (half, bytes) in calls {
        talk.call(*half, bytes);
    }
    talk.end(Q).end(R).story()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The bodies of responses to a GET: what follows the status line, and the size and what is left for the next one.
#[test]
fn response_bodies() {
    let table: &[(&str, &str)] = &[
        ("200 OK\r\nContent-Length: 5\r\n\r\nhello", "0 got 5"),
        ("200 OK\r\nContent-Length: 0\r\n\r\n", "0 got 0"),
        ("200 OK\r\ncontent-length:5 \r\n\r\nhello", "0 got 5"),
        (
            "200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "0 got 5",
        ),
        ("200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", "0 got 5"),
        ("200\r\nContent-Length: 5\r\n\r\nhello", "0 got 5"),
        ("200 OK\nContent-Length: 5\n\nhello", "0 got 5"),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "0 got 5",
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\n0\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
            "0 got 5",
        ),
        ("200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n0\r\n\r\n", "0 got 0"),
        (
            "200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "0 got 0",
        ),
        (
            "200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "0 got 1",
        ),
        (
            "200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "0 got 1",
        ),
        (
            "200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx",
            "0 got 1",
        ),
        ("204 No Content\r\nContent-Length: 5\r\n\r\n", "0 got 0"),
        ("304 Not Modified\r\nContent-Length: 5\r\n\r\n", "0 got 0"),
        ("304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "0 got 0"),
    ];
    for (response, end) in table {
        let status = &response[..3];
        let response = format!("HTTP/1.1 {response}");
        // The second exchange proves where the first one's body ended.
        let expected = vec![
            "0 GET / @0".into(),
            "0 sent 0".into(),
            format!("0 {status} @0"),
            end.to_string(),
            format!("1 GET / @{}", GET.len()),
            "1 sent 0".into(),
            format!("1 200 @{}", response.len()),
            "1 got 2".into(),
        ];
        assert_eq!(
            told(&[(Q, GET), (R, &response), (Q, GET), (R, OK)]),
            expected,
            "{response:?}"
        );
    }
}

#[test]
fn bodies_until_close() {
    for response in [
        "HTTP/1.0 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello",
    ] {
        let mut talk = Talk::new(true);
        talk.call(Q, GET).call(R, response).gap(R, 1000);
        assert_eq!(talk.http.body_until(R), u64::MAX);
        assert_eq!(talk.story(), ["0 GET / @0", "0 sent 0", "0 200 @0"]);
        talk.end(R);
        let now = talk.now;
        assert_eq!(
            talk.out[3..],
            [Event::ResponseEnd {
                exchange: 0,
                last: stamp(now),
                body_bytes: 1005
            }]
        );
        assert_eq!(talk.http.pending(), 0);
    }
}

#[test]
fn a_partial_response_does_not_end() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    ] {
        let mut talk = Talk::new(true);
        talk.call(Q, GET).call(R, response).end(R).end(Q);
        assert!(
            !talk
                .story()
                .iter()
                .any(|line| line.contains("got") || line.contains("lost")),
            "{response}"
        );
        assert_eq!(talk.http.pending(), 1);
    }
}

#[test]
fn request_bodies() {
    let table: &[(&str, &[&str])] = &[
        (
            "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            &["0 POST /a @0", "0 sent 3"],
        ),
        (
            "POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            &["0 POST /a @0", "0 sent 0"],
        ),
        ("POST /a HTTP/1.1\r\n\r\n", &["0 POST /a @0", "0 sent 0"]),
        (
            "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            &["0 PUT /a @0", "0 sent 3"],
        ),
        ("\r\n\r\nGET /a HTTP/1.0\r\n\r\n", &["0 GET /a @4", "0 sent 0"]),
        ("OPTIONS * HTTP/1.1\r\n\r\n", &["0 OPTIONS * @0", "0 sent 0"]),
        (
            "GET http://u:p@h/x?y HTTP/1.1\r\n\r\n",
            &["0 GET http://u:p@h/x?y @0", "0 sent 0"],
        ),
        ("BREW-IT /pot HTTP/1.1\r\n\r\n", &["0 BREW-IT /pot @0", "0 sent 0"]),
        ("GET /a HTTP/1.1\nHost: x\n\n", &["0 GET /a @0", "0 sent 0"]),
        ("POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", &["0 POST /a @0"]),
    ];
    for (request, expected) in table {
        assert_eq!(told(&[(Q, request)]), *expected, "{request:?}");
    }
}

#[test]
fn targets_need_not_be_utf8() {
    for step in [1, 7, 1000] {
        let mut talk = Talk::new(true);
        for piece in b"GET /\xff\xfe?q=\xe4 HTTP/1.1\r\nHost: \xe4\r\n\r\n".chunks(step) {
            talk.call(Q, piece);
        }
        assert_eq!(talk.story(), ["0 GET /\\xff\\xfe?q=\\xe4 @0", "0 sent 0"]);
        let Event::RequestHead { head, .. } = &talk.out[0] else {
            panic!()
        };
        assert_eq!(head.headers, [(Header::Host, b"\xe4".as_slice().into())]);
    }
}

#[test]
fn heads_say_what_spans_need() {
    let mut talk = Talk::new(true);
    talk.config.capture_request = vec!["x-id".into(), "host".into()];
    talk.config.capture_response = vec!["server".into()];
    talk.call(
        Q,
        "POST /p?q HTTP/1.1\r\nHOST: h:80\r\nX-ID: 7\r\nuser-agent:  curl \r\nTraceparent: 00-a\r\nTracestate: b=c\r\n\
         Forwarded: for=x\r\nX-Forwarded-For: 1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: y\r\nCookie: no\r\n\
         x-id: 8\r\nContent-Length: 4\r\n\r\nbo",
    );
    talk.call(Q, "dy").call(
        R,
        "HTTP/1.0 201 Created\r\nserver: s\r\nhost: no\r\nContent-Length: 0\r\n\r\n",
    );
    let kept = |list: &[(Header, &str)]| list.iter().map(|(h, v)| (*h, v.as_bytes().into())).collect::<Vec<_>>();
    let request = RequestHead {
        method: b"POST".as_slice().into(),
        target: b"/p?q".as_slice().into(),
        minor_version: 1,
        content_length: Some(4),
        headers: kept(&[
            (Header::Host, "h:80"),
            (Header::Captured(1), "h:80"),
            (Header::Captured(0), "7"),
            (Header::UserAgent, "curl"),
            (Header::Traceparent, "00-a"),
            (Header::Tracestate, "b=c"),
            (Header::Forwarded, "for=x"),
            (Header::XForwardedFor, "1"),
            (Header::XForwardedProto, "https"),
            (Header::XForwardedHost, "y"),
            (Header::Captured(0), "8"),
        ]),
    };
    let response = ResponseHead {
        status: 201,
        minor_version: 0,
        content_length: Some(0),
        headers: kept(&[(Header::Captured(0), "s")]),
    };
    let expected = [
        Event::RequestHead {
            exchange: 0,
            head: Box::new(request),
            first: stamp(1),
            complete: stamp(1),
            offset: 0,
        },
        Event::RequestEnd {
            exchange: 0,
            last: stamp(2),
            body_bytes: 4,
        },
        Event::ResponseHead {
            exchange: 0,
            head: Box::new(response),
            first: stamp(3),
            complete: stamp(3),
            offset: 0,
        },
        Event::ResponseEnd {
            exchange: 0,
            last: stamp(3),
            body_bytes: 0,
        },
    ];
    assert_eq!(talk.out, expected);
}

#[test]
fn stamps_are_those_of_the_calls_that_moved_the_ends() {
    let mut talk = Talk::new(true);
    talk.call(Q, "\r\n")
        .call(Q, "GET / HT")
        .call(Q, "TP/1.1\r\n\r")
        .call(Q, "\n");
    talk.call(R, "HTTP/1.1 100 Continue\r\n\r\nHT")
        .call(R, "TP/1.1 200 OK\r\nContent-Length: 2\r\n");
    talk.call(R, "\r\no").call(R, "k");
    let times: Vec<_> = talk
        .out
        .iter()
        .map(|event| match event {
            Event::RequestHead { first, complete, .. } | Event::ResponseHead { first, complete, .. } => {
                (first.time_ns, complete.time_ns)
            }
            Event::RequestEnd { last, .. } | Event::ResponseEnd { last, .. } => (last.time_ns, 0),
            Event::Lost { .. } | Event::Opaque { .. } => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(times, [(2, 4), (4, 0), (5, 7), (8, 0)]);
}

#[test]
fn heads_of_the_response_without_body() {
    let head = "HEAD / HTTP/1.1\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let expected = [
        "0 HEAD / @0",
        "0 sent 0",
        "0 200 @0",
        "0 got 0",
        "1 GET / @19",
        "1 sent 0",
        "1 200 @41",
        "1 got 2",
    ];
    assert_eq!(told(&[(Q, head), (R, response), (Q, GET), (R, OK)]), expected);
}

#[test]
fn interim_responses_are_passed_over() {
    let post = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let calls = [
        (Q, post),
        (R, "HTTP/1.1 100 Continue\r\n\r\n"),
        (Q, "hi"),
        (
            R,
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
    ];
    assert_eq!(told(&calls), ["0 POST / @0", "0 sent 2", "0 200 @65", "0 got 2"]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let requests: String = (0..100).map(|i| format!("GET /{i} HTTP/1.1\r\n\r\n")).collect();
    let responses = OK.repeat(100);
    let mut talk = Talk::new(true);
    talk.call(Q, &requests);
    assert_eq!(talk.http.pending(), 100);
    talk.call(R, &responses);
    assert_eq!(talk.http.pending(), 0);
    let mut expected = Vec::new();
    let mut offset = 0;
    for i in 0..100 {
        expected.push(format!("{i} GET /{i} @{offset}"));
        expected.push(format!("{i} sent 0"));
        offset += format!("GET /{i} HTTP/1.1\r\n\r\n").len();
    }
    for i in 0..100 {
        expected.push(format!("{i} 200 @{}", i * OK.len()));
        expected.push(format!("{i} got 2"));
    }
    assert_eq!(talk.story(), expected);
}

#[test]
fn too_many_pending_requests_are_lost() {
    let mut talk = Talk::new(true);
    talk.call(Q, GET.repeat(MAX_PENDING));
    assert_eq!(talk.http.pending(), MAX_PENDING);
    talk.call(Q, GET);
    assert_eq!(talk.story().last().map(String::as_str), Some("0 lost TooManyPending"));
    assert_eq!((talk.http.pending(), talk.http.is_synchronised()), (0, false));
}

#[test]
fn an_early_response_comes_before_the_end_of_the_request() {
    let calls = [
        (Q, "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"),
        (R, OK),
        (Q, "cd"),
        (Q, GET),
        (R, OK),
    ];
    let expected = [
        "0 POST / @0",
        "0 200 @0",
        "0 got 2",
        "0 sent 4",
        "1 GET / @42",
        "1 sent 0",
        "1 200 @40",
        "1 got 2",
    ];
    assert_eq!(told(&calls), expected);
}

#[test]
fn upgrade_and_connect_make_it_opaque() {
    let upgrade = "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01\x02";
    let expected = ["0 GET /ws @0", "0 sent 0", "0 101 @0", "0 got 0", "opaque Upgrade"];
    assert_eq!(told(&[(Q, upgrade), (R, switch), (Q, "\x03\x04")]), expected);
    // What the client sends may reach us before the answer that allows it.
    assert_eq!(told(&[(Q, upgrade), (Q, "\x03\x04"), (R, switch)]), expected);

    let connect = "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n";
    let established = "HTTP/1.1 200 Connection established\r\nContent-Length: 7\r\n\r\n";
    let expected = [
        "0 CONNECT h:443 @0",
        "0 sent 0",
        "0 200 @0",
        "0 got 0",
        "opaque Upgrade",
    ];
    assert_eq!(told(&[(Q, connect), (R, established), (Q, "\x16\x03\x01")]), expected);
    assert_eq!(told(&[(Q, connect), (Q, "\x16\x03\x01"), (R, established)]), expected);
}

#[test]
fn a_refused_upgrade_goes_on_as_http() {
    let upgrade = "GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n";
    let connect = "CONNECT h:443 HTTP/1.1\r\n\r\n";
    let refused = "HTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\nx";
    let expected = [
        "0 GET / @0",
        "0 sent 0",
        "0 200 @0",
        "0 got 2",
        "1 CONNECT h:443 @33",
        "1 sent 0",
        "1 407 @40",
        "1 got 1",
        "2 GET / @61",
        "2 sent 0",
        "2 200 @79",
        "2 got 2",
    ];
    assert_eq!(
        told(&[(Q, upgrade), (R, OK), (Q, connect), (R, refused), (Q, GET), (R, OK)]),
        expected
    );
    // The next request reaches us before the answer.
    let mut talk = Talk::new(true);
    talk.call(Q, upgrade).call(Q, GET).call(R, OK).call(R, OK);
    assert_eq!(talk.story().len(), 8);
    assert!(talk.http.is_synchronised());
    assert_eq!(talk.http.pending(), 0);
}

#[test]
fn what_is_not_http_is_opaque_at_once() {
    let table: &[&[(Half, &str)]] = &[
        &[(Q, "\x16\x03\x01")],
        &[(Q, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")],
        &[(Q, "EHLO there\r\n")],
        &[(Q, "*1\r\n$4\r\nPING\r\n")],
        &[(Q, "GET key\r\n")],
        &[(Q, "GET / HTTP/3.0\r\n")],
        &[(R, "220 smtp\r\n"), (Q, "EHLO x\r\n")],
        &[(R, "S"), (Q, "S")],
    ];
    for calls in table {
        assert_eq!(told(calls), ["opaque NotHttp"], "{calls:?}");
    }
    let mut talk = Talk::new(true);
    talk.call(Q, "P").call(Q, "R").call(Q, "I * HTTP/").call(Q, "2");
    assert_eq!(talk.story(), ["opaque NotHttp"]);
    assert_eq!((talk.http.body_until(Q), talk.http.body_until(R)), (u64::MAX, u64::MAX));
    assert!(!talk.http.is_synchronised());
    talk.call(Q, GET).call(R, OK);
    assert_eq!(talk.story().len(), 1);
}

#[test]
fn malformed_requests_are_lost_and_the_next_ones_found() {
    for request in [
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n\r\n",
        "GET / HTTP/1.1\r\nnocolon\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.7\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "POST / HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\nx",
        "POST / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nx",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\nx",
    ] {
        let mut expected = vec!["0 lost Malformed".to_owned()];
        let mut talk = Talk::new(true);
        talk.call(Q, request);
        assert_eq!(talk.story(), expected, "{request:?}");
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        talk.call(R, answer).call(Q, GET).call(R, OK);
        expected.extend([
            format!("0 GET / @{}", request.len()),
            "0 sent 0".into(),
            format!("0 200 @{}", answer.len()),
            "0 got 2".into(),
        ]);
        assert_eq!(talk.story(), expected, "{request:?}");
    }
}

#[test]
fn malformed_responses_lose_their_exchange() {
    for response in [
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 20 X\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "garbage",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx",
    ] {
        assert_eq!(
            told(&[(Q, GET), (R, response)]),
            ["0 GET / @0", "0 sent 0", "0 lost Malformed"],
            "{response:?}"
        );
    }
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc";
    assert_eq!(
        told(&[(Q, GET), (R, chunk)]),
        ["0 GET / @0", "0 sent 0", "0 200 @0", "0 lost Malformed"]
    );
}

/// A request head of `length` bytes.
fn long_head(length: usize) -> String {
    let start = "GET / HTTP/1.1\r\nA: ";
    format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
}

#[test]
fn heads_up_to_64_kib_over_any_number_of_pieces() {
    for step in [1, 2, 1000, 8192, 100_000] {
        let mut talk = Talk::new(true);
        for piece in long_head(65536).as_bytes().chunks(step) {
            talk.call(Q, piece);
        }
        talk.call(R, OK);
        assert_eq!(
            talk.story(),
            ["0 GET / @0", "0 sent 0", "0 200 @0", "0 got 2"],
            "by {step}"
        );

        let mut talk = Talk::new(true);
        for piece in long_head(65537).as_bytes().chunks(step) {
            talk.call(Q, piece);
        }
        assert_eq!(talk.story(), ["0 lost HeadTooLarge"], "by {step}");
    }
    // Without a line end it is not even a request.
    assert_eq!(told(&[(Q, &"x".repeat(70_000))]), ["opaque NotHttp"]);
}

#[test]
fn many_header_lines() {
    let head = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
    for (lines, counted) in [(100, 0), (101, 1), (1000, 1)] {
        let mut talk = Talk::new(true);
        talk.call(Q, head(lines));
        assert_eq!(talk.story(), ["0 GET / @0", "0 sent 0"], "{lines} lines");
        assert_eq!(talk.http.counters().heads_with_many_headers, counted, "{lines} lines");
    }
    assert_eq!(told(&[(Q, &head(1001))]), ["0 lost Malformed"]);
}

#[test]
fn a_response_may_come_before_its_request() {
    let head = "HEAD / HTTP/1.1\r\n\r\n";
    let no_body = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let expected = [
        "0 HEAD / @0",
        "0 sent 0",
        "0 200 @0",
        "0 got 0",
        "1 GET / @19",
        "1 sent 0",
        "1 200 @41",
        "1 got 2",
    ];
    assert_eq!(told(&[(R, no_body), (Q, head), (R, OK), (Q, GET)]), expected);
    let expected = [
        "0 HEAD / @0",
        "0 sent 0",
        "0 200 @0",
        "0 got 0",
        "1 GET / @19",
        "1 sent 0",
        "1 200 @41",
        "1 got 2",
    ];
    assert_eq!(told(&[(R, &format!("{no_body}{OK}")), (Q, head), (Q, GET)]), expected);
    // Its end too.
    let mut talk = Talk::new(true);
    talk.call(R, "HTTP/1.0 200 OK\r\n\r\nhello").end(R).call(Q, GET);
    assert_eq!(talk.story(), ["0 GET / @0", "0 sent 0", "0 200 @0", "0 got 5"]);
    assert_eq!(
        talk.out[3],
        Event::ResponseEnd {
            exchange: 0,
            last: stamp(2),
            body_bytes: 5
        }
    );
}

#[test]
fn a_response_that_nobody_asked_for_is_lost() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    let exchange = ["0 GET / @0", "0 sent 0", "0 200 @0", "0 got 2"];
    assert_eq!(told(&[(R, timeout)]), ["0 lost Unsolicited"]);
    let story = told(&[(Q, GET), (R, OK), (R, timeout)]);
    assert_eq!(
        (&story[..4], &story[4..]),
        (&exchange.map(String::from)[..], &["1 lost Unsolicited".to_owned()][..])
    );
    // Nothing more is kept of it than a bound.
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(R, OK).call(R, timeout);
    for _ in 0..16 {
        talk.call(R, [b'x'; 4096]);
    }
    assert_eq!(talk.story()[4..], ["1 lost Unsolicited"]);
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(R, OK);
    for _ in 0..1025 {
        talk.call(R, "x");
    }
    assert_eq!(talk.story()[4..], ["1 lost Unsolicited"]);
}

#[test]
fn gaps_in_bodies_are_harmless() {
    let exchange = |body: u64| {
        vec![
            "0 POST / @0".to_owned(),
            format!("0 sent {body}"),
            "0 200 @0".into(),
            format!("0 got {body}"),
        ]
    };
    let mut talk = Talk::new(true);
    talk.call(Q, "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\na")
        .gap(Q, 5)
        .call(Q, "b")
        .gap(Q, 3);
    talk.call(R, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n")
        .gap(R, 10)
        .call(R, "\r\n0\r\n\r\n");
    assert_eq!(talk.story(), exchange(10));
    assert!(talk.http.is_synchronised());
}

#[test]
fn gaps_in_framing_lose_what_is_pending() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n";
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(R, chunked).gap(R, 11);
    assert_eq!(talk.story(), ["0 GET / @0", "0 sent 0", "0 200 @0", "0 lost Gap"]);
    // The rest of the chunk is no boundary, though a call begins with it.
    talk.call(R, "\n0\r\n\r\n").call(Q, GET).call(R, OK);
    assert_eq!(talk.story()[4..], ["1 GET / @27", "1 sent 0", "1 200 @67", "1 got 2"]);

    let table: &[(&[(Half, &str)], Half, u64, &str)] = &[
        (&[], Q, 1, "0 lost Gap"),
        (&[], R, 1, ""),
        (&[(Q, GET)], R, 1, "0 lost Gap"),
        (&[(Q, GET)], Q, 1, "0 lost Gap"),
        (&[(Q, GET), (R, OK)], Q, 1, "1 lost Gap"),
        (&[(Q, GET), (R, OK), (Q, "GET / HT")], Q, 1, "1 lost Gap"),
        (&[(Q, GET), (R, "HTTP/1.1 2")], R, 1, "0 lost Gap"),
        (
            &[(Q, GET), (R, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")],
            R,
            4,
            "0 got 5",
        ),
        (
            &[(Q, GET), (Q, GET), (R, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")],
            R,
            5,
            "1 lost Gap",
        ),
    ];
    for (calls, half, n, last) in table {
        let mut talk = Talk::new(true);
        for (half, bytes) in *calls {
            talk.call(*half, bytes);
        }
        talk.gap(*half, *n);
        assert_eq!(
            talk.story().last().cloned().unwrap_or_default(),
            *last,
            "{calls:?} {half:?} {n}"
        );
    }
}

#[test]
fn what_is_body_is_known_in_advance() {
    let mut talk = Talk::new(true);
    let post = "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n";
    let until = |talk: &Talk| (talk.http.body_until(Q), talk.http.body_until(R));
    assert_eq!(until(&talk), (0, 0));
    talk.call(Q, post);
    assert_eq!(until(&talk), (post.len() as u64 + 1000, 0));
    talk.gap(Q, 999);
    assert_eq!(until(&talk), (post.len() as u64 + 1000, 0));
    talk.call(Q, "x");
    assert_eq!(until(&talk), (0, 0));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    talk.call(R, head);
    assert_eq!(until(&talk), (0, 0));
    talk.call(R, "100\r\nab");
    let data = head.len() as u64 + 5;
    assert_eq!(until(&talk), (0, data + 256));
    talk.gap(R, 254);
    assert_eq!(until(&talk), (0, 0));
    talk.call(R, "\r\n0\r\n\r\n");
    assert_eq!(talk.story().last().map(String::as_str), Some("0 got 256"));
    // A length that no stream reaches is not mistaken for `u64::MAX`.
    talk.call(Q, "POST / HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n");
    assert_eq!(until(&talk), (talk.offsets[0] + i64::MAX as u64, 0));
}

/// What happens on a connection that is older than the agent, and the exchanges that are found there.
#[test]
fn sure_boundaries() {
    let found: &[&str] = &["0 GET /", "0 sent 0", "0 200", "0 got 2"];
    let none: &[&str] = &[];
    let post = "POST /p HTTP/1.1\r\nContent-Length: 4\r\n\r\nab";
    let big = OK.repeat(2);
    let table: &[(&str, &[(Half, &str)], &[&str])] = &[
        ("plain", &[(Q, GET), (R, OK)], found),
        (
            "in pieces",
            &[(Q, "GET / H"), (Q, "TTP/1.1\r\n\r\n"), (R, "HTT"), (R, &OK[3..])],
            found,
        ),
        ("the rest of a response first", &[(R, "rest"), (Q, GET), (R, OK)], found),
        ("a whole response first", &[(R, OK), (Q, GET), (R, OK)], found),
        (
            "the rest of a request first",
            &[(Q, "rest of a body"), (R, OK), (Q, GET), (R, OK)],
            found,
        ),
        ("a response to something else", &[(Q, GET), (R, "rest")], none),
        (
            "a response with the end of another",
            &[(Q, GET), (R, &format!("rest{OK}"))],
            none,
        ),
        ("two responses", &[(Q, GET), (R, &big)], found),
        (
            "an incomplete response head",
            &[(Q, GET), (R, "HTTP/1.1 200 OK\r\n")],
            none,
        ),
        ("an incomplete request head", &[(Q, "GET / HT"), (R, OK)], none),
        (
            "pipelining in one call",
            &[(Q, &GET.repeat(2)), (R, &big), (Q, GET), (R, OK)],
            none,
        ),
        (
            "pipelining in two calls",
            &[(Q, GET), (Q, GET), (R, OK), (R, OK), (Q, GET), (R, OK)],
            none,
        ),
        (
            "a body",
            &[(Q, post), (Q, "cd"), (R, OK)],
            &["0 POST /p", "0 sent 4", "0 200", "0 got 2"],
        ),
        (
            "a response before the end of the body",
            &[(Q, post), (R, OK), (Q, "cd"), (Q, GET), (R, OK)],
            &[
                "0 POST /p",
                "0 200",
                "0 got 2",
                "0 sent 4",
                "1 GET /",
                "1 sent 0",
                "1 200",
                "1 got 2",
            ],
        ),
        (
            "an interim response",
            &[(Q, post), (R, "HTTP/1.1 100 Continue\r\n\r\n"), (Q, "cd"), (R, OK)],
            &["0 POST /p", "0 sent 4", "0 200", "0 got 2"],
        ),
        (
            "an empty line behind a body",
            &[(Q, post), (Q, "cd\r\n"), (R, OK)],
            &["0 POST /p", "0 sent 4", "0 200", "0 got 2"],
        ),
    ];
    for (name, calls, expected) in table {
        let mut talk = Talk::new(false);
        for (half, bytes) in *calls {
            talk.call(*half, bytes);
        }
        let story: Vec<_> = talk
            .story()
            .iter()
            .map(|line| line.split(" @").next().unwrap().to_owned())
            .collect();
        assert_eq!(story, *expected, "{name}");
    }
}

#[test]
fn a_head_that_does_not_begin_a_call_is_no_boundary() {
    let mut talk = Talk::new(false);
    talk.piece(Q, false, Data::Bytes(GET.as_bytes())).call(R, OK);
    talk.call(Q, GET).piece(R, false, Data::Bytes(OK.as_bytes()));
    talk.call(Q, GET).gap(Q, 1).call(R, OK);
    talk.call(Q, GET).gap(R, 1).call(R, OK);
    talk.call(Q, "GET / HT").gap(Q, 1).call(Q, "P/1.1\r\n\r\n").call(R, OK);
    assert_eq!(talk.story(), [""; 0]);
    assert_eq!(
        talk.http.counters().unsynchronised_bytes,
        talk.offsets[0] + talk.offsets[1] - 4 * 27 - 8 + 27
    );
}

#[test]
fn a_connection_that_pipelines_is_believed_after_a_silence() {
    let mut talk = Talk::new(true);
    talk.call(Q, GET.repeat(2)).call(R, OK.repeat(2)).gap(Q, 1);
    assert_eq!(talk.story().last().map(String::as_str), Some("2 lost Gap"));
    talk.call(Q, GET).call(R, OK);
    assert!(!talk.http.is_synchronised());
    talk.now += 1_000_000_000;
    talk.call(Q, GET).call(R, OK);
    assert!(talk.http.is_synchronised());
    assert_eq!(
        talk.story()[talk.out.len() - 4..],
        ["2 GET / @82", "2 sent 0", "2 200 @120", "2 got 2"]
    );
}

#[test]
fn a_record_that_was_dropped_costs_its_neighbours_only() {
    // The response's record is lost: the next request is here before that is known.
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(Q, GET).gap(R, OK.len() as u64).call(R, OK);
    assert!(talk.story().contains(&"0 lost Gap".to_owned()));
    talk.call(Q, GET).call(R, OK);
    assert_eq!(
        talk.story()[talk.out.len() - 4..],
        ["2 GET / @54", "2 sent 0", "2 200 @80", "2 got 2"]
    );
    // The request's record is lost: its response is here before that is known.
    let mut talk = Talk::new(true);
    talk.call(R, OK).gap(Q, GET.len() as u64).call(Q, GET).call(R, OK);
    assert_eq!(
        talk.story(),
        ["0 lost Gap", "0 GET / @27", "0 sent 0", "0 200 @40", "0 got 2"]
    );
}
