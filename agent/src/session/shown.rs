//! What `/metrics` and the health endpoint show of the session.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use super::pulse::Pulse;

use crate::{
    control::Desk,
    metrics::{Collected, Kind, Metrics, Sample},
    process::reader::{CAUSES, Readers},
    serve::Health,
};

/// The session's state, as it was last told.
#[derive(Debug, Default)]
pub struct Shown {
    state: Mutex<State>,
    /// Where those wait who ask for the workloads.
    pub desk: Arc<Desk>,
    /// Whether the reader works.
    pub pulse: Pulse,
    /// Those that read files of other processes.
    readers: OnceLock<Arc<Readers>>,
}

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Losses of the kernel side, by cause.
    pub kernel: Vec<(&'static str, u64)>,
    /// Core's counters.
    pub core: Vec<(&'static str, u64)>,
    /// Records taken from the ring, and their bytes.
    pub records: (u64, u64),
    /// Connections and exchanges under way.
    pub under_way: (usize, usize),
    /// What could not be learned of processes, by cause.
    pub facts: Vec<(&'static str, u64)>,
    /// Programs that are not attached: what does not work.
    pub lost: Vec<String>,
    /// Processes that have connections.
    pub talking: usize,
}

impl Shown {
    /// Tells the state.
    pub fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The state as it was last told.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of these readers, too.
    pub fn watch(&self, readers: Arc<Readers>) {
        // There is one session, which tells of its readers once.
        let _ = self.readers.set(readers);
    }

    /// Why the agent is not healthy.
    pub fn health(&self) -> Health {
        let readers = self.readers.get();
        Health {
            problems: self.pulse.problems(Instant::now()),
            limits: readers.map(|readers| readers.problems()).unwrap_or_default(),
        }
    }
}

/// Shows the session among the metrics.
pub fn register(shown: &Arc<Shown>, metrics: &Metrics) {
    let shown = Arc::clone(shown);
    metrics.collect(move || {
        let State {
            kernel,
            core,
            records,
            under_way,
            facts,
            lost,
            talking: _,
        } = shown.state();
        let readers = shown.readers.get();
        let unread = readers.map_or(CAUSES.map(|cause| (cause, 0)), |readers| readers.counters());
        let (unreadable, abandoned) = readers.map(|readers| readers.levels()).unwrap_or_default();
        vec![
            family(
                "facts_lost",
                "What could not be learned of processes",
                Kind::Counter,
                labelled("cause", facts.into_iter().chain(unread).collect()),
            ),
            family(
                "processes_unreadable",
                "Processes of which not all could be read",
                Kind::Gauge,
                one(unreadable as u64),
            ),
            family(
                "readers_abandoned",
                "Processes of the agent that are in a read that does not end",
                Kind::Gauge,
                one(abandoned as u64),
            ),
            family(
                "kernel_lost",
                "What the kernel side lost or gave up",
                Kind::Counter,
                labelled("cause", kernel),
            ),
            family(
                "core",
                "What Core did, lost or gave up",
                Kind::Counter,
                labelled("cause", core),
            ),
            family(
                "ring_records",
                "Records taken from the ring buffer",
                Kind::Counter,
                one(records.0),
            ),
            family(
                "ring_bytes",
                "Bytes of the records taken from the ring buffer",
                Kind::Counter,
                one(records.1),
            ),
            family(
                "connections",
                "Connections that are followed",
                Kind::Gauge,
                one(under_way.0 as u64),
            ),
            family(
                "exchanges",
                "Exchanges that have not left",
                Kind::Gauge,
                one(under_way.1 as u64),
            ),
            family(
                "programs_missing",
                "Programs that are not attached",
                Kind::Gauge,
                one(lost.len() as u64),
            ),
        ]
    });
}

fn family(name: &'static str, help: &'static str, kind: Kind, samples: Vec<Sample>) -> Collected {
    Collected {
        name: Cow::Borrowed(name),
        help: Cow::Borrowed(help),
        kind,
        samples,
    }
}

fn one(value: u64) -> Vec<Sample> {
    vec![Sample {
        labels: Vec::new(),
        value,
    }]
}

fn labelled(label: &'static str, values: Vec<(&'static str, u64)>) -> Vec<Sample> {
    values
        .into_iter()
        .map(|(name, value)| Sample {
            labels: vec![(Cow::Borrowed(label), Cow::Borrowed(name))],
            value,
        })
        .collect()
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
