//! `cargo xtask fuzz`: runs the fuzz targets of `tests/fuzz` for a while each, and measures what their corpus covers.
//!
//! The crate has cargo-fuzz's layout and is built as cargo-fuzz would, but by flags that a stable compiler takes
//! ([`compiler`]), and with instrumentation in our crates only.

pub mod compiler;
mod outcome;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use self::outcome::{Outcome, Uncovered};
use crate::tools::{self, Run};

/// Manifest of the fuzz crate, from the workspace's folder.
pub const MANIFEST: &str = "tests/fuzz/Cargo.toml";

/// The targets, the one with the longest runs first.
const TARGETS: [&str; 7] = ["core", "http1", "redis", "process", "tape", "text", "framing"];

/// The target triple. The agent's tests run on this machine; fuzzing needs no other.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Time limit of an input, in seconds: a longer one is a hang.
const HANG_SECONDS: u32 = 20;

/// Memory limit of an input, in MiB: more is a leak, or something without a bound.
const MEMORY_MIB: u32 = 1024;

/// Share of the lines of [`PARSERS`] that the corpus must cover, in per cent.
const MUST_COVER: f64 = 95.0;

/// Files that parse bytes from outside. Line coverage of these is the bar.
const PARSERS: &[&str] = &[
    "agent-ebpf/src/classify.rs",
    "agent-ebpf/src/frame/chunk.rs",
    "agent-ebpf/src/frame/head.rs",
    "agent/src/config/values/header.rs",
    "agent/src/config/values/ignore.rs",
    "agent/src/config/values/limits.rs",
    "agent/src/config/values/methods.rs",
    "agent/src/config/values/mod.rs",
    "agent/src/config/values/output.rs",
    "agent/src/config/values/route.rs",
    "agent/src/config/values/sampler.rs",
    "agent/src/config/values/secrets.rs",
    "agent/src/config/values/selection.rs",
    "agent/src/engine/proto/http1/telemetry.rs",
    "agent/src/record/decode.rs",
    "agent/src/export/config/mod.rs",
    "agent/src/probe/btf.rs",
    "agent/src/process/command/mod.rs",
    "agent/src/process/container/mod.rs",
    "agent/src/process/container/state.rs",
    "agent/src/process/elf.rs",
    "agent/src/process/environ.rs",
    "agent/src/process/host.rs",
    "agent/src/process/listeners.rs",
    "agent/src/process/proc_root.rs",
    "agent/src/engine/proto/http1/chunked.rs",
    "agent/src/engine/proto/http1/connection.rs",
    "agent/src/engine/proto/http1/doubt.rs",
    "agent/src/engine/proto/http1/fields.rs",
    "agent/src/engine/proto/http1/head.rs",
    "agent/src/engine/proto/http1/held.rs",
    "agent/src/engine/proto/http1/line.rs",
    "agent/src/engine/proto/http1/proxy.rs",
    "agent/src/engine/proto/http1/resync.rs",
    "agent/src/engine/proto/http1/start_line.rs",
    "agent/src/engine/proto/http1/stray.rs",
    "agent/src/engine/proto/http1/stream.rs",
    "agent/src/engine/proto/held.rs",
    "agent/src/engine/proto/http1/structure/head.rs",
    "agent/src/engine/proto/http1/structure/mod.rs",
    "agent/src/engine/proto/http1/structure/proxy.rs",
    "agent/src/engine/proto/http1/structure/target.rs",
    "agent/src/engine/proto/http1/structure/value.rs",
    "agent/src/engine/proto/opaque.rs",
    "agent/src/engine/proto/redis/answer.rs",
    "agent/src/engine/proto/redis/command.rs",
    "agent/src/engine/proto/redis/connection.rs",
    "agent/src/engine/proto/redis/frames.rs",
    "agent/src/engine/proto/redis/keys.rs",
    "agent/src/engine/proto/redis/kept.rs",
    "agent/src/engine/proto/redis/structure.rs",
    "agent/src/engine/proto/structure.rs",
    "agent/src/tape/mod.rs",
    "agent/src/tape/frame.rs",
    "agent/src/tape/redact/mod.rs",
    "agent/src/tape/redact/connection.rs",
    "agent/src/tape/redact/facts.rs",
    "agent/src/tape/redact/standin.rs",
    "agent/src/engine/trace/attributes.rs",
    "agent/src/engine/trace/conventions/http/forwarded.rs",
    "agent/src/engine/trace/conventions/http/ignore.rs",
    "agent/src/engine/trace/conventions/http/target.rs",
    "agent/src/engine/trace/redact/header.rs",
    "agent/src/engine/trace/redact/mod.rs",
    "agent/src/engine/trace/redact/names.rs",
    "agent/src/engine/trace/redact/scan.rs",
    "agent/src/engine/trace/route.rs",
    "agent/src/engine/trace/span_name.rs",
    "agent/src/engine/trace/text.rs",
    "agent/src/engine/context/traceparent.rs",
];

