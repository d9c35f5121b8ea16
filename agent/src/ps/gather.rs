//! What an agent says, completed by what the process file system says; or that alone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Listing, Row};
use crate::{
    control::{Neighbours, Unseen, Workload, Workloads},
    process::{Candidate, Gatherer, Peculiarity, ProcRoot, Reason, Selection, peculiarities},
};

/// Looks at processes. Keeps what it learned of executables.
pub(super) struct Gather {
    root: ProcRoot,
    gatherer: Gatherer,
    selection: Selection,
    rules: Vec<String>,
}

impl Gather {
    pub(super) fn new(root: ProcRoot, selection: Selection, rules: Vec<String>) -> Self {
        Self {
            gatherer: Gatherer::new(root.clone()),
            root,
            selection,
            rules,
        }
    }

    /// The answer of an agent, with names of what it does not know, and what it does not trace.
    pub(super) fn complete(&mut self, answer: Workloads, all: bool) -> Listing {
        let Workloads {
            agent,
            workloads,
            left_off,
        } = answer;
        let mut candidates: BTreeMap<u32, Candidate> = self
            .selection
            .look_at_all()
            .into_iter()
            .map(|candidate| (candidate.tgid, candidate))
            .collect();
        let mut rows: Vec<Row> = workloads
            .into_iter()
            .map(|workload| {
                let listens = candidates.remove(&workload.pid).map(|candidate| candidate.listens);
                Row {
                    workload,
                    listens: listens.unwrap_or_default(),
                }
            })
            .collect();
        let mut agents = self.agents();
        agents.insert(agent.pid);
        let why = why_not(&agent.rules);
        rows.extend(candidates.into_values().map(|candidate| Row {
            workload: Workload {
                pid: candidate.tgid,
                selected: Some(false),
                why: if agents.contains(&candidate.tgid) {
                    "is spoor itself".to_owned()
                } else {
                    why.clone()
                },
                ..Workload::default()
            },
            listens: candidate.listens,
        }));
        // Where rules are given, what they name is of interest, whatever it does.
        let keep_selected = !agent.rules.is_empty();
        Listing {
            workloads: self.described(rows, all, keep_selected),
            agent: Some(agent),
            left_off,
        }
    }

    /// What would be selected.
    pub(super) fn would_be(&mut self, all: bool) -> Listing {
        let mut candidates = self.selection.look_at_all();
        let agents = self.agents();
        let selected = candidates.iter().filter(|candidate| candidate.reason.is_some());
        let mut selected: BTreeSet<u32> = selected.map(|candidate| candidate.tgid).collect();
        let mut parents = BTreeMap::new();
        if !self.selection.is_every() {
            // As the agent does: children of what is selected are.
            loop {
                let children = self.selection.children(&selected);
                let before = selected.len();
                for (child, parent) in children {
                    if selected.insert(child) {
                        parents.insert(child, parent);
                    }
                }
                if selected.len() == before {
                    break;
                }
            }
        }
        let why_not = why_not(&self.rules);
        candidates.sort_unstable_by_key(|candidate| candidate.tgid);
        let rows = candidates
            .into_iter()
            .map(|candidate| {
                let is_agent = agents.contains(&candidate.tgid);
                let why = match (&candidate.reason, parents.get(&candidate.tgid)) {
                    _ if is_agent => "is spoor itself".to_owned(),
                    (Some(Reason::Every), _) => "every process is, if it speaks HTTP".to_owned(),
                    (Some(reason), _) => reason.to_string(),
                    (None, Some(parent)) => format!("child of {parent}"),
                    (None, None) => why_not.clone(),
                };
                Row {
                    workload: Workload {
                        pid: candidate.tgid,
                        selected: Some(selected.contains(&candidate.tgid) && !is_agent),
                        why,
                        ..Workload::default()
                    },
                    listens: candidate.listens,
                }
            })
            .collect();
        Listing {
            agent: None,
            workloads: self.described(rows, all, !self.rules.is_empty()),
            left_off: 0,
        }
    }

    fn agents(&self) -> BTreeSet<u32> {
        let others = Neighbours::of_host(&self.root).others();
        others.into_iter().map(|agent| agent.pid).collect()
    }

    /// Those that are of interest, with their names and what hides their traffic; those that are selected first.
    fn described(&mut self, rows: Vec<Row>, all: bool, keep_selected: bool) -> Vec<Row> {
        let is_of_interest = |row: &Row| {
            if row.workload.pid == std::process::id() {
                return false;
            }
            let selected = row.workload.selected == Some(true);
            all || keep_selected && selected || !row.listens.is_empty() || row.workload.is_active()
        };
        let mut rows: Vec<Row> = rows
            .into_iter()
            .filter(is_of_interest)
            .map(|row| self.describe(row))
            .collect();
        rows.sort_by_key(|row| (row.workload.selected == Some(false), row.workload.pid));
        rows
    }

    fn describe(&mut self, mut row: Row) -> Row {
        let workload = &mut row.workload;
        if workload.service.is_none() {
            let facts = self.gatherer.gather(workload.pid, None, None);
            workload.service = Some(facts.resource.service_name.clone());
            workload.runtime = Some(facts.runtime.name().to_owned());
        }
        if self.root.is_suspect(workload.pid) {
            workload.unseen.push(Unseen {
                what: "files that do not answer".to_owned(),
                count: None,
            });
        }
        for peculiarity in peculiarities(&self.root, workload.pid) {
            let what = match peculiarity {
                Peculiarity::ThirtyTwoBit => "32-bit program",
                Peculiarity::IoUring => "io_uring",
            };
            // The agent may have seen it, too.
            if !workload.unseen.iter().any(|unseen| unseen.what == what) {
                workload.unseen.push(Unseen {
                    what: what.to_owned(),
                    count: None,
                });
            }
        }
        row
    }
}

fn why_not(rules: &[String]) -> String {
    if rules.is_empty() {
        // Everything is selected, but for what began before the agent could look at it.
        return "not seen by the agent".to_owned();
    }
    format!("no rule fits: {}", rules.join(" "))
}
