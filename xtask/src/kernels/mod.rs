//! `cargo xtask kernels [KERNEL…]`: runs the release binary in Debian's kernels, old and new, and tells what works in
//! each.
//!
//! Each kernel boots in a virtual machine without KVM, plays the raw-socket cases and some of its own
//! (`tests/src/bin/kernels`), and compares all spans and parents with what the processes did: once in each family of hooks
//! that it has. Kernels whose preemption is a boot parameter boot again with `preempt=full`.

mod fetch;
mod image;
mod machine;
mod table;

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    release,
    tools::{self, Run, SPOOR_BIN, TEST_HOOKS},
};
use fetch::{Kernel, Store};
use machine::End;
pub use table::DOCUMENT;
use table::{Column, Table};

/// Kernels that are tested when none is named. Only one of 64-bit ARM, because its emulation takes twice as long.
const ALL: [&str; 6] = ["5.10", "6.1", "6.12", "6.18", "newest", "arm64-6.12"];
/// Kernels of `cargo xtask test`: the oldest alone, because all take too long.
pub const AMONG_ALL_TESTS: [&str; 1] = ["5.10"];
/// Processors of this machine for each virtual machine, which has as many.
const PROCESSORS: usize = 2;
/// Parameter of the boots whose kernel preempts everywhere.
const PREEMPT_FULL: &str = "preempt=full";

/// Processor that a kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// 64-bit ARM
    Arm64,
}

impl Arch {
    /// Returns Debian's name.
    fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the name of QEMU's emulator.
    fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Returns the Rust target of static binaries.
    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => release::TARGET,
            Self::Arm64 => release::ARM_TARGET,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}

/// Family of hooks that a boot's agents are told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The events of sockets, from Linux 6.3 on.
    Sock,
    /// The exits of system calls.
    Syscall,
}

impl Family {
    /// Both families.
    const ALL: [Self; 2] = [Self::Sock, Self::Syscall];

    /// Returns the name, as in the agent's option `--hooks`.
    const fn name(self) -> &'static str {
        match self {
            Self::Sock => "sock",
            Self::Syscall => "syscall",
        }
    }

    /// Returns the families that agents can use in a kernel of this release or series.
    fn of(release: &str) -> Result<impl Iterator<Item = Self>> {
        let version = fetch::version(release).with_context(|| format!("{release:?} names no version"))?;
        let has = move |family: &Self| *family == Self::Syscall || version >= (6, 3);
        Ok(Self::ALL.into_iter().filter(has))
    }
}

/// One boot of a kernel.
struct Job<'a> {
    kernel: &'a Kernel,
    archive: &'a Path,
    preempt_full: bool,
    family: Family,
}