/// Files that decide on the parsers' results. Their coverage is shown and has no bar.
const DECIDERS: [&str; 8] = [
    "agent/src/engine/causality",
    "agent/src/engine/closing.rs",
    "agent/src/engine/exchanges.rs",
    "agent/src/engine/flow",
    "agent/src/engine/lifecycle.rs",
    "agent/src/engine/mod.rs",
    "agent/src/engine/spans.rs",
    "agent/src/engine/workloads.rs",
];

/// Folders of Spoor's own code in the targets.
const CRATES: [&str; 2] = ["agent/src", "agent-ebpf/src"];

/// Command line of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    pub minutes: f64,
    /// Seed of the runs, to repeat them; 0: another one each time
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u32,
    /// Only print what the corpus in the repository covers
    #[arg(long, conflicts_with_all = ["keep", "minutes", "seed"])]
    pub coverage: bool,
    /// Afterwards, keep in the repository those inputs that cover more
    #[arg(long)]
    pub keep: bool,
    /// Only this target
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    pub target: Option<String>,
}

/// Runs `cargo xtask fuzz`.
pub fn fuzz(options: &Options) -> Result<()> {
    let fuzzer = Fuzzer::build()?;
    let wanted = |target: &&&str| options.target.as_deref().is_none_or(|only| only == **target);
    let targets: Vec<_> = TARGETS.iter().filter(wanted).copied().collect();
    let mut profile = fuzzer.profile()?;
    if !options.coverage {
        fuzzer.run(&targets, options.minutes, options.seed, &profile)?;
    }
    if options.keep {
        for target in &targets {
            fuzzer.keep(target)?;
        }
        profile = fuzzer.profile()?;
    }
    fuzzer.cover(&profile, options.target.is_none())
}

/// The built targets.
struct Fuzzer {
    /// Folder of the runs' results: inputs, artifacts, profiles.
    folder: PathBuf,
    /// Folder of the built targets.
    programs: PathBuf,
    /// Folder of the targets' own files, deleted with this value. In memory where possible: `process` writes so many
    /// files that it is 20 times as fast there.
    temporary: TempDir,
}

impl Fuzzer {
    fn build() -> Result<Self> {
        let target = tools::target_dir()?;
        // A target directory of its own, so that nobody who builds meanwhile waits.
        let built = target.join("fuzz/build");
        let cargo = Run::cargo(["build", "--quiet", "--locked", "--bins", "--target", TRIPLE])
            .args(["--manifest-path", MANIFEST])
            .arg("--target-dir")
            .arg(&built);
        compiler::instrument(cargo)?.status()?;
        let mut temporary = tempfile::Builder::new();
        let temporary = temporary.prefix("spoor-fuzz-");
        let temporary = temporary.tempdir_in("/dev/shm").or_else(|_| temporary.tempdir());
        let temporary = temporary.context("cannot make a temporary folder")?;
        Ok(Self {
            folder: target.join("fuzz"),
            programs: built.join(TRIPLE).join("debug"),
            temporary,
        })
    }

    fn binary(&self, target: &str) -> PathBuf {
        self.programs.join(target)
    }

