//! Chooses the crates that the fuzzer watches: those of this repository.
//!
//! cargo has no flags for one package on a stable compiler (`profile-rustflags` is unstable), so xtask stands in for
//! rustc while the targets are built, and drops the instrumentation from all other crates. With it, most "new" edges
//! were in others' parsers (globs, numbers, JSON), and each run was slower.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Error, Result};

use crate::tools::Run;

/// Set for the xtask that stands in for rustc.
const VARIABLE: &str = "SPOOR_FUZZ_COMPILER";

/// The packages that the fuzzer watches.
const OURS: [&str; 3] = ["agent-ebpf", "spoor", "spoor-fuzz"];

/// Flags for LLVM's coverage counters for libFuzzer, no sanitizer, and rustc's own coverage for the report.
const INSTRUMENTATION: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cinstrument-coverage",
];

/// Flags for all crates: libraries see that they are fuzzed, and the addresses that the fuzzer prints are those in the
/// file.
const FOR_ALL: [&str; 2] = ["--cfg=fuzzing", "-Crelocation-model=static"];

/// Instruments the build of this cargo. All flags are in its environment, so that it builds anew when they change.
pub fn instrument(cargo: Run) -> Result<Run> {
    let this = env::current_exe().context("cannot find the running xtask")?;
    Ok(cargo
        .env(
            "RUSTFLAGS",
            format!("{} {}", INSTRUMENTATION.join(" "), FOR_ALL.join(" ")),
        )
        .env("RUSTC_WRAPPER", this)
        .env(VARIABLE, "1"))
}

/// Returns whether this process stands in for rustc.
pub fn is_asked() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Becomes rustc. cargo passes rustc's path, then its arguments. Returns only if that fails.
pub fn become_rustc() -> Result<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("no compiler is named")?;
    let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
    let error = Command::new(&rustc).args(for_package(&package, arguments)).exec();
    Err(Error::new(error).context(format!("cannot run {}", rustc.display())))
}

fn for_package(package: &str, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let is_ours = OURS.contains(&package);
    arguments
        .filter(|argument| is_ours || !INSTRUMENTATION.iter().any(|flag| argument == flag))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_crates_are_instrumented() {
        let given = [
            "--crate-name",
            "x",
            "-Cpasses=sancov-module",
            "-Cinstrument-coverage",
            "-Copt-level=1",
        ];
        let of = |package| for_package(package, given.iter().map(OsString::from));
        assert_eq!(of("spoor"), given);
        assert_eq!(of("agent-ebpf"), given);
        assert_eq!(of("regex-syntax"), ["--crate-name", "x", "-Copt-level=1"]);
    }

    #[test]
    fn the_packages_are_called_so() {
        for (package, manifest) in OURS.iter().zip(["agent-ebpf", "agent", "tests/fuzz"]) {
            let manifest = crate::tools::root().join(manifest).join("Cargo.toml");
            let text = std::fs::read_to_string(manifest).unwrap();
            assert!(text.contains(&format!("\nname = \"{package}\"\n")), "{package}");
        }
    }
}
