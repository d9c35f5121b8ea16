//! The benchmarks' command line.

mod agent;
mod body;
mod coverage;
mod cpu;
mod delay;
mod idle;
mod kernel;
mod memory;
mod proc;
mod report;
mod rig;
mod sink;
mod wrk;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use report::Bar;
use rig::Rig;

/// What Spoor costs, against its bars (docs/bench.md says what each measures)
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    what: Option<What>,

    #[command(flatten)]
    options: Options,
}

/// How long and how often.
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
    /// How many rounds, where this many are usual.
    fn rounds(&self, usual: u32) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { usual })
    }

    /// How many seconds, where this many are usual.
    fn seconds(&self, usual: u64) -> u64 {
        self.seconds
            .unwrap_or(if self.quick { usual.div_ceil(6) } else { usual })
    }

    fn time(&self, usual: u64) -> Duration {
        Duration::from_secs(self.seconds(usual))
    }
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// Spans for 1,000,000 requests at saturation
    Coverage {
        /// Requests, at least
        #[arg(long, default_value_t = 1_000_000)]
        requests: u64,
    },
    /// Run time of the eBPF programs for each request
    Kernel {
        /// Of a request that goes through a proxy, both hops
        #[arg(long, conflicts_with = "body")]
        proxy: bool,
        /// Of each call inside a large body, and what such a body leaves in the ring
        #[arg(long)]
        body: bool,
    },
    /// CPU time for each request, with and without Spoor
    Cpu,
    /// Requests a second at saturation, with and without Spoor
    Throughput,
    /// From a response to the arrival of its span
    Delay,
    /// Memory of the agent and of what it holds in the kernel, at 10,000 requests a second
    Memory,
    /// CPU time and wake-ups while nothing happens
    Idle,
    /// All of them
    All,
    /// The server of `kernel --body`
    #[command(hide = true)]
    BodyServer {
        /// Where it listens
        address: SocketAddr,
    },
}

/// Runs what the command line asks for.
pub fn main() -> Result<ExitCode> {
    let Cli { what, options } = Cli::parse();
    let Some(what) = what else {
        Cli::command().print_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    if let What::BodyServer { address } = what {
        return body::serve(address);
    }
    let rig = Rig::new()?;
    let bars = match what {
        What::Coverage { requests } => coverage::run(&rig, requests)?,
        What::Kernel { body: true, .. } => body::run(&rig, options)?,
        What::Kernel { proxy, .. } => kernel::run(&rig, options, proxy)?,
        What::Cpu => cpu::run(&rig, options, &[cpu::Subject::Cpu])?,
        What::Throughput => cpu::run(&rig, options, &[cpu::Subject::Throughput])?,
        What::Delay => delay::run(&rig, options)?,
        What::Memory => memory::run(&rig, options)?,
        What::Idle => idle::run(&rig, options)?,
        What::All => all(&rig, options)?,
        What::BodyServer { .. } => Vec::new(),
    };
    println!("\n{}", report::bars(&bars));
    let missed = bars.iter().any(|bar| !bar.kept());
    Ok(if options.check && missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn all(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let requests = if options.quick { 100_000 } else { 1_000_000 };
    let both = [cpu::Subject::Cpu, cpu::Subject::Throughput];
    type Part<'a> = (&'a str, &'a dyn Fn() -> Result<Vec<Bar>>);
    let parts: [Part; 8] = [
        ("coverage", &|| coverage::run(rig, requests)),
        ("kernel", &|| kernel::run(rig, options, false)),
        ("kernel --proxy", &|| kernel::run(rig, options, true)),
        ("kernel --body", &|| body::run(rig, options)),
        ("cpu and throughput", &|| cpu::run(rig, options, &both)),
        ("delay", &|| delay::run(rig, options)),
        ("memory", &|| memory::run(rig, options)),
        ("idle", &|| idle::run(rig, options)),
    ];
    let mut bars = Vec::new();
    for (name, part) in parts {
        println!("\n== {name} ==");
        bars.extend(part()?);
    }
    Ok(bars)
}
