//! Provisional processes: captured before it is known whether they are targets, and what they fork meanwhile.
//!
//! A process that begins a program is captured from its first byte, so that nothing is missed if a rule names it. Its
//! children are captured too. A shell may fork several of them before the inspector has answered, so they share its
//! fate: all are targets, or none is that has not begun a program of its own.

use std::collections::VecDeque;

use super::{Decision, Outcome, Reason, Refusal, Registry, State, Tgid, rules::Rule};

/// Open decision about a process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Provisional {
    /// The provisional process that forked this one, and whose fate it shares.
    pub(super) with: Option<Tgid>,
    /// Questions about its programs that the inspector has not answered.
    pub(super) unanswered: u32,
    /// Processes that share its fate. One may have another life since, which [`Provisional::with`] tells.
    pub(super) forked: Vec<Tgid>,
    /// The reason if it turns out to be a target by its parent, or the reason before its present program.
    pub(super) reason: Option<Reason>,
}

impl Provisional {
    /// Creates the state of a process that began a program. `before` is the reason why it was a target until then.
    pub(super) fn of_program(before: Option<Reason>) -> Self {
        Self {
            unanswered: 1,
            reason: before,
            ..Self::default()
        }
    }

    /// Creates the state of a process that was forked and runs the program of `parent`.
    pub(super) fn forked(parent: Tgid, with: Option<Tgid>) -> Self {
        Self {
            with,
            reason: Some(Reason::Child(parent)),
            ..Self::default()
        }
    }
}

impl Registry {
    /// Takes the inspector's answer about a program: the rule that names it, if any. Returns the decisions that follow.
    ///
    /// A program that no rule names may have been replaced by another one, about which there is no answer yet: then
    /// nothing is decided.
    pub fn answered(&mut self, tgid: Tgid, rule: Option<Rule>) -> Vec<Decision> {
        let Some(entry) = self.entries.get_mut(&tgid) else {
            return Vec::new();
        };
        match (&mut entry.state, rule) {
            (State::Target(reason), Some(rule)) => {
                *reason = Reason::Rule(rule);
                Vec::new()
            }
            (State::Target(_), None) => Vec::new(),
            (State::Provisional(provisional) | State::Exited(provisional), rule) => {
                provisional.unanswered = provisional.unanswered.saturating_sub(1);
                match rule {
                    Some(rule) => {
                        // The rule says more than the parent.
                        provisional.reason = None;
                        self.decide(tgid, Ok(Reason::Rule(rule)))
                    }
                    None if provisional.unanswered > 0 => Vec::new(),
                    None => self.decide(tgid, Err(Refusal::NoRule)),
                }
            }
        }
    }

    /// Takes the decisions that listening ports have made, and decides about orphans: they are refused, unless a
    /// program of their own is still looked at.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        let mut decisions = std::mem::take(&mut self.decisions);
        for orphan in std::mem::take(&mut self.orphans) {
            let is_alone = |provisional: &mut Provisional| provisional.unanswered == 0 && provisional.with.is_none();
            if self.undecided_mut(orphan).is_some_and(is_alone) {
                decisions.extend(self.decide(orphan, Err(Refusal::Orphan)));
            }
        }
        decisions
    }

    /// Decides about a provisional process, and with it about those that share its fate, parents before children.
    /// Returns nothing if the process is not provisional.
    pub(super) fn decide(&mut self, tgid: Tgid, verdict: Result<Reason, Refusal>) -> Vec<Decision> {
        let mut decided = Vec::new();
        let mut undecided = VecDeque::from([(tgid, verdict)]);
        while let Some((tgid, verdict)) = undecided.pop_front() {
            let is_target = verdict.is_ok();
            let outcome = match &verdict {
                Ok(_) => Outcome::Target,
                Err(refusal) => Outcome::Refused(*refusal),
            };
            let Some(forked) = self.settle(tgid, verdict) else {
                continue;
            };
            decided.push(Decision { tgid, outcome });
            let inherited = || match is_target {
                true => Ok(Reason::Child(tgid)),
                false => Err(Refusal::Child(tgid)),
            };
            let sharing = self.sharing(tgid, forked, is_target);
            undecided.extend(sharing.into_iter().map(|child| (child, inherited())));
        }
        decided
    }

    /// Ends the provisional state of one process. Returns the processes that it forked; `None` if it is not
    /// provisional.
    fn settle(&mut self, tgid: Tgid, verdict: Result<Reason, Refusal>) -> Option<Vec<Tgid>> {
        let entry = self.entries.get_mut(&tgid)?;
        let is_alive = entry.is_alive();
        let (State::Provisional(provisional) | State::Exited(provisional)) = &mut entry.state else {
            return None;
        };
        let Provisional { forked, reason, .. } = std::mem::take(provisional);
        match verdict {
            Ok(given) if is_alive => entry.state = State::Target(reason.unwrap_or(given)),
            Ok(_) | Err(_) => {
                self.entries.remove(&tgid);
            }
        }
        Some(forked)
    }

    /// Returns those of the forked processes about which is decided with their parent. Children of a target are
    /// targets, whatever they run; a child of a refused process that began a program of its own is decided by that.
    fn sharing(&mut self, parent: Tgid, mut forked: Vec<Tgid>, is_target: bool) -> Vec<Tgid> {
        forked.sort_unstable();
        forked.dedup();
        forked.retain(|&child| match self.undecided_mut(child) {
            Some(provisional) if provisional.with == Some(parent) => {
                let shares = is_target || provisional.unanswered == 0;
                if !shares {
                    provisional.with = None;
                }
                shares
            }
            _ => false,
        });
        forked
    }

    /// Lets the processes go that shared the fate of `parent`, about which nobody decides any more.
    pub(super) fn orphan(&mut self, parent: Tgid, forked: &[Tgid]) {
        for &child in forked {
            if let Some(provisional) = self.undecided_mut(child)
                && provisional.with == Some(parent)
            {
                provisional.with = None;
                self.orphans.push(child);
            }
        }
    }

    fn undecided_mut(&mut self, tgid: Tgid) -> Option<&mut Provisional> {
        match &mut self.entries.get_mut(&tgid)?.state {
            State::Provisional(provisional) | State::Exited(provisional) => Some(provisional),
            State::Target(_) => None,
        }
    }
}
