//! `cargo xtask test --bare`: the steps of a new user, on a system with almost nothing installed.
//!
//! The system is a minimal Debian or Ubuntu of this machine's own release, in a folder, with a mount namespace of its
//! own. Processes and network are the machine's, because Spoor needs the host's PID namespace. A machine with leftovers
//! hides what setup forgets to install; here it is missing.
//!
//! `.cache/bare` keeps the base system and the package managers' caches, so later runs need little network.

mod host;
mod root;
mod sources;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::root::Root;
use crate::{
    checks, demo, release,
    setup::{self, Scope},
    tools::{self, Run, SPOOR_BIN},
};

/// Longest time until a user sees a first trace. A longer time is printed and is no failure: other machines are slower.
const FIRST_TRACE: Duration = Duration::from_secs(300);

/// Runs the README's commands from nothing: the demo, the setup of everything, each server and client.
///
/// # Errors
/// One of them fails, or leaves something behind.
pub fn from_nothing() -> Result<()> {
    setup::install(Scope::Bare)?;
    let mut times = Times::default();
    let root = timed(&mut times, "a bare system", Root::make)?;
    let start = Instant::now();
    let mut first_trace = None;
    timed(&mut times, "cargo xtask demo", || {
        root.lines(&["cargo", "xtask", "demo"], |line| {
            if demo::begins_trace(line) {
                first_trace.get_or_insert_with(|| start.elapsed());
            }
        })
    })?;
    let first_trace = first_trace.context("the demo showed no trace")?;
    timed(&mut times, "cargo xtask setup", || {
        root.run(&["cargo", "xtask", "setup"])
    })?;
    timed(&mut times, "cargo xtask setup --check", || {
        root.run(&["cargo", "xtask", "setup", "--check"])
    })?;
    timed(&mut times, "cargo xtask test --services", || {
        root.run(&["cargo", "xtask", "test", "--services"])
    })?;
    timed(&mut times, "removal of the system", || root.remove())?;
    print!("\n{}", times.summary());
    let word = if first_trace <= FIRST_TRACE {
        "within"
    } else {
        "LATER than"
    };
    println!(
        "first trace {:.0} s after `cargo xtask demo`, {word} {} s",
        first_trace.as_secs_f64(),
        FIRST_TRACE.as_secs()
    );
    Ok(())
}

/// Runs the setup of the tests on a bare system, then the demo and each server and client, with the binaries that this
/// machine has built already.
///
/// # Errors
/// One of them fails, or leaves something behind.
pub fn with_what_is_built(spoor: &Path) -> Result<()> {
    let mut times = Times::default();
    // Built with the whole workspace and with a test, as in the other steps: else cargo leaves out features of the shared crates,
    // and builds them once more.
    Run::cargo(["build", "--workspace", "--bin", "demo", "--test", checks::SERVICES]).status()?;
    let services = release::test_program(checks::SERVICES)?;
    let debug = tools::target_dir()?.join("debug");
    let xtask = std::env::current_exe().context("cannot find the path of xtask itself")?;
    let demo = debug.join("demo");
    let root = timed(&mut times, "a bare system", Root::make)?;
    for program in [spoor, &xtask, &demo, &services, &debug.join("hyperpeer")] {
        root.bring(program)?;
    }
    // Brought along, because its build takes long. bpf-linker is built inside: it needs an LLVM that is not installed
    // yet.
    root.bring(&tools::cache().join("bin").join("otel-collector"))?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    timed(&mut times, "setup", || root.run(&[&path(&xtask), "setup", "test"]))?;
    timed(&mut times, "demo", || {
        root.run(&["env", &format!("{SPOOR_BIN}={}", path(spoor)), &path(&demo)])
    })?;
    timed(&mut times, "each server and client", || {
        root.run(&[&path(&services), "--include-ignored", "--nocapture"])
    })?;
    timed(&mut times, "removal of the system", || root.remove())?;
    print!("\n{}", times.summary());
    Ok(())
}

/// How long the parts of a run took, for the summary.
#[derive(Debug, Default)]
struct Times(Vec<(String, Duration)>);

impl Times {
    /// Returns a line for each part.
    fn summary(&self) -> String {
        let lines = self.0.iter();
        lines
            .map(|(name, took)| format!("  {:>6.1} s  {name}\n", took.as_secs_f64()))
            .collect()
    }
}

fn timed<T>(times: &mut Times, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("\n-- {name}");
    let start = Instant::now();
    let result = work().with_context(|| format!("on a bare system: {name}"))?;
    times.0.push((name.to_owned(), start.elapsed()));
    Ok(result)
}
