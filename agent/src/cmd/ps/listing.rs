//! Listings: an agent's answer completed from /proc, or what an agent would trace.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{Listing, Row};
use crate::{
    control::{Neighbours, Status, Unseen, Workload, Workloads, file_identity},
    probe::Family,
    process::{Gatherer, Peculiarity, ProcRoot, peculiarities},
    record::Tgid,
    targets::{
        Reason,
        reconcile::selected,
        rules::{Candidate, Rule, Rules},
    },
};

/// Gatherer of listings. Keeps the facts about executables between two listings.
pub(super) struct Gather {
    root: ProcRoot,
    gatherer: Gatherer,
    rules: Rules,
    /// The rules as options of the command line.
    options: Vec<String>,
}

impl Gather {
    pub(super) fn new(root: ProcRoot, rules: Rules, options: Vec<String>) -> Self {
        Self {
            gatherer: Gatherer::new(root.clone()),
            root,
            rules,
            options,
        }
    }

    /// Completes the answer of an agent: with the names of workloads that it does not know, and with the processes that
    /// it does not trace.
    pub(super) fn complete(&mut self, answer: Workloads, all: bool) -> Listing {
        let Workloads {
            agent,
            workloads,
            left_off,
        } = answer;
        let candidates = self.rules.candidates().into_iter();
        let mut candidates: BTreeMap<Tgid, Candidate> =
            candidates.map(|candidate| (candidate.tgid, candidate)).collect();
        let mut rows: Vec<Row> = workloads
            .into_iter()
            .map(|workload| {
                let candidate = candidates.remove(&Tgid(workload.pid));
                Row {
                    workload,
                    listens: candidate.map(|candidate| candidate.listens).unwrap_or_default(),
                }
            })
            .collect();
        let mut others = self.agents();
        others.retain(|other| other.pid != agent.pid);
        let mut agents = pids(&others);
        agents.insert(Tgid(agent.pid));
        let why = why_not(&agent.rules);
        rows.extend(candidates.into_values().map(|candidate| {
            let why = if agents.contains(&candidate.tgid) {
                OWN.to_owned()
            } else {
                why.clone()
            };
            row(candidate, false, why)
        }));
        // The user's rules name these processes, so they are listed even if they do nothing.
        let keep_selected = !agent.rules.is_empty();
        Listing {
            workloads: self.described(rows, all, keep_selected, agent.hooks.unwrap_or(Family::Syscall)),
            agent: Some(agent),
            others,
            left_off,
        }
    }

    /// Lists what an agent with these rules would trace, at the socket events: without them, the agent says so.
    pub(super) fn would_be(&mut self, all: bool) -> Listing {
        let mut candidates = self.rules.candidates();
        candidates.sort_unstable_by_key(|candidate| candidate.tgid);
        let others = self.agents();
        let agents = pids(&others);
        let named = candidates.iter().filter(|candidate| candidate.rule.is_some());
        let named: BTreeSet<Tgid> = named.map(|candidate| candidate.tgid).collect();
        let descendants: BTreeMap<Tgid, Reason> = selected(&self.rules, named, false).into_iter().collect();
        let why_not = why_not(&self.options);
        let rows = candidates.into_iter().map(|candidate| {
            let descent = descendants.get(&candidate.tgid);
            let is_agent = agents.contains(&candidate.tgid);
            let is_selected = !is_agent && (candidate.rule.is_some() || descent.is_some());
            let why = match (&candidate.rule, descent) {
                _ if is_agent => OWN.to_owned(),
                (Some(Rule::Every), _) => "every process that speaks HTTP or Redis is traced".to_owned(),
                (Some(rule), _) => rule.to_string(),
                (None, Some(reason)) => reason.to_string(),
                // Without options, a rule names every process but this one and its readers.
                (None, None) if self.options.is_empty() => OWN.to_owned(),
                (None, None) => why_not.clone(),
            };
            row(candidate, is_selected, why)
        });
        let rows = rows.collect();
        Listing {
            agent: None,
            others,
            workloads: self.described(rows, all, !self.options.is_empty(), Family::Sock),
            left_off: 0,
        }
    }

    /// Returns the agents that run on this host, each with its control socket as this process reaches it.
    pub(super) fn agents(&self) -> Vec<Status> {
        let mut agents = Neighbours::of_host(&self.root).others();
        for agent in &mut agents {
            agent.control = agent.control.as_deref().map(|control| reachable(control, agent.pid));
        }
        agents
    }

    /// Returns the rows that are of interest, with names and with what hides traffic from these hooks; selected ones come
    /// first.
    fn described(&mut self, rows: Vec<Row>, all: bool, keep_selected: bool, hooks: Family) -> Vec<Row> {
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
            .map(|row| self.describe(row, hooks))
            .collect();
        rows.sort_by_key(|row| (row.workload.selected == Some(false), row.workload.pid));
        rows
    }

    fn describe(&mut self, mut row: Row, hooks: Family) -> Row {
        let workload = &mut row.workload;
        if workload.service.is_none() {
            let facts = self.gatherer.gather(workload.pid, None, None);
            workload.service = Some(facts.resource.service_name.clone());
            // How Spoor itself works is of no interest.
            workload.runtime = (workload.why != OWN).then(|| facts.runtime.name().to_owned());
        }
        if self.root.is_suspect(workload.pid) {
            workload.unseen.push(Unseen {
                what: "files that do not answer".to_owned(),
                count: None,
            });
        }
        let hiding = peculiarities(&self.root, workload.pid).into_iter();
        for peculiarity in hiding.filter(|peculiarity| peculiarity.hides_from(hooks)) {
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

fn pids(agents: &[Status]) -> BTreeSet<Tgid> {
    agents.iter().map(|agent| Tgid(agent.pid)).collect()
}

/// Returns the path by which this process reaches an agent's control socket. The agent may have another mount
/// namespace: in a container, for example. If that cannot be seen, the agent's own path is returned.
fn reachable(control: &str, pid: u32) -> String {
    let in_its_namespace = format!("/proc/{pid}/root{control}");
    let own = file_identity(Path::new(control)).ok();
    match file_identity(Path::new(&in_its_namespace)) {
        Ok(of_agent) if own != Some(of_agent) => in_its_namespace,
        _ => control.to_owned(),
    }
}

/// Reason why an agent is not traced.
const OWN: &str = "spoor itself";

fn row(candidate: Candidate, is_selected: bool, why: String) -> Row {
    Row {
        workload: Workload {
            pid: candidate.tgid.0,
            selected: Some(is_selected),
            why,
            ..Workload::default()
        },
        listens: candidate.listens,
    }
}

/// Returns the reason why a process is not selected by these rules.
fn why_not(rules: &[String]) -> String {
    if rules.is_empty() {
        // Everything is selected, but for what began before the agent could look at it.
        return "not seen by the agent".to_owned();
    }
    format!("no rule matches: {}", rules.join(" "))
}
