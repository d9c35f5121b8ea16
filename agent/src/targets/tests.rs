//! The registry's states, one record after another.

use super::*;
use crate::{
    control::Unseen,
    engine,
    record::{Execution, Exit, Fork, Listen, Stamp},
    runtimes::Runtime,
};

const NO_RULE: Option<Rule> = None;

fn every() -> Option<Rule> {
    Some(Rule::Every)
}

fn stamp(tgid: u32) -> Stamp {
    Stamp {
        execution: Execution {
            tgid: Tgid(tgid),
            ..Execution::default()
        },
        ..Stamp::default()
    }
}

impl Registry {
    /// A registry in which these are targets.
    fn of(targets: &[u32]) -> Self {
        let mut registry = Self::default();
        for &tgid in targets {
            assert!(registry.select(Tgid(tgid), Reason::Command).is_some());
        }
        registry
    }

    /// A program begins. Returns whether the inspector is asked if a rule names it.
    fn begins(&mut self, tgid: u32, was_no_target: bool) -> bool {
        self.exec(Tgid(tgid), was_no_target)
    }

    fn forks(&mut self, parent: u32, child: u32) {
        let fork = Fork {
            stamp: stamp(parent),
            child: Tgid(child),
        };
        let question = self.notice(&Record::Fork(fork));
        assert!(
            matches!(question, Some(Question::Facts { tgid, parent: Some(of) }) if (tgid.0, of.0) == (child, parent))
        );
    }

    fn ends(&mut self, tgid: u32) {
        let exit = Exit {
            stamp: stamp(tgid),
            code: 0,
            lost_unix: false,
        };
        assert!(matches!(self.notice(&Record::Exit(exit)), Some(Question::Ended(ended)) if ended.0 == tgid));
    }

    /// A process listens on port 8080. Returns whether its facts are asked for.
    fn listens(&mut self, tgid: u32) -> bool {
        let listen = Listen {
            stamp: stamp(tgid),
            port: 8080,
        };
        self.notice(&Record::Listen(listen)).is_some()
    }

    /// The inspector answers. Returns what is decided.
    fn is_told(&mut self, tgid: u32, rule: Option<Rule>) -> Vec<(u32, bool)> {
        short(self.answered(Tgid(tgid), rule))
    }

    fn decides(&mut self) -> Vec<(u32, bool)> {
        short(self.take_decisions())
    }

    fn reasons(&self) -> Vec<(u32, String)> {
        let rows = self.workloads(vec![]).into_iter();
        rows.map(|row| (row.pid, row.why)).collect()
    }
}

/// Processes, and whether they are targets.
fn short(decisions: Vec<Decision>) -> Vec<(u32, bool)> {
    let decisions = decisions.into_iter();
    decisions
        .map(|decision| (decision.tgid.0, decision.outcome == Outcome::Target))
        .collect()
}

#[test]
fn children_that_a_refused_process_forked_are_refused_with_it() {
    let mut registry = Registry::default();
    assert!(registry.begins(1, true));
    registry.forks(1, 2);
    registry.forks(2, 3);
    registry.forks(1, 4);
    assert!(registry.begins(4, false), "a rule may name its own program");
    assert_eq!(
        registry.answered(Tgid(1), NO_RULE),
        [
            (1, Refusal::NoRule),
            (2, Refusal::Child(Tgid(1))),
            (3, Refusal::Child(Tgid(2)))
        ]
        .map(|(tgid, refusal)| Decision {
            tgid: Tgid(tgid),
            outcome: Outcome::Refused(refusal)
        })
    );
    registry.forks(1, 5);
    registry.forks(1, 6);
    assert!(registry.begins(6, false));
    assert_eq!(registry.decides(), [(5, false)]);
    assert_eq!(registry.is_told(4, every()), [(4, true)]);
    assert_eq!(registry.is_told(6, NO_RULE), [(6, false)]);
    assert_eq!(registry.alive().collect::<Vec<_>>(), [Tgid(4)]);
    assert_eq!(registry.decides(), []);
}

#[test]
fn the_last_program_counts() {
    let mut registry = Registry::default();
    assert!(registry.begins(1, true) && registry.begins(1, false));
    assert_eq!(registry.is_told(1, NO_RULE), [], "it runs another one since");
    assert_eq!(registry.is_told(1, every()), [(1, true)]);
    assert!(registry.begins(2, true) && registry.begins(2, false));
    assert_eq!(registry.is_told(2, NO_RULE), []);
    assert_eq!(registry.is_told(2, NO_RULE), [(2, false)]);
    assert_eq!(registry.targets().collect::<Vec<_>>(), [Tgid(1)]);
}

