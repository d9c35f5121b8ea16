//! The way back to a connection whose client pipelines all the time: a batch behind a silence.

use super::{GET, OK, Q, R, Talk};
use crate::engine::proto::{
    Data, Half,
    http1::{connection::MAX_PENDING, resync::QUIET_NS},
    testing::stamp,
};

const POST: &str = "POST /p HTTP/1.1\r\nContent-Length: 4\r\n\r\nab";
const CHUNKED: &str = "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const DOUBTFUL: &str = "POST /d HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";

/// Returns a connection in the middle, behind a silence that follows a response.
fn silent() -> Talk {
    let mut talk = Talk::new(false);
    talk.call(R, "rest");
    talk.now += QUIET_NS;
    talk
}

fn passed(talk: &Talk) -> u64 {
    talk.offsets.iter().sum()
}

/// Returns the story without offsets.
fn without_offsets(talk: &Talk) -> Vec<String> {
    let line = |line: String| line.split(" @").next().unwrap().to_owned();
    talk.story().into_iter().map(line).collect()
}

#[test]
fn batches_after_a_loss_are_found() {
    for requests in [2, 3] {
        let (batch, answers) = (GET.repeat(requests), OK.repeat(requests));
        let mut talk = Talk::new(true);
        talk.call(Q, &batch).call(R, &answers).gap(Q, 1);
        let known = talk.out.len();
        talk.call(Q, &batch).call(R, &answers);
        assert!(!talk.http.is_synchronised());
        talk.now += QUIET_NS;
        let ([q, r], lost) = (talk.offsets, talk.http.counters().unsynchronised_bytes);
        assert_eq!(lost, 1 + (batch.len() + answers.len()) as u64);
        talk.call(Q, &batch).call(R, &answers);

        let numbers = requests as u64..2 * requests as u64;
        let at = |number: u64, begin: u64, text: &str| begin + (number - numbers.start) * text.len() as u64;
        let sent = |number| {
            [
                format!("{number} GET / @{}", at(number, q, GET)),
                format!("{number} sent 0"),
            ]
        };
        let got = |number| {
            [
                format!("{number} 200 @{}", at(number, r, OK)),
                format!("{number} got 2"),
            ]
        };
        let expected: Vec<_> = numbers
            .clone()
            .flat_map(sent)
            .chain(numbers.clone().flat_map(got))
            .collect();
        assert_eq!(talk.story()[known..], expected);
        assert_eq!(talk.http.counters().unsynchronised_bytes, lost);
        // It is followed from here on.
        talk.call(Q, &batch).call(R, &answers);
        assert_eq!(talk.out.len(), known + 2 * expected.len());
    }
}

