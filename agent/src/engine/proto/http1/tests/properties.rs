//! However the bytes come, in whatever order, and whatever is missing: the same exchanges or none.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::{Moved, Q, R, Talk, brief, stamp};
use crate::engine::proto::{Data, Event, Half, Piece, http1::Http1};

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
const BATCH: &[&[Moved]] = &[&[
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
]];

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

fn conversation(lists: &'static [&'static [&'static [Moved]]]) -> impl Strategy<Value = &'static [Moved]> {
    let all: Vec<_> = lists.iter().flat_map(|list| list.iter().copied()).collect();
    proptest::sample::select(all)
}

/// The events without their stamps.
fn unstamped(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        match event {
            Event::Begins { first, complete, .. } | Event::Answered { first, complete, .. } => {
                (*first, *complete) = (stamp(0), stamp(0));
            }
            Event::Sent { last, .. } | Event::Ended { last, .. } => *last = stamp(0),
            // A cut opening may have no name.
            Event::Opaque { carries, .. } => *carries = "",
            Event::Lost { .. } => {}
        }
    }
    events
}

fn told<'a>(calls: impl IntoIterator<Item = (Half, &'a [u8])>) -> Vec<Event> {
    let mut talk = Talk::new(true);
    for (half, bytes) in calls {
        talk.call(half, bytes);
    }
    talk.end(Q).end(R);
    unstamped(talk.out)
}

fn whole(calls: &'static [Moved]) -> Vec<Event> {
    told(calls.iter().map(|(half, bytes)| (*half, bytes.as_bytes())))
}

#[test]
fn every_split_in_two_tells_the_same() {
    for calls in conversations() {
        let expected = whole(calls);
        for (cut_call, (_, text)) in calls.iter().enumerate() {
            for cut in 1..text.len() {
                let pieces = calls.iter().enumerate().flat_map(|(i, (half, bytes))| {
                    let (one, other) = bytes.as_bytes().split_at(if i == cut_call { cut } else { 0 });
                    [(*half, one), (*half, other)]
                });
                assert_eq!(told(pieces), expected, "{text:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn one_byte_at_a_time_tells_the_same() {
    for calls in conversations() {
        let bytes = calls
            .iter()
            .flat_map(|(half, text)| text.as_bytes().chunks(1).map(|byte| (*half, byte)));
        assert_eq!(told(bytes), whole(calls), "{calls:?}");
    }
}

/// Returns the story of each exchange, line by line, by its number.
fn exchanges(events: &[Event]) -> BTreeMap<u64, Vec<String>> {
    let mut exchanges: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for event in events {
        let number = match event {
            Event::Begins { exchange, .. }
            | Event::Sent { exchange, .. }
            | Event::Answered { exchange, .. }
            | Event::Ended { exchange, .. } => *exchange,
            Event::Lost { exchange, .. } => {
                // As a caller does: what has no whole response is forgotten.
                exchanges.retain(|number, lines| number < exchange || lines.iter().any(|line| line.contains(" got ")));
                continue;
            }
            Event::Opaque { .. } => continue,
        };
        let line = brief(event).split_once(' ').unwrap().1.to_owned();
        exchanges.entry(number).or_default().push(line);
    }
    exchanges.values_mut().for_each(|lines| lines.sort());
    exchanges
}

proptest! {
    #[test]
    fn random_splits_tell_the_same(
        calls in conversation(&[POLITE, BATCH, PIPELINED, ODD]),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut pieces = Vec::new();
        for (half, text) in calls {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            pieces.extend(at.windows(2).map(|range| (*half, &text.as_bytes()[range[0]..range[1]])));
        }
        prop_assert_eq!(told(pieces), whole(calls));
    }

    #[test]
    fn any_order_of_the_halves_tells_the_same(
        calls in conversation(&[POLITE, BATCH, PIPELINED]),
        turns in prop::collection::vec(any::<bool>(), 40),
    ) {
        let [mut requests, mut responses] = [Q, R].map(|half| calls.iter().filter(move |call| call.0 == half).peekable());
        let mut order = Vec::new();
        for turn in turns {
            let next = if turn { requests.next() } else { responses.next() };
            order.extend(next);
        }
        order.extend(requests.chain(responses));
        let events = told(order.into_iter().map(|(half, text)| (half, text.as_bytes())));
        prop_assert_eq!(exchanges(&events), exchanges(&whole(calls)));
    }

    /// Each exchange that is told whole, in spite of gaps, was there and is told right.
    #[test]
    fn gaps_make_no_exchange_that_was_not(
        calls in conversation(&[POLITE, BATCH]),
        from_birth in any::<bool>(),
        gaps in prop::collection::vec((any::<Index>(), any::<Index>(), any::<Index>()), 0..5),
    ) {
        let mut missing: Vec<Vec<bool>> = calls.iter().map(|(_, text)| vec![false; text.len()]).collect();
        for (call, from, length) in gaps {
            let call = call.get_mut(&mut missing);
            let from = from.index(call.len());
            let length = 1 + length.index(call.len() - from);
            call[from..from + length].fill(true);
        }
        let mut talk = Talk::new(from_birth);
        for ((half, text), missing) in calls.iter().zip(&missing) {
            let mut at = 0;
            for run in missing.chunk_by(|one, other| one == other) {
                let bytes = &text.as_bytes()[at..at + run.len()];
                let data = if run[0] { Data::Gap(run.len() as u64) } else { Data::Bytes(bytes) };
                talk.piece(*half, at == 0, data);
                at += run.len();
            }
        }
        talk.end(Q).end(R);
        let truth: Vec<_> = exchanges(&whole(calls)).into_values().collect();
        for exchange in exchanges(&talk.out).into_values() {
            let in_truth = truth.iter().any(|lines| exchange.iter().all(|line| lines.contains(line)));
            prop_assert!(in_truth, "{:?} of {:?}", exchange, talk.story());
        }
        let bytes: u64 = talk.offsets.iter().sum();
        prop_assert!(talk.http.counters().unsynchronised_bytes <= bytes);
    }

    #[test]
    fn random_bytes_are_survived(
        from_birth in any::<bool>(),
        pieces in prop::collection::vec(
            (
                any::<bool>(),
                any::<bool>(),
                any::<u64>(),
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40).prop_map(Ok),
                    prop::sample::select(vec![GET.1, POST.1, OK.1, CHUNKED.1, "\r\n", "0", "HTTP/1.1 "])
                        .prop_map(|text| Ok(text.as_bytes().to_vec())),
                    any::<u64>().prop_map(Err),
                ],
            ),
            0..40,
        ),
    ) {
        let mut http = Http1::new(from_birth);
        let mut out = Vec::new();
        for (request, start, offset, data) in &pieces {
            let half = if *request { Q } else { R };
            let data = match data {
                Ok(bytes) => Data::Bytes(bytes),
                Err(gap) => Data::Gap(*gap),
            };
            let piece = Piece {
                offset: *offset,
                segment_start: *start,
                data,
                stamp: stamp(*offset),
            };
            http.feed(&Default::default(), half, piece, &mut out);
            let _ = (http.body_until(Q), http.body_until(R));
        }
        http.end(&Default::default(), Q, stamp(0), &mut out);
        http.end(&Default::default(), R, stamp(0), &mut out);
        prop_assert!(http.pending() <= 40);
    }
}
