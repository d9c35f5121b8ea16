//! Gaps, and the way back.

use super::{GET, Moved, OK, Q, R, Talk};
use crate::engine::proto::{Data, Half, http1::resync::QUIET_NS};

#[test]
fn gaps_in_framing_lose_what_is_pending() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n";
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(R, chunked).gap(R, 11);
    assert_eq!(talk.story(), ["0 GET / @0", "0 sent 0", "0 200 @0", "0 lost Gap"]);
    // The rest of the chunk is no boundary, though a call begins with it.
    talk.call(R, "\n0\r\n\r\n").call(Q, GET).call(R, OK);
    assert_eq!(talk.story()[4..], ["1 GET / @27", "1 sent 0", "1 200 @67", "1 got 2"]);

    let table: &[(&[Moved], Half, u64, &str)] = &[
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

/// Holds the exchanges that are found on a connection older than the agent.
#[test]
fn sure_boundaries() {
    let found: &[&str] = &["0 GET /", "0 sent 0", "0 200", "0 got 2"];
    let none: &[&str] = &[];
    let post = "POST /p HTTP/1.1\r\nContent-Length: 4\r\n\r\nab";
    let big = OK.repeat(2);
    type Case<'a> = (&'a str, &'a [(Half, &'a str)], &'a [&'a str]);
    let table: &[Case<'_>] = &[
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
        (
            "the rest of a body that looks like a method",
            &[(Q, "cd"), (Q, GET), (R, OK)],
            found,
        ),
        (
            "the rest of a body before an unknown method",
            &[(Q, "cd"), (Q, "BREW / HTTP/1.1\r\n\r\n"), (R, OK)],
            none,
        ),
        (
            "an unknown method in one call",
            &[(Q, "BREW / HTTP/1.1\r\n\r\n"), (R, OK)],
            &["0 BREW /", "0 sent 0", "0 200", "0 got 2"],
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
        talk.offsets[0] + talk.offsets[1]
    );
}

#[test]
fn a_connection_that_pipelines_is_believed_after_a_silence() {
    let mut talk = Talk::new(true);
    talk.call(Q, GET.repeat(2)).call(R, OK.repeat(2)).gap(Q, 1);
    assert_eq!(talk.story().last().map(String::as_str), Some("2 lost Gap"));
    talk.call(Q, GET).call(R, OK);
    assert!(!talk.http.is_synchronised());
    talk.now += QUIET_NS;
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

/// Returns the numbers of requests that were answered, with the statuses of their responses.
fn answered(talk: &Talk) -> Vec<String> {
    let answers = talk.story().into_iter().filter(|line| line.contains(" 20"));
    answers
        .map(|line| line.split(" @").next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_response_to_a_lost_request_is_not_that_of_the_next() {
    const LOST: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nno";
    const EARLY: &str = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let gap = GET.len() as u64;
    // The client sends the next request before it has the response to the lost one.
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(R, OK).gap(Q, gap).call(Q, GET);
    talk.call(R, EARLY).call(R, LOST).call(R, OK).call(Q, GET).call(R, OK);
    assert_eq!(answered(&talk), ["0 200"], "it pipelines");
    // One request is open, another one is lost.
    let mut talk = Talk::new(true);
    talk.call(Q, GET)
        .gap(Q, gap)
        .call(R, OK)
        .call(Q, GET)
        .call(R, LOST)
        .call(R, OK);
    assert_eq!(answered(&talk), [""; 0]);
    // The records of both are lost, or the client waits for the response: the next request has its own.
    let mut talk = Talk::new(true);
    talk.call(Q, GET).call(R, OK).gap(Q, gap).call(Q, GET);
    talk.gap(R, LOST.len() as u64).call(R, OK).call(Q, GET).call(R, OK);
    assert_eq!(answered(&talk), ["0 200", "1 200"]);
    let mut talk = Talk::new(true);
    talk.call(Q, GET)
        .call(R, OK)
        .gap(Q, gap)
        .call(R, LOST)
        .call(Q, GET)
        .call(R, OK);
    assert_eq!(answered(&talk), ["0 200", "1 200"]);
    // The loss is noticed behind the response.
    let mut talk = Talk::new(true);
    talk.call(Q, GET)
        .call(R, OK)
        .call(R, LOST)
        .gap(Q, gap)
        .call(Q, GET)
        .call(R, OK);
    assert_eq!(answered(&talk), ["0 200", "1 200"]);
}
