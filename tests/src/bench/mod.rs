//! The benchmarks' command line.

mod agent;
mod body;
mod calls;
mod core;
mod coverage;
mod cpu;
mod delay;
mod exchange;
mod idle;
mod kernel;
mod latency;
mod load;
mod machine;
mod memory;
mod other;
mod paced;
mod proc;
mod report;
mod rig;
mod role;
mod setup;
mod sink;
mod span_file;
mod untraced;
mod waits;
mod wrk;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use agent::Hooks;
use anyhow::Result;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use cpu::Subject;
use machine::Machine;
use report::Bar;
use rig::Rig;
use setup::Setup;

/// Measures the cost of Spoor, against its bars (docs/bench.md explains each measurement)
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    what: Option<What>,

    #[command(flatten)]
    options: Options,
}

/// Number and length of rounds.
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Rounds of a comparison [default: 5 to 15; 25 of throughput]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Length of one measurement [default: 2; 5 of latency, 15 of memory, 30 of idle]
    #[arg(long, global = true, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,

    /// Fewer and shorter rounds: shows that all works, and not much more
    #[arg(long, global = true)]
    quick: bool,

    /// Exit with 1 if a bar is missed
    #[arg(long, global = true)]
    check: bool,

    /// Family of hooks that the agent is told to take [default: the agent's choice]
    #[arg(long, global = true, value_enum, value_name = "FAMILY")]
    hooks: Option<Hooks>,
}

impl Options {
    /// Returns the number of rounds; `usual` unless an option says otherwise.
    fn rounds(&self, usual: u32) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { usual })
    }

    /// Returns the number of seconds; `usual` unless an option says otherwise.
    fn seconds(&self, usual: u64) -> u64 {
        self.seconds
            .unwrap_or(if self.quick { usual.div_ceil(6) } else { usual })
    }

    fn time(&self, usual: u64) -> Duration {
        Duration::from_secs(self.seconds(usual))
    }
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Spans for 1,000,000 requests at saturation
    Coverage {
        /// Requests, at least
        #[arg(long, default_value_t = 1_000_000)]
        requests: u64,
    },
    /// Run time of the eBPF programs for each request
    Kernel {
        /// Measure a request that goes through a proxy, both hops
        #[arg(long, conflicts_with = "body")]
        proxy: bool,
        /// Measure each call inside a large body, and its records in the ring
        #[arg(long)]
        body: bool,
        /// Another agent's binary to measure in the same rounds
        #[arg(long, value_name = "BINARY", conflicts_with = "body")]
        against: Option<PathBuf>,
    },
    /// CPU time added to an exchange of four calls, both ends in one process on one processor
    Exchange {
        /// Another agent's binary to measure in the same rounds
        #[arg(long, value_name = "BINARY")]
        against: Option<PathBuf>,
    },
    /// CPU time for each request, with and without Spoor
    Cpu(cpu::Scene),
    /// Requests a second at saturation, with and without Spoor
    Throughput(cpu::Scene),
    /// Latency of requests at a fixed rate, with and without Spoor
    Latency(latency::Scene),
    /// From a response to the arrival of its span
    Delay,
    /// Memory of the agent and of what it holds in the kernel, at 10,000 requests a second
    Memory {
        /// With 100,000 open connections
        #[arg(long, conflicts_with = "churn")]
        connections: bool,
        /// Growth under 1,000 new connections and 200 process starts a second
        #[arg(long)]
        churn: bool,
        /// Minutes of --churn, at least 1.5
        #[arg(long, default_value_t = 10.0, requires = "churn")]
        minutes: f64,
    },
    /// Time added to system calls of processes that are not traced
    Untraced {
        /// The traced server listens on a Unix socket, too
        #[arg(long)]
        unix: bool,
    },
    /// Cost of other traffic than HTTP in traced processes
    Other,
    /// Time and instructions of Core for a request; instructions against the number in the repository
    Core {
        /// Write the instructions into the repository, as the number that the tests use
        #[arg(long)]
        bless: bool,
    },
    /// CPU time and wake-ups while nothing happens
    Idle,
    /// All of them
    All,
    /// Roles of other processes
    #[command(flatten)]
    Role(RoleName),
}

/// Role of this program when a benchmark starts it.
#[derive(Clone, Debug, Subcommand)]
enum RoleName {
    /// The server of `kernel --body`
    #[command(hide = true)]
    BodyServer {
        /// Where it listens
        address: SocketAddr,
    },
    /// Makes system calls when it is asked to
    #[command(hide = true)]
    Calls {
        /// The file that it reads and writes
        file: PathBuf,
    },
    /// Both ends of a connection
    #[command(hide = true)]
    ExchangePeers {
        /// The processor that it runs on
        cpu: usize,
    },
    /// A server of connections that stay open
    #[command(hide = true)]
    KeepServer {
        /// Where it listens
        address: SocketAddr,
    },
    /// A client of connections that stay open
    #[command(hide = true)]
    KeepClient(load::Keep),
    /// A client with a fixed rate
    #[command(hide = true)]
    PacedClient,
    /// A client of connections that do not stay open
    #[command(hide = true)]
    ChurnClient(load::Churn),
    /// Starts processes
    #[command(hide = true)]
    Spawner {
        /// How many a second
        rate: f64,
    },
}

