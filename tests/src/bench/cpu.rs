//! The same load with and without the agent: CPU time, and requests a second.

use std::{thread::sleep, time::Duration};

use anyhow::Result;

use super::{
    Options,
    agent::SELECTION_TIME,
    proc,
    report::{Bar, Bound, Table, median, progress},
    rig::{Nginx, Rig, Side},
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

/// Time without a new span after which a round is over.
const PATIENCE: Duration = Duration::from_secs(3);

/// Measures pairs of rounds, one with the agent and one without, in alternating order. Without means that no program is
/// loaded: the agent is started for each of its rounds, and ready before the load begins.
pub fn run(rig: &Rig, options: Options, subjects: &[Subject]) -> Result<Vec<Bar>> {
    let nginx = rig.nginx(Side::Traced)?;
    let seconds = options.seconds(2);
    // Fills caches before the first round.
    Wrk::start(nginx.address, 1, rig.path())?.finish()?;

    let mut pairs = Vec::new();
    let count = options.rounds(15);
    for round in 0..count {
        progress(round, count);
        let (with, without) = if round % 2 == 0 {
            let with = with_agent(rig, &nginx, seconds)?;
            (with, without_agent(rig, &nginx, seconds)?)
        } else {
            let without = without_agent(rig, &nginx, seconds)?;
            (with_agent(rig, &nginx, seconds)?, without)
        };
        pairs.push((with, without));
    }

    let of = |value: fn(&(Round, Round)) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
    let added = of(|(with, without)| with.nginx_us + with.agent_us - without.nginx_us);
    let per_span = of(|(with, _)| with.agent_us_a_span);
    let throughput = of(|(with, without)| with.rate / without.rate);
    let mut table = Table::new(&["", "median", "least", "greatest"]);
    table.series("requests/s without", &of(|(_, without)| without.rate));
    table.series("requests/s with", &of(|(with, _)| with.rate));
    table.series("requests/s, with / without", &throughput);
    table.series(
        "CPU of nginx a request, without, µs",
        &of(|(_, without)| without.nginx_us),
    );
    table.series("CPU of nginx a request, with, µs", &of(|(with, _)| with.nginx_us));
    table.series("CPU of the agent a request, µs", &of(|(with, _)| with.agent_us));
    table.series("added CPU a request, µs", &added);
    table.series("CPU of the agent a span, µs", &per_span);
    table.series("spans / responses", &of(|(with, _)| with.coverage));
    println!("{table}");

    let mut bars = Vec::new();
    if subjects.contains(&Subject::Cpu) {
        let at_most = |what: &str, must, aim, values: &[f64]| {
            Bar::new(what, Bound::AtMost(must), Bound::AtMost(aim), median(values))
        };
        bars.push(at_most(
            "cpu: nginx + agent a request, with - without, µs",
            6.0,
            3.5,
            &added,
        ));
        bars.push(at_most("cpu: of that, agent a span, µs", 4.0, 2.0, &per_span));
    }
    if subjects.contains(&Subject::Throughput) {
        bars.push(Bar::new(
            "throughput: requests/s, with / without",
            Bound::AtLeast(0.8),
            Bound::AtLeast(0.9),
            median(&throughput),
        ));
    }
    Ok(bars)
}

/// Result of a round. CPU times are the scheduler's, in ns for each thread, from before the load until the last span
/// has arrived.
struct Round {
    rate: f64,
    nginx_us: f64,
    agent_us: f64,
    agent_us_a_span: f64,
    coverage: f64,
}

fn without_agent(rig: &Rig, nginx: &Nginx, seconds: u64) -> Result<Round> {
    let before = nginx.cpu_ns()?;
    let count = Wrk::start(nginx.address, seconds, rig.path())?.finish()?;
    Ok(Round {
        rate: count.rate,
        nginx_us: (nginx.cpu_ns()? - before) as f64 / 1e3 / count.responses as f64,
        agent_us: 0.0,
        agent_us_a_span: 0.0,
        coverage: 0.0,
    })
}

fn with_agent(rig: &Rig, nginx: &Nginx, seconds: u64) -> Result<Round> {
    let agent = rig.agent(&[])?;
    sleep(SELECTION_TIME);
    let (nginx_before, agent_before) = (nginx.cpu_ns()?, proc::cpu_ns(agent.id())?);
    let spans_before = rig.sink.spans();
    let count = Wrk::start(nginx.address, seconds, rig.path())?.finish()?;
    rig.sink.settle(spans_before + count.responses, PATIENCE);
    let spans = (rig.sink.spans() - spans_before) as f64;
    let responses = count.responses as f64;
    let agent_us = (proc::cpu_ns(agent.id())? - agent_before) as f64 / 1e3;
    let nginx_us = (nginx.cpu_ns()? - nginx_before) as f64 / 1e3;
    agent.finish()?;
    Ok(Round {
        rate: count.rate,
        nginx_us: nginx_us / responses,
        agent_us: agent_us / responses,
        agent_us_a_span: agent_us / spans,
        coverage: spans / responses,
    })
}
