//! Housekeeping of the session: it compares the clocks, publishes the counters, and acts on them.

use std::time::Instant;

use agent_ebpf::abi::Counter;

use super::{
    Session, Snapshot,
    clock::{monotonic_ns, unix_ns},
};
use crate::tape::Frame;

/// Period of comparing the clocks and publishing the counters, while anything happens.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;

impl Session {
    /// Compares the clocks and publishes the counters.
    pub(super) fn housekeeping(&mut self, now_ns: u64) {
        self.next_housekeeping_ns = now_ns + HOUSEKEEPING_NS;
        let (monotonic_ns, unix_ns) = (monotonic_ns(), unix_ns());
        self.sink.record(&Frame::Clock { monotonic_ns, unix_ns });
        self.core.clock(monotonic_ns, unix_ns);
        self.probe.look_at_skipped();
        let lost = self.publish();
        self.look_again(lost, now_ns);
    }

    /// Publishes the counters, logs the losses that begin and end, and has splice(2) watched once they show it. Returns how
    /// many records found no room in the ring.
    pub(super) fn publish(&mut self) -> u64 {
        let kernel = self.probe.counters();
        let splices = |&(cause, count): &(Counter, u64)| cause == Counter::Splices && count > 0;
        if kernel.iter().any(splices) {
            self.splices.demand(&self.probe);
        }
        self.splices.turn(&mut self.probe);
        self.requests.turn(&mut self.probe);
        let ring_full = kernel.iter().find(|(cause, _)| *cause == Counter::RingFull);
        let lost = ring_full.map_or(0, |&(_, count)| count);
        self.lost_ends.lost(lost, monotonic_ns());
        let now = Instant::now();
        self.published.heartbeat.ring(now, lost, self.records.0);
        let (losses, events): (Vec<_>, Vec<_>) = kernel.into_iter().partition(|(cause, _)| cause.is_loss());
        let named = |counters: Vec<(Counter, u64)>| {
            counters
                .into_iter()
                .map(|(cause, count)| (cause.name(), count))
                .collect()
        };
        let (kernel, kernel_events): (Vec<_>, Vec<_>) = (named(losses), named(events));
        let core = self.core.counters();
        for line in self.losses.look(now, kernel.iter().chain(&core)) {
            tracing::warn!("{line}");
        }
        self.published.set(Snapshot {
            kernel,
            kernel_events,
            core,
            records: self.records,
            under_way: self.core.under_way(),
            targets: self.targets(),
            facts: self.inspector.counters().to_vec(),
            lost: self.probe.lost.iter().map(|lost| lost.feature.to_owned()).collect(),
            hooks: Some(self.probe.family.name()),
        });
        lost
    }

    /// Warns of losses of the kernel side, at the end.
    pub(super) fn warn_of_kernel_losses(&self) {
        let mut counters = self.probe.counters();
        counters.retain(|&(_, count)| count > 0);
        if !counters.iter().any(|(cause, _)| cause.is_loss()) {
            return;
        }
        // What the kernel skipped is no loss by itself, but may be why there is one.
        counters.retain(|&(cause, _)| cause.is_loss() || cause == Counter::Skipped);
        let lost: Vec<String> = counters
            .iter()
            .map(|(cause, count)| format!("{} {count}", cause.name()))
            .collect();
        tracing::warn!("the kernel side lost records or bytes: {}", lost.join(", "));
    }
}