/// Runs what the command line asks for.
pub fn main() -> Result<ExitCode> {
    let Cli { what, options } = Cli::parse();
    let Some(what) = what else {
        Cli::command().print_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    let what = match what {
        What::Role(role) => return play(role),
        what => what,
    };
    let rig = Rig::new(options.hooks)?;
    println!("{}", origin(&rig)?);
    let bars = match what {
        What::Coverage { requests } => coverage::run(&rig, requests)?,
        What::Kernel { body: true, .. } => body::run(&rig, options)?,
        What::Kernel { proxy, against, .. } => kernel::run(&rig, options, proxy, against)?,
        What::Exchange { against } => exchange::run(&rig, options, against)?,
        What::Cpu(scene) => cpu::run(&rig, options, scene, &[Subject::Cpu])?,
        What::Throughput(scene) => cpu::run(&rig, options, scene, &[Subject::Throughput])?,
        What::Latency(scene) => latency::run(&rig, options, scene)?,
        What::Delay => delay::run(&rig, options)?,
        What::Memory { connections: true, .. } => memory::connections(&rig, options)?,
        What::Memory {
            churn: true, minutes, ..
        } => memory::churn(&rig, options, minutes)?,
        What::Memory { .. } => memory::run(&rig, options)?,
        What::Untraced { unix } => untraced::run(&rig, options, unix)?,
        What::Other => other::run(&rig, options)?,
        What::Core { bless } => core::run(options, bless)?,
        What::Idle => idle::run(&rig, options)?,
        What::All => all(&rig, options)?,
        What::Role(_) => Vec::new(),
    };
    println!("\n{}", report::bars(&bars));
    let missed = bars.iter().any(|bar| !bar.kept());
    Ok(if options.check && missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn play(role: RoleName) -> Result<ExitCode> {
    match role {
        RoleName::BodyServer { address } => body::serve(address),
        RoleName::Calls { file } => calls::run(&file),
        RoleName::ExchangePeers { cpu } => exchange::peers(cpu),
        RoleName::KeepServer { address } => load::serve(address),
        RoleName::KeepClient(keep) => load::keep(&keep),
        RoleName::PacedClient => paced::play(),
        RoleName::ChurnClient(churn) => load::churn(&churn),
        RoleName::Spawner { rate } => load::spawn(rate),
    }
}

/// Returns the line that says where the figures are from. An agent is started for it, which tells its hooks.
fn origin(rig: &Rig) -> Result<String> {
    let machine = Machine::read();
    // The folder is there while agents run.
    let others = std::fs::read_dir("/run/spoor/agents").map_or(0, Iterator::count);
    if others > 0 {
        eprintln!("{others} other agents of Spoor run here: their programs are in the figures without Spoor");
    }
    Ok(format!("{machine}; hooks: {}", rig.family()?.name()))
}

/// Part of `all`: its name and its work.
type Part<'a> = (String, Box<dyn Fn() -> Result<Vec<Bar>> + 'a>);

fn part<'a>(name: &str, work: impl Fn() -> Result<Vec<Bar>> + 'a) -> Part<'a> {
    (name.to_owned(), Box::new(work))
}

fn all(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let requests = if options.quick { 100_000 } else { 1_000_000 };
    let minutes = if options.quick { 1.5 } else { 10.0 };
    let mut parts = vec![
        part("coverage", || coverage::run(rig, requests)),
        part("kernel", || kernel::run(rig, options, false, None)),
        part("kernel --proxy", || kernel::run(rig, options, true, None)),
        part("kernel --body", || body::run(rig, options)),
        part("exchange", || exchange::run(rig, options, None)),
    ];
    parts.extend(cpu_parts(rig, options));
    parts.extend([
        part("latency", || latency::run(rig, options, latency::Scene::default())),
        part("delay", || delay::run(rig, options)),
        part("memory", || memory::run(rig, options)),
        part("memory --connections", || memory::connections(rig, options)),
        part("memory --churn", || memory::churn(rig, options, minutes)),
        part("idle", || idle::run(rig, options)),
        part("untraced", || untraced::run(rig, options, false)),
        part("untraced --unix", || untraced::run(rig, options, true)),
        part("other", || other::run(rig, options)),
        part("core", || core::run(options, false)),
    ]);
    let mut bars = Vec::new();
    for (name, work) in parts {
        println!("\n== {name} ==");
        bars.extend(work()?);
    }
    Ok(bars)
}

/// Returns the parts that compare rounds with and without the agent: each kind of service, of load, and of export.
fn cpu_parts(rig: &Rig, options: Options) -> impl Iterator<Item = Part<'_>> {
    let of = |setup| cpu::Scene { setup, rate: None };
    let rate = cpu::Scene {
        rate: Some(5000),
        ..cpu::Scene::default()
    };
    let both: &[Subject] = &[Subject::Cpu, Subject::Throughput];
    let scenes = [
        (cpu::Scene::default(), both),
        (of(Setup::PROXY), both),
        (of(Setup::NODE), both),
        (of(Setup::GO), both),
        (of(Setup::JSON), both),
        (of(Setup::HTTP), &[Subject::Cpu]),
        (rate, &[Subject::Cpu]),
    ];
    scenes.into_iter().map(move |(scene, subjects)| {
        let and_throughput = if subjects.len() > 1 { " and throughput" } else { "" };
        part(&format!("cpu{and_throughput}{scene}"), move || {
            cpu::run(rig, options, scene, subjects)
        })
    })
}
