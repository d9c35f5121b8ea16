//! The registry as a list, for `ps`.

use std::collections::HashMap;

use super::{Entry, Registry, State};
use crate::{
    control::{Unseen, Workload},
    engine,
    record::Tgid,
    runtimes::Runtime,
};

impl Registry {
    /// Lists the processes that are targets, or may become some, by their ids, with what Core knows of them.
    pub fn workloads(&self, known: Vec<engine::Workload>) -> Vec<Workload> {
        let mut known: HashMap<Tgid, engine::Workload> = known.into_iter().map(|known| (known.tgid, known)).collect();
        let alive = self.entries.iter().filter(|(_, entry)| entry.is_alive());
        let workloads = alive.map(|(tgid, entry)| {
            let known = known.remove(tgid);
            let is_provisional = match entry.state {
                State::Provisional(_) => true,
                State::Target(_) | State::Exited(_) => known.as_ref().is_some_and(|workload| workload.provisional),
            };
            let bare = Workload {
                pid: tgid.0,
                selected: (!is_provisional).then_some(true),
                why: entry.why(),
                ..Workload::default()
            };
            match known {
                Some(known) => with(bare, known),
                None => bare,
            }
        });
        workloads.collect()
    }
}

impl Entry {
    fn why(&self) -> String {
        let reason = match &self.state {
            State::Target(reason) => Some(reason),
            State::Provisional(provisional) | State::Exited(provisional) => provisional.reason.as_ref(),
        };
        reason.map_or_else(|| "not decided yet".to_owned(), ToString::to_string)
    }
}

/// Adds Core's knowledge to a bare workload.
fn with(bare: Workload, known: engine::Workload) -> Workload {
    let engine::Workload {
        tgid: _,
        service,
        runtime,
        provisional: _,
        connections,
        requests,
        calls,
        missed,
        unseen,
    } = known;
    let unseen = unseen.into_iter().map(|(what, count)| Unseen {
        what: what.to_owned(),
        count: Some(count),
    });
    Workload {
        service,
        runtime: runtime.map(Runtime::name).map(str::to_owned),
        connections: connections as u64,
        requests,
        calls,
        missed,
        unseen: unseen.collect(),
        ..bare
    }
}
