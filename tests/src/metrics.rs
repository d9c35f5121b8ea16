//! The agent's own metrics, in the text format of Prometheus.

use std::collections::BTreeMap;

/// Samples by `name{labels}`.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Parses an exposition. Lines without a sample are comments.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            // A label's value may hold blanks; our samples have no timestamp.
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// Returns the value of one series, as `name{label="x"}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// Returns the sum of all series of a metric, if it has one.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.series(name).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Returns a label's value in the first series of a metric that is not 0: the state that a metric names.
    pub fn state(&self, name: &str, label: &str) -> Option<&str> {
        let (series, _) = self.series(name).find(|(_, value)| *value != 0.0)?;
        let (_, value) = series.split_once(&format!("{label}=\""))?;
        Some(value.split_once('"')?.0)
    }

    /// Returns all series of losses that are not 0.
    pub fn losses(&self) -> Vec<(&str, f64)> {
        let is_loss = |series: &str| {
            let words = ["lost", "dropped", "failed", "missed", "gaps", "limit"];
            let name = series.split('{').next().unwrap_or(series);
            words.iter().any(|word| name.split('_').any(|part| part == *word))
        };
        let samples = self.0.iter().map(|(series, &value)| (series.as_str(), value));
        samples
            .filter(|(series, value)| *value != 0.0 && is_loss(series))
            .collect()
    }

    fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(move |(series, &value)| {
            let labels = series.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((series.as_str(), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP spoor_kernel_lost Records lost in the kernel.
# TYPE spoor_kernel_lost counter
spoor_kernel_lost_total{cause=\"ring_full\"} 1
spoor_kernel_lost_total{cause=\"a b\"} 2.5
spoor_kernel_lost_total{cause=\"user_fault\"} 0
spoor_kernel_events_total{cause=\"reader_wakeups\"} 70
spoor_spans_dropped_total{cause=\"queue_spans\"} 4
spoor_spans_exported_total 7
spoor_spans 9
spoor_hooks{family=\"syscall\"} 0
spoor_hooks{family=\"sock\"} 1
# EOF
";

    #[test]
    fn sums_are_over_one_metric() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("spoor_kernel_lost_total"), Some(3.5));
        assert_eq!(metrics.sum("spoor_spans"), Some(9.0));
        assert_eq!(metrics.sum("spoor_span"), None);
    }

    #[test]
    fn a_state_is_the_label_of_the_series_that_holds() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.state("spoor_hooks", "family"), Some("sock"));
        assert_eq!(metrics.state("spoor_hooks", "kind"), None);
        assert_eq!(metrics.state("spoor_spans", "family"), None);
    }

    #[test]
    fn losses_are_those_that_happened() {
        assert_eq!(
            Metrics::parse(TEXT).losses(),
            [
                ("spoor_kernel_lost_total{cause=\"a b\"}", 2.5),
                ("spoor_kernel_lost_total{cause=\"ring_full\"}", 1.0),
                ("spoor_spans_dropped_total{cause=\"queue_spans\"}", 4.0),
            ]
        );
    }
}
