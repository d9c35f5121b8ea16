//! Facts about each process, for people: gathered only when a command or client asks.

use super::{Choice, Core, Process, execution::ProcessId, trace::SpanKind};
use crate::{record::Tgid, runtimes::Runtime};

/// Blind spot: connections that are older than the agent or have lost bytes, and on which no request was found since.
const SEARCHED: &str = "waiting for a request boundary";

/// A process that did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Process id.
    pub tgid: Tgid,
    /// Name of the service, if one could be learned.
    pub service: Option<String>,
    /// Kind of program.
    pub runtime: Option<Runtime>,
    /// Set while it is not decided whether the process is selected.
    pub provisional: bool,
    /// Connections that it used last and that are open.
    pub connections: usize,
    /// Requests that it answered.
    pub requests: u64,
    /// Requests that it sent, and connects that failed.
    pub calls: u64,
    /// Exchanges that gave no span because they could not be followed.
    pub missed: u64,
    /// Blind spots and how often each was met: protocols that are not followed, bytes that no parser understands.
    pub unseen: Vec<(&'static str, u64)>,
}

/// Activity of a process that was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    requests: u64,
    calls: u64,
    missed: u64,
    /// Few: a process speaks few protocols.
    unseen: Vec<(&'static str, u64)>,
}

impl Seen {
    /// Notes an exchange that is over.
    pub(super) fn count(&mut self, kind: SpanKind) {
        match kind {
            SpanKind::Server => self.requests += 1,
            SpanKind::Client => self.calls += 1,
        }
    }
}

impl Core {
    /// Returns the processes that did something and have not ended, by their ids. For people: takes a while where there
    /// are many connections.
    pub fn workloads(&self) -> Vec<Workload> {
        let is_listed = |process: &Process| process.ended_ns.is_none() && process.choice != Choice::Refused;
        let running = self.processes.iter().filter(|(_, process)| is_listed(process));
        let mut workloads: Vec<Workload> = running
            .map(|(id, process)| {
                let (connections, searched) = self.flow.count_of_process(id);
                let mut unseen = process.seen.unseen.clone();
                unseen.extend((searched > 0).then_some((SEARCHED, searched as u64)));
                Workload {
                    tgid: self.executions.tgid(id),
                    service: process.facts.as_ref().map(|facts| facts.resource.service_name.clone()),
                    runtime: process.facts.as_ref().map(|facts| facts.runtime),
                    provisional: process.choice == Choice::Undecided,
                    connections,
                    requests: process.seen.requests,
                    calls: process.seen.calls,
                    missed: process.seen.missed,
                    unseen,
                }
            })
            .collect();
        workloads.sort_unstable_by_key(|workload| workload.tgid);
        workloads
    }

    /// Notes that a process does something that is not visible.
    pub(super) fn unseen_in(&mut self, process: ProcessId, what: &'static str) {
        let unseen = &mut self.processes.get_or_default(process).seen.unseen;
        match unseen.iter_mut().find(|(name, _)| *name == what) {
            Some((_, count)) => *count += 1,
            None => unseen.push((what, 1)),
        }
    }

    /// Counts an exchange of a process that gives no span.
    pub(super) fn missed_in(&mut self, process: ProcessId) {
        self.counters.missed += 1;
        if let Some(process) = self.processes.get_mut(process) {
            process.seen.missed += 1;
        }
    }
}
