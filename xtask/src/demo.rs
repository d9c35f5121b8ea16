//! `cargo xtask demo`: installs what the demo needs, builds agent and demo meanwhile, and runs the demo.

use std::{convert::Infallible, ffi::OsString, path::Path, time::Instant};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Scope},
    steps::Step,
    tools::{Run, SPOOR_BIN, target_dir},
};

const CRATES: &str = "agent and demo: build their crates";
const BUILD: &str = "agent and demo: build";

/// Installs and builds, then becomes the demo with these arguments.
///
/// # Errors
/// Something cannot be installed, built or started.
pub fn run(args: Vec<OsString>) -> Result<Infallible> {
    let start = Instant::now();
    let target = target_dir()?;
    let fresh = !target.join("debug/spoor").exists();
    let crates = Step {
        name: CRATES.to_owned(),
        after: Vec::new(),
        cpu_seconds: if fresh { 80 } else { 0 },
        // The agent's build script fails until the linker of the eBPF programs is there; everything else is built by
        // then. The next step reports any other error.
        work: Box::new(move |log: &Path| {
            if fresh {
                let _failure_is_expected = build(log, &["--keep-going"]);
            }
            Ok(())
        }),
    };
    let binaries = Step {
        name: BUILD.to_owned(),
        after: [CRATES, setup::FIRST, setup::LINKER].map(str::to_owned).to_vec(),
        cpu_seconds: if fresh { 40 } else { 0 },
        work: Box::new(|log: &Path| build(log, &[]).context("cannot build the agent and the demo")),
    };
    let mut times = setup::install_with(Scope::Demo, start, vec![crates, binaries])?;
    times.add("all of this", start.elapsed());
    println!("\n{}", times.summary());
    Run::program(target.join("debug/demo"))
        .args(args)
        .env(SPOOR_BIN, target.join("debug/spoor"))
        .exec()
}

/// Builds both in the profile that compiles fastest: the time to a first trace matters more here than the agent's
/// speed. The eBPF programs are always optimised.
fn build(log: &Path, options: &[&str]) -> Result<()> {
    Run::cargo(["build", "--package", "spoor", "--package", "spoor-demo"])
        .args(["--bin", "spoor", "--bin", "demo"])
        .args(options)
        .logged(log)
}

/// Returns whether a line of the demo's output begins its first trace.
pub fn begins_trace(line: &str) -> bool {
    line.contains(": one request, eight services")
}
