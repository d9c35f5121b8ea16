//! However the bytes come, in whatever order, and whatever is missing: the same exchanges or none.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{GET, Moved, Q, R, Talk, VALUE, brief, stamp};
use crate::engine::proto::{
    Event,
    redis::{Redis, connection::MAX_PENDING},
    testing::{self, Pieces, Stretch, any_pieces, by_byte, cut_in_two, gaps, interleaved, one_of, whole, with_gaps},
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

/// Returns the story of pieces, and what is told of each exchange.
fn told(pieces: Pieces) -> (Vec<String>, BTreeMap<u64, Vec<String>>) {
    let mut talk = Talk::new(true);
    for (half, bytes) in pieces {
        talk.call(half, bytes);
    }
    talk.end(Q).end(R);
    (talk.story(), exchanges(&talk.out))
}

fn exchanges(events: &[Event]) -> BTreeMap<u64, Vec<String>> {
    testing::exchanges(events, brief, |line| line == "done")
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
    fn any_order_of_the_halves_tells_the_same(
        calls in one_of(&[POLITE, PIPELINED]),
        turns in prop::collection::vec(any::<bool>(), 40),
    ) {
        let (_, exchanges) = told(interleaved(calls, &turns));
        prop_assert_eq!(exchanges, told(whole(calls)).1);
    }

    /// Each exchange that is told whole, in spite of gaps, was there and is told right.
    #[test]
    fn gaps_make_no_exchange_that_was_not(
        calls in one_of(&[POLITE]),
        from_birth in any::<bool>(),
        waits in prop::collection::vec(0..3_u64, 8),
        gaps in gaps(),
    ) {
        let mut talk = Talk::new(from_birth);
        for (stretches, wait) in with_gaps(calls, gaps).into_iter().zip(waits) {
            // A server may take its time, too.
            talk.wait(wait);
            for Stretch { half, begins_call, data } in stretches {
                talk.piece(half, begins_call, data);
            }
        }
        let truth: Vec<_> = told(whole(calls)).1.into_values().collect();
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
        pieces in any_pieces(&[GET.1, SET.1, NESTED.1, ERROR.1, "*", "$3\r\n", "\r\n", "|1\r\n", ">1\r\n", "*1\r\n"]),
    ) {
        let mut redis = Redis::new(from_birth, at_server);
        let mut out = Vec::new();
        for piece in &pieces {
            redis.feed(piece.half, piece.piece(), &mut out);
            let _ = [Q, R].map(|half| (redis.body_until(half), redis.ahead(half)));
        }
        redis.end(Q, stamp(0), &mut out);
        redis.end(R, stamp(0), &mut out);
        prop_assert!(redis.pending() <= MAX_PENDING);
    }
}
