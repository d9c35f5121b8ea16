//! Why each target is one, for people.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use crate::{
    control::{Unseen, Workload},
    engine,
    process::Reason,
    record::Event,
    runtimes::Runtime,
};

/// Why a process is a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the command that was launched.
    Command,
    /// A rule names it.
    Rule(Reason),
    /// It is the child of this target.
    Child(u32),
    /// It began a program, and is looked at.
    Undecided,
}

/// The reasons of all targets.
#[derive(Debug, Default)]
pub struct Whys(HashMap<u32, Why>);

impl Whys {
    /// A process is a target for this reason.
    pub fn note(&mut self, tgid: u32, why: Why) {
        self.0.insert(tgid, why);
    }

    /// A process is none any more.
    pub fn forget(&mut self, tgid: u32) {
        self.0.remove(&tgid);
    }

    /// It is decided about a process that had begun a program.
    pub fn decide(&mut self, tgid: u32, reason: Option<Reason>) {
        if let (Some(why), Some(reason)) = (self.0.get_mut(&tgid), reason) {
            *why = Why::Rule(reason);
        }
    }

    /// Takes what an event says, before the process is put among those that are `alive`.
    pub fn notice(&mut self, event: &Event<'_>, alive: &BTreeSet<u32>) {
        match event {
            Event::Fork(fork) => self.note(fork.child, Why::Child(fork.header.execution.tgid)),
            Event::Exec(exec, _) => {
                let tgid = exec.header.execution.tgid;
                if exec.provisional == 1 || !alive.contains(&tgid) {
                    self.0.entry(tgid).or_insert(Why::Undecided);
                }
            }
            Event::Exit(exit) => self.forget(exit.header.execution.tgid),
            Event::Listen(listen) => {
                let tgid = listen.header.execution.tgid;
                if !alive.contains(&tgid) || self.0.get(&tgid) == Some(&Why::Undecided) {
                    let port = u16::try_from(listen.port).unwrap_or_default();
                    self.note(tgid, Why::Rule(Reason::Port(port)));
                }
            }
            _ => {}
        }
    }

    /// The targets with what Core knows of them, by their ids.
    pub fn workloads(&self, alive: &BTreeSet<u32>, known: Vec<engine::Workload>) -> Vec<Workload> {
        let mut known: HashMap<u32, engine::Workload> = known.into_iter().map(|known| (known.tgid, known)).collect();
        let workloads = alive.iter().map(|tgid| {
            let why = self.0.get(tgid);
            let known = known.remove(tgid);
            let undecided = why == Some(&Why::Undecided) || known.as_ref().is_some_and(|workload| workload.provisional);
            let bare = Workload {
                pid: *tgid,
                selected: (!undecided).then_some(true),
                why: why.map_or_else(String::new, ToString::to_string),
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

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command => f.write_str("the launched command"),
            Self::Rule(reason) => reason.fmt(f),
            Self::Child(parent) => write!(f, "child of {parent}"),
            Self::Undecided => f.write_str("not decided yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::{Execution, Header, Listen};

    use super::*;

    fn known(tgid: u32, provisional: bool) -> engine::Workload {
        engine::Workload {
            tgid,
            service: Some("shop".to_owned()),
            runtime: Some(Runtime::Go),
            provisional,
            connections: 1,
            requests: 2,
            calls: 3,
            missed: 4,
            unseen: vec![("TLS", 5)],
        }
    }

    #[test]
    fn each_target_has_its_reason() {
        let mut whys = Whys::default();
        let listen = Listen {
            header: Header {
                execution: Execution {
                    tgid: 4,
                    ..Execution::default()
                },
                ..Header::default()
            },
            port: 8080,
            pad: 0,
        };
        whys.note(1, Why::Command);
        whys.note(2, Why::Child(1));
        whys.note(3, Why::Undecided);
        whys.notice(&Event::Listen(listen), &BTreeSet::from([1]));
        let mut alive = BTreeSet::from([1, 2, 3, 4]);
        let told = whys.workloads(&alive, vec![known(1, false), known(3, true), known(9, false)]);
        let rows: Vec<_> = told
            .iter()
            .map(|row| (row.pid, row.selected, row.why.as_str(), row.requests))
            .collect();
        assert_eq!(
            rows,
            [
                (1, Some(true), "the launched command", 2),
                (2, Some(true), "child of 1", 0),
                (3, None, "not decided yet", 2),
                (4, Some(true), "--port 8080", 0),
            ]
        );
        assert_eq!(
            told[0].unseen,
            [Unseen {
                what: "TLS".to_owned(),
                count: Some(5)
            }]
        );
        whys.decide(3, Some(Reason::Pid));
        whys.forget(4);
        alive.remove(&4);
        let told = whys.workloads(&alive, vec![]);
        assert_eq!(
            (told.len(), told[2].why.as_str(), told[2].selected),
            (3, "--pid", Some(true))
        );
    }
}
