//! The agent's own metrics, in OpenMetrics text (which Prometheus reads), all named `spoor_*`.
//!
//! Frequent events are counters here, each one relaxed atomic addition. Counters that other rooms keep (the kernel's
//! maps, Core) are asked for at each scrape: see [`Metrics::collect`].

use std::{
    borrow::Cow,
    fmt,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::Registry,
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Gauge that is never negative.
pub type Level = Gauge<u64, AtomicU64>;

/// Metrics of the agent. Shared by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    /// Counts of the spans that Core handed over.
    pub export: ExportMetrics,
    registry: Mutex<Registry>,
}

/// Counts of the spans that Core handed over. Each span ends in exactly one of `exported`, `dropped.*` and `failed.*`.
#[derive(Debug, Default)]
pub struct ExportMetrics {
    /// Spans that a collector took, or that were written to the file or the terminal.
    pub exported: Counter,
    /// Spans that were lost before they were offered to anybody.
    pub dropped: Dropped,
    /// Spans that were refused.
    pub failed: Failed,
    /// Spans in the queue.
    pub queue_spans: Level,
    /// Bytes in the queue.
    pub queue_bytes: Level,
    /// Requests that a collector took.
    pub batches: Counter,
    /// Requests that failed and are sent again.
    pub retries: Counter,
}

impl ExportMetrics {
    /// Returns how many spans were lost, whatever the cause.
    pub fn lost(&self) -> u64 {
        let Dropped {
            queue_spans,
            queue_bytes,
            too_large,
            shutdown,
            console_full,
        } = &self.dropped;
        let Failed {
            refused,
            request_too_large,
            malformed_answer,
            partial_success,
            write,
        } = &self.failed;
        let causes = [
            queue_spans,
            queue_bytes,
            too_large,
            shutdown,
            console_full,
            refused,
            request_too_large,
            malformed_answer,
            partial_success,
            write,
        ];
        causes.into_iter().map(Counter::get).sum()
    }
}

/// `spoor_spans_dropped_total`, by cause.
#[derive(Debug, Default)]
pub struct Dropped {
    /// The queue was full by number of spans: the oldest were dropped.
    pub queue_spans: Counter,
    /// The queue was full by bytes: the oldest spans were dropped.
    pub queue_bytes: Counter,
    /// The span alone is larger than a request may be.
    pub too_large: Counter,
    /// The span was not sent within the time that a shutdown may take.
    pub shutdown: Counter,
    /// The console was full: it keeps a bounded number of spans.
    pub console_full: Counter,
}

/// `spoor_spans_failed_total`, by cause.
#[derive(Debug, Default)]
pub struct Failed {
    /// The collector refused the request for good.
    pub refused: Counter,
    /// The collector refused the request for its size, and each half of it too.
    pub request_too_large: Counter,
    /// The collector's answer was too long to be read: whether it took the request is not known.
    pub malformed_answer: Counter,
    /// The collector took the request, but not these spans (OTLP's partial success).
    pub partial_success: Counter,
    /// The file or the terminal could not be written.
    pub write: Counter,
}

/// Type of a metric of [`Metrics::collect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; `_total` is appended to its name.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Metric with its value for each set of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// The name, without `spoor_` and `_total`.
    pub name: Cow<'static, str>,
    /// Help text, without a full stop.
    pub help: Cow<'static, str>,
    /// Counter or gauge.
    pub kind: Kind,
    /// Values.
    pub samples: Vec<Sample>,
}

/// Value of a metric for one set of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Names and values of the labels.
    pub labels: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The value.
    pub value: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("spoor");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        let export = ExportMetrics::default();
        export.register(&mut registry);
        Self {
            export,
            registry: Mutex::new(registry),
        }
    }
}

impl Metrics {
    /// Adds metrics that `collect` returns at each scrape. No two metrics may have the same name.
    pub fn collect(&self, collect: impl Fn() -> Vec<Collected> + Send + Sync + 'static) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(Asked(Box::new(collect))));
    }

    /// Renders all metrics with their present values, as [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &registry) {
            tracing::error!(%error, "metrics could not be written as text");
        }
        text
    }
}

impl ExportMetrics {
    fn register(&self, registry: &mut Registry) {
        let Self {
            exported,
            dropped,
            failed,
            queue_spans,
            queue_bytes,
            batches,
            retries,
        } = self;
        registry.register(
            "spans_exported",
            "Spans that a collector took or that were written",
            exported.clone(),
        );
        dropped.register(registry);
        failed.register(registry);
        registry.register("export_queue_spans", "Spans that wait for export", queue_spans.clone());
        registry.register(
            "export_queue_bytes",
            "Bytes of the spans that wait for export",
            queue_bytes.clone(),
        );
        registry.register("export_batches", "Requests that a collector took", batches.clone());
        registry.register(
            "export_retries",
            "Requests that were not taken and are sent again",
            retries.clone(),
        );
    }
}

impl Dropped {
    fn register(&self, registry: &mut Registry) {
        let Self {
            queue_spans,
            queue_bytes,
            too_large,
            shutdown,
            console_full,
        } = self;
        by_cause(
            registry,
            "spans_dropped",
            "Spans lost before anybody was asked to take them",
            &[
                ("queue_spans", queue_spans),
                ("queue_bytes", queue_bytes),
                ("too_large", too_large),
                ("shutdown", shutdown),
                ("console_full", console_full),
            ],
        );
    }
}

