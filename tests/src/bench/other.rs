//! Cost of a target's other traffic than HTTP: another protocol, and files.

use std::{net::SocketAddr, process::Command, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use spoor::probe::reference;
use spoor_tests::{
    net::{free_address, wait_accepting},
    process::Process,
};

use super::{
    Options,
    agent::{Agent, SELECTION_TIME},
    calls::Cost,
    proc,
    report::{Bar, Bound, Table, median, progress},
    rig::{Rig, Side, installed},
    untraced::Rounds,
};

/// Time in which the agent reads its counters.
const COUNTING_TIME: Duration = Duration::from_millis(1200);

/// Measures Redis under its own benchmark, by inline commands, then a process that reads and writes a file.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let mut bars = redis(rig, options)?;
    let rounds = Rounds::measure(rig, options, &rig.nginx(Side::Traced)?)?;
    let mut table = Table::new(&["", "median", "least", "greatest"]);
    for (name, kind) in [
        (
            "read(2) of 4 KiB of a file",
            (|cost| cost.file_read) as fn(&Cost) -> f64,
        ),
        ("write(2) of 4 KiB to a file", |cost| cost.file_write),
    ] {
        rounds.traced_lines(&mut table, name, kind);
        bars.push(Bar::new(
            format!("other: {name}, traced / empty programs"),
            Bound::AtMost(1.25),
            Bound::AtMost(1.1),
            median(&rounds.traced_ratios(kind)),
        ));
    }
    println!("{table}");
    Ok(bars)
}

/// Measures pairs of times. One with an untraced server gives the cost of a run that finds no target, one has a traced
/// server. redis-benchmark is never traced. The server's calls come from /proc, because it makes no others on its
/// sockets.
fn redis(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let _statistics = reference::enable_run_statistics()?;
    let (plain, traced) = (Redis::start(rig, Side::Plain)?, Redis::start(rig, Side::Traced)?);
    // Selected by process id, so that programs that start elsewhere meanwhile make no records.
    let mut launch = rig.launch()?;
    launch.select = vec!["--pid".into(), traced.process.id().to_string().into()];
    let agent = Agent::start(&launch)?;
    let (mut passed_over_ns, mut call_ns, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let count = options.rounds(5);
    for round in 0..count {
        progress(round, count);
        let untraced = measure(rig, &agent, &plain, options)?;
        let passed_over = untraced.run_ns / untraced.runs;
        let sample = measure(rig, &agent, &traced, options)?;
        let client_runs = sample.runs - sample.server_calls;
        ensure!(
            client_runs > 0.0,
            "the programs ran less often than the server made calls"
        );
        passed_over_ns.push(passed_over);
        call_ns.push((sample.run_ns - client_runs * passed_over) / sample.server_calls);
        records.push(sample.records);
    }
    agent.finish()?;

    let mut table = Table::new(&["", "median", "least", "greatest"]);
    table.series("a run that finds no target, ns", &passed_over_ns);
    table.series("a call of a traced redis, ns", &call_ns);
    table.series("records after detection", &records);
    println!("{table}");
    Ok(vec![
        Bar::new(
            "other: ns a call of a protocol that is not HTTP",
            Bound::AtMost(200.0),
            Bound::AtMost(120.0),
            median(&call_ns),
        ),
        Bar::new(
            "other: records after detection",
            Bound::Exactly(0.0),
            Bound::Exactly(0.0),
            records.iter().sum(),
        ),
    ])
}

/// Differences of counts.
#[derive(Debug)]
struct Sample {
    runs: f64,
    run_ns: f64,
    server_calls: f64,
    records: f64,
}

fn measure(rig: &Rig, agent: &Agent, redis: &Redis, options: Options) -> Result<Sample> {
    let mut command = Command::new("redis-benchmark");
    command
        .args([
            "-h",
            &redis.address.ip().to_string(),
            "-p",
            &redis.address.port().to_string(),
        ])
        // A connection that begins with an inline command is none of a protocol that Spoor reads.
        .args(["-t", "ping_inline", "-c", "16", "-n", "1000000000", "-q"]);
    let mut load = Process::start("redis-benchmark", command, &rig.path().join("redis-benchmark.log"))?;
    // After their first calls its connections are known to be of another protocol; the agent shows its counters once a second.
    sleep(SELECTION_TIME + COUNTING_TIME);
    let count = || -> Result<[f64; 4]> {
        let records = agent.metrics()?.sum("spoor_ring_records_total");
        let server_calls = proc::read_write_calls(redis.process.id())?;
        let objects = agent.objects()?;
        Ok([
            objects.runs as f64,
            objects.run_ns as f64,
            server_calls as f64,
            records.context("the agent does not count records")?,
        ])
    };
    let before = count()?;
    sleep(options.time(2).max(COUNTING_TIME));
    let after = count()?;
    load.check_running()?;
    load.signal(Signal::SIGTERM)?;
    load.wait(Duration::from_secs(5))?;
    let [runs, run_ns, server_calls, records] = std::array::from_fn(|index| after[index] - before[index]);
    let sample = Sample {
        runs,
        run_ns,
        server_calls,
        records,
    };
    ensure!(
        sample.runs > 0.0 && sample.server_calls > 1000.0,
        "redis did nothing: {sample:?}"
    );
    Ok(sample)
}

struct Redis {
    process: Process,
    address: SocketAddr,
}

impl Redis {
    fn start(rig: &Rig, side: Side) -> Result<Self> {
        let program = rig.program(side, "redis-server", &installed("redis-server")?)?;
        let address = free_address();
        let mut command = Command::new(program);
        command
            .args([
                "--bind",
                &address.ip().to_string(),
                "--port",
                &address.port().to_string(),
            ])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(rig.path());
        let mut process = Process::start("redis-server", command, &rig.path().join("redis.log"))?;
        wait_accepting(address, &mut process)?;
        Ok(Self { process, address })
    }
}
