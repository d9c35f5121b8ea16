//! Cost of system calls in traced and untraced processes: without programs, with empty ones on the agent's hooks, and
//! with the agent.

use std::{thread::sleep, time::Duration};

use anyhow::Result;
use spoor::probe::reference::Empty;
use spoor_tests::http::Client;

use super::{
    Options,
    agent::SELECTION_TIME,
    calls::{Caller, Cost},
    report::{Bar, Bound::AtMost, Figure, Table, least, progress},
    rig::{Rig, Service, Side},
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
    /// Measures rounds, with the states in rotating order. The traced server answers requests while the agent runs, so
    /// that the hooks are attached that an agent takes when it first sees a server's traffic.
    pub fn measure(rig: &Rig, options: Options, server: &Service) -> Result<Self> {
        let mut plain = Caller::start(rig, Side::Plain)?;
        let mut traced = Caller::start(rig, Side::Traced)?;
        let family = rig.family()?;
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
                    Hooks::Empty => empty = Some(Empty::attach(family)?),
                    Hooks::Agent => {
                        let running = rig.agent()?;
                        sleep(SELECTION_TIME);
                        let mut client = Client::connect(server.address, "/")?;
                        sleep(SELECTION_TIME);
                        client.request()?;
                        agent = Some((running, client));
                    }
                }
                sleep(SETTLING_TIME);
                rounds.plain[state].push(plain.cost()?);
                rounds.traced[state].push(traced.cost()?);
                drop(empty.take());
                if let Some((agent, _connection)) = agent {
                    agent.finish()?;
                }
            }
        }
        Ok(rounds)
    }

    fn of(costs: &[Vec<Cost>; 3], hooks: Hooks, kind: Figure<Cost>) -> Vec<f64> {
        costs[hooks as usize].iter().map(kind).collect()
    }

    /// Adds lines for a call of an untraced process to a table. Returns its time with the agent, as a multiple of its time
    /// without programs: the best of each, which are the times without disturbance.
    fn untraced_lines(&self, table: &mut Table, name: &str, kind: Figure<Cost>) -> f64 {
        let of = |hooks| Self::of(&self.plain, hooks, kind);
        let (free, empty, agent) = (of(Hooks::Free), of(Hooks::Empty), of(Hooks::Agent));
        for (with, costs) in [("no hooks", &free), ("empty programs", &empty), ("the agent", &agent)] {
            table.figure_and_series(&format!("{name}, {with}, ns"), least(costs), costs);
        }
        for (by, costs) in [("empty programs", &empty), ("the agent", &agent)] {
            let pairs = || costs.iter().zip(&free);
            let added: Vec<f64> = pairs().map(|(cost, free)| cost - free).collect();
            table.figure_and_series(
                &format!("{name}, added by {by}, ns"),
                least(costs) - least(&free),
                &added,
            );
        }
        let ratios: Vec<f64> = agent.iter().zip(&free).map(|(agent, free)| agent / free).collect();
        let ratio = least(&agent) / least(&free);
        table.figure_and_series(&format!("{name}, the agent / no hooks"), ratio, &ratios);
        ratio
    }

    /// Returns the time of a traced process's call with the agent, as a multiple of its time with empty programs.
    pub fn traced_ratios(&self, kind: Figure<Cost>) -> Vec<f64> {
        let empty = Self::of(&self.traced, Hooks::Empty, kind);
        let agent = Self::of(&self.traced, Hooks::Agent, kind);
        agent.iter().zip(empty).map(|(agent, empty)| agent / empty).collect()
    }

    /// Adds lines for the calls of a traced process to a table.
    pub fn traced_lines(&self, table: &mut Table, name: &str, kind: Figure<Cost>) {
        for (hooks, with) in [
            (Hooks::Free, "no hooks"),
            (Hooks::Empty, "empty programs"),
            (Hooks::Agent, "traced"),
        ] {
            table.series(&format!("{name}, {with}, ns"), &Self::of(&self.traced, hooks, kind));
        }
    }
}

/// Measures the time that the agent adds to calls of processes that are not selected, while it traces a server.
/// `unix`: the server listens on a Unix socket, too, for which the agent takes more hooks.
pub fn run(rig: &Rig, options: Options, unix: bool) -> Result<Vec<Bar>> {
    let server = if unix {
        rig.unix_nginx(Side::Traced)
    } else {
        rig.nginx(Side::Traced)
    }?;
    let rounds = Rounds::measure(rig, options, &server)?;
    let mut table = Table::new(&["", "best", "median of rounds", "least", "greatest"]);
    let mut bars = Vec::new();
    let kinds: [(&str, f64, Figure<Cost>); 3] = [
        ("a hooked call, read(2)", 1.05, |cost| cost.read),
        ("hooked calls, send(2) and recv(2)", 1.05, |cost| cost.pair),
        ("another call, getppid(2)", 1.01, |cost| cost.other),
    ];
    let option = if unix { " --unix" } else { "" };
    for (name, must, kind) in kinds {
        let ratio = rounds.untraced_lines(&mut table, name, kind);
        let what = format!("untraced{option}: {name}, with / without, best / best");
        bars.push(Bar::new(what, AtMost(must), AtMost(1.0), ratio));
    }
    println!("{table}");
    Ok(bars)
}
