//! What `/metrics` and the health endpoint show of the session.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::pulse::Pulse;

use crate::control::Desk;
use crate::metrics::{Collected, Kind, Metrics, Sample};

/// The session's state, as it was last told.
#[derive(Debug, Default)]
pub struct Shown {
    state: Mutex<State>,
    /// Where those wait who ask for the workloads.
    pub desk: Arc<Desk>,
    /// Whether the reader works.
    pub pulse: Pulse,
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

    /// Why the agent is not healthy.
    pub fn problems(&self) -> Vec<String> {
        self.pulse.problems(Instant::now())
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
            lost,
            talking: _,
        } = shown.state();
        vec![
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
