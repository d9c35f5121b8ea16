//! The same load with and without the agent: CPU time, and requests a second.

use anyhow::Result;
use clap::Args;

use super::{
    Options,
    paced::Paced,
    report::{
        Bar,
        Bound::{AtLeast, AtMost},
        Figure, Table, least, progress,
    },
    rig::Rig,
    setup::{Answered, Bed, Run, Setup, Traced},
    wrk::Wrk,
};

/// Figure to judge: both come from the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// CPU time for each request.
    Cpu,
    /// Requests a second.
    Throughput,
}

/// Services and load of the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args)]
pub struct Scene {
    /// Services, and where their spans go.
    #[command(flatten)]
    pub setup: Setup,

    /// Requests a second, evenly [default: as many as possible]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// Measures pairs of rounds, one with the agent and one without, in alternating order. Without means that no program is
/// loaded: the agent is started for each of its rounds, and ready before the load begins.
pub fn run(rig: &Rig, options: Options, scene: Scene, subjects: &[Subject]) -> Result<Vec<Bar>> {
    let mut bed = Bed::start(rig, scene.setup)?;
    let address = bed.address();
    let seconds = options.seconds(2);
    let mut paced = Paced::start(rig)?;
    let mut load = || match scene.rate {
        None => {
            let count = Wrk::start(address, seconds, rig.path())?.finish()?;
            Ok(Answers {
                responses: count.responses,
                rate: count.rate,
            })
        }
        Some(rate) => {
            let paced = paced.run(address, f64::from(rate), options.time(2))?;
            Ok(Answers {
                responses: paced.made,
                rate: paced.rate,
            })
        }
    };
    // Fills caches before the first round.
    load()?;

    let mut pairs = Pairs(Vec::new());
    let count = options.rounds(if subjects.contains(&Subject::Throughput) {
        25
    } else {
        15
    });
    for round in 0..count {
        progress(round, count);
        let ((with, agent), without) = if round % 2 == 0 {
            let with = bed.with(&mut load)?;
            (with, bed.without(&mut load)?)
        } else {
            let without = bed.without(&mut load)?;
            (bed.with(&mut load)?, without)
        };
        pairs.0.push(Pair { with, agent, without });
    }
    println!("{}", pairs.table());
    Ok(pairs.bars(scene, subjects))
}

/// Answers to a load.
#[derive(Clone, Copy, Debug)]
struct Answers {
    responses: u64,
    /// Responses a second.
    rate: f64,
}

impl Answered for Answers {
    fn responses(&self) -> u64 {
        self.responses
    }
}

/// Results of a round with the agent and of one without.
struct Pair {
    with: Run<Answers>,
    agent: Traced,
    without: Run<Answers>,
}

impl Pair {
    fn throughput(&self) -> f64 {
        self.with.answered.rate / self.without.answered.rate
    }

    /// Returns the CPU time that the services need more for a request, in µs.
    fn service_added_us(&self) -> f64 {
        self.with.cpu_us() - self.without.cpu_us()
    }

    fn service_added_percent(&self) -> f64 {
        100.0 * self.service_added_us() / self.without.cpu_us()
    }

    /// Returns the agent's CPU time for a request, in µs.
    fn agent_us(&self) -> f64 {
        self.agent.cpu_ns as f64 / 1e3 / self.with.answered.responses as f64
    }

    fn agent_percent(&self) -> f64 {
        100.0 * self.agent_us() / self.without.cpu_us()
    }

    fn agent_us_a_span(&self) -> f64 {
        self.agent.cpu_ns as f64 / 1e3 / self.agent.spans as f64
    }
}

impl Run<Answers> {
    fn a_request(&self, sum: u64) -> f64 {
        sum as f64 / self.answered.responses as f64
    }

    fn cpu_us(&self) -> f64 {
        self.a_request(self.services.cpu_ns) / 1e3
    }

    fn delay_us(&self) -> f64 {
        self.a_request(self.services.delay_ns) / 1e3
    }

    fn preemptions(&self) -> f64 {
        self.a_request(self.services.preemptions)
    }
}

/// Results of all rounds.
struct Pairs(Vec<Pair>);

impl Pairs {
    fn each(&self, value: Figure<Pair>) -> Vec<f64> {
        self.0.iter().map(value).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["", "median", "least", "greatest"]);
        let lines: [(&str, Figure<Pair>); 15] = [
            ("requests/s without", |pair| pair.without.answered.rate),
            ("requests/s with", |pair| pair.with.answered.rate),
            ("requests/s, with / without", Pair::throughput),
            ("CPU of the service a request, without, µs", |pair| {
                pair.without.cpu_us()
            }),
            ("CPU of the service a request, with, µs", |pair| pair.with.cpu_us()),
            ("added to the service, µs", Pair::service_added_us),
            ("added to the service, %", Pair::service_added_percent),
            ("CPU of the agent a request, µs", Pair::agent_us),
            ("CPU of the agent, % of the service's without", Pair::agent_percent),
            ("CPU of the agent a span, µs", Pair::agent_us_a_span),
            ("spans / spans expected", |pair| pair.agent.coverage()),
            ("run delay of the service a request, without, µs", |pair| {
                pair.without.delay_us()
            }),
            ("run delay of the service a request, with, µs", |pair| {
                pair.with.delay_us()
            }),
            ("involuntary switches a request, without", |pair| {
                pair.without.preemptions()
            }),
            ("involuntary switches a request, with", |pair| pair.with.preemptions()),
        ];
        for (name, value) in lines {
            table.series(name, &self.each(value));
        }
        table
    }

    fn bars(&self, scene: Scene, subjects: &[Subject]) -> Vec<Bar> {
        let bar = |subject: &str, what: &str, must, aim, value: Figure<Pair>| {
            Bar::median(format!("{subject}{scene}: {what}"), must, aim, &self.each(value))
        };
        let mut bars = Vec::new();
        if subjects.contains(&Subject::Cpu) {
            let at_most =
                |what: &str, must, aim, value: Figure<Pair>| bar("cpu", what, AtMost(must), AtMost(aim), value);
            bars.push(at_most(
                "added to the service, %",
                12.0,
                7.0,
                Pair::service_added_percent,
            ));
            bars.push(at_most("agent, % of the service", 16.0, 10.0, Pair::agent_percent));
            let (must, aim) = if scene.setup.is_json() { (3.5, 2.5) } else { (4.0, 2.0) };
            bars.push(at_most("agent a span, µs", must, aim, Pair::agent_us_a_span));
            if scene == Scene::default() {
                let added = |pair: &Pair| pair.service_added_us() + pair.agent_us();
                bars.push(at_most(
                    "service + agent a request, with - without, µs",
                    6.0,
                    3.5,
                    added,
                ));
            }
        }
        if subjects.contains(&Subject::Throughput) {
            let what = "requests/s, with / without";
            bars.push(bar("throughput", what, AtLeast(0.8), AtLeast(0.92), Pair::throughput));
        }
        // Lost spans would make everything cheap.
        bars.push(Bar::new(
            format!("spans{scene}: arrived / expected, least of all rounds"),
            AtLeast(1.0),
            AtLeast(1.0),
            least(&self.each(|pair| pair.agent.coverage())),
        ));
        bars
    }
}

impl std::fmt::Display for Scene {
    /// Writes the options that are not the default, each after a blank.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { setup, rate } = self;
        write!(f, "{setup}")?;
        rate.map_or(Ok(()), |rate| write!(f, " --rate {rate}"))
    }
}
