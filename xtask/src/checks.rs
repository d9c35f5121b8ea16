//! `cargo xtask test`: everything that must pass, two steps at a time where they do not disturb each other.

use std::{env, fs, path::PathBuf, thread, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bare, fuzz, kernels,
    release::{self, Release},
    tools::{self, CORE_COST, KERNELS, Run, SPOOR_BIN, TEST_HOOKS, target_dir},
};

/// The test that starts each server and client.
pub const SERVICES: &str = "truth";

/// The end-to-end test that needs the program that measures Core: its file, and its name.
const CORE_COST_TEST: (&str, &str) = ("core_cost", "instructions_of_a_request");

/// Files of end-to-end tests that need programs which take long to build.
const WITH_PROGRAMS: [&str; 2] = [CORE_COST_TEST.0, "withheld"];

/// The tests that need neither root nor services.
const UNIT_TESTS: &str = "unit, property and golden tests";

/// Seed of the fuzz targets: one that fails should fail again.
const FUZZ_SEED: &str = "1";

const END_TO_END: &str = "end-to-end tests";

/// Sums of cargo test's result lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; …`; ignores other lines.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        let number = |word: &str| {
            let before = counts.split_once(word)?.0;
            before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        self.passed += number(" passed;").unwrap_or(0);
        self.failed += number(" failed;").unwrap_or(0);
    }
}

/// Runs all steps. Each fuzz target runs for `fuzz_minutes`.
pub fn all(fuzz_minutes: f64) -> Result<()> {
    tallied(|tally| {
        formatting()?;
        // Two target folders, so that cargo builds both at once: linking uses one processor only.
        println!("\nThe release binary is built beside the next steps.");
        let ((), release) = both(
            || {
                tests(UNIT_TESTS, unit_tests().env("SPOOR_PLAN_STREAMS", "1000000"), tally)?;
                documentation()
            },
            release_binary,
        )?;
        // The end-to-end tests wait more than they work. What is done beside them gives way.
        let (with_programs, others): (Vec<_>, Vec<_>) = files()?
            .into_iter()
            .partition(|file| WITH_PROGRAMS.contains(&file.as_str()));
        let ((), programs) = both(
            || tests(END_TO_END, end_to_end(&release, &[], &others, None), tally),
            || {
                // First what needs no folder that the tests' own build has locked.
                let programs = test_programs()?;
                lints()?;
                fuzz_targets(fuzz_minutes)?;
                Ok(programs)
            },
        )?;
        // One step emulates a machine, the other unpacks packages: neither uses both processors.
        both(
            || {
                let run = end_to_end(&release, &programs, &with_programs, None);
                tests("end-to-end tests with programs of their own", run, tally)?;
                step("setup and demo on a bare system", || {
                    bare::with_what_is_built(&release.path)
                })
            },
            || {
                step("the oldest kernel", || {
                    kernels::run(&kernels::AMONG_ALL_TESTS.map(str::to_owned))
                })
            },
        )?;
        Ok(())
    })
}

/// Runs both at once. If both fail, prints the second one's error and returns the first one's.
fn both<A, B: Send>(one: impl FnOnce() -> Result<A>, other: impl FnOnce() -> Result<B> + Send) -> Result<(A, B)> {
    thread::scope(|scope| {
        let beside = scope.spawn(other);
        let (one, other) = (one(), beside.join().unwrap_or_else(|_| bail!("a step panicked")));
        match (one, other) {
            (Err(first), Err(second)) => {
                eprintln!("\nxtask: {second:#}");
                Err(first)
            }
            (one, other) => Ok((one?, other?)),
        }
    })
}

fn unit_tests() -> Run {
    Run::cargo(["test", "--workspace", "--no-fail-fast"])
}

/// Builds and runs the fuzz targets. Each runs for `minutes`; 0: none does.
fn fuzz_targets(minutes: f64) -> Result<()> {
    if minutes == 0.0 {
        return Ok(());
    }
    let xtask = env::current_exe().context("cannot find the path of xtask itself")?;
    step("fuzz targets", || {
        Run::program(xtask)
            .args(["fuzz", "--seed", FUZZ_SEED, "--minutes", &minutes.to_string()])
            .giving_way()
            .status()
    })
}

