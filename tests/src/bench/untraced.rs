//! Cost of system calls in traced and untraced processes: without programs, with empty ones on the agent's hooks, and
//! with the agent.

use std::{thread::sleep, time::Duration};

use anyhow::Result;
use spoor::probe::reference::Empty;

use super::{
    Options,
    agent::SELECTION_TIME,
    calls::{Caller, Cost},
    report::{Bar, Bound, Table, median, progress},
    rig::{Rig, Side},
};

/// Time in which programs settle into the caches.
const SETTLING_TIME: Duration = Duration::from_millis(200);

/// Programs on the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    /// No programs.
    Free,
    /// Programs that do nothing.
    Empty,
    /// The agent's programs.
    Agent,
}

/// Results by state (no programs, empty programs, the agent): calls of an untraced and of a traced process.
#[derive(Default)]
pub struct Rounds {
    plain: [Vec<Cost>; 3],
    traced: [Vec<Cost>; 3],
}

impl Rounds {
    /// Measures rounds, with the states in rotating order.
    pub fn measure(rig: &Rig, options: Options) -> Result<Self> {
        let mut plain = Caller::start(rig, Side::Plain)?;
        let mut traced = Caller::start(rig, Side::Traced)?;
        let mut rounds = Self::default();
        let count = options.rounds(7);
        let states = [Hooks::Free, Hooks::Empty, Hooks::Agent];
        for round in 0..count {
            progress(round, count);
            for turn in 0..states.len() {
                let state = (turn + round as usize) % states.len();
                let (mut empty, mut agent) = (None, None);
                match states[state] {
                    Hooks::Free => {}
                    Hooks::Empty => empty = Some(Empty::attach()?),
                    Hooks::Agent => {
                        agent = Some(rig.agent(&[])?);
                        sleep(SELECTION_TIME);
                    }
                }
                sleep(SETTLING_TIME);
                rounds.plain[state].push(plain.cost()?);
                rounds.traced[state].push(traced.cost()?);
                drop(empty.take());
                if let Some(agent) = agent {
                    agent.finish()?;
                }
            }
        }
        Ok(rounds)
    }

    fn of(costs: &[Vec<Cost>; 3], hooks: Hooks, kind: fn(&Cost) -> f64) -> Vec<f64> {
        costs[hooks as usize].iter().map(kind).collect()
    }

    /// Returns the time that the hooks add to a call of an untraced process.
    fn added(&self, hooks: Hooks, kind: fn(&Cost) -> f64) -> Vec<f64> {
        let free = Self::of(&self.plain, Hooks::Free, kind);
        let with = Self::of(&self.plain, hooks, kind);
        with.iter().zip(free).map(|(with, free)| with - free).collect()
    }

    /// Returns the time of a traced process's call with the agent, as a multiple of its time with empty programs.
    pub fn traced_ratios(&self, kind: fn(&Cost) -> f64) -> Vec<f64> {
        let empty = Self::of(&self.traced, Hooks::Empty, kind);
        let agent = Self::of(&self.traced, Hooks::Agent, kind);
        agent.iter().zip(empty).map(|(agent, empty)| agent / empty).collect()
    }

    /// Adds lines for the calls of a traced process to a table.
    pub fn traced_lines(&self, table: &mut Table, name: &str, kind: fn(&Cost) -> f64) {
        for (hooks, with) in [
            (Hooks::Free, "no hooks"),
            (Hooks::Empty, "empty programs"),
            (Hooks::Agent, "traced"),
        ] {
            table.series(&format!("{name}, {with}, ns"), &Self::of(&self.traced, hooks, kind));
        }
    }
}

/// Measures the time that the agent adds to calls of processes that are not selected.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let rounds = Rounds::measure(rig, options)?;
    let mut table = Table::new(&["", "median", "least", "greatest"]);
    let mut bars = Vec::new();
    for (name, kind) in [
        ("a hooked call, read(2)", (|cost| cost.read) as fn(&Cost) -> f64),
        ("another call, getppid(2)", |cost| cost.other),
    ] {
        table.series(
            &format!("{name}, no hooks, ns"),
            &Rounds::of(&rounds.plain, Hooks::Free, kind),
        );
        let (empty, agent) = (rounds.added(Hooks::Empty, kind), rounds.added(Hooks::Agent, kind));
        table.series(&format!("{name}, added by empty programs, ns"), &empty);
        table.series(&format!("{name}, added by the agent, ns"), &agent);
        bars.push(Bar::new(
            format!("untraced: added to {name}, agent / empty programs"),
            Bound::AtMost(1.25),
            Bound::AtMost(1.1),
            median(&agent) / median(&empty),
        ));
    }
    println!("{table}");
    Ok(bars)
}
