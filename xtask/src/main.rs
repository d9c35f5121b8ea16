//! Project tasks: `cargo xtask setup | build | demo | test | kernels | fuzz | bench`.
//!
//! Each task first makes sure that what it needs is installed ([`setup`]), so `cargo xtask demo` in a fresh clone on
//! a fresh machine is all that there is to know.

mod bare;
mod checks;
mod demo;
mod fuzz;
mod kernels;
mod release;
mod setup;
mod steps;
mod tools;

use std::{convert::Infallible, ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use setup::Scope;
use tools::{CORE_COST, Run, SPOOR_BIN};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, demonstrates, tests and measures Spoor"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, demonstrate and test Spoor; does nothing the second time
    Setup {
        /// Only say what is missing, and exit with 1 if something is
        #[arg(long)]
        check: bool,
        /// For this task alone
        #[arg(default_value = "all")]
        task: Scope,
    },
    /// Build the release binary: one static file that runs on any distribution
    Build,
    /// Start a small shop of uninstrumented services, send load and print its traces
    Demo {
        /// Arguments of the demo, behind `--`: `cargo xtask demo -- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run formatting, lints, docs, unit, property and golden tests, the fuzz targets, end-to-end tests, the oldest kernel, and a bare system
    Test {
        /// Leave out the end-to-end tests, which need root and the services
        #[arg(long)]
        no_e2e: bool,
        /// How long each fuzz target runs, in minutes; 0: they are left out
        #[arg(long, default_value_t = 0.5, value_name = "N", conflicts_with = "no_e2e")]
        fuzz_minutes: f64,
        /// Run only the end-to-end tests of this file (`matrix`) or whose name contains this, with the release binary, and show
        /// what they print: no lints, no unit tests, no fuzz targets, no other system
        #[arg(conflicts_with = "no_e2e")]
        filter: Option<String>,
        /// The agents of these end-to-end tests use this family of hooks: `sock` or `syscall`. Without it they choose
        #[arg(long, value_name = "FAMILY", requires = "filter", value_parser = ["sock", "syscall"])]
        hooks: Option<String>,
        /// Build a minimal system, and run there from nothing: the demo, the setup, and each server and client once
        #[arg(long, conflicts_with_all = ["no_e2e", "fuzz_minutes", "filter", "services"])]
        bare: bool,
        /// Only see that each server and client starts, works and logs; needs no agent
        #[arg(long, conflicts_with_all = ["no_e2e", "fuzz_minutes", "filter"])]
        services: bool,
    },
    /// Test Spoor in Debian's kernels, old and new, in virtual machines, and write docs/kernels.md
    Kernels {
        /// Only these: a series (`5.10`), `newest`, `arm64-6.12`, or `host` for this machine's own kernel
        kernels: Vec<String>,
    },
    /// Run the fuzz targets, and print what their corpus covers
    Fuzz(fuzz::Options),
    /// Measure what Spoor costs
    Bench {
        /// A benchmark and its arguments: `cargo xtask bench -- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = if fuzz::compiler::is_asked() {
        fuzz::compiler::become_rustc()
    } else {
        run(Cli::parse().task)
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { check: true, task } => return setup::check(task),
        Task::Setup { check: false, task } => {
            setup::install(task)?;
            println!("Everything that is needed is installed.");
        }
        Task::Build => {
            setup::install(Scope::Build)?;
            println!("{}", release::build()?);
        }
        Task::Demo { args } => match demo::run(args)? {},
        Task::Bench { args } => match bench(args)? {},
        Task::Kernels { kernels } => {
            setup::install(Scope::Kernels)?;
            kernels::run(&kernels)?;
        }
        Task::Test { bare: true, .. } => bare::from_nothing()?,
        Task::Test { services: true, .. } => {
            setup::install(Scope::Test)?;
            checks::services()?;
        }
        Task::Test { no_e2e: true, .. } => {
            setup::install(Scope::Lint)?;
            checks::without_end_to_end()?;
        }
        Task::Test {
            filter: Some(filter),
            hooks,
            ..
        } => {
            setup::install(Scope::Test)?;
            checks::only(&filter, hooks.as_deref())?;
        }
        Task::Test { fuzz_minutes, .. } => {
            setup::install(Scope::Test)?;
            checks::all(fuzz_minutes)?;
        }
        Task::Fuzz(options) => {
            setup::install(Scope::Fuzz)?;
            fuzz::fuzz(&options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the release binary and becomes the benchmarks, with its path in `SPOOR_BIN`. Only to list them, their program
/// alone is built.
fn bench(args: Vec<OsString>) -> Result<Infallible> {
    if only_lists(&args) {
        setup::install(Scope::Build)?;
        eprintln!("To list the benchmarks, their program is built now; the first time takes some minutes.");
        return benchmarks(args).exec();
    }
    setup::install(Scope::Bench)?;
    let release = release::build()?;
    let core = args
        .iter()
        .any(|arg| arg == "core" || arg == "all")
        .then(release::core_cost)
        .transpose()?;
    let mut run = benchmarks(args).env(SPOOR_BIN, release.path);
    if let Some(core) = core {
        run = run.env(CORE_COST, core);
    }
    run.exec()
}

/// Returns the benchmarks' program with these arguments. Cargo shows how it builds it.
fn benchmarks(args: Vec<OsString>) -> Run {
    Run::cargo(["run", "--release", "--package", "spoor-tests", "--bin", "bench", "--"]).args(args)
}

/// Returns whether the benchmarks' program prints its help and measures nothing.
fn only_lists(args: &[OsString]) -> bool {
    args.is_empty() || args.iter().any(|arg| arg == "help" || is_help(arg))
}

/// Returns whether the argument asks a program for its help.
fn is_help(arg: &OsString) -> bool {
    arg == "-h" || arg == "--help"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_listed_without_building_an_agent() {
        let lists = |args: &[&str]| only_lists(&args.iter().map(OsString::from).collect::<Vec<_>>());
        for args in [&[][..], &["--help"], &["-h"], &["help"], &["cpu", "--help"]] {
            assert!(lists(args), "{args:?}");
        }
        for args in [&["all"][..], &["cpu", "--rounds", "3"]] {
            assert!(!lists(args), "{args:?}");
        }
        let command = benchmarks(vec!["all".into()]).line();
        assert_eq!(command, "cargo run --release --package spoor-tests --bin bench -- all");
    }
}
