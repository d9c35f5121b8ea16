//! However the bytes come, in whatever order, and whatever is missing: the same exchanges or none.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::{Moved, Q, R, Talk, brief, stamp};
use crate::engine::proto::{
    Event,
    http1::{Http1, resync::QUIET_NS},
    testing::{
        self, Pieces, Stretch, any_pieces, by_byte, cut_at, cut_in_two, gaps, interleaved, one_of, whole, with_gaps,
    },
};

const GET: Moved = (Q, "GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n");
const POST: Moved = (Q, "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n{\"a\":1}");
const OK: Moved = (R, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
const CHUNKED: Moved = (
    R,
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\nA\r\n0\r\n\r\n12345\r\n0\r\nT: v\r\n\r\n",
);

/// Clients that wait for each response.
const POLITE: &[&[Moved]] = &[
    &[GET, OK, POST, CHUNKED, GET, OK],
    &[
        (
            Q,
            "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        ),
        (R, "HTTP/1.1 100 Continue\r\n\r\n"),
        (Q, "3\r\nabc\r\n"),
        (Q, "0\r\n\r\n"),
        (R, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        (R, "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n"),
        (R, "done"),
        (Q, "HEAD /h HTTP/1.1\r\n\r\n"),
        (R, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (Q, "DELETE /d HTTP/1.1\r\n\r\n"),
        (R, "HTTP/1.1 204 No Content\r\n\r\n"),
        (Q, "\r\nGET /n HTTP/1.1\nA: b\n\n"),
        (R, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
        GET,
        (R, "HTTP/1.0 200 OK\r\n\r\nuntil "),
        (R, "the end"),
    ],
    &[
        (Q, "PUT /early HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"),
        (R, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        (Q, "cd"),
        GET,
        OK,
    ],
];

/// A client that sends many requests in one call.
const BATCH: &[&[Moved]] = &[&ROUND];

const ROUND: [Moved; 4] = [
    (
        Q,
        "GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\r\n\r\nPOST /3 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /4 HTTP/1.1\r\n\r\n",
    ),
    (
        R,
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    ),
    (R, "HTTP/1.1 500 Oops\r\nContent-Length: 1\r\n\r\n3"),
    (
        R,
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n4\r\n0\r\n\r\n",
    ),
];

/// The same client, three times.
const ROUNDS: &[Moved] = &{
    let [a, b, c, d] = ROUND;
    [a, b, c, d, a, b, c, d, a, b, c, d]
};

/// A client that does not wait.
const PIPELINED: &[&[Moved]] = &[&[GET, POST, OK, GET, CHUNKED, OK, POST, OK]];

/// Ends that are no end of an exchange.
const ODD: &[&[Moved]] = &[
    &[
        (Q, "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
        (R, "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (Q, "\x01\x02\x03"),
        (R, "\x04\x05\x06"),
    ],
    &[
        (Q, "CONNECT h:1 HTTP/1.1\r\n\r\n"),
        (R, "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"),
        (Q, "CONNECT h:1 HTTP/1.1\r\nProxy-Authorization: x\r\n\r\n"),
        (R, "HTTP/1.1 200 OK\r\n\r\n"),
        (Q, "\x16\x03\x01"),
    ],
    &[
        GET,
        OK,
        (R, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
    ],
    &[
        GET,
        (
            R,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
        ),
    ],
    &[(Q, "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n")],
    &[
        (Q, "POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello"),
        (R, "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello"),
        GET,
    ],
    &[
        (Q, "GET / b HTTP/1.1\r\n\r\n"),
        (R, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"),
    ],
    &[
        (Q, "\x16\x03\x01\x02"),
        (R, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"),
    ],
    &[
        (Q, "HEAD / HTTP/1.1\r\n\r\n"),
        (R, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello"),
        GET,
        OK,
    ],
    &[(Q, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (R, "\0\0\0")],
    &[(R, "SSH-2.0-x\r\n"), (Q, "SSH-2.0-y\r\n")],
];

fn conversations() -> impl Iterator<Item = &'static [Moved]> {
    POLITE.iter().chain(BATCH).chain(PIPELINED).chain(ODD).copied()
}

/// Returns the events of pieces, without their stamps.
fn told(pieces: Pieces) -> Vec<Event> {
    let mut talk = Talk::new(true);
    for (half, bytes) in pieces {
        talk.call(half, bytes);
    }
    talk.end(Q).end(R);
    talk.out.into_iter().map(Event::unstamped).collect()
}

/// Returns what is told of each exchange.
fn exchanges(events: &[Event]) -> BTreeMap<u64, Vec<String>> {
    testing::exchanges(events, brief, |line| line.starts_with("got "))
}

#[test]
fn every_split_in_two_tells_the_same() {
    for calls in conversations() {
        let expected = told(whole(calls));
        for pieces in cut_in_two(calls) {
            assert_eq!(told(pieces.clone()), expected, "{pieces:?}");
        }
    }
}

#[test]
fn one_byte_at_a_time_tells_the_same() {
    for calls in conversations() {
        assert_eq!(told(by_byte(calls)), told(whole(calls)), "{calls:?}");
    }
}

proptest! {
    #[test]
    fn random_splits_tell_the_same(
        calls in one_of(&[POLITE, BATCH, PIPELINED, ODD]),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        prop_assert_eq!(told(cut_at(calls, &cuts)), told(whole(calls)));
    }

    #[test]
    fn any_order_of_the_halves_tells_the_same(
        calls in one_of(&[POLITE, BATCH, PIPELINED]),
        turns in prop::collection::vec(any::<bool>(), 40),
    ) {
        let events = told(interleaved(calls, &turns));
        prop_assert_eq!(exchanges(&events), exchanges(&told(whole(calls))));
    }

    /// Each exchange that is told whole, in spite of gaps, was there and is told right.
    #[test]
    fn gaps_make_no_exchange_that_was_not(
        calls in one_of(&[POLITE, BATCH]),
        from_birth in any::<bool>(),
        gaps in gaps(),
    ) {
        let mut talk = Talk::new(from_birth);
        for Stretch { half, begins_call, data } in with_gaps(calls, gaps).into_iter().flatten() {
            talk.piece(half, begins_call, data);
        }
        talk.end(Q).end(R);
        let truth: Vec<_> = exchanges(&told(whole(calls))).into_values().collect();
        for exchange in exchanges(&talk.out).into_values() {
            let in_truth = truth.iter().any(|lines| exchange.iter().all(|line| lines.contains(line)));
            prop_assert!(in_truth, "{:?} of {:?}", exchange, talk.story());
        }
        let bytes: u64 = talk.offsets.iter().sum();
        prop_assert!(talk.http.counters().unsynchronised_bytes <= bytes);
    }

    /// A client that always pipelines is found behind a silence, whatever was missing before.
    #[test]
    fn batches_behind_a_silence_are_found(
        from_birth in any::<bool>(),
        gaps in gaps(),
        cuts in prop::collection::vec(any::<Index>(), 0..4),
    ) {
        let (before, last) = ROUNDS.split_at(2 * ROUND.len());
        let mut talk = Talk::new(from_birth);
        for (index, stretches) in with_gaps(before, gaps).into_iter().enumerate() {
            if index == ROUND.len() {
                talk.now += QUIET_NS;
            }
            for Stretch { half, begins_call, data } in stretches {
                talk.piece(half, begins_call, data);
            }
        }
        talk.now += QUIET_NS;
        let passed_over = talk.http.counters().unsynchronised_bytes;
        for (half, bytes) in cut_at(last, &cuts) {
            talk.call(half, bytes);
        }
        let whole: Vec<_> = exchanges(&told(whole(ROUNDS))).into_values().collect();
        let found: Vec<_> = exchanges(&talk.out).into_values().collect();
        prop_assert!(found.ends_with(&whole[8..]), "{:?}", talk.story());
        prop_assert!(found.iter().all(|exchange| whole.contains(exchange)), "{:?}", talk.story());
        prop_assert_eq!(talk.http.counters().unsynchronised_bytes, passed_over);
    }

    #[test]
    fn random_bytes_are_survived(
        from_birth in any::<bool>(),
        pieces in any_pieces(&[GET.1, POST.1, OK.1, CHUNKED.1, "\r\n", "0", "HTTP/1.1 "]),
    ) {
        let mut http = Http1::new(from_birth);
        let mut out = Vec::new();
        for piece in &pieces {
            http.feed(&Default::default(), piece.half, piece.piece(), &mut out);
            let _ = (http.body_until(Q), http.body_until(R));
        }
        http.end(&Default::default(), Q, stamp(0), &mut out);
        http.end(&Default::default(), R, stamp(0), &mut out);
        prop_assert!(http.pending() <= 40);
    }
}