impl Failed {
    fn register(&self, registry: &mut Registry) {
        let Self {
            refused,
            request_too_large,
            malformed_answer,
            partial_success,
            write,
        } = self;
        by_cause(
            registry,
            "spans_failed",
            "Spans that the collector, the file or the terminal refused",
            &[
                ("refused", refused),
                ("request_too_large", request_too_large),
                ("malformed_answer", malformed_answer),
                ("partial_success", partial_success),
                ("write", write),
            ],
        );
    }
}

fn by_cause(registry: &mut Registry, name: &'static str, help: &'static str, counters: &[(&'static str, &Counter)]) {
    let counters: Vec<(&'static str, Counter)> = counters
        .iter()
        .map(|&(cause, counter)| (cause, counter.clone()))
        .collect();
    let collect = move || {
        vec![Collected {
            name: name.into(),
            help: help.into(),
            kind: Kind::Counter,
            samples: counters
                .iter()
                .map(|(cause, counter)| Sample {
                    labels: vec![("cause".into(), (*cause).into())],
                    value: counter.get(),
                })
                .collect(),
        }]
    };
    registry.register_collector(Box::new(Asked(Box::new(collect))));
}

/// Collector that asks for its metrics at each scrape.
struct Asked(Box<dyn Fn() -> Vec<Collected> + Send + Sync>);

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Collected {
            name,
            help,
            kind,
            samples,
        } in (self.0)()
        {
            let metric_type = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let help = format!("{help}.");
            let mut metric = encoder.encode_descriptor(&name, &help, None, metric_type)?;
            if let [Sample { labels, value }] = samples.as_slice()
                && labels.is_empty()
            {
                encode_value(kind, *value, metric)?;
                continue;
            }
            for Sample { labels, value } in samples {
                let labels: Vec<_> = labels.into_iter().map(|(name, value)| (name, escaped(value))).collect();
                encode_value(kind, value, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_value(kind: Kind, value: u64, sample: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(sample),
        Kind::Gauge => ConstGauge::new(value).encode(sample),
    }
}

/// Escapes a label's value for its place between quotes; the library leaves that to its users.
fn escaped(value: Cow<'static, str>) -> Cow<'static, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value;
    }
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_own_and_collected_metrics() {
        let metrics = Metrics::default();
        metrics.export.exported.inc_by(7);
        metrics.export.dropped.too_large.inc();
        metrics.export.queue_spans.set(3);
        metrics.collect(|| {
            let sample = |cause: &'static str, value| Sample {
                labels: vec![("cause".into(), cause.into())],
                value,
            };
            vec![
                Collected {
                    name: "kernel_lost".into(),
                    help: "Records lost in the kernel".into(),
                    kind: Kind::Counter,
                    samples: vec![sample("ring_full", 1), sample("a \"quote\"\n", 2)],
                },
                Collected {
                    name: "connections".into(),
                    help: "Connections now".into(),
                    kind: Kind::Gauge,
                    samples: vec![Sample {
                        labels: vec![],
                        value: 5,
                    }],
                },
            ]
        });
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r##"# HELP spoor_build The program.
# TYPE spoor_build info
spoor_build_info{{version="{version}"}} 1
# HELP spoor_spans_exported Spans that a collector took or that were written.
# TYPE spoor_spans_exported counter
spoor_spans_exported_total 7
# HELP spoor_export_queue_spans Spans that wait for export.
# TYPE spoor_export_queue_spans gauge
spoor_export_queue_spans 3
# HELP spoor_export_queue_bytes Bytes of the spans that wait for export.
# TYPE spoor_export_queue_bytes gauge
spoor_export_queue_bytes 0
# HELP spoor_export_batches Requests that a collector took.
# TYPE spoor_export_batches counter
spoor_export_batches_total 0
# HELP spoor_export_retries Requests that were not taken and are sent again.
# TYPE spoor_export_retries counter
spoor_export_retries_total 0
# HELP spoor_spans_dropped Spans lost before anybody was asked to take them.
# TYPE spoor_spans_dropped counter
spoor_spans_dropped_total{{cause="queue_spans"}} 0
spoor_spans_dropped_total{{cause="queue_bytes"}} 0
spoor_spans_dropped_total{{cause="too_large"}} 1
spoor_spans_dropped_total{{cause="shutdown"}} 0
spoor_spans_dropped_total{{cause="console_full"}} 0
# HELP spoor_spans_failed Spans that the collector, the file or the terminal refused.
# TYPE spoor_spans_failed counter
spoor_spans_failed_total{{cause="refused"}} 0
spoor_spans_failed_total{{cause="request_too_large"}} 0
spoor_spans_failed_total{{cause="malformed_answer"}} 0
spoor_spans_failed_total{{cause="partial_success"}} 0
spoor_spans_failed_total{{cause="write"}} 0
# HELP spoor_kernel_lost Records lost in the kernel.
# TYPE spoor_kernel_lost counter
spoor_kernel_lost_total{{cause="ring_full"}} 1
spoor_kernel_lost_total{{cause="a \"quote\"\n"}} 2
# HELP spoor_connections Connections now.
# TYPE spoor_connections gauge
spoor_connections 5
# EOF
"##
        );
        assert_eq!(metrics.render(), expected);
    }
}
