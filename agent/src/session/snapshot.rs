//! Snapshot of the session's counters, for `/metrics`, the health endpoint and the status line.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use super::heartbeat::Heartbeat;
use crate::{
    control::Desk,
    metrics::{Collected, Kind, Metrics, Sample},
    process::reader::{CAUSES, Readers},
    serve::Health,
};

/// Part of the session that other threads see.
#[derive(Debug, Default)]
pub struct Published {
    snapshot: Mutex<Snapshot>,
    /// Requests for the list of workloads.
    pub desk: Arc<Desk>,
    /// Heartbeat of the reader.
    pub heartbeat: Heartbeat,
    /// The processes that read files of other processes.
    readers: OnceLock<Arc<Readers>>,
}

/// Counters of the session at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Losses of the kernel side, by cause.
    pub kernel: Vec<(&'static str, u64)>,
    /// Events of the kernel side that are no losses by themselves.
    pub kernel_events: Vec<(&'static str, u64)>,
    /// Core's counters.
    pub core: Vec<(&'static str, u64)>,
    /// Records taken from the ring, and their bytes.
    pub records: (u64, u64),
    /// Connections and exchanges under way.
    pub under_way: (usize, usize),
    /// Facts of processes that could not be learned, by cause.
    pub facts: Vec<(&'static str, u64)>,
    /// Features whose programs are not attached.
    pub lost: Vec<String>,
    /// Family of hooks that the programs are attached to; `None`: the session has not begun.
    pub hooks: Option<&'static str>,
    /// Processes that are traced.
    pub targets: usize,
}

impl Published {
    /// Publishes a snapshot.
    pub fn set(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// Returns the latest snapshot.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds the counters of the readers to the published ones.
    pub fn watch(&self, readers: Arc<Readers>) {
        // There is one session, and it has one set of readers.
        let _ = self.readers.set(readers);
    }

    /// Returns the reasons why the agent is not healthy.
    pub fn health(&self) -> Health {
        let readers = self.readers.get();
        Health {
            problems: self.heartbeat.problems(Instant::now()),
            limits: readers.map(|readers| readers.problems()).unwrap_or_default(),
        }
    }

    /// Returns the metrics of the session.
    fn collect(&self) -> Vec<Collected> {
        let Snapshot {
            kernel,
            kernel_events,
            core,
            records: (records, bytes),
            under_way: (connections, exchanges),
            facts,
            lost,
            hooks,
            targets: _,
        } = self.snapshot();
        let readers = self.readers.get();
        let unread = readers.map_or(CAUSES.map(|cause| (cause, 0)), |readers| readers.counters());
        let (unreadable, abandoned) = readers.map(|readers| readers.levels()).unwrap_or_default();
        vec![
            counters(
                "facts_lost",
                "What could not be learned of processes",
                facts.into_iter().chain(unread),
            ),
            gauge(
                "processes_unreadable",
                "Processes of which not all could be read",
                unreadable,
            ),
            gauge(
                "readers_abandoned",
                "Processes of the agent that are in a read that does not end",
                abandoned,
            ),
            counters("kernel_lost", "What the kernel side lost or gave up", kernel),
            counters("kernel_events", "What else the kernel side counts", kernel_events),
            counters("core", "What Core did, lost or gave up", core),
            counter("ring_records", "Records taken from the ring buffer", records),
            counter("ring_bytes", "Bytes of the records taken from the ring buffer", bytes),
            gauge("connections", "Connections that are followed", connections),
            gauge("exchanges", "Exchanges that have not left", exchanges),
            gauge("programs_missing", "Programs that are not attached", lost.len()),
            family(
                "hooks",
                "Family of hooks that the programs are attached to",
                Kind::Gauge,
                hooks.into_iter().map(in_use).collect(),
            ),
        ]
    }
}

/// Adds the session's metrics to the agent's.
pub fn register(published: &Arc<Published>, metrics: &Metrics) {
    let published = Arc::clone(published);
    metrics.collect(move || published.collect());
}

fn family(name: &'static str, help: &'static str, kind: Kind, samples: Vec<Sample>) -> Collected {
    Collected {
        name: Cow::Borrowed(name),
        help: Cow::Borrowed(help),
        kind,
        samples,
    }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Collected {
    let labels = Vec::new();
    family(name, help, Kind::Counter, vec![Sample { labels, value }])
}

fn gauge(name: &'static str, help: &'static str, value: usize) -> Collected {
    let labels = Vec::new();
    let value = value as u64;
    family(name, help, Kind::Gauge, vec![Sample { labels, value }])
}

/// Returns the sample that names the family of hooks in use.
fn in_use(hooks: &'static str) -> Sample {
    Sample {
        labels: vec![(Cow::Borrowed("family"), Cow::Borrowed(hooks))],
        value: 1,
    }
}

/// Returns a counter for each cause.
fn counters(
    name: &'static str,
    help: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) -> Collected {
    let samples = values.into_iter().map(|(cause, value)| Sample {
        labels: vec![(Cow::Borrowed("cause"), Cow::Borrowed(cause))],
        value,
    });
    family(name, help, Kind::Counter, samples.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::targets::inspector;

    #[test]
    fn docs_explain_each_metric_of_the_session() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/loss.md");
        let page = std::fs::read_to_string(path).unwrap();
        let metrics = Metrics::default();
        let own = metrics.render();
        register(&Arc::default(), &metrics);
        let text = metrics.render();
        let names = text.lines().filter(|line| !own.contains(line));
        let names: BTreeSet<&str> = names
            .filter(|line| line.starts_with("# TYPE "))
            .filter_map(|line| line.split(' ').nth(2))
            .collect();
        assert!(names.len() > 8, "{names:?}");
        for name in names {
            let told = [format!("`{name}`"), format!("`{name}_total`")];
            assert!(told.iter().any(|name| page.contains(name.as_str())), "{name}");
        }
        let (_, section) = page.split_once("\n## Processes\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let explained: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let counted: BTreeSet<&str> = CAUSES.into_iter().chain(inspector::CAUSES).collect();
        assert_eq!(explained, counted);
    }
}
