//! Run time of the eBPF programs for each request.

use std::{path::PathBuf, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use spoor::probe::reference::{self, Reference};

use super::{
    Options,
    agent::{Agent, SELECTION_TIME},
    proc,
    report::{
        Bar,
        Bound::{AtMost, Exactly},
        Table, progress,
    },
    rig::{Rig, Service, Side},
    waits::Waits,
    wrk::Wrk,
};

/// The agent's program at the exit of epoll_wait(2). Older agents have none.
const WAITS_PROGRAM: &str = "epoll_wait_exit";

/// Measures rounds of an untraced server, the reference program on an untraced server, and a traced server, all under
/// one agent and the same load. Another agent has rounds of its own, which alternate with these.
///
/// The kernel's statistics cover all runs of a program, in any process; only the server's are wanted. In the round with
/// an untraced server, all runs (in wrk and nginx) find no target and end: that gives the cost of such a run. wrk reads
/// and writes by read(2) and write(2) alone, which /proc/PID/io counts, and waits by epoll_wait(2), which a performance
/// event counts; each is one run. So the server's share of the other round is the total, less wrk's calls times that
/// cost.
pub fn run(rig: &Rig, options: Options, proxy: bool, against: Option<PathBuf>) -> Result<Vec<Bar>> {
    let _statistics = reference::enable_run_statistics()?;
    let servers = [
        Servers::start(rig, Side::Plain, proxy)?,
        Servers::start(rig, Side::Traced, proxy)?,
    ];
    let time = options.time(2);
    let mut agents = vec![("", rig.launch()?, Rounds::default())];
    agents.extend(against.map(|program| (", other agent", rig.launch_other(program), Rounds::default())));

    let count = options.rounds(5);
    for round in 0..count {
        progress(round, count);
        let states = agents.len();
        for turn in 0..states {
            let (_, launch, rounds) = &mut agents[(turn + round as usize) % states];
            let agent = Agent::start(launch)?;
            sleep(SELECTION_TIME);
            rounds.add(rig, &agent, &servers, time)?;
            agent.finish()?;
        }
    }

    let mut table = Table::new(&["", "median", "least", "greatest"]);
    for (name, _, rounds) in &agents {
        rounds.lines(&mut table, name);
    }
    println!("{table}");
    let multiple = &agents[0].2.multiple;
    let bar = if proxy {
        Bar::median(
            "kernel --proxy: multiple of the reference",
            AtMost(10.0),
            AtMost(7.0),
            multiple,
        )
    } else {
        Bar::median("kernel: multiple of the reference", AtMost(4.0), AtMost(2.5), multiple)
    };
    // A record that finds no room costs less.
    let lost = agents[0].2.ring_full.iter().sum();
    let what = format!(
        "kernel{}: records lost to a full ring",
        if proxy { " --proxy" } else { "" }
    );
    Ok(vec![bar, Bar::new(what, Exactly(0.0), Exactly(0.0), lost)])
}

/// Results, one value for each round.
#[derive(Default)]
struct Rounds {
    reference_ns: Vec<f64>,
    passed_over_ns: Vec<f64>,
    untraced_ns: Vec<f64>,
    ns: Vec<f64>,
    runs: Vec<f64>,
    multiple: Vec<f64>,
    skipped: Vec<f64>,
    ring_full: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, rig: &Rig, agent: &Agent, [plain, traced]: &[Servers; 2], time: Duration) -> Result<()> {
        let untraced = measure(rig, agent, plain, time)?;
        let reference_ns = reference_ns(rig, plain, time)?;
        let passed_over_ns = untraced.run_ns / untraced.runs;
        let traced = measure(rig, agent, traced, time)?;
        let ns = (traced.run_ns - traced.client_calls * passed_over_ns) / traced.requests;
        self.reference_ns.push(reference_ns);
        self.passed_over_ns.push(passed_over_ns);
        self.ns.push(ns);
        self.runs.push((traced.runs - traced.client_calls) / traced.requests);
        self.untraced_ns.push(untraced.run_ns / untraced.requests);
        self.multiple.push(ns / reference_ns);
        self.skipped.push(agent.objects()?.skipped as f64);
        // The agent reads its counters once a second.
        sleep(SELECTION_TIME);
        let lost = agent.metrics()?.value("spoor_kernel_lost_total{cause=\"ring_full\"}");
        self.ring_full.push(lost.unwrap_or(f64::NAN));
        Ok(())
    }

    fn lines(&self, table: &mut Table, name: &str) {
        for (what, values) in [
            ("reference program (copy 256 bytes, submit), ns", &self.reference_ns),
            ("a run that finds no target, ns", &self.passed_over_ns),
            ("an untraced request, client and server, ns", &self.untraced_ns),
            ("a traced request, server side, ns", &self.ns),
            ("a traced request, server side, runs", &self.runs),
            ("a traced request, multiple of the reference", &self.multiple),
            ("runs that the kernel skipped", &self.skipped),
            ("records that found no room in the ring", &self.ring_full),
        ] {
            table.series(&format!("{what}{name}"), values);
        }
    }
}

