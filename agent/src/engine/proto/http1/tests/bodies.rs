//! Where bodies end, and how large they are.

use super::{GET, OK, Q, R, Talk, stamp, told};
use crate::engine::proto::Event;

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
            [Event::Ended {
                exchange: 0,
                last: stamp(now),
                body_bytes: Some(1005)
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
