//! `cargo xtask demo`: installs what the demo needs, builds agent and demo meanwhile, and runs the demo.

use std::{convert::Infallible, ffi::OsString, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    setup::{self, Scope},
    steps::Step,
    tools::{self, Run, SPOOR_BIN, target_dir},
};

const CRATES: &str = "agent and demo: build their crates";
const BUILD: &str = "agent and demo: build";

/// Installs and builds, then becomes the demo with these arguments.
///
/// # Errors
/// The caller is not root, or something cannot be installed, built or started.
pub fn run(args: Vec<OsString>) -> Result<Infallible> {
    if !args.iter().any(crate::is_help) {
        check_root(tools::is_root())?;
    }
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
    setup::install_with(Scope::Demo, start, vec![crates, binaries])?;
    Run::program(target.join("debug/demo"))
        .args(args)
        .env(SPOOR_BIN, target.join("debug/spoor"))
        .exec()
}

/// Fails before anything is built, if the agent could not trace afterwards.
fn check_root(is_root: bool) -> Result<()> {
    ensure!(
        is_root,
        "the demo traces by eBPF, which needs root: run it as `sudo env PATH=\"$PATH\" cargo xtask demo`"
    );
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_asks_for_root_first() {
        assert!(check_root(true).is_ok());
        let error = check_root(false).unwrap_err().to_string();
        assert!(error.contains("needs root") && error.contains("sudo"), "{error}");
    }
}
