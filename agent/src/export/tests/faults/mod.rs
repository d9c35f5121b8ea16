//! Collectors that misbehave: what is delivered, what is delivered once more, and what is counted as lost, exactly.

mod answers;
mod connections;
mod trust;

use std::time::Instant;

use super::{
    super::{
        config::{Compression, Encoding, Endpoint},
        tls::TlsFiles,
    },
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

/// Counts of spans by outcome.
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
            [&dropped.queue_spans, &dropped.queue_bytes, &dropped.too_large]
                .map(prometheus_client::metrics::counter::Counter::get),
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
        let exporter = Exporter::start(config, Unread::Log, metrics.clone()).unwrap();
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