/// Checks that a connection in the middle tells the same as one that is followed from its birth.
#[test]
fn batches_behind_a_silence_are_told_as_those_of_known_connections() {
    let batch = GET.repeat(2);
    let answers = OK.repeat(2);
    let (half_a_head, interim) = (format!("{GET}GET /sec"), "HTTP/1.1 100 Continue\r\n\r\n");
    type Case<'a> = (&'a str, &'a [(Half, &'a str)]);
    let table: &[Case<'_>] = &[
        ("one call", &[(Q, &batch), (R, &answers)]),
        ("a call each", &[(Q, GET), (Q, GET), (Q, GET), (R, OK), (R, &answers)]),
        (
            "empty lines between",
            &[(Q, GET), (Q, "\r\n"), (Q, "\r\nGET /2 HTTP/1.1\r\n\r\n"), (R, &answers)],
        ),
        (
            "a first head in two calls",
            &[
                (Q, "GET / HTTP/1.1\r\n"),
                (Q, &format!("A: b\r\n\r\n{GET}")),
                (R, &answers),
            ],
        ),
        (
            "a request between the parts of a response",
            &[(Q, GET), (R, &OK[..9]), (Q, GET), (R, &OK[9..]), (R, OK)],
        ),
        (
            "an interim response",
            &[
                (Q, &format!("{POST}cd{POST}")),
                (R, interim),
                (R, OK),
                (Q, "cd"),
                (R, OK),
            ],
        ),
        (
            "bodies",
            &[
                (Q, &format!("{POST}cd{CHUNKED}3\r\nabc\r\n0\r\n\r\n{GET}")),
                (R, &answers),
                (R, OK),
            ],
        ),
        (
            "an unfinished head",
            &[
                (Q, &half_a_head),
                (R, OK),
                (Q, "ond HTTP/1.1\r\n\r\n"),
                (R, OK),
                (Q, GET),
                (R, OK),
            ],
        ),
        (
            "an unfinished body",
            &[
                (Q, &format!("{GET}{POST}")),
                (R, OK),
                (Q, &format!("cd{GET}")),
                (R, &answers),
            ],
        ),
        (
            "an unfinished chunk",
            &[
                (Q, &format!("{GET}{CHUNKED}5\r\nab")),
                (R, OK),
                (Q, "cde\r\n0\r\n\r\n"),
                (R, OK),
            ],
        ),
        ("a doubtful end", &[(Q, &format!("{GET}{DOUBTFUL}ab")), (R, &answers)]),
        (
            "a request behind a doubtful end",
            &[(Q, &format!("{GET}{DOUBTFUL}ab{GET}")), (R, &answers), (R, OK)],
        ),
        (
            "a doubtful chunk",
            &[(Q, &format!("{GET}{CHUNKED}1\na\n0\n\n")), (R, &answers)],
        ),
        (
            "a request that may switch protocols",
            &[
                (Q, &format!("{GET}GET /ws HTTP/1.1\r\nUpgrade: x\r\n\r\n")),
                (R, &answers),
            ],
        ),
        (
            "protocols that are switched",
            &[
                (Q, &format!("{GET}CONNECT h:1 HTTP/1.1\r\n\r\n")),
                (R, OK),
                (R, "HTTP/1.1 200 OK\r\n\r\n"),
            ],
        ),
        (
            "a server that closes",
            &[(Q, &batch), (R, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")],
        ),
    ];
    for (name, calls) in table {
        let (mut known, mut older) = (Talk::new(true), silent());
        for (half, bytes) in *calls {
            known.call(*half, bytes);
            older.call(*half, bytes);
        }
        known.end(Q).end(R);
        older.end(Q).end(R);
        assert!(known.out.len() > 5, "{name}");
        assert_eq!(without_offsets(&older), without_offsets(&known), "{name}");
        let passed_over = known.http.counters().unsynchronised_bytes + "rest".len() as u64;
        assert_eq!(older.http.counters().unsynchronised_bytes, passed_over, "{name}");
        assert!(older.http.pipelined || !known.http.pipelined, "{name}");
    }
}

#[test]
fn a_slow_body_may_be_silent() {
    let mut talk = silent();
    talk.call(Q, format!("{GET}{POST}"));
    talk.now += 3 * QUIET_NS;
    talk.call(Q, "c");
    talk.now += 3 * QUIET_NS;
    talk.call(Q, "d").call(R, OK.repeat(2));
    assert_eq!(
        without_offsets(&talk),
        [
            "0 GET /",
            "0 sent 0",
            "1 POST /p",
            "1 sent 4",
            "0 200",
            "0 got 2",
            "1 200",
            "1 got 2"
        ]
    );
}

/// Holds what precedes a batch on a connection in the middle; the batch is not believed, the next one behind a silence
/// is.
#[test]
fn a_batch_is_not_believed_unless_a_silence_is_seen() {
    type Before = fn(&mut Talk);
    let table: &[(&str, Before)] = &[
        ("nothing was seen", |talk| talk.now += 5 * QUIET_NS),
        ("half a second", |talk| {
            talk.call(R, OK);
            talk.now += QUIET_NS / 2;
        }),
        ("a gap directly before", |talk| {
            talk.call(R, OK);
            talk.now += QUIET_NS;
            talk.gap(Q, 30);
        }),
        ("a gap on the other half directly before", |talk| {
            talk.call(R, OK);
            talk.now += QUIET_NS;
            talk.gap(R, 30);
        }),
        ("a response that is on the way", |talk| {
            talk.call(R, OK).call(Q, GET.repeat(2));
            talk.now += QUIET_NS;
        }),
        ("the rest of a slow body", |talk| {
            talk.call(R, OK);
            talk.now += QUIET_NS;
            talk.call(Q, "cd");
        }),
        ("a slow body that looks like requests", |talk| {
            talk.call(R, OK).call(Q, "ab");
            talk.now += QUIET_NS;
        }),
    ];
    let (batch, answers) = (GET.repeat(2), OK.repeat(2));
    for (name, before) in table {
        let mut talk = Talk::new(false);
        before(&mut talk);
        talk.call(Q, &batch).call(R, &answers);
        assert_eq!(talk.story(), [""; 0], "{name}");
        let lost = passed(&talk);
        assert_eq!(talk.http.counters().unsynchronised_bytes, lost, "{name}");
        talk.now += QUIET_NS;
        talk.call(Q, &batch).call(R, &answers);
        assert_eq!(talk.out.len(), 8, "{name}");
        assert_eq!(talk.http.counters().unsynchronised_bytes, lost, "{name}");
    }
}

#[test]
fn a_connection_that_is_never_silent_is_never_believed() {
    let mut talk = silent();
    talk.now -= QUIET_NS / 2;
    for _ in 0..20 {
        talk.call(Q, GET.repeat(2)).call(R, OK.repeat(2));
        talk.now += QUIET_NS / 2;
    }
    assert_eq!(talk.story(), [""; 0]);
    assert_eq!(talk.http.counters().unsynchronised_bytes, passed(&talk));
}

#[test]
fn what_stands_behind_a_batch_makes_it_unsure() {
    let batch = GET.repeat(2);
    type After<'a> = &'a dyn Fn(&mut Talk);
    let table: &[(&str, After<'_>)] = &[
        ("a gap", &|talk| _ = talk.gap(Q, 1)),
        ("no request", &|talk| _ = talk.call(Q, "\0\n")),
        ("a gap on the other half", &|talk| _ = talk.gap(R, 1)),
        ("the rest of a response", &|talk| _ = talk.call(R, "rest")),
        ("a response in the middle of a call", &|talk| {
            talk.piece(R, false, Data::Bytes(OK.as_bytes()));
        }),
        ("bytes behind a request that may switch protocols", &|talk| {
            talk.call(Q, format!("GET /ws HTTP/1.1\r\nUpgrade: x\r\n\r\n{GET}"));
        }),
    ];
    for (name, after) in table {
        let mut talk = silent();
        talk.call(Q, &batch);
        after(&mut talk);
        // More than one request is on the way: the responses are not those of the next one.
        talk.call(Q, GET).call(R, OK).call(Q, GET).call(R, OK);
        assert_eq!(talk.story(), [""; 0], "{name}");
        assert_eq!(talk.http.counters().unsynchronised_bytes, passed(&talk), "{name}");
    }
}

#[test]
fn as_many_requests_are_held_as_may_be_pending() {
    let short = "GET / HTTP/1.1\r\n\r\n";
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(20 << 10));
    let table = [
        (short.repeat(MAX_PENDING), MAX_PENDING),
        (short.repeat(MAX_PENDING + 1), 0),
        // The heads of 64 KiB and one more.
        (long.repeat(4), 4),
        (long.repeat(5), 0),
    ];
    for (batch, held) in table {
        let mut talk = silent();
        talk.call(Q, &batch).call(R, &OK[..9]);
        let begun = talk.http.search.stamps().count();
        talk.call(R, &OK[9..]);
        assert_eq!(talk.out.len(), if held == 0 { 0 } else { 2 * held + 2 });
        assert_eq!(talk.http.pending(), held.saturating_sub(1));
        assert_eq!(begun, 3 * held);
        let lost = if held == 0 { passed(&talk) } else { "rest".len() as u64 };
        assert_eq!(talk.http.counters().unsynchronised_bytes, lost);
    }
}

#[test]
fn the_calls_of_all_held_requests_are_kept() {
    let mut talk = silent();
    let begin = talk.now;
    talk.call(Q, GET)
        .call(Q, "GET /2 HTTP/1.1\r\n")
        .call(Q, format!("\r\n{POST}"));
    talk.call(Q, "cd").call(Q, "GET /4").call(R, "HTTP");
    let mut kept: Vec<_> = talk.http.stamps().collect();
    kept.sort_by_key(|stamp| stamp.time_ns);
    kept.dedup();
    assert_eq!(kept, [1, 2, 3, 4, 5, 6].map(|call| stamp(begin + call)));
    talk.call(R, &OK[4..]);
    assert_eq!(
        without_offsets(&talk)[..6],
        ["0 GET /", "0 sent 0", "1 GET /2", "1 sent 0", "2 POST /p", "2 sent 4"]
    );
}

#[test]
fn bytes_before_the_request_that_is_found_are_counted_alone() {
    let mut talk = Talk::new(false);
    talk.call(Q, "cd").call(Q, GET).call(R, OK);
    assert!(talk.http.is_synchronised());
    assert_eq!(talk.http.counters().unsynchronised_bytes, 2);
}