    /// Returns the folder of inputs that earlier runs found and the repository does not have.
    fn found(&self, target: &str) -> Result<PathBuf> {
        let folder = self.folder.join("corpus").join(target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(folder)
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(self.binary(target));
        command
            .current_dir(tools::root())
            // Without it, each run leaves a profile in the current folder.
            .env("LLVM_PROFILE_FILE", "/dev/null")
            .env("TMPDIR", self.temporary.path())
            .arg(format!("-timeout={HANG_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        command
    }

    /// Runs targets, as many at a time as there are processors, and prints which lines are not in `profile`, the
    /// coverage of the repository's corpus. A crash, a hang or too much memory is an error.
    fn run(&self, targets: &[&'static str], minutes: f64, seed: u32, profile: &Path) -> Result<()> {
        ensure!(
            minutes > 0.0 && minutes < 10_000.0,
            "--minutes {minutes}: give a time above 0"
        );
        let time = Duration::from_secs_f64(minutes * 60.0);
        let uncovered = self.uncovered(profile)?;
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        let queue = Mutex::new(targets.iter());
        let next = || queue.lock().ok().and_then(|mut queue| queue.next().copied());
        let work = || {
            std::iter::from_fn(next)
                .map(|target| self.run_one(target, time, seed, &uncovered))
                .collect::<Vec<_>>()
        };
        let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().expect("a worker does not panic"))
                .collect()
        });
        let mut failures = Vec::new();
        println!("{}", Outcome::HEAD);
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => println!("{}", outcome.row()),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    fn run_one(&self, target: &'static str, time: Duration, seed: u32, uncovered: &Uncovered) -> Result<Outcome> {
        let artifacts = self.folder.join("artifacts").join(target);
        fs::create_dir_all(&artifacts).with_context(|| format!("cannot make the folder {}", artifacts.display()))?;
        let start = Instant::now();
        let mut child = self
            .command(target)
            .arg(format!("-max_total_time={}", time.as_secs().max(1)))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-seed={seed}"))
            .args(["-print_final_stats=1", "-print_pcs=1"])
            .arg(format!("-dict={}", dictionary(target).display()))
            .arg(self.found(target)?)
            .arg(corpus(target))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary(target).display()))?;
        let mut outcome = Outcome::new(target);
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).split(b'\n') {
                let line = line.context("cannot read what the fuzzer says")?;
                let line = String::from_utf8_lossy(&line).into_owned();
                outcome.take(&line, start.elapsed());
                said.push(line);
            }
        }
        let took = start.elapsed();
        let status = child.wait().context("cannot wait for the fuzzer")?;
        if !status.success() {
            let input = said
                .iter()
                .rev()
                .find_map(|line| line.split_once("Test unit written to "));
            let tail = said.len().saturating_sub(60);
            bail!(
                "the fuzz target {target} failed ({status}). To see it again:\n  LLVM_PROFILE_FILE=/dev/null {} {}\n{}",
                self.binary(target).display(),
                input.map_or("", |(_, path)| path),
                said[tail..].join("\n")
            );
        }
        outcome.end(&self.binary(target), took, uncovered)?;
        Ok(outcome)
    }

    /// Replaces the repository's corpus by the smallest set of inputs with the same coverage as all known inputs.
    fn keep(&self, target: &str) -> Result<()> {
        let (kept, merged) = (corpus(target), self.folder.join("merged").join(target));
        let _ = fs::remove_dir_all(&merged);
        fs::create_dir_all(&merged).with_context(|| format!("cannot make the folder {}", merged.display()))?;
        let output = self
            .command(target)
            .arg("-set_cover_merge=1")
            // Counts edges, not how often each is taken: that keeps the repository's corpus small.
            .arg("-use_counters=0")
            .args([&merged, &kept, &self.found(target)?])
            .output()
            .with_context(|| format!("cannot start {}", self.binary(target).display()))?;
        ensure!(
            output.status.success(),
            "the inputs of {target} cannot be merged:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept).with_context(|| format!("cannot make the folder {}", kept.display()))?;
        for entry in fs::read_dir(&merged).with_context(|| format!("cannot read {}", merged.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), kept.join(entry.file_name())).context("cannot copy an input")?;
        }
        Ok(())
    }

    /// Measures the coverage of the repository's corpus; returns the profile.
    fn profile(&self) -> Result<PathBuf> {
        let profiles = self.folder.join("profiles");
        let _ = fs::remove_dir_all(&profiles);
        fs::create_dir_all(&profiles).with_context(|| format!("cannot make the folder {}", profiles.display()))?;
        let mut raw = Vec::new();
        for target in TARGETS {
            let profile = profiles.join(format!("{target}.profraw"));
            let output = self
                .command(target)
                .env("LLVM_PROFILE_FILE", &profile)
                .arg("-runs=0")
                .arg(corpus(target))
                .output()
                .with_context(|| format!("cannot start {}", self.binary(target).display()))?;
            ensure!(
                output.status.success(),
                "an input of the corpus of {target} fails:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
            raw.push(profile);
        }
        let merged = profiles.join("all.profdata");
        Run::program(tools::llvm("llvm-profdata"))
            .args(["merge", "--sparse", "-o"])
            .arg(&merged)
            .args(&raw)
            .status()?;
        Ok(merged)
    }

    /// Returns the lines of Spoor's own code that the repository's corpus does not reach.
    fn uncovered(&self, profile: &Path) -> Result<Uncovered> {
        let (mut uncovered, mut file) = (Uncovered::default(), String::new());
        self.coverage(profile, &["export", "--format=lcov"], &CRATES)
            .quiet_lines(|line| uncovered.take(line, &mut file))?;
        ensure!(
            !uncovered.is_empty(),
            "llvm-cov tells no line of {CRATES:?} that is not covered: are the files called otherwise in its report?"
        );
        Ok(uncovered)
    }

    /// Prints the coverage of the repository's corpus. `bar`: fails if the parsers have too little.
    fn cover(&self, profile: &Path, bar: bool) -> Result<()> {
        let covered = self.report(profile, PARSERS)?;
        println!("lines that the corpus covers, by file:");
        for Covered { file, lines, missed } in &covered {
            println!("  {:5.1} %  {lines:4} lines  {file}", per_cent(*lines, *missed));
        }
        let sum = |covered: &[Covered]| {
            let lines: u64 = covered.iter().map(|file| file.lines).sum();
            let missed: u64 = covered.iter().map(|file| file.missed).sum();
            (lines, per_cent(lines, missed))
        };
        let (lines, parsers) = sum(&covered);
        let (decider_lines, deciders) = sum(&self.report(profile, &DECIDERS)?);
        println!("  {deciders:5.1} %  {decider_lines:4} lines  flow, causality and core together (no bar)");
        println!(
            "line coverage of the parsers from the corpus: {parsers:.1} % of {lines} lines (must: {MUST_COVER} %)"
        );
        ensure!(
            covered.len() == PARSERS.len(),
            "a parser is missing in the report: has a file been renamed?"
        );
        ensure!(
            !bar || parsers >= MUST_COVER,
            "the corpus covers {parsers:.1} % of the parsers' lines, {MUST_COVER} % are asked for: run `cargo xtask fuzz \
             --minutes 10 --keep`, or add inputs to tests/fuzz/corpus for what is new"
        );
        Ok(())
    }

    fn report(&self, profile: &Path, sources: &[&str]) -> Result<Vec<Covered>> {
        let mut covered = Vec::new();
        let options = ["report", "--show-region-summary=false", "--show-branch-summary=false"];
        self.coverage(profile, &options, sources)
            .quiet_lines(|line| covered.extend(Covered::of(line)))?;
        Ok(covered)
    }

    /// Runs `llvm-cov` on all targets, for these sources.
    fn coverage(&self, profile: &Path, options: &[&str], sources: &[&str]) -> Run {
        let [first, others @ ..] = TARGETS;
        let mut run = Run::program(tools::llvm("llvm-cov"))
            .args(options)
            .arg(format!("--instr-profile={}", profile.display()))
            .arg(self.binary(first));
        for target in others {
            run = run.arg("--object").arg(self.binary(target));
        }
        run.args(sources.iter().map(|source| tools::root().join(source)))
    }
}