/// An nginx with a file, and optionally one in front of it.
struct Servers {
    file: Service,
    proxy: Option<Service>,
}

impl Servers {
    fn start(rig: &Rig, side: Side, proxy: bool) -> Result<Self> {
        let file = rig.nginx(side)?;
        let proxy = proxy.then(|| rig.proxy(side, file.address)).transpose()?;
        Ok(Self { file, proxy })
    }

    fn front(&self) -> &Service {
        self.proxy.as_ref().unwrap_or(&self.file)
    }
}

/// Counts, or differences of counts.
#[derive(Clone, Copy, Debug)]
struct Sample {
    runs: f64,
    run_ns: f64,
    requests: f64,
    client_calls: f64,
}

/// Measures a time of saturation that begins once wrk is known to be no target.
fn measure(rig: &Rig, agent: &Agent, servers: &Servers, time: Duration) -> Result<Sample> {
    let wrk = Wrk::start(
        servers.front().address,
        (SELECTION_TIME + time).as_secs() + 2,
        rig.path(),
    )?;
    sleep(SELECTION_TIME);
    // wrk causes runs here if the agent has this program.
    let mut waits = reference::is_loaded(WAITS_PROGRAM)
        .then(|| Waits::count(wrk.id()))
        .transpose()?;
    let before = sample(agent, servers, &wrk, &mut waits)?;
    sleep(time);
    let after = sample(agent, servers, &wrk, &mut waits)?;
    wrk.finish()?;
    let sample = Sample {
        runs: after.runs - before.runs,
        run_ns: after.run_ns - before.run_ns,
        requests: after.requests - before.requests,
        client_calls: after.client_calls - before.client_calls,
    };
    ensure!(
        sample.requests > 0.0 && sample.runs > sample.client_calls,
        "the programs ran less often than wrk made calls: {sample:?}"
    );
    Ok(sample)
}

/// Measures the reference program on the server's recvfrom(2), which wrk never calls.
fn reference_ns(rig: &Rig, servers: &Servers, time: Duration) -> Result<f64> {
    let wrk = Wrk::start(servers.front().address, time.as_secs() + 2, rig.path())?;
    sleep(Duration::from_millis(500));
    let reference = Reference::attach()?;
    sleep(time);
    let cost = reference.cost()?;
    drop(reference);
    wrk.finish()?;
    Ok(cost.as_nanos() as f64)
}

fn sample(agent: &Agent, servers: &Servers, wrk: &Wrk, waits: &mut Option<Waits>) -> Result<Sample> {
    let requests = servers.front().requests()?;
    let waited = waits.as_mut().map_or(Ok(0), Waits::calls)?;
    let client_calls = proc::read_write_calls(wrk.id())? + waited;
    let objects = agent.objects()?;
    Ok(Sample {
        runs: objects.runs as f64,
        run_ns: objects.run_ns as f64,
        requests: requests as f64,
        client_calls: client_calls as f64,
    })
}
