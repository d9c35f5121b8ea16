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
mod load;
mod memory;
mod other;
mod proc;
mod report;
mod rig;
mod role;
mod sink;
mod untraced;
mod waits;
mod wrk;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use report::Bar;
use rig::Rig;

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
    /// Rounds of a comparison [default: 5; 15 of cpu and throughput]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Length of one measurement [default: 2; 15 of memory, 30 of idle]
    #[arg(long, global = true, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,

    /// Fewer and shorter rounds: shows that all works, and not much more
    #[arg(long, global = true)]
    quick: bool,

    /// Exit with 1 if a bar is missed
    #[arg(long, global = true)]
    check: bool,
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
    Cpu,
    /// Requests a second at saturation, with and without Spoor
    Throughput,
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
    Untraced,
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
    /// A client of connections that do not
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
    let rig = Rig::new()?;
    let bars = match what {
        What::Coverage { requests } => coverage::run(&rig, requests)?,
        What::Kernel { body: true, .. } => body::run(&rig, options)?,
        What::Kernel { proxy, against, .. } => kernel::run(&rig, options, proxy, against)?,
        What::Exchange { against } => exchange::run(&rig, options, against)?,
        What::Cpu => cpu::run(&rig, options, &[cpu::Subject::Cpu])?,
        What::Throughput => cpu::run(&rig, options, &[cpu::Subject::Throughput])?,
        What::Delay => delay::run(&rig, options)?,
        What::Memory { connections: true, .. } => memory::connections(&rig, options)?,
        What::Memory {
            churn: true, minutes, ..
        } => memory::churn(&rig, options, minutes)?,
        What::Memory { .. } => memory::run(&rig, options)?,
        What::Untraced => untraced::run(&rig, options)?,
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
        RoleName::ChurnClient(churn) => load::churn(&churn),
        RoleName::Spawner { rate } => load::spawn(rate),
    }
}

fn all(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let requests = if options.quick { 100_000 } else { 1_000_000 };
    let both = [cpu::Subject::Cpu, cpu::Subject::Throughput];
    type Part<'a> = (&'a str, &'a dyn Fn() -> Result<Vec<Bar>>);
    let parts: [Part; 14] = [
        ("coverage", &|| coverage::run(rig, requests)),
        ("kernel", &|| kernel::run(rig, options, false, None)),
        ("kernel --proxy", &|| kernel::run(rig, options, true, None)),
        ("kernel --body", &|| body::run(rig, options)),
        ("exchange", &|| exchange::run(rig, options, None)),
        ("cpu and throughput", &|| cpu::run(rig, options, &both)),
        ("delay", &|| delay::run(rig, options)),
        ("memory", &|| memory::run(rig, options)),
        ("memory --connections", &|| memory::connections(rig, options)),
        ("memory --churn", &|| {
            memory::churn(rig, options, if options.quick { 1.5 } else { 10.0 })
        }),
        ("idle", &|| idle::run(rig, options)),
        ("untraced", &|| untraced::run(rig, options)),
        ("other", &|| other::run(rig, options)),
        ("core", &|| core::run(options, false)),
    ];
    let mut bars = Vec::new();
    for (name, part) in parts {
        println!("\n== {name} ==");
        bars.extend(part()?);
    }
    Ok(bars)
}
