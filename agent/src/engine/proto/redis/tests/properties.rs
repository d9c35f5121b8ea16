//! However the bytes come, in whatever order, and whatever is missing: the same exchanges or none.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::{GET, Moved, Q, R, Talk, VALUE, brief, stamp};
use crate::engine::proto::{
    Data, Event, Half, Piece,
    redis::{Redis, connection::MAX_PENDING},
};

const SET: Moved = (
    Q,
    "*5\r\n$3\r\nSET\r\n$3\r\nkey\r\n$16\r\n*1\r\n$4\r\nPING\r\n\r\n\r\n$2\r\nEX\r\n$2\r\n10\r\n",
);
const EVAL: Moved = (
    Q,
    "*5\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\nb\r\n",
);
const OK: Moved = (R, "+OK\r\n");
const NESTED: Moved = (
    R,
    "*3\r\n:1\r\n*2\r\n$-1\r\n-ERR in\r\n%1\r\n+k\r\n|1\r\n+t\r\n:1\r\n#f\r\n",
);
const ERROR: Moved = (R, "-WRONGTYPE no\r\n");
const BLOB_ERROR: Moved = (R, "!8\r\nERR a\r\nb\r\n");
const INVALIDATED: Moved = (R, ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");

/// Clients that wait for each reply.
const POLITE: &[&[Moved]] = &[
    &[GET, VALUE, SET, OK, EVAL, NESTED, GET, ERROR],
    &[INVALIDATED, GET, INVALIDATED, BLOB_ERROR, INVALIDATED, SET, OK],
    &[
        (Q, "PING\r\n"),
        (R, "+PONG\r\n"),
        (Q, "\r\n"),
        GET,
        (R, "$12\r\n*1\r\n$1\r\nx\r\n\r\n"),
    ],
];

/// Clients that do not wait.
const PIPELINED: &[&[Moved]] = &[
    &[GET, SET, OK, GET, EVAL, OK, NESTED, ERROR],
    &[
        (
            Q,
            "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*1\r\n$4\r\nEXEC\r\n",
        ),
        (R, "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"),
    ],
];

/// Ends that are no end of an exchange.
const ODD: &[&[Moved]] = &[
    &[
        (Q, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n"),
        (R, "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"),
        (R, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"),
    ],
    &[GET, (R, "$5\r\nvaluexx")],
    &[(Q, "*1\r\n:1\r\n")],
    &[GET, VALUE, (Q, "*1\r\n$x"), GET],
];

fn conversations() -> impl Iterator<Item = &'static [Moved]> {
    POLITE.iter().chain(PIPELINED).chain(ODD).copied()
}

fn conversation(lists: &'static [&'static [&'static [Moved]]]) -> impl Strategy<Value = &'static [Moved]> {
    let all: Vec<_> = lists.iter().flat_map(|list| list.iter().copied()).collect();
    proptest::sample::select(all)
}

fn told<'a>(calls: impl IntoIterator<Item = (Half, &'a [u8])>) -> Vec<String> {
    let mut talk = Talk::new(true);
    for (half, bytes) in calls {
        talk.call(half, bytes);
    }
    talk.end(Q).end(R).story()
}

fn whole(calls: &'static [Moved]) -> Vec<String> {
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

/// Lines of the story of each exchange, by its number.
fn exchanges(events: &[Event]) -> BTreeMap<u64, Vec<String>> {
    let mut exchanges: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for event in events {
        let number = match event {
            Event::Begins { exchange, .. }
            | Event::Sent { exchange, .. }
            | Event::Answered { exchange, .. }
            | Event::Ended { exchange, .. } => *exchange,
            Event::Lost { exchange, .. } => {
                // As a caller does: what has no whole reply is forgotten.
                exchanges.retain(|number, lines| number < exchange || lines.iter().any(|line| line == "done"));
                continue;
            }
            Event::Opaque { .. } => continue,
        };
        let line = brief(event).split_once(' ').unwrap().1.to_owned();
        exchanges.entry(number).or_default().push(line);
    }
    exchanges
}

fn sorted(mut exchanges: BTreeMap<u64, Vec<String>>) -> BTreeMap<u64, Vec<String>> {
    exchanges.values_mut().for_each(|lines| lines.sort());
    exchanges
}

proptest! {
    #[test]
    fn any_order_of_the_halves_tells_the_same(
        calls in conversation(&[POLITE, PIPELINED]),
        turns in prop::collection::vec(any::<bool>(), 40),
    ) {
        let [mut requests, mut replies] = [Q, R].map(|half| calls.iter().filter(move |call| call.0 == half).peekable());
        let mut talk = Talk::new(true);
        let mut order = Vec::new();
        for turn in turns {
            order.extend(if turn { requests.next() } else { replies.next() });
        }
        for (half, text) in order.into_iter().chain(requests).chain(replies) {
            talk.call(*half, text);
        }
        let mut expected = Talk::new(true);
        expected.calls(calls);
        prop_assert_eq!(sorted(exchanges(&talk.out)), sorted(exchanges(&expected.out)));
    }

    /// Each exchange that is told whole, in spite of gaps, was there and is told right.
    #[test]
    fn gaps_make_no_exchange_that_was_not(
        calls in conversation(&[POLITE]),
        from_birth in any::<bool>(),
        waits in prop::collection::vec(0..3_u64, 8),
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
        for (((half, text), missing), wait) in calls.iter().zip(&missing).zip(waits) {
            // A server may take its time, too.
            talk.wait(wait);
            let mut at = 0;
            for run in missing.chunk_by(|one, other| one == other) {
                let bytes = &text.as_bytes()[at..at + run.len()];
                let data = if run[0] { Data::Gap(run.len() as u64) } else { Data::Bytes(bytes) };
                talk.piece(*half, at == 0, data);
                at += run.len();
            }
        }
        let mut expected = Talk::new(true);
        expected.calls(calls);
        let truth: Vec<_> = exchanges(&expected.out).into_values().collect();
        for exchange in exchanges(&talk.out).into_values() {
            let known = |line: &String, lines: &Vec<String>| {
                // A name, or an error, of which bytes are missing.
                let (what, at) = line.split_once('@').unwrap_or((line, ""));
                lines.contains(line) || (what == "? ? " || what == "error " || what.ends_with(" ? ")) && lines.iter().any(|line| line.ends_with(&format!("@{at}")))
            };
            let in_truth = truth.iter().any(|lines| exchange.iter().all(|line| known(line, lines)));
            prop_assert!(in_truth, "{:?} of {:?}", exchange, talk.story());
        }
    }

    #[test]
    fn random_bytes_are_survived(
        from_birth in any::<bool>(),
        at_server in any::<bool>(),
        pieces in prop::collection::vec(
            (
                any::<bool>(),
                any::<bool>(),
                any::<u64>(),
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40).prop_map(Ok),
                    prop::sample::select(vec![GET.1, SET.1, NESTED.1, ERROR.1, "*", "$3\r\n", "\r\n", "|1\r\n", ">1\r\n", "*1\r\n"])
                        .prop_map(|text| Ok(text.as_bytes().to_vec())),
                    any::<u64>().prop_map(Err),
                ],
            ),
            0..40,
        ),
    ) {
        let mut redis = Redis::new(from_birth, at_server);
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
            redis.feed(half, piece, &mut out);
            let _ = [Q, R].map(|half| (redis.body_until(half), redis.ahead(half)));
        }
        redis.end(Q, stamp(0), &mut out);
        redis.end(R, stamp(0), &mut out);
        prop_assert!(redis.pending() <= MAX_PENDING);
    }
}