/// Runs the suite in these kernels (`5.10`, `newest`, `arm64-6.12`, `host`), or in all, and prints the table. With all
/// of them it also writes docs/kernels.md.
pub fn run(wanted: &[String]) -> Result<()> {
    if wanted == ["host"] {
        return host();
    }
    ensure!(
        wanted.iter().all(|name| name != "host"),
        "`host` runs the suite on this machine's own kernel, and cannot be named together with others"
    );
    let whole = wanted.is_empty();
    let names: Vec<String> = if whole {
        ALL.map(str::to_owned).to_vec()
    } else {
        wanted.to_vec()
    };
    let start = Instant::now();
    let cache = tools::target_dir()?.join("kernels");
    let bootable = bootable(&names, &cache)?;
    let jobs = jobs(&bootable)?;
    let columns = boot_all(&jobs, &cache)?;
    let table = Table::new(columns);
    print!("\n{}", table.text());
    println!("{} boots, {:.0} s", jobs.len(), start.elapsed().as_secs_f64());
    // `newest` may be a kernel that is also named by its series.
    let archives: BTreeSet<&PathBuf> = bootable.iter().map(|(_, archive)| archive).collect();
    for archive in archives {
        fs::remove_file(archive)?;
    }
    if whole {
        let document = tools::root().join(DOCUMENT);
        fs::write(&document, table.document()).with_context(|| format!("cannot write {}", document.display()))?;
        println!("{DOCUMENT} is written");
    }
    let failures = table.failures();
    if !failures.is_empty() {
        bail!(
            "{} of the table's fields are failures:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
    Ok(())
}

/// Fetches the named kernels, and builds the guest's archive for each.
fn bootable(names: &[String], cache: &Path) -> Result<Vec<(Kernel, PathBuf)>> {
    let store = Store::new(cache.to_owned());
    let mut bootable = Vec::new();
    for arch in [Arch::Amd64, Arch::Arm64] {
        let series: Vec<String> = names
            .iter()
            .filter_map(|name| match (arch, name.strip_prefix("arm64-")) {
                (Arch::Amd64, None) => Some(name.clone()),
                (Arch::Arm64, Some(series)) => Some(series.to_owned()),
                _ => None,
            })
            .collect();
        if series.is_empty() {
            continue;
        }
        let binaries = binaries(arch)?;
        let root = store.guest_root(arch)?;
        let contents = image::Contents {
            root: &root,
            binaries: &binaries,
        };
        for kernel in store.kernels(arch, &series)? {
            let archive = image::build(&kernel, &contents, cache)?;
            bootable.push((kernel, archive));
        }
    }
    Ok(bootable)
}

/// Returns the boots of these kernels: one for each family of hooks, and as many again where a boot parameter chooses how
/// the kernel preempts.
fn jobs(bootable: &[(Kernel, PathBuf)]) -> Result<Vec<Job<'_>>> {
    let mut jobs = Vec::new();
    for (kernel, archive) in bootable {
        for preempt_full in [false, true] {
            if preempt_full && !kernel.can_preempt_fully()? {
                continue;
            }
            jobs.extend(Family::of(&kernel.series)?.map(|family| Job {
                kernel,
                archive,
                preempt_full,
                family,
            }));
        }
    }
    Ok(jobs)
}

/// Runs the suite on this machine's own kernel, in each family of hooks.
fn host() -> Result<()> {
    let binaries = binaries(Arch::Amd64)?;
    let path = |name: &str| {
        let found = binaries.iter().find(|(_, other)| *other == name);
        found.map(|(path, _)| path.clone()).context("a binary is missing")
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    for family in Family::of(&release)? {
        println!("--hooks={}", family.name());
        Run::program(path("suite")?)
            .env(SPOOR_BIN, path("spoor")?)
            .env(TEST_HOOKS, family.name())
            .status()?;
    }
    Ok(())
}

/// Program of the suite.
pub const SUITE: &str = "kernels";
/// Programs of the suite and its peers.
pub const PROGRAMS: [&str; 3] = [SUITE, "rawpeer", "threaded"];

/// Builds the agent, the suite and its peers, static. Returns the path and the name in the guest of each.
fn binaries(arch: Arch) -> Result<Vec<(PathBuf, &'static str)>> {
    let spoor = release::build_for(arch.target())?;
    println!("{spoor}");
    let folder = release::test_binaries(arch.target(), &PROGRAMS)?;
    Ok(vec![
        (spoor.path, "spoor"),
        (folder.join(SUITE), "suite"),
        (folder.join("rawpeer"), "rawpeer"),
        (folder.join("threaded"), "threaded"),
    ])
}

/// Boots all machines, a few at a time.
fn boot_all(jobs: &[Job<'_>], cache: &Path) -> Result<Vec<Column>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Column>)>> = Mutex::new(Vec::new());
    let at_once = std::thread::available_parallelism()?.get().div_ceil(PROCESSORS);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(job) = jobs.get(index)
                {
                    let column = boot(job, cache);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((index, column));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, column)| column).collect()
}

fn boot(job: &Job<'_>, cache: &Path) -> Result<Column> {
    let start = Instant::now();
    let Kernel {
        arch, series, release, ..
    } = job.kernel;
    let title = match arch {
        Arch::Amd64 => series.clone(),
        Arch::Arm64 => format!("{arch} {series}"),
    };
    let (title, preemption, suite) = match job.preempt_full {
        true => (format!("{title} {PREEMPT_FULL}"), PREEMPT_FULL, "preempt"),
        false => (title, "", "whole"),
    };
    let family = job.family.name();
    // The kernel passes what it does not know itself to init's environment.
    let parameters = format!("{preemption} SUITE={suite} {TEST_HOOKS}={family}");
    let console = cache.join(format!("{}-{family}.console", title.replace([' ', '='], "-")));
    let outcome = machine::boot(job.kernel, job.archive, &parameters, &console)?;
    let mut column = Column::new(title, release.clone(), job.family, &outcome.lines);
    match outcome.end {
        End::Suite(0) => {}
        End::Suite(code) => column.ended(format!("the suite ended with {code}")),
        End::Lost => column.ended("the machine went down before the suite ended".to_owned()),
        End::TimedOut => column.ended("the suite did not end in time".to_owned()),
    }
    println!(
        "{}: {} ({:.0} s; console: {})",
        column.title(),
        column.summary(),
        start.elapsed().as_secs_f64(),
        outcome.console.display()
    );
    Ok(column)
}

#[cfg(test)]
mod tests {
    use super::Family;

    #[test]
    fn a_kernel_has_the_socket_events_from_6_3_on() {
        let of = |release: &str| Family::of(release).map(|families| families.map(Family::name).collect::<Vec<_>>());
        for old in ["5.10", "6.2", "6.1.0-56-cloud-amd64"] {
            assert_eq!(of(old).unwrap(), ["syscall"]);
        }
        for new in ["6.3", "6.12", "7.0", "6.18.44\n"] {
            assert_eq!(of(new).unwrap(), ["sock", "syscall"]);
        }
        assert!(of("rolling").is_err());
    }
}