#[test]
fn a_process_that_listens_where_a_rule_says_is_a_target() {
    let mut registry = Registry::default();
    assert!(registry.begins(1, true));
    registry.forks(1, 2);
    assert!(
        registry.listens(1),
        "no rule names its program, so nothing asks for its facts"
    );
    assert!(registry.listens(3));
    assert_eq!(registry.is_told(1, NO_RULE), [], "it did not listen yet");
    registry.forks(1, 4);
    registry.forks(3, 5);
    assert_eq!(registry.decides(), [(1, true), (2, true), (3, true)]);
    assert_eq!(registry.targets().count(), 5);
    assert_eq!(registry.decides(), []);
    let reasons = ["--port 8080", "child of 1", "--port 8080", "child of 1", "child of 3"];
    assert_eq!(
        registry.reasons(),
        (1..).zip(reasons.map(str::to_owned)).collect::<Vec<_>>()
    );
}

#[test]
fn children_of_a_target_stay_whatever_they_run() {
    let mut registry = Registry::default();
    assert!(registry.begins(1, true));
    registry.forks(1, 2);
    assert!(registry.begins(2, false));
    registry.forks(2, 3);
    assert_eq!(registry.is_told(1, every()), [(1, true), (2, true), (3, true)]);
    assert_eq!(registry.is_told(2, NO_RULE), [], "its parent has decided");
    registry.forks(1, 4);
    assert!(!registry.begins(4, false));
    assert_eq!(registry.targets().count(), 4);
}

#[test]
fn a_process_that_ended_undecided_is_decided_with_its_children() {
    let mut registry = Registry::default();
    assert!(registry.begins(1, true));
    registry.forks(1, 2);
    registry.ends(1);
    registry.ends(2);
    registry.forks(1, 3);
    assert_eq!(registry.alive().collect::<Vec<_>>(), [Tgid(3)]);
    assert_eq!(registry.is_told(1, every()), [(1, true), (2, true), (3, true)]);
    assert_eq!(registry.targets().collect::<Vec<_>>(), [Tgid(3)]);
    registry.ends(3);
    assert!(registry.entries.is_empty());
}

#[test]
fn an_id_that_is_used_again_leaves_nobody_undecided() {
    let mut registry = Registry::of(&[9]);
    assert!(registry.begins(1, true));
    registry.forks(1, 2);
    registry.ends(1);
    registry.forks(9, 1);
    assert_eq!(
        registry.is_told(1, NO_RULE),
        [],
        "the question was about the process before"
    );
    assert_eq!(registry.decides(), [(2, false)]);
    assert_eq!(registry.targets().collect::<Vec<_>>(), [Tgid(1), Tgid(9)]);
}

#[test]
fn a_target_that_the_kernel_took_for_none_is_looked_at_again() {
    let mut registry = Registry::of(&[1]);
    assert!(!registry.begins(1, false));
    assert!(registry.begins(1, true));
    assert_eq!(registry.targets().count(), 0);
    assert_eq!(registry.reasons(), [(1, "the launched command".to_owned())]);
    assert_eq!(registry.is_told(1, NO_RULE), [(1, false)]);
    assert!(registry.entries.is_empty());
}

#[test]
fn parents_and_facts_are_kept_with_the_process() {
    let mut registry = Registry::of(&[1]);
    registry.forks(1, 2);
    assert_eq!(
        (registry.parent(Tgid(1)), registry.parent(Tgid(2))),
        (None, Some(Tgid(1)))
    );
    assert!(registry.awaits_facts(Tgid(2)));
    registry.described(Tgid(2));
    assert!(!registry.awaits_facts(Tgid(2)) && !registry.awaits_facts(Tgid(7)));
    assert!(
        registry.select(Tgid(2), Reason::Command).is_none(),
        "it is there already"
    );
}

fn known(tgid: u32, provisional: bool) -> engine::Workload {
    engine::Workload {
        tgid: Tgid(tgid),
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
fn each_workload_has_its_reason() {
    let mut registry = Registry::of(&[1]);
    registry.forks(1, 2);
    registry.begins(3, true);
    registry.listens(4);
    let listed = registry.workloads(vec![known(1, false), known(3, true), known(9, false)]);
    let rows: Vec<_> = listed
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
    let unseen = Unseen {
        what: "TLS".to_owned(),
        count: Some(5),
    };
    assert_eq!(listed[0].unseen, [unseen]);
    registry.is_told(3, Some(Rule::Pid));
    registry.ends(4);
    let listed = registry.workloads(vec![]);
    assert_eq!(
        (listed.len(), listed[2].why.as_str(), listed[2].selected),
        (3, "--pid", Some(true))
    );
}
