//! Which response answers which request, and what is no exchange.

use super::{GET, OK, Q, R, Talk, stamp, told};
use crate::engine::proto::{Call, Event, Half, http1::connection::MAX_PENDING};

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
        "1 CONNECT h:443 @32",
        "1 sent 0",
        "1 407 @40",
        "1 got 1",
        "2 GET / @58",
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
        assert_eq!(told(calls), ["opaque OtherProtocol"], "{calls:?}");
    }
    let mut talk = Talk::new(true);
    talk.call(Q, "P").call(Q, "R").call(Q, "I * HTTP/").call(Q, "2");
    assert_eq!(talk.story(), ["opaque OtherProtocol"]);
    assert_eq!((talk.http.body_until(Q), talk.http.body_until(R)), (u64::MAX, u64::MAX));
    assert!(!talk.http.is_synchronised());
    talk.call(Q, GET).call(R, OK);
    assert_eq!(talk.story().len(), 1);
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
        Event::Ended {
            exchange: 0,
            last: stamp(2),
            body_bytes: Some(5)
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
    // At the server's end no request is on its way, and the next one has an answer of its own.
    let mut talk = Talk::at_server();
    talk.call(R, timeout).call(Q, GET).call(R, OK);
    assert_eq!(
        talk.story(),
        [
            &["0 lost Unsolicited".to_owned()][..],
            &exchange.map(|line| line.replace("200 @0", "200 @51"))
        ]
        .concat()
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
fn what_a_proxy_sends_first_is_no_request() {
    let line = "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";
    let binary = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0P\0P";
    for header in [line, binary] {
        let at = header.len();
        let story = [&format!("0 GET / @{at}"), "0 sent 0", "0 200 @0", "0 got 2"];
        assert_eq!(told(&[(Q, header), (Q, GET), (R, OK)]), story);
        assert_eq!(told(&[(Q, &format!("{header}{GET}")), (R, OK)]), story);
        let bytes: Vec<_> = header.chars().chain(GET.chars()).map(|byte| byte.to_string()).collect();
        let mut calls: Vec<_> = bytes.iter().map(|byte| (Q, byte.as_str())).collect();
        calls.push((R, OK));
        assert_eq!(told(&calls), story);
    }
    assert_eq!(
        told(&[(Q, "PROXY nonsense, and more of it\r\n"), (Q, GET)])[0],
        "0 GET / @32"
    );
}

#[test]
fn the_clients_address_goes_with_all_requests_behind_it() {
    let mut talk = Talk::new(true);
    talk.call(Q, "PROXY TCP6 2001:db8::1 ::1 1 2\r\n");
    for _ in 0..2 {
        talk.call(Q, GET).call(R, OK);
    }
    let clients: Vec<_> = talk
        .out
        .iter()
        .filter_map(|event| match event {
            Event::Begins {
                call: Call::Http1(head),
                ..
            } => head.headers().iter().last(),
            _ => None,
        })
        .collect();
    let client = (super::super::Header::ProxiedFor, b"2001:db8::1".as_slice());
    assert_eq!(clients, [client, client]);
}

#[test]
fn methods_that_begin_like_a_proxys_line() {
    for method in ["POST", "PUT", "PROPFIND", "PROXYFOO"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let story = [&format!("0 {method} / @0"), "0 sent 0", "0 200 @0", "0 got 2"];
        let bytes: Vec<_> = request.chars().map(|byte| byte.to_string()).collect();
        let mut calls: Vec<_> = bytes.iter().map(|byte| (Q, byte.as_str())).collect();
        calls.push((R, OK));
        assert_eq!(told(&calls), story);
        assert_eq!(told(&[(Q, &request), (R, OK)]), story);
    }
}

#[test]
fn what_is_unknown_of_requests_has_a_number() {
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(Q, "GET /half");
    let ahead = talk.http.ahead(Q);
    assert_eq!((ahead.mode, ahead.exchange), (agent_ebpf::abi::Mode::Unknown, 1));
    talk.call(R, OK).call(R, "no response");
    assert_eq!(talk.http.ahead(Q).exchange, talk.http.ahead(R).exchange);
}
