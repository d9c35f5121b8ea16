//! Forms that HTTP does not allow and that servers and clients take: the exchange is told, and what comes behind is found.

use super::{GET, OK, Q, R, Talk, told};
use crate::engine::proto::{
    Call, Event, Half, Reply,
    http1::{Header, Headers, resync::QUIET_NS},
};

/// Requests that all peers end at the same place, if they take them.
const REQUESTS: &[&str] = &[
    // Folded lines.
    "GET /a HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
    "GET /a HTTP/1.1\r\nX: a\r\n\tb\r\n  c\r\nHost: h\r\n\r\n",
    // Later minor versions.
    "GET /a HTTP/1.2\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.9\r\nHost: h\r\n\r\n",
    // Control characters in values.
    "GET /a HTTP/1.1\r\nX: a\x01b\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nX: a\x7fb\r\nHost: h\r\n\r\n",
    // Odd names, and lines without a colon.
    "GET /a HTTP/1.1\r\nX-Foo[1]: a\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nX(Y: a\r\nX/Y: a\r\n\u{fc}: a\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nFoo\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nX : a\r\nHost : h\r\n\r\n",
    // Blanks behind the version.
    "GET /a HTTP/1.1 \r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\t \nHost: h\n\n",
];

/// Requests that say in an odd way where they end.
const DOUBTFUL_REQUESTS: &[&str] = &[
    "POST /a HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "POST /a HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "POST /a HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n",
    "POST /a HTTP/1.1\r\n: a\r\n\r\n",
    "POST /a HTTP/1.1\r\nX: a\0b\r\n\r\n",
];

/// Responses that all peers end at the same place, if they take them. With their status.
const RESPONSES: &[(&str, u16)] = &[
    ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", 200),
    ("HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200),
    (
        "HTTP/1.1 200 OK\r\nX: a\x01b\x7f\r\nContent-Length: 5\r\n\r\nhello",
        200,
    ),
    (
        "HTTP/1.1 200 OK\r\nX[1]: a\r\nX Y: b\r\nFoo\r\nContent-Length: 5\r\n\r\nhello",
        200,
    ),
    ("HTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 5\r\n\r\nhello", 200),
    ("HTTP/1.1 404 N\x01t F\u{fc}und\r\nContent-Length: 5\r\n\r\nhello", 404),
    ("HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nhello", 200),
    ("HTTP/1.1 \t200   OK\r\nContent-Length: 5\r\n\r\nhello", 200),
    ("HTTP/1.1 999\r\nContent-Length: 5\r\n\r\nhello", 999),
];

/// Responses that say in an odd way where they end.
const DOUBTFUL_RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\nhello",
];

/// The calls' story, and the same if one of them is cut in two, wherever, or into bytes. All but the first byte of a call
/// lie within one.
fn told_in_any_pieces(calls: &[(Half, &str)], cut: usize) -> Vec<String> {
    let whole = told(calls);
    let (half, text) = calls[cut];
    let mut ways: Vec<Vec<&[u8]>> = (1..text.len())
        .map(|at| vec![&text.as_bytes()[..at], &text.as_bytes()[at..]])
        .collect();
    ways.push(text.as_bytes().chunks(1).collect());
    for pieces in ways {
        let mut talk = Talk::new(true);
        for (half, bytes) in &calls[..cut] {
            talk.call(*half, bytes);
        }
        for piece in &pieces {
            talk.call(half, piece);
        }
        for (half, bytes) in &calls[cut + 1..] {
            talk.call(*half, bytes);
        }
        assert_eq!(talk.end(Q).end(R).story(), whole, "{text:?} as {}", pieces.len());
    }
    whole
}

