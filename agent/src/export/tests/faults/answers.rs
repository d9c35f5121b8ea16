//! Answers: what is sent again, what is counted as refused, and what is not read.

use super::*;

#[test]
fn busy_and_throttled_collectors_get_everything_once() {
    for protocol in PROTOCOLS {
        let wait = if protocol == Protocol::Grpc { 2 } else { 1 };
        let script = [Step::Busy(None), Step::Busy(Some(wait)), Step::Throttled(wait)];
        let begun = Instant::now();
        let (seen, counts) = run(protocol, &script, 10_000);
        // Not before the collector wants it: the least that can be said of time.
        let asked = if protocol == Protocol::Grpc { 400 } else { 2000 };
        assert!(begun.elapsed() >= Duration::from_millis(asked), "{protocol:?}");
        let mut expected: Vec<Came> = script.map(|step| came(1..=10, step)).to_vec();
        expected.push(came(1..=10, Step::Take));
        assert_eq!(seen, expected, "{protocol:?}");
        let counts_expected = Counts {
            exported: 10,
            retries: 3,
            ..Counts::default()
        };
        assert_eq!(counts, counts_expected, "{protocol:?}");
    }
}

#[test]
fn what_is_refused_is_counted_and_not_sent_again() {
    for protocol in PROTOCOLS {
        let (seen, counts) = run(protocol, &[Step::Refuse], 10_000);
        assert_eq!(seen, [came(1..=10, Step::Refuse)], "{protocol:?}");
        let expected = Counts {
            refused: 10,
            ..Counts::default()
        };
        assert_eq!(counts, expected, "{protocol:?}");
    }
}

#[test]
fn what_is_too_large_is_sent_in_halves_once() {
    for (protocol, compression) in ways() {
        let script = [Step::TooLarge, Step::Take, Step::TooLarge];
        let (seen, counts, _) = run_with(protocol, compression, &script, 10_000);
        let expected = [
            came(1..=10, Step::TooLarge),
            came(1..=5, Step::Take),
            came(6..=10, Step::TooLarge),
        ];
        assert_eq!(seen, expected, "{protocol:?} {compression:?}");
        let expected = Counts {
            exported: 5,
            too_large: 5,
            ..Counts::default()
        };
        assert_eq!(counts, expected, "{protocol:?} {compression:?}");
    }
}

#[test]
fn a_date_in_retry_after_is_honoured() {
    for (protocol, compression) in ways() {
        let begun = Instant::now();
        let (seen, counts, _) = run_with(protocol, compression, &[Step::BusyUntil(1)], 10_000);
        let asked = if protocol == Protocol::Grpc { 100 } else { 1000 };
        assert!(
            begun.elapsed() >= Duration::from_millis(asked),
            "{protocol:?} {compression:?}"
        );
        let expected = [came(1..=10, Step::BusyUntil(1)), came(1..=10, Step::Take)];
        assert_eq!(seen, expected, "{protocol:?} {compression:?}");
        assert_eq!(
            (counts.exported, counts.retries),
            (10, 1),
            "{protocol:?} {compression:?}"
        );
    }
}

#[test]
fn what_was_taken_in_part_is_not_sent_again() {
    for (protocol, compression) in ways() {
        // More than there were, and none at all: a warning.
        for (rejected, partial) in [(3, 3), (99, 10), (0, 0), (-1, 0)] {
            let (seen, counts, _) = run_with(protocol, compression, &[Step::TakePart(rejected)], 10_000);
            assert_eq!(
                seen,
                [came(1..=10, Step::TakePart(rejected))],
                "{protocol:?} {compression:?}"
            );
            let expected = Counts {
                exported: 10 - partial,
                partial,
                ..Counts::default()
            };
            assert_eq!(counts, expected, "{protocol:?} {compression:?}");
        }
    }
}

#[test]
fn which_statuses_are_sent_again() {
    let http = [
        (400, false),
        (401, false),
        (403, false),
        (404, false),
        (408, false),
        (418, false),
        (429, true),
        (500, false),
        (501, false),
        (502, true),
        (503, true),
        (504, true),
        (505, false),
    ];
    let grpc = [
        (1, true),
        (2, false),
        (3, false),
        (4, true),
        (5, false),
        (6, false),
        (7, false),
        (9, false),
        (10, true),
        (11, true),
        (12, false),
        (13, false),
        (14, true),
        (15, true),
        (16, false),
        (17, false),
    ];
    for (protocol, statuses) in [
        (Protocol::Grpc, &grpc[..]),
        (Protocol::HttpProtobuf, &http),
        (Protocol::HttpJson, &http),
    ] {
        for &(status, is_retried) in statuses {
            let (seen, counts) = run(protocol, &[Step::Status(status)], 10_000);
            let (sent, refused) = if is_retried { (2, 0) } else { (1, 10) };
            assert_eq!(seen.len(), sent, "{protocol:?} {status}");
            assert_eq!(
                (counts.refused, counts.exported),
                (refused, 10 - refused),
                "{protocol:?} {status}"
            );
        }
    }
}

/// 4 MiB of an answer are read, no more; its spans are counted, and the connection is not used again.
#[test]
fn an_answer_that_is_too_long_is_not_read() {
    const TOO_LONG: usize = 100 << 20;
    for (protocol, compression) in ways() {
        for step in [Step::LongAnswer(TOO_LONG), Step::ToldLongAnswer(5 << 20)] {
            let collector = Collector::start(protocol, compression == Compression::Gzip, None, 0, &[step]);
            let url = format!("http://{}", collector.address);
            let mut agent = Agent::start(protocol, &url, None, compression, 30_000);
            agent.push(10);
            agent.settle();
            agent.push(5);
            agent.settle();
            let expected = [came(1..=10, step), came(11..=15, Step::Take)];
            assert_eq!(collector.came(), expected, "{protocol:?} {compression:?}");
            let counts = Counts {
                exported: 5,
                malformed: 10,
                ..Counts::default()
            };
            assert_eq!(agent.finish(), counts, "{protocol:?} {compression:?} {step:?}");
            // What lies in the buffers of two sockets is far less than the rest.
            let answered = collector.answered();
            assert!(
                answered < TOO_LONG / 2,
                "{protocol:?} {compression:?}: {answered} bytes"
            );
            // Compressed, it was short: the connection is whole.
            let connections = match (protocol, compression, step) {
                (Protocol::Grpc, Compression::Gzip, Step::ToldLongAnswer(_)) => 1,
                _ => 2,
            };
            assert_eq!(
                collector.connections(),
                connections,
                "{protocol:?} {compression:?} {step:?}"
            );
        }
    }
    // The longest that is read is read.
    for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
        let (_, counts) = run(protocol, &[Step::ToldLongAnswer(4 << 20)], 30_000);
        assert_eq!(counts.exported, 10, "{protocol:?}");
    }
}
