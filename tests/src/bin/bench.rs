//! Measures the cost of Spoor, against its bars: `cargo xtask bench SUBCOMMAND`. docs/bench.md explains each
//! measurement.

#[path = "../bench/mod.rs"]
mod bench;

fn main() -> anyhow::Result<std::process::ExitCode> {
    bench::main()
}
