//! Connections that are slow, silent, cut, or not there.

use super::{super::certificates::Ca, *};

#[test]
fn a_slow_collector_is_waited_for() {
    for protocol in PROTOCOLS {
        let late = Step::TakeLate(Duration::from_millis(300));
        let (seen, counts) = run(protocol, &[late], 60_000);
        assert_eq!(seen, [came(1..=10, late)], "{protocol:?}");
        assert_eq!((counts.exported, counts.retries), (10, 0), "{protocol:?}");
    }
}

/// OTLP promises delivery at least once: a collector that took a request and could not answer gets it once more.
#[test]
fn what_was_taken_without_a_word_is_delivered_once_more() {
    for protocol in PROTOCOLS {
        let script = [Step::Cut, Step::Silent];
        let (seen, counts) = run(protocol, &script, 500);
        let expected = [
            came(1..=10, Step::Cut),
            came(1..=10, Step::Silent),
            came(1..=10, Step::Take),
        ];
        assert_eq!(seen, expected, "{protocol:?}");
        assert_eq!((counts.exported, counts.retries), (10, 2), "{protocol:?}");
    }
}

#[test]
fn a_reset_in_the_middle_of_a_request_loses_nothing() {
    let ca = Ca::new("a CA");
    for (protocol, secure) in [
        (Protocol::Grpc, false),
        (Protocol::Grpc, true),
        (Protocol::HttpProtobuf, true),
        (Protocol::HttpJson, false),
    ] {
        let tls = secure.then(|| ca.server(&["127.0.0.1"], None));
        // 2,000 spans are more than 100 KB by each protocol.
        let script = [Step::Reset(20_000), Step::Reset(60_000)];
        let collector = Collector::start(protocol, false, tls, 0, &script);
        let scheme = if secure { "https" } else { "http" };
        let files = secure.then(|| TlsFiles {
            trusted: Some(ca.file()),
            client: None,
        });
        let url = format!("{scheme}://{}", collector.address);
        let mut agent = Agent::start(protocol, &url, files, Compression::None, 10_000);
        agent.push(2000);
        agent.settle();
        assert_eq!(collector.came(), [came(1..=2000, Step::Take)], "{protocol:?} {secure}");
        assert_eq!(collector.connections(), 3, "{protocol:?} {secure}");
        let counts = agent.finish();
        assert_eq!((counts.exported, counts.retries), (2000, 2), "{protocol:?} {secure}");
    }
}

#[test]
fn a_collector_that_goes_and_comes_back_gets_everything() {
    for protocol in PROTOCOLS {
        let first = Collector::start(protocol, false, None, 0, &[]);
        let address = first.address;
        let mut agent = Agent::start(protocol, &format!("http://{address}"), None, Compression::None, 10_000);
        agent.push(5);
        agent.settle();
        assert_eq!(first.came(), [came(1..=5, Step::Take)], "{protocol:?}");
        drop(first);
        agent.push(5);
        wait_for("a second try", || agent.counts().retries >= 2);
        agent.push(5);
        let second = Collector::start(protocol, false, None, address.port(), &[]);
        agent.settle();
        let mut spans: Vec<u64> = second.came().into_iter().flat_map(|came| came.spans).collect();
        spans.sort_unstable();
        assert_eq!(spans, (6..=15).collect::<Vec<u64>>(), "{protocol:?}");
        let counts = agent.finish();
        assert_eq!(
            (counts.exported, counts.refused + counts.dropped_at_end),
            (15, 0),
            "{protocol:?}"
        );
    }
}

#[test]
fn a_collector_that_stays_away_costs_what_is_counted() {
    for protocol in PROTOCOLS {
        let gone = Collector::start(protocol, false, None, 0, &[]);
        let url = format!("http://{}", gone.address);
        drop(gone);
        let mut agent = Agent::start(protocol, &url, None, Compression::None, 10_000);
        agent.push(7);
        wait_for("a try", || agent.counts().retries >= 1);
        let counts = agent.finish();
        assert_eq!((counts.exported, counts.dropped_at_end), (0, 7), "{protocol:?}");
    }
}