/// Builds the programs that measure Core and try kernels. Returns each with the variable that names it.
fn test_programs() -> Result<[(&'static str, PathBuf); 2]> {
    step("programs of the tests", || {
        let names = [&[release::CORE_COST], &kernels::PROGRAMS[..]].concat();
        let folder = release::test_binaries(release::TARGET, &names)?;
        Ok([
            (CORE_COST, folder.join(release::CORE_COST)),
            (KERNELS, folder.join(kernels::SUITE)),
        ])
    })
}

/// Builds the release binary, and runs the end-to-end tests of the file `filter`, or those whose name contains it.
/// Shows their output. `hooks`: the family of hooks that their agents use; `None`: they choose.
pub fn only(filter: &str, hooks: Option<&str>) -> Result<()> {
    tallied(|tally| {
        let release = release_binary()?;
        let mut programs = Vec::new();
        if measures_core(filter) {
            programs.push((CORE_COST, step("program that measures Core", release::core_cost)?));
        }
        let mut run = end_to_end(&release, &programs, &files()?, Some(filter));
        if let Some(family) = hooks {
            run = run.env(TEST_HOOKS, family);
        }
        tests(END_TO_END, run, tally)?;
        ensure!(
            tally.passed > 0,
            "no end-to-end test is called so: give a file of tests/tests (`matrix`) or a part of a test's name, not `{filter}`"
        );
        Ok(())
    })
}

/// Returns whether the filter chooses the test that measures Core.
fn measures_core(filter: &str) -> bool {
    let (file, name) = CORE_COST_TEST;
    filter == file || name.contains(filter)
}

fn release_binary() -> Result<Release> {
    step("release binary", || {
        let release = release::build()?;
        println!("{release}");
        Ok(release)
    })
}

/// Returns `cargo test` for the end-to-end tests of these files that `filter` chooses, or for all. `programs`: those that are
/// built as the release binary is, each by the variable that names it.
fn end_to_end(release: &Release, programs: &[(&str, PathBuf)], files: &[String], filter: Option<&str>) -> Run {
    let mut run = Run::cargo(["test", "--workspace", "--no-fail-fast"])
        .args(chosen(files, filter))
        .env(SPOOR_BIN, &release.path);
    for (variable, program) in programs {
        run = run.env(variable, program);
    }
    run
}

/// Lists the files of the end-to-end tests, in the order in which they run.
fn files() -> Result<Vec<String>> {
    let folder = tools::root().join("tests/tests");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if (path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists())
            && let Some(name) = path.file_stem()
        {
            files.push(name.to_string_lossy().into_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the arguments of `cargo test` for the end-to-end tests in these files. They name the whole workspace, as the
/// unit tests do: else cargo would build the shared crates once more.
fn chosen<'a>(files: &'a [String], filter: Option<&'a str>) -> Vec<&'a str> {
    let file = filter.filter(|filter| files.iter().any(|file| file == filter));
    let wanted = files.iter().filter(|name| file.is_none_or(|file| file == *name));
    let mut args: Vec<&str> = wanted.flat_map(|name| ["--test", name]).collect();
    args.extend(["--", "--test-threads=1", "--include-ignored"]);
    if let Some(filter) = filter {
        args.push("--nocapture");
        args.extend(file.is_none().then_some(filter));
    }
    args
}

/// Starts each server and client once, without an agent.
pub fn services() -> Result<()> {
    tallied(|tally| {
        let test = Run::cargo(["test", "--package", "spoor-tests", "--test", SERVICES]);
        tests(
            "servers and clients",
            test.args(["--", "--include-ignored", "--nocapture"]),
            tally,
        )
    })
}

/// Runs the steps that need neither root nor services.
pub fn without_end_to_end() -> Result<()> {
    tallied(|tally| {
        formatting()?;
        lints()?;
        documentation()?;
        tests(UNIT_TESTS, unit_tests(), tally)
    })
}

fn formatting() -> Result<()> {
    step("formatting", || {
        Run::cargo(["fmt", "--all", "--check"]).status()?;
        Run::cargo(["fmt", "--manifest-path", fuzz::MANIFEST, "--check"]).status()
    })
}

fn lints() -> Result<()> {
    step("lints", || {
        Run::cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
            .giving_way()
            .status()?;
        // In the same target directory, because the dependencies are the same.
        Run::cargo(["clippy", "--locked", "--manifest-path", fuzz::MANIFEST, "--target-dir"])
            .arg(target_dir()?)
            .args(["--", "-D", "warnings"])
            .giving_way()
            .status()
    })
}

fn documentation() -> Result<()> {
    step("documentation", || {
        Run::cargo(["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .status()
    })
}

fn tests(name: &str, run: Run, tally: &mut Tally) -> Result<()> {
    step(name, || run.lines(|line| tally.add(line)))
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("\n== {name}");
    let start = Instant::now();
    let result = work();
    let word = if result.is_ok() { "done" } else { "FAILED" };
    println!("== {name}: {word}, {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// Runs the steps, and prints the sum of all tests whether they passed or not.
fn tallied(steps: impl FnOnce(&mut Tally) -> Result<()>) -> Result<()> {
    let mut tally = Tally::default();
    let result = steps(&mut tally);
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    result
}

#[cfg(test)]
mod tests {
    use super::{CORE_COST_TEST, Tally, WITH_PROGRAMS, chosen, files, measures_core};
    use crate::tools;

    #[test]
    fn tests_are_chosen_by_file_or_by_name() {
        let files = ["matrix", "ps"].map(str::to_owned);
        let chosen = |filter| chosen(&files, filter).join(" ");
        let all = "-- --test-threads=1 --include-ignored";
        assert_eq!(chosen(None), format!("--test matrix --test ps {all}"));
        assert_eq!(chosen(Some("ps")), format!("--test ps {all} --nocapture"));
        assert_eq!(
            chosen(Some("attached::")),
            format!("--test matrix --test ps {all} --nocapture attached::")
        );
    }

    #[test]
    fn files_and_folders_hold_end_to_end_tests() {
        let files = files().unwrap();
        for known in ["ps", "matrix"].iter().chain(&WITH_PROGRAMS) {
            assert!(files.iter().any(|file| file == known), "{known}: {files:?}");
        }
    }

    #[test]
    fn the_test_that_measures_core_is_known() {
        let (file, name) = CORE_COST_TEST;
        let path = tools::root().join(format!("tests/tests/{file}.rs"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&format!("fn {name}(")), "{text}");
        for (filter, measures) in [(file, true), (name, true), ("instructions", true), ("matrix", false)] {
            assert_eq!(measures_core(filter), measures, "{filter}");
        }
    }

    #[test]
    fn sums_result_lines_and_nothing_else() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "we expect 7 passed; 9 failed;",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 15, failed: 2 });
    }
}
