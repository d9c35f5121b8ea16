//! Collectors that misbehave: what is delivered, what is delivered once more, and what is counted as lost, exactly.

use std::{fs, path::PathBuf, time::Instant};

use super::{
    super::{
        config::{Compression, Encoding, Endpoint},
        tls::TlsFiles,
    },
    certificates::Ca,
    collector::{Came, Collector, Protocol, Step},
    *,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson];
/// Long beyond what a loaded machine needs; its end is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The exporter, and what it counts.
struct Agent {
    exporter: Exporter,
    metrics: Arc<Metrics>,
    pushed: u64,
}

/// What became of the spans.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    exported: u64,
    refused: u64,
    too_large: u64,
    malformed: u64,
    partial: u64,
    dropped_at_end: u64,
    retries: u64,
}

impl Counts {
    /// Spans that were settled with a collector.
    fn settled(&self) -> u64 {
        self.exported + self.refused + self.too_large + self.malformed + self.partial
    }

    fn of(metrics: &Metrics) -> Self {
        let export = &metrics.export;
        let dropped = &export.dropped;
        assert_eq!(
            [&dropped.queue_spans, &dropped.queue_bytes, &dropped.too_large].map(|counter| counter.get()),
            [0; 3]
        );
        Self {
            exported: export.exported.get(),
            refused: export.failed.refused.get(),
            too_large: export.failed.request_too_large.get(),
            malformed: export.failed.malformed_answer.get(),
            partial: export.failed.partial_success.get(),
            dropped_at_end: dropped.shutdown.get(),
            retries: export.retries.get(),
        }
    }
}

impl Agent {
    fn start(protocol: Protocol, url: &str, tls: Option<TlsFiles>, compression: Compression, timeout_ms: u64) -> Self {
        let path = if protocol == Protocol::Grpc { "/" } else { "/v1/traces" };
        let endpoint = Endpoint {
            url: format!("{url}{path}").parse().unwrap(),
            headers: Default::default(),
            tls,
            compression,
        };
        let target = match protocol {
            Protocol::Grpc => Target::Grpc(Box::new(endpoint)),
            Protocol::HttpProtobuf => Target::Http(Box::new(endpoint), Encoding::Protobuf),
            Protocol::HttpJson => Target::Http(Box::new(endpoint), Encoding::Json),
        };
        let config = ExportConfig {
            schedule_delay: Duration::from_millis(1),
            timeout: Duration::from_millis(timeout_ms),
            ..ExportConfig::new(target)
        };
        let metrics = Arc::new(Metrics::default());
        let exporter = Exporter::start(config, metrics.clone()).unwrap();
        Self {
            exporter,
            metrics,
            pushed: 0,
        }
    }

    /// Hands over as many spans, at once.
    fn push(&mut self, count: u64) {
        let ids = self.pushed + 1..=self.pushed + count;
        self.pushed += count;
        self.exporter.push(&ids.map(span).collect::<Vec<_>>());
    }

    /// Waits until what was handed over is exported or counted as refused.
    fn settle(&self) {
        wait_for("the spans to be settled", || self.counts().settled() == self.pushed);
    }

    fn counts(&self) -> Counts {
        Counts::of(&self.metrics)
    }

