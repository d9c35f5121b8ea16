//! The session's part in targeting: it asks the inspector, and carries out what the registry decides.

use std::{borrow::Cow, time::Duration};

use super::{Session, clock::monotonic_ns};
use crate::{
    process::UnixSockets,
    record::Tgid,
    tape::Frame,
    targets::{
        Decision, Outcome, Reason, Refusal,
        inspector::{Answer, Question},
        reconcile::{Differences, Seen, selected},
    },
};

/// Longest wait for the facts of what runs at the start. How a call's parent is found depends on them.
const FIRST_LOOK: Duration = Duration::from_secs(1);

impl Session {
    /// Returns how many processes are traced.
    pub fn targets(&self) -> usize {
        self.registry.targets().count()
    }

    /// Returns the processes that are traced, or may be, and have not ended.
    pub fn running_targets(&self) -> Vec<Tgid> {
        self.registry.alive().collect()
    }

    /// Selects what runs, and lets the kernel side capture what starts. `command` is a target whatever the rules say.
    pub fn begin(&mut self, command: Option<Tgid>) {
        if let Some(tgid) = command {
            self.select(tgid, Reason::Command);
        }
        if self.only_command {
            return;
        }
        for port in self.rules.ports() {
            self.probe.shared.watch_port(port);
        }
        self.probe.shared.capture_new(self.rules.may_match_others());
        // A process that was forked before its parent was a target is found by the next look.
        loop {
            let before = self.registry.alive().count();
            for (tgid, reason) in selected(&self.rules, self.registry.alive().collect(), true) {
                self.select(tgid, reason);
            }
            if self.registry.alive().count() == before {
                break;
            }
        }
        let mut sockets = UnixSockets::new(&self.root);
        if self.registry.alive().any(|tgid| sockets.listens(tgid.0)) {
            self.unix_ends.watch(&mut self.probe);
        }
        self.wait_for_first_facts();
        self.requests.wait(&mut self.probe);
    }

    /// Works until the facts of the present targets have come, or [`FIRST_LOOK`] is over.
    fn wait_for_first_facts(&mut self) {
        let mut awaited: Vec<Tgid> = self.registry.alive().collect();
        let until = monotonic_ns() + FIRST_LOOK.as_nanos() as u64;
        while !awaited.is_empty() && monotonic_ns() < until {
            self.turn();
            awaited.retain(|&tgid| self.registry.awaits_facts(tgid));
            self.probe.ring.pause(Duration::from_millis(1));
        }
    }

    /// Makes a process a target that was found by looking at what runs.
    fn select(&mut self, tgid: Tgid, reason: Reason) {
        if let Some(question) = self.registry.select(tgid, reason) {
            self.carry_out(vec![Decision {
                tgid,
                outcome: Outcome::Target,
            }]);
            self.inspector.ask(question);
        }
    }

    /// Takes the inspector's replies, carries out the decisions, and asks the questions of Core.
    pub(super) fn learn(&mut self) {
        while let Some(answer) = self.inspector.answer() {
            match answer {
                Answer::Facts(facts) => {
                    self.registry.described(Tgid(facts.tgid));
                    self.sink.record(&Frame::Process(Cow::Borrowed(&facts)));
                    self.core.process(facts);
                }
                Answer::Matched(tgid, rule) => {
                    let decisions = self.registry.answered(tgid, rule);
                    self.carry_out(decisions);
                }
                Answer::Late(tgid, rule) => self.select(tgid, Reason::Rule(rule)),
                Answer::Seen(seen) => self.reconcile(seen),
                Answer::Ring => self.requests.demand(&self.probe),
            }
        }
        let decisions = self.registry.take_decisions();
        self.carry_out(decisions);
        for tgid in self.core.take_wanted() {
            let parent = self.registry.parent(tgid);
            self.inspector.ask(Question::Facts { tgid, parent });
        }
    }

    /// Mends the registry after records of starts and ends were lost.
    fn reconcile(&mut self, seen: Seen) {
        let is_captured = |tgid: Tgid| self.probe.shared.is_target(tgid.0);
        let Differences { begun, strays, ended } = self.reconciler.compare(seen, &self.registry, is_captured);
        if !begun.is_empty() {
            tracing::info!(
                "{} processes that began while the ring was full are traced from now on",
                begun.len()
            );
        }
        for (tgid, reason) in begun {
            self.select(tgid, reason);
        }
        let strays = strays.into_iter().map(|tgid| Decision {
            tgid,
            outcome: Outcome::Refused(Refusal::Stray),
        });
        self.carry_out(strays.collect());
        for tgid in ended {
            self.registry.exit(tgid);
            self.let_go(tgid);
        }
    }

    /// Ends the capture of a process whose end the kernel side will not report.
    fn let_go(&mut self, tgid: Tgid) {
        self.probe.shared.set_target(tgid.0, false);
        self.inspector.ask(Question::Ended(tgid));
    }

    /// Passes decisions to the kernel side, the tape and Core.
    fn carry_out(&mut self, decisions: Vec<Decision>) {
        for Decision { tgid, outcome } in decisions {
            match outcome {
                Outcome::Refused(refusal) => {
                    tracing::trace!(pid = tgid.0, ?refusal, "not a target");
                    self.let_go(tgid);
                }
                Outcome::Target => {
                    if self.registry.is_alive(tgid) && !self.probe.shared.is_target(tgid.0) {
                        self.probe.shared.set_target(tgid.0, true);
                    }
                }
            }
            let selected = outcome == Outcome::Target;
            self.sink.record(&Frame::Selected { tgid: tgid.0, selected });
            self.core.selected(tgid, selected);
        }
    }

    /// Looks at everything that runs, if the ring or the inspector had no room lately. `lost` counts the records that
    /// found no room in the ring so far.
    pub(super) fn look_again(&mut self, lost: u64, now_ns: u64) {
        let lost = lost + self.inspector.refused();
        if self.reconciler.is_due(lost, now_ns) {
            self.inspector.ask(Question::Look {
                targets: self.registry.targets().collect(),
                rules: !self.only_command,
            });
        }
    }
}
