//! What Spoor costs, against its bars: `cargo xtask bench SUBCOMMAND`. docs/bench.md says what each measures.

#[path = "../bench/mod.rs"]
mod bench;

fn main() -> anyhow::Result<std::process::ExitCode> {
    bench::main()
}