#[test]
fn requests_that_servers_take() {
    for request in REQUESTS {
        let both = format!("{request}{GET}");
        let second = format!("1 GET / @{}", request.len());
        let story = told_in_any_pieces(&[(Q, &both), (R, OK), (R, OK)], 0);
        let expected = ["0 GET /a @0", "0 sent 0", &second, "1 sent 0"];
        assert_eq!(story[..4], expected, "{request:?}");
        assert_eq!(
            story[4..],
            ["0 200 @0", "0 got 2", "1 200 @40", "1 got 2"],
            "{request:?}"
        );
    }
}

#[test]
fn requests_whose_end_is_in_doubt() {
    for request in DOUBTFUL_REQUESTS {
        let calls = [(Q, *request), (R, OK), (Q, GET), (R, OK)];
        let story = told_in_any_pieces(&calls, 0);
        let second = format!("1 GET / @{}", request.len());
        let expected = [
            "0 POST /a @0",
            "1 lost Doubtful",
            "0 200 @0",
            "0 got 2",
            &second,
            "1 sent 0",
            "1 200 @40",
            "1 got 2",
        ];
        assert_eq!(story, expected, "{request:?}");
        // On a connection that is older than the agent, too.
        let mut talk = Talk::new(false);
        for (half, bytes) in &calls {
            talk.call(*half, bytes);
        }
        assert_eq!(talk.story(), expected, "{request:?}");
    }
}

#[test]
fn responses_that_clients_take() {
    for (response, status) in RESPONSES {
        let story = told_in_any_pieces(&[(Q, GET), (R, response), (Q, GET), (R, OK)], 1);
        let (first, second) = (format!("0 {status} @0"), format!("1 200 @{}", response.len()));
        let expected = [
            "0 GET / @0",
            "0 sent 0",
            &first,
            "0 got 5",
            "1 GET / @27",
            "1 sent 0",
            &second,
            "1 got 2",
        ];
        assert_eq!(story, expected, "{response:?}");
    }
}

