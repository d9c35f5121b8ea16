//! Cost of an exchange with and without the agent: both ends of a connection in one process, on one processor.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::ExitCode,
    thread::sleep,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use spoor::probe::reference::Empty;
use spoor_tests::metrics::Metrics;

use super::{
    Options,
    agent::{Agent, Launch, SELECTION_TIME},
    calls::cpu_ns,
    report::{Bar, Bound::AtMost, Table, median, progress},
    rig::{Rig, Side},
    role::Role,
};

/// Calls of an exchange: the client writes, the server reads, the server writes, the client reads.
const CALLS: usize = 4;
/// Exchanges between two readings of the clock.
const EXCHANGES: usize = 5_000;
/// Batches for each start of an agent.
const BATCHES: usize = 40;
/// Exchanges before the first batch: afterwards the connection is described, and caches are warm.
const WARM_UP: usize = 500;

/// The calling thread, in the scheduler's calls.
const MYSELF: Pid = Pid::from_raw(0);

const REQUEST: &[u8] = b"GET /exchange HTTP/1.1\r\nHost: bench.test\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Programs of a round.
enum Programs {
    /// No programs.
    None,
    /// Programs that do nothing, on the events of sends and receives.
    Empty,
    /// An agent's.
    Agent(Launch),
}

/// Measures rounds with and without the agent, with empty programs, and with another agent if one is given, in rotating
/// order. An agent is started for each of its rounds, and the rounds without have no program loaded.
pub fn run(rig: &Rig, options: Options, against: Option<PathBuf>) -> Result<Vec<Bar>> {
    let mut peers = Peers::start(rig)?;
    let mut states = states(rig, against)?;
    let batches = if options.quick { BATCHES / 4 } else { BATCHES };
    let count = options.rounds(6);
    for round in 0..count {
        progress(round, count);
        let turns = states.len();
        for turn in 0..turns {
            let (_, programs, times) = &mut states[(turn + round as usize) % turns];
            times.add(match programs {
                Programs::None => peers.exchanges(batches)?,
                Programs::Empty => {
                    let _attached = Empty::on_socket_events()?;
                    peers.exchanges(batches)?
                }
                Programs::Agent(launch) => traced(&mut peers, launch, batches)?,
            });
        }
    }

    println!("{}", table(&states));
    let best = |wanted: &str| {
        let mut found = states.iter().filter(|(name, ..)| *name == wanted);
        found.next().map(|(.., times)| times.best())
    };
    let (Some(without), Some(with)) = (best(WITHOUT), best(WITH)) else {
        anyhow::bail!("a state is missing");
    };
    let added = with - without;
    let mut bars = vec![
        Bar::new("exchange: added, ns, best - best", AtMost(1200.0), AtMost(900.0), added),
        Bar::new(
            "exchange: with / without, best / best",
            AtMost(1.4),
            AtMost(1.3),
            with / without,
        ),
    ];
    bars.extend(best(EMPTY).map(|empty| {
        let multiple = added / (empty - without);
        Bar::new(
            "exchange: added, multiple of empty programs",
            AtMost(10.0),
            AtMost(8.0),
            multiple,
        )
    }));
    Ok(bars)
}

const WITHOUT: &str = "without Spoor";
const EMPTY: &str = "with empty programs";
const WITH: &str = "with";

/// Returns the states to compare, the one without programs first. Empty programs are left out where the kernel lacks the
/// events.
fn states(rig: &Rig, against: Option<PathBuf>) -> Result<Vec<(&'static str, Programs, Batches)>> {
    let mut states = vec![(WITHOUT, Programs::None)];
    match Empty::on_socket_events() {
        Ok(_) => states.push((EMPTY, Programs::Empty)),
        Err(error) => println!("no empty programs: {error} (the events are there from Linux 6.3 on)"),
    }
    states.push((WITH, Programs::Agent(rig.launch()?)));
    states.extend(against.map(|program| ("with the other agent", Programs::Agent(rig.launch_other(program)))));
    let with_times = states
        .into_iter()
        .map(|(name, programs)| (name, programs, Batches::default()));
    Ok(with_times.collect())
}

fn table(states: &[(&str, Programs, Batches)]) -> Table {
    let mut table = Table::new(&["", "best", "median of rounds", "least", "greatest"]);
    for (name, _, times) in states {
        table.figure_and_series(&format!("an exchange {name}, ns"), times.best(), &times.rounds);
    }
    let Some(((.., without), others)) = states.split_first() else {
        return table;
    };
    for (name, _, times) in others {
        table.figure_and_series(
            &format!("added {name}, ns"),
            times.best() - without.best(),
            &times.compared(without, |with, without| with - without),
        );
        table.figure_and_series(
            &format!("{name} / without"),
            times.best() / without.best(),
            &times.compared(without, |with, without| with / without),
        );
    }
    table
}

