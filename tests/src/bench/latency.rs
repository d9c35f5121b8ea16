//! Latency of requests at a fixed rate, with and without the agent.

use anyhow::{Result, ensure};
use clap::Args;

use super::{
    Options,
    paced::{Latencies, Paced},
    report::{
        Bar,
        Bound::{AtLeast, AtMost},
        Figure, Table, least, median, progress,
    },
    rig::Rig,
    setup::{Bed, Setup, Traced},
    wrk::Wrk,
};

/// Number of runs that find the saturation.
const SATURATIONS: u32 = 3;

/// Services, and the rates.
#[derive(Clone, Debug, Default, Args)]
pub struct Scene {
    /// Services, and where their spans go.
    #[command(flatten)]
    pub setup: Setup,

    /// Requests a second, evenly; repeatable [default: half of the saturation without the agent]
    #[arg(long = "rate", value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub rates: Vec<u32>,
}

/// Measures pairs of rounds at each rate, one with the agent and one without, in alternating order.
pub fn run(rig: &Rig, options: Options, scene: Scene) -> Result<Vec<Bar>> {
    let Scene { setup, mut rates } = scene;
    let mut bed = Bed::start(rig, setup)?;
    let mut paced = Paced::start(rig)?;
    if rates.is_empty() {
        let saturation = saturation(rig, options, &bed)?;
        println!("saturation without the agent: {saturation:.0} requests/s");
        rates.push((saturation / 2.0) as u32);
    }
    let mut bars = Vec::new();
    for rate in rates {
        let mut pairs = Vec::new();
        let count = options.rounds(15);
        for round in 0..count {
            progress(round, count);
            let with_first = round % 2 == 0;
            pairs.push(Pair::measure(&mut bed, &mut paced, options, rate, with_first)?);
        }
        let name = format!("latency{setup} at {rate}/s");
        println!("{}", table(&pairs));
        bars.push(Bar::median(
            format!("{name}: p99, with / without"),
            AtMost(1.05),
            AtMost(1.02),
            &each(&pairs, |pair| pair.with.p99_us / pair.without.p99_us),
        ));
        bars.push(Bar::new(
            format!("{name}: spans arrived / expected, least of all rounds"),
            AtLeast(1.0),
            AtLeast(1.0),
            least(&each(&pairs, |pair| pair.agent.coverage())),
        ));
    }
    Ok(bars)
}

/// Returns the median of the requests a second that the services answer at most, without the agent.
fn saturation(rig: &Rig, options: Options, bed: &Bed) -> Result<f64> {
    let run = |_| {
        Ok(Wrk::start(bed.address(), options.seconds(3), rig.path())?
            .finish()?
            .rate)
    };
    let rates = (0..SATURATIONS).map(run).collect::<Result<Vec<_>>>()?;
    let rate = median(&rates);
    ensure!(rate >= 2.0, "the service answers {rate} requests/s");
    Ok(rate)
}

/// Results of a round with the agent and of one without.
struct Pair {
    with: Latencies,
    agent: Traced,
    without: Latencies,
}

impl Pair {
    fn measure(bed: &mut Bed, paced: &mut Paced, options: Options, rate: u32, with_first: bool) -> Result<Self> {
        let address = bed.address();
        let mut load = || paced.run(address, f64::from(rate), options.time(5));
        let ((with, agent), without) = if with_first {
            let with = bed.with(&mut load)?;
            (with, bed.without(&mut load)?)
        } else {
            let without = bed.without(&mut load)?;
            (bed.with(&mut load)?, without)
        };
        Ok(Self {
            with: with.answered,
            agent,
            without: without.answered,
        })
    }
}

fn each(pairs: &[Pair], value: Figure<Pair>) -> Vec<f64> {
    pairs.iter().map(value).collect()
}

fn table(pairs: &[Pair]) -> Table {
    let mut table = Table::new(&[
        "µs from the time at which a request is due",
        "median",
        "least",
        "greatest",
    ]);
    let quantiles: [(&str, Figure<Latencies>); 3] = [
        ("p50", |latencies| latencies.p50_us),
        ("p99", |latencies| latencies.p99_us),
        ("p99.9", |latencies| latencies.p999_us),
    ];
    for (name, quantile) in quantiles {
        let [without, with]: [Vec<f64>; 2] = [
            pairs.iter().map(|pair| quantile(&pair.without)).collect(),
            pairs.iter().map(|pair| quantile(&pair.with)).collect(),
        ];
        let ratios: Vec<f64> = with
            .iter()
            .zip(&without)
            .map(|(with, without)| with / without)
            .collect();
        table.series(&format!("{name} without"), &without);
        table.series(&format!("{name} with"), &with);
        table.series(&format!("{name}, with / without"), &ratios);
    }
    table.series("spans / spans expected", &each(pairs, |pair| pair.agent.coverage()));
    table
}