#[test]
fn responses_whose_end_is_in_doubt_end_with_the_next_request_or_the_connection() {
    for response in DOUBTFUL_RESPONSES {
        let story = told_in_any_pieces(&[(Q, GET), (R, response), (Q, GET), (R, OK)], 1);
        let second = format!("1 200 @{}", response.len());
        let expected = [
            "0 GET / @0",
            "0 sent 0",
            "0 200 @0",
            "1 lost Doubtful",
            "0 got an end",
            "1 GET / @27",
            "1 sent 0",
            &second,
            "1 got 2",
        ];
        assert_eq!(story, expected, "{response:?}");
        assert_eq!(
            told(&[(Q, GET), (R, response), (R, "more")]),
            expected[..5],
            "{response:?}"
        );
        // Behind a pipelined one nothing is believed.
        let story = told(&[(Q, GET), (Q, GET), (R, response), (R, OK)]);
        assert_eq!(
            story[4..],
            ["0 200 @0", "1 lost Doubtful", "0 got an end"],
            "{response:?}"
        );
    }
    // Where no body can be, nothing is in doubt.
    let head = "HEAD / HTTP/1.1\r\n\r\n";
    let story = told(&[
        (Q, head),
        (R, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        (Q, GET),
        (R, OK),
    ]);
    assert_eq!(
        story[2..],
        ["0 200 @0", "0 got 0", "1 GET / @19", "1 sent 0", "1 200 @39", "1 got 2"]
    );
}

#[test]
fn a_doubtful_body_that_holds_a_request_is_not_believed() {
    let hostile = "POST /a HTTP/1.1\r\nContent-Length : 52\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n";
    let mut talk = Talk::new(true);
    talk.call(Q, hostile).call(R, OK).call(Q, GET).call(R, OK).call(R, OK);
    assert_eq!(talk.story(), ["0 POST /a @0", "1 lost Doubtful", "0 200 @0", "0 got 2"]);
    // The server may have answered what was smuggled: only after a silence is a response known to be the next request's.
    talk.now += QUIET_NS;
    talk.call(Q, GET).call(R, OK);
    assert_eq!(talk.story().len(), 8);
    assert!(!talk.story().iter().any(|line| line.contains("smuggled")));
}

#[test]
fn bare_line_feeds_in_chunks() {
    let chunks = [
        "5\nhello\n0\n\n",
        "5\r\nhello\r\n0\r\nT: u\n\r\n",
        "5;x=y\r\nhello\n0\r\n\n",
    ];
    for chunks in chunks {
        let request = format!("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let story = told_in_any_pieces(&[(Q, &request), (R, OK), (Q, GET), (R, OK)], 0);
        let second = format!("1 GET / @{}", request.len());
        let expected = [
            "0 POST /a @0",
            "0 sent 5",
            "1 lost Doubtful",
            "0 200 @0",
            "0 got 2",
            &second,
            "1 sent 0",
            "1 200 @40",
            "1 got 2",
        ];
        assert_eq!(story, expected, "{chunks:?}");
        let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let story = told_in_any_pieces(&[(Q, GET), (R, &response), (Q, GET), (R, OK)], 1);
        let second = format!("1 200 @{}", response.len());
        let expected = [
            "0 GET / @0",
            "0 sent 0",
            "0 200 @0",
            "0 got 5",
            "1 lost Doubtful",
            "1 GET / @27",
            "1 sent 0",
            &second,
            "1 got 2",
        ];
        assert_eq!(story, expected, "{chunks:?}");
    }
}

const REFUSALS: &[&str] = &[
    "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno",
    "HTTP/1.0 414 URI Too Long\r\n\r\nno",
    "HTTP/1.1 505 Version\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
];

#[test]
fn what_a_server_refuses_unread_is_a_request() {
    // On a new connection, and whether it looks like HTTP at all.
    for (bytes, of_http) in [
        ("GET\r\n\r\n", false),
        ("GET /a b c HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("G@T / HTTP/1.1\r\n\r\n", false),
        ("GET / HTTP/3.0\r\n\r\n", false),
        ("hello there\r\n", false),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03", false),
        ("GET / HTTP/1.x\r\n\r\n", true),
    ] {
        for refusal in REFUSALS {
            let status = &refusal[9..12];
            let story = told_in_any_pieces(&[(Q, bytes), (R, refusal)], 0);
            let answer = format!("0 {status} @0");
            let expected = if of_http {
                ["0 lost Malformed", "0   @0", &answer, "0 got 2"]
            } else {
                ["0   @0", "1 lost Malformed", &answer, "0 got 2"]
            };
            assert_eq!(story, expected, "{bytes:?} {refusal:?}");
            assert_eq!(
                told_in_any_pieces(&[(Q, bytes), (R, refusal)], 1),
                expected,
                "{bytes:?}"
            );
        }
        // Other answers are none to a request that was not understood.
        let expected: &[&str] = if of_http {
            &["0 lost Malformed"]
        } else {
            &["opaque OtherProtocol"]
        };
        for answer in [
            "\x15\x03\x01\0\x02\x02\x46",
            "<html>hello</html>",
            "SSH-2.0-x\r\n",
            OK,
            "",
        ] {
            assert_eq!(told(&[(Q, bytes), (R, answer)]), expected, "{bytes:?} {answer:?}");
        }
    }
}

#[test]
fn what_is_refused_on_a_connection_in_use() {
    let refused = "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n";
    let story = told_in_any_pieces(
        &[(Q, GET), (R, OK), (Q, refused), (R, REFUSALS[0]), (Q, GET), (R, OK)],
        2,
    );
    let expected = [
        "1 lost Malformed",
        "1   @27",
        "1 400 @40",
        "1 got 2",
        "2 GET / @57",
        "2 sent 0",
        "2 200 @89",
        "2 got 2",
    ];
    assert_eq!(story[4..], expected);
    // Behind a request that is not answered yet: the answers come in order.
    let story = told(&[(Q, GET), (Q, refused), (R, OK), (R, REFUSALS[0])]);
    assert_eq!(
        story[2..],
        [
            "1 lost Malformed",
            "0 200 @0",
            "0 got 2",
            "1   @27",
            "1 400 @40",
            "1 got 2"
        ]
    );
    // The server took it: what it was is not known.
    let story = told(&[(Q, GET), (R, OK), (Q, refused), (R, OK), (Q, GET), (R, OK)]);
    assert_eq!(
        story[4..],
        ["1 lost Malformed", "1 GET / @57", "1 sent 0", "1 200 @80", "1 got 2"]
    );
}

#[test]
fn a_head_that_is_answered_before_its_end() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    let story = told(&[(Q, "GET /slow HTTP/1.1\r\nHost: "), (R, timeout)]);
    assert_eq!(story, ["0 GET /slow @0", "1 lost Malformed", "0 408 @0", "0 got 0"]);
    let story = told(&[(Q, "GET /slow HT"), (R, timeout)]);
    assert_eq!(story, ["0 lost Malformed", "0   @0", "0 408 @0", "0 got 0"]);
    // The rest of the head may only be late.
    let story = told(&[(Q, "GET /a HTTP/1.1\r\n"), (R, timeout), (Q, "Host: h\r\n\r\n")]);
    assert_eq!(story, ["0 GET /a @0", "0 sent 0", "0 408 @0", "0 got 0"]);
}

#[test]
fn a_body_behind_a_response_that_has_none() {
    let head = "HEAD /h HTTP/1.1\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n";
    let unsaid = "HTTP/1.1 204 No Content\r\n\r\n";
    for (response, body) in [
        (length, "hello"),
        (length, "Hello"),
        (length, "HTTP!"),
        (chunked, "5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "0\r\n\r\n"),
        (unsaid, "\r\n"),
    ] {
        let with_body = format!("{response}{body}");
        let first = [
            "0 HEAD /h @0",
            "0 sent 0",
            &format!("0 {} @0", &response[9..12]),
            "0 got 0",
        ];
        let second = format!("1 200 @{}", with_body.len());
        let rest = ["1 GET / @20", "1 sent 0", &second, "1 got 2"];
        for calls in [
            vec![(Q, head), (R, &with_body), (Q, GET), (R, OK)],
            vec![(Q, head), (R, response), (R, body), (Q, GET), (R, OK)],
            vec![(Q, head), (R, response), (Q, GET), (R, body), (R, OK)],
        ] {
            for cut in 1..calls.len() - 1 {
                let story = told_in_any_pieces(&calls, cut);
                assert_eq!(
                    (&story[..4], &story[4..]),
                    (&first.map(String::from)[..], &rest.map(String::from)[..])
                );
            }
        }
        // Pipelined, and in one call with the next response.
        let story = told(&[(Q, &format!("{head}{GET}")), (R, &format!("{with_body}{OK}"))]);
        assert_eq!(
            story[4..],
            ["0 304 @0", "0 got 0", &second, "1 got 2"].map(|line| line.replace("304", &response[9..12]))
        );
    }
    // Its length was not announced: found again with the next request.
    let story = told(&[(Q, head), (R, &format!("{unsaid}hello")), (Q, GET), (R, OK)]);
    assert_eq!(
        story[4..],
        ["1 lost Unsolicited", "1 GET / @20", "1 sent 0", "1 200 @32", "1 got 2"]
    );
    // What was announced does not come: what looks like a response is one.
    let large = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let story = told(&[
        (Q, head),
        (R, &format!("{large}0\r\n\r\n")),
        (Q, GET),
        (R, OK),
        (Q, GET),
        (R, OK),
    ]);
    assert_eq!(
        story.iter().filter(|line| line.contains("got 2")).count(),
        1,
        "{story:?}"
    );
}

#[test]
fn folded_values_are_one() {
    let mut talk = Talk::new(true);
    talk.config.capture_request = ["x-a"].map(str::to_owned).into_iter().collect();
    talk.config.capture_response = ["x-b"].map(str::to_owned).into_iter().collect();
    talk.call(
        Q,
        "GET / HTTP/1.1\r\nX-A: a\r\n\tb  \r\n   c\r\nHost:\r\n h\r\nX-A: d\r\n\r\n",
    );
    talk.call(R, "HTTP/1.1 200 OK\r\nX-B: a \r\n b\r\nContent-Length: 0\r\n\r\n");
    let headers = talk.out.iter().filter_map(|event| match event {
        Event::Begins {
            call: Call::Http1(head),
            ..
        } => Some(head.headers()),
        Event::Answered {
            reply: Reply::Http1(head),
            ..
        } => Some(&head.headers),
        _ => None,
    });
    let headers = headers.flat_map(Headers::iter);
    let headers: Vec<_> = headers
        .map(|(header, value)| (header, str::from_utf8(value).unwrap()))
        .collect();
    assert_eq!(
        headers,
        [
            (Header::Captured(0), "a b c"),
            (Header::Host, "h"),
            (Header::Captured(0), "d"),
            (Header::Captured(0), "a b"),
        ]
    );
}

#[test]
fn a_response_that_is_cut_leaves_its_exchange_open_though_what_follows_cannot_be_read() {
    let mut talk = Talk::new(true);
    talk.call(Q, GET)
        .call(R, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    talk.call(Q, "GET /a b c\x01\r\n").end(R);
    // The connection's end says what became of it.
    assert_eq!(talk.http.pending(), 1, "{:?}", talk.story());
}

#[test]
fn a_body_that_should_not_be_there_ends_nothing() {
    let mut talk = Talk::new(true);
    talk.call(Q, "HEAD / HTTP/1.1\r\n\r\n");
    talk.call(R, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        .call(R, "hello");
    talk.end(R).call(R, "there");
    let story = talk.story();
    let (exchange, rest) = story.split_at(4);
    assert_eq!(
        (exchange[3].as_str(), rest),
        ("0 got 0", &["1 lost Unsolicited".to_owned()][..])
    );
}

/// Checks that bytes behind a stray body wait for their request. The parser took them again and again.
#[test]
fn what_is_held_behind_a_body_that_should_not_be_there_waits() {
    let early = |talk: &mut Talk| {
        talk.call(R, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            .call(R, "done");
        talk.call(Q, "HEAD / HTTP/1.1\r\n\r\n");
    };
    let known = ["0 HEAD / @0", "0 sent 0", "0 200 @0", "0 got 0"];
    let mut talk = Talk::new(true);
    early(&mut talk);
    talk.call(R, OK).call(Q, GET);
    assert_eq!(talk.story()[..4], known);
    assert_eq!(talk.story()[4..], ["1 GET / @19", "1 sent 0", "1 200 @42", "1 got 2"]);
    let mut talk = Talk::new(true);
    early(&mut talk);
    talk.gap(R, 81).call(Q, GET);
    assert_eq!(talk.story()[..4], known);
    assert_eq!(talk.story()[4..], ["1 GET / @19", "1 sent 0", "1 lost Gap"]);
}

#[test]
fn bytes_of_a_head_that_is_too_large_are_no_other_request() {
    let filler = "x".repeat(70_000);
    let large =
        format!("GET /large HTTP/1.1\r\nContent-Length: 20\r\nX: {filler} HTTP/1.1\r\n\r\nGET / HTTP/1.1 is it\r\n");
    for in_pieces in [false, true] {
        let mut talk = Talk::new(true);
        talk.call(Q, GET).call(R, OK);
        if in_pieces {
            large.as_bytes().chunks(4096).for_each(|piece| {
                talk.call(Q, piece);
            });
        } else {
            talk.call(Q, &large);
        }
        // At once, on a connection that is never silent.
        talk.call(R, OK).call(Q, GET).call(R, OK);
        let story = talk.story();
        assert!(story.last().is_some_and(|last| last.starts_with("2 got")), "{story:?}");
    }
}
