//! Heads: what is kept of them, what they may look like and what not.

use super::{GET, OK, Q, R, Talk, stamp, told};
use crate::engine::proto::{
    Call, Event, Reply,
    http1::{Header, Headers, RequestHead, ResponseHead},
};

#[test]
fn targets_need_not_be_utf8() {
    for step in [1, 7, 1000] {
        let mut talk = Talk::new(true);
        for piece in b"GET /\xff\xfe?q=\xe4 HTTP/1.1\r\nHost: \xe4\r\n\r\n".chunks(step) {
            talk.call(Q, piece);
        }
        assert_eq!(talk.story(), ["0 GET /\\xff\\xfe?q=\\xe4 @0", "0 sent 0"]);
        let Event::Begins {
            call: Call::Http1(head),
            ..
        } = &talk.out[0]
        else {
            panic!()
        };
        assert!(head.headers().iter().eq([(Header::Host, b"\xe4".as_slice())]));
    }
}

#[test]
fn heads_say_what_spans_need() {
    let mut talk = Talk::new(true);
    talk.config.capture_request = ["x-id", "host"].map(str::to_owned).into_iter().collect();
    talk.config.capture_response = ["server"].map(str::to_owned).into_iter().collect();
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
    let kept = [
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
    ];
    let kept = kept.iter().map(|(header, value)| (*header, value.as_bytes()));
    let request = RequestHead {
        content_length: Some(4),
        ..RequestHead::new(b"POST", b"/p?q", kept)
    };
    let response = ResponseHead {
        status: 201,
        minor_version: 0,
        content_length: Some(0),
        headers: Headers::from_iter([(Header::Captured(0), b"s".as_slice())]),
    };
    let expected = [
        Event::Begins {
            exchange: 0,
            call: Call::Http1(Box::new(request)),
            first: stamp(1),
            complete: stamp(1),
            offset: 0,
        },
        Event::Sent {
            exchange: 0,
            last: stamp(2),
            body_bytes: 4,
        },
        Event::Answered {
            exchange: 0,
            reply: Reply::Http1(Box::new(response)),
            first: stamp(3),
            complete: stamp(3),
            offset: 0,
        },
        Event::Ended {
            exchange: 0,
            last: stamp(3),
            body_bytes: Some(0),
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
            Event::Begins { first, complete, .. } | Event::Answered { first, complete, .. } => {
                (first.time_ns, complete.time_ns)
            }
            Event::Sent { last, .. } | Event::Ended { last, .. } => (last.time_ns, 0),
            Event::Lost { .. } | Event::Opaque { .. } => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(times, [(2, 4), (4, 0), (5, 7), (8, 0)]);
}

#[test]
fn malformed_responses_lose_their_exchange() {
    for response in [
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 20 X\r\n\r\n",
        "HTTP/1.1 2000 X\r\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/1. 200 OK\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "garbage",
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
        talk.call(R, OK).call(Q, GET).call(R, OK);
        let found = ["0 GET / @0", "1 lost HeadTooLarge", "0 200 @0", "0 got 2"];
        assert_eq!(talk.story()[..4], found, "by {step}");
        assert_eq!(
            talk.story()[4..],
            ["1 GET / @65537", "1 sent 0", "1 200 @40", "1 got 2"]
        );
    }
    let head = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\nbody", "x".repeat(70_000));
    assert_eq!(
        told(&[(Q, GET), (R, &head), (R, "more"), (Q, GET), (R, OK)]),
        [
            "0 GET / @0",
            "0 sent 0",
            "0 200 @0",
            "1 lost HeadTooLarge",
            "0 got an end",
            "1 GET / @27",
            "1 sent 0",
            &format!("1 200 @{}", head.len() + 4),
            "1 got 2"
        ]
    );
    // Without a line end it is not even a request.
    assert_eq!(told(&[(Q, &"x".repeat(70_000))]), ["opaque OtherProtocol"]);
}

#[test]
fn many_header_lines() {
    for lines in [100, 1000, 10_000] {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(lines));
        assert_eq!(told(&[(Q, &head)]), ["0 GET / @0", "0 sent 0"], "{lines} lines");
    }
}