fn corpus(target: &str) -> PathBuf {
    tools::root().join("tests/fuzz/corpus").join(target)
}

/// Returns the target's dictionary: words that are hard to guess.
fn dictionary(target: &str) -> PathBuf {
    let name = match target {
        "process" | "redis" | "tape" | "text" => target,
        _ => "http",
    };
    tools::root().join(format!("tests/fuzz/dictionaries/{name}.dict"))
}

/// A line of `llvm-cov report`.
#[derive(Debug, PartialEq, Eq)]
struct Covered {
    file: String,
    lines: u64,
    missed: u64,
}

impl Covered {
    /// Parses the file, three columns on functions, then lines, missed lines and per cent.
    fn of(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let &[file, _, _, _, lines, missed, _] = columns.as_slice() else {
            return None;
        };
        if !file.ends_with(".rs") {
            return None;
        }
        Some(Self {
            file: file.to_owned(),
            lines: lines.parse().ok()?,
            missed: missed.parse().ok()?,
        })
    }
}

fn per_cent(lines: u64, missed: u64) -> f64 {
    100.0 * (lines - missed) as f64 / (lines.max(1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_report() {
        let line = "proto/http1/head.rs    21    1    95.24%    237    7    97.05%";
        let expected = Covered {
            file: "proto/http1/head.rs".to_owned(),
            lines: 237,
            missed: 7,
        };
        assert_eq!(Covered::of(line), Some(expected));
        assert_eq!(Covered::of("TOTAL    21    1    95.24%    237    7    97.05%"), None);
        assert_eq!(
            Covered::of("Filename  Functions  Missed Functions  Executed  Lines  Missed Lines  Cover"),
            None
        );
        assert_eq!(per_cent(200, 10), 95.0);
        assert_eq!(per_cent(0, 0), 0.0);
    }
}