    /// Ends it, and gives what was counted, which is everything.
    fn finish(self) -> Counts {
        self.exporter.shutdown(Duration::from_millis(100));
        let counts = Counts::of(&self.metrics);
        assert_eq!(
            counts.settled() + counts.dropped_at_end,
            self.pushed,
            "each span is in one of the counters"
        );
        counts
    }
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn came(spans: std::ops::RangeInclusive<u64>, step: Step) -> Came {
    Came {
        spans: spans.collect(),
        step,
    }
}

/// Pushes the spans 1 to 10 against the script; what came, and what was counted.
fn run(protocol: Protocol, script: &[Step], timeout_ms: u64) -> (Vec<Came>, Counts) {
    let (seen, counts, _) = run_with(protocol, Compression::None, script, timeout_ms);
    (seen, counts)
}

fn run_with(
    protocol: Protocol,
    compression: Compression,
    script: &[Step],
    timeout_ms: u64,
) -> (Vec<Came>, Counts, Collector) {
    let collector = Collector::start(protocol, compression == Compression::Gzip, None, 0, script);
    let url = format!("http://{}", collector.address);
    let mut agent = Agent::start(protocol, &url, None, compression, timeout_ms);
    agent.push(10);
    agent.settle();
    (collector.came(), agent.finish(), collector)
}

/// By each protocol, compressed and not.
fn ways() -> impl Iterator<Item = (Protocol, Compression)> {
    PROTOCOLS
        .into_iter()
        .flat_map(|protocol| [Compression::None, Compression::Gzip].map(|compression| (protocol, compression)))
}

#[test]
fn by_each_protocol_with_tls_and_gzip() {
    let (servers, clients) = (Ca::new("servers"), Ca::new("clients"));
    for protocol in PROTOCOLS {
        for mutual in [false, true] {
            let tls = servers.server(&["localhost", "127.0.0.1"], mutual.then_some(&clients));
            let script = [Step::Take, Step::TakePart(3)];
            let collector = Collector::start(protocol, true, Some(tls), 0, &script);
            let files = TlsFiles {
                trusted: Some(servers.file()),
                client: mutual.then(|| clients.client_files()),
            };
            // By its name, of which only the second address (or the first) is its own.
            let url = format!("https://localhost:{}", collector.address.port());
            let mut agent = Agent::start(protocol, &url, Some(files), Compression::Gzip, 10_000);
            for _ in 0..3 {
                agent.push(1000);
                agent.settle();
            }
            let expected = [
                came(1..=1000, Step::Take),
                came(1001..=2000, Step::TakePart(3)),
                came(2001..=3000, Step::Take),
            ];
            assert_eq!(collector.came(), expected, "{protocol:?}");
            assert_eq!(collector.connections(), 1, "{protocol:?}");
            let counts = Counts {
                exported: 2997,
                partial: 3,
                ..Counts::default()
            };
            assert_eq!(agent.finish(), counts, "{protocol:?}");
        }
    }
}

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

#[test]
fn a_slow_collector_is_waited_for() {
    for protocol in PROTOCOLS {
        let late = Step::TakeLate(Duration::from_millis(300));
        let (seen, counts) = run(protocol, &[late], 60_000);
        assert_eq!(seen, [came(1..=10, late)], "{protocol:?}");
        assert_eq!((counts.exported, counts.retries), (10, 0), "{protocol:?}");
    }
}

/// Who took a request and could not say so gets it once more: at least once is what OTLP promises.
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

#[test]
fn who_is_not_trusted_gets_nothing() {
    let (right, wrong) = (Ca::new("right"), Ca::new("wrong"));
    let trust = |ca: &Ca| TlsFiles {
        trusted: Some(ca.file()),
        client: None,
    };
    let outcome = |protocol, tls, files, scheme: &str| {
        let collector = Collector::start(protocol, false, tls, 0, &[]);
        let endpoint = Endpoint {
            url: format!("{scheme}://{}/", collector.address).parse().unwrap(),
            headers: Default::default(),
            tls: Some(files),
            compression: Compression::None,
        };
        let target = match protocol {
            Protocol::Grpc => Target::Grpc(Box::new(endpoint)),
            _ => Target::Http(Box::new(endpoint), Encoding::Protobuf),
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let (mut transport, _) = AnyTransport::new(target).unwrap();
            transport.send(Bytes::new()).await
        });
        assert_eq!(collector.came(), []);
        match outcome {
            Outcome::Again { after: None, reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let server = |ca: &Ca, name, clients| Some(ca.server(&[name], clients));
        for (tls, files, says) in [
            (
                server(&right, "127.0.0.1", None),
                trust(&wrong),
                "(is its CA's certificate the one in OTEL_EXPORTER_OTLP_CERTIFICATE",
            ),
            (
                server(&right, "other.example", None),
                trust(&right),
                "(is the endpoint's host one that the collector's certificate names?)",
            ),
            (
                server(&right, "127.0.0.1", Some(&right)),
                trust(&right),
                "no answer (does the collector want OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY?)",
            ),
            (None, trust(&right), "(does the collector speak TLS on this port?"),
        ] {
            let reason = outcome(protocol, tls, files, "https");
            assert!(reason.contains(says), "{protocol:?}: {reason}");
        }
    }
}

#[test]
fn certificates_that_are_replaced_are_used_from_the_next_connection_on() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let first = Collector::start(Protocol::Grpc, false, Some(old.server(&["127.0.0.1"], None)), 0, &[]);
    let address = first.address;
    let files = TlsFiles {
        trusted: Some(old.file()),
        client: None,
    };
    let mut agent = Agent::start(
        Protocol::Grpc,
        &format!("https://{address}"),
        Some(files),
        Compression::None,
        10_000,
    );
    agent.push(5);
    agent.settle();
    drop(first);
    let second = Collector::start(
        Protocol::Grpc,
        false,
        Some(new.server(&["127.0.0.1"], None)),
        address.port(),
        &[],
    );
    agent.push(5);
    wait_for("it to see that it does not trust", || agent.counts().retries >= 1);
    assert_eq!(second.came(), []);
    fs::copy(new.file(), old.file()).unwrap();
    agent.settle();
    assert_eq!(second.came(), [came(6..=10, Step::Take)]);
    assert_eq!(agent.finish().exported, 10);
}

#[test]
fn files_that_cannot_be_used_are_said_at_the_start() {
    let ca = Ca::new("a CA");
    let (certificate, key) = ca.client_files();
    let another = Ca::new("another");
    let (_, other_key) = another.client_files();
    let empty = ca.file().with_file_name("empty.pem");
    fs::write(&empty, "").unwrap();
    let start = |trusted: &PathBuf, client: Option<(&PathBuf, &PathBuf)>| {
        let endpoint = Endpoint {
            url: "https://127.0.0.1:1/".parse().unwrap(),
            headers: Default::default(),
            tls: Some(TlsFiles {
                trusted: Some(trusted.clone()),
                client: client.map(|(certificate, key)| (certificate.clone(), key.clone())),
            }),
            compression: Compression::None,
        };
        let config = ExportConfig::new(Target::Grpc(Box::new(endpoint)));
        Exporter::start(config, Arc::default()).unwrap_err().to_string()
    };
    let good = ca.file();
    for (error, says) in [
        (
            start(&"/nowhere/ca.pem".into(), None),
            "cannot read trusted certificates in /nowhere/ca.pem",
        ),
        (
            start(&empty, None),
            "name a PEM file that is there in OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
        (start(&key, None), "cannot read trusted certificates in"),
        (
            start(&good, Some((&certificate, &certificate))),
            "cannot read the client key in",
        ),
        (
            start(&good, Some((&key, &key))),
            "cannot read the client certificate in",
        ),
        (
            start(&good, Some((&certificate, &other_key))),
            "are OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and",
        ),
    ] {
        assert!(error.contains(says), "{error}");
    }
}