/// Measures a round with an agent. The agent must have seen every call and lost nothing: a lost call costs less than a
/// reported one.
fn traced(peers: &mut Peers, launch: &mut Launch, batches: usize) -> Result<Vec<f64>> {
    // It reads every record and exports nothing.
    launch.environment = vec![("OTEL_TRACES_SAMPLER", "always_off")];
    let agent = Agent::start(launch)?;
    sleep(SELECTION_TIME);
    let before = recorded(&agent.metrics()?)?;
    let ns = peers.exchanges(batches)?;
    // The agent reads its counters once a second.
    sleep(SELECTION_TIME);
    let metrics = agent.metrics()?;
    let records = recorded(&metrics)? - before;
    let lost = metrics.value("spoor_kernel_lost_total{cause=\"ring_full\"}");
    agent.finish()?;
    let calls = (CALLS * batches * EXCHANGES) as f64;
    ensure!(records >= calls, "{records} records of {calls} calls");
    ensure!(lost == Some(0.0), "{lost:?} records found no room in the ring");
    Ok(ns)
}

fn recorded(metrics: &Metrics) -> Result<f64> {
    let records = metrics.sum("spoor_ring_records_total");
    records.context("the agent does not count records")
}

/// Times of an exchange in ns: a value for each batch, and the median of each round.
#[derive(Default)]
struct Batches {
    all: Vec<f64>,
    rounds: Vec<f64>,
}

impl Batches {
    fn add(&mut self, ns: Vec<f64>) {
        self.rounds.push(median(&ns));
        self.all.extend(ns);
    }

    /// Returns the time without disturbance.
    fn best(&self) -> f64 {
        self.all.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Compares the medians of rounds with those of the same rounds without the agent.
    fn compared(&self, without: &Self, compare: fn(f64, f64) -> f64) -> Vec<f64> {
        let pairs = self.rounds.iter().zip(&without.rounds);
        pairs.map(|(&with, &without)| compare(with, without)).collect()
    }
}

/// The process with both ends of the connection.
struct Peers {
    role: Role,
    /// Processors that this process could use before.
    processors: CpuSet,
}

impl Peers {
    /// Starts the process on the last processor. As long as it lives, this thread and its children, above all agents,
    /// are kept off that processor.
    fn start(rig: &Rig) -> Result<Self> {
        let processors = sched_getaffinity(MYSELF).context("cannot tell which processors there are")?;
        let is_ours = |cpu: &usize| processors.is_set(*cpu).unwrap_or(false);
        let ours: Vec<usize> = (0..CpuSet::count()).filter(is_ours).collect();
        let cpu = *ours.last().context("there is no processor")?;
        let mut role = rig.role(Side::Traced, &["exchange-peers", &cpu.to_string()])?;
        ensure!(role.line()? == "ready\n", "the process with both ends did not start");
        if ours.len() > 1 {
            let mut others = processors;
            others.unset(cpu)?;
            sched_setaffinity(MYSELF, &others).context("cannot leave a processor to the benchmark")?;
        }
        Ok(Self { role, processors })
    }

    /// Opens a connection and runs that many batches of exchanges on it.
    fn exchanges(&mut self, batches: usize) -> Result<Vec<f64>> {
        let line = self.role.ask(&batches.to_string())?;
        let values = line.split_ascii_whitespace().map(str::parse);
        let values: Vec<f64> = values
            .collect::<Result<_, _>>()
            .with_context(|| format!("it said {line:?}"))?;
        ensure!(values.len() == batches, "{} values of {batches}", values.len());
        Ok(values)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(MYSELF, &self.processors) {
            eprintln!("this process stays off a processor: {error}");
        }
    }
}

/// Runs the process itself: for each line with a number N, it prints the time of an exchange in each of N batches.
pub fn peers(cpu: usize) -> Result<ExitCode> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(MYSELF, &set).context("cannot stay on one processor")?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let batches: usize = line?.parse().context("no number of batches")?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut exchanges = |count: usize| -> Result<()> {
            let mut buffer = [0; 4096];
            for _ in 0..count {
                pass(&mut client, &mut server, REQUEST, &mut buffer)?;
                pass(&mut server, &mut client, RESPONSE, &mut buffer)?;
            }
            Ok(())
        };
        exchanges(WARM_UP)?;
        let mut values = Vec::with_capacity(batches);
        for _ in 0..batches {
            let begin = cpu_ns()?;
            exchanges(EXCHANGES)?;
            values.push(((cpu_ns()? - begin) as f64 / EXCHANGES as f64).to_string());
        }
        println!("{}", values.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Passes a message, by one call at each end.
fn pass(from: &mut TcpStream, to: &mut TcpStream, message: &[u8], buffer: &mut [u8]) -> Result<()> {
    let sent = from.write(message)?;
    let received = to.read(buffer)?;
    ensure!(
        sent == message.len() && received == message.len(),
        "sent {sent}, received {received} of {} bytes",
        message.len()
    );
    Ok(())
}
