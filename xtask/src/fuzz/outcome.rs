//! Result of a target's run, from libFuzzer's output.

use std::{collections::HashSet, path::Path, time::Duration};

use anyhow::{Result, ensure};

use crate::tools::{self, Run};

/// Lines of source that no input of any corpus in the repository reaches, by file from the workspace's folder.
#[derive(Debug, Default)]
pub struct Uncovered(HashSet<(String, u32)>);

impl Uncovered {
    /// Takes a line of LCOV (`llvm-cov export --format=lcov`). `DA:<line>,<count>` is about the file of the last `SF:`
    /// line.
    pub fn take(&mut self, line: &str, file: &mut String) {
        if let Some(path) = line.strip_prefix("SF:") {
            *file = from_root(path).unwrap_or_default();
        } else if !file.is_empty()
            && let Some((number, "0")) = line.strip_prefix("DA:").and_then(|line| line.split_once(','))
            && let Ok(number) = number.parse()
        {
            self.0.insert((file.clone(), number));
        }
    }

    /// Returns whether there are none. There always are some, unless the report names its files in another way.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the place as `path:line` from the workspace's folder, if the line is one of these.
    fn at(&self, place: &str) -> Option<String> {
        let mut parts = place.rsplitn(3, ':');
        let (_, line, path) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let key = (from_root(path)?, line);
        self.0.contains(&key).then(|| format!("{}:{}", key.0, key.1))
    }
}

fn from_root(path: &str) -> Option<String> {
    let path = Path::new(path).strip_prefix(tools::root()).ok()?;
    Some(path.display().to_string())
}

/// Result of a target's run.
#[derive(Debug, Default)]
pub struct Outcome {
    target: &'static str,
    runs: u64,
    /// Edges of the instrumented code, at the beginning and at the end.
    edges: (u64, u64),
    /// The addresses of new edges in the program, and when they were found.
    found: Vec<(Duration, String)>,
    /// When an edge was found in a line that was [`Uncovered`], and where.
    new_lines: Vec<(Duration, String)>,
    took: Duration,
}

impl Outcome {
    /// Creates the state of a run that begins.
    pub fn new(target: &'static str) -> Self {
        Self {
            target,
            ..Self::default()
        }
    }

    /// Takes a line of libFuzzer, such as `#123 NEW cov: 45 ft: 67 corp: 8/9b …` or `NEW_PC: 0x1234`.
    pub fn take(&mut self, line: &str, now: Duration) {
        if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
            self.runs = runs.trim().parse().unwrap_or(0);
        } else if let Some(address) = line.trim().strip_prefix("NEW_PC: ") {
            self.found.push((now, address.to_owned()));
        } else if let Some(edges) = line.strip_prefix('#').and_then(edges) {
            if line.contains("INITED") {
                self.edges.0 = edges;
            }
            self.edges.1 = self.edges.1.max(edges);
        }
    }

    /// Ends the run: looks up in the program which lines are new. Most new edges are in others' generic code that is
    /// built into ours (a hash table has a random key, so each run takes new edges), or are new to this target only.
    pub fn end(&mut self, program: &Path, took: Duration, uncovered: &Uncovered) -> Result<()> {
        self.took = took;
        for addresses in self.found.chunks(100) {
            let mut lines = Vec::new();
            // The line table names the source of inlined code, not of the function that it is inlined into.
            Run::program(tools::llvm("llvm-symbolizer"))
                .args(["--no-inlines", "--functions=none", "--obj"])
                .arg(program)
                .args(addresses.iter().map(|(_, address)| address))
                .quiet_lines(|line| lines.extend((!line.is_empty()).then(|| line.to_owned())))?;
            ensure!(
                lines.len() == addresses.len(),
                "llvm-symbolizer names {} places of {} addresses of {}",
                lines.len(),
                addresses.len(),
                program.display()
            );
            let found = addresses.iter().zip(lines);
            self.new_lines
                .extend(found.filter_map(|((when, _), place)| Some((*when, uncovered.at(&place)?))));
        }
        Ok(())
    }

    /// Head of the table.
    pub const HEAD: &str = "target     runs      runs/s  edges at begin  at end  new lines; the last";

    /// Returns this run's row of the table.
    pub fn row(&self) -> String {
        let (begin, end) = self.edges;
        let rate = self.runs as f64 / self.took.as_secs_f64().max(0.001);
        let last = self.new_lines.last().map_or_else(String::new, |(when, line)| {
            let advice = if *when > self.took.mul_f64(0.8) {
                ", in the last fifth: let it run longer, and keep what it finds"
            } else {
                ""
            };
            format!(
                "; at {:.0} s of {:.0} s ({line}){advice}",
                when.as_secs_f64(),
                self.took.as_secs_f64()
            )
        });
        let (target, runs, new) = (self.target, self.runs, self.new_lines.len());
        format!("{target:8} {runs:8} {rate:9.0} {begin:12} {end:9}  {new}{last}")
    }
}

fn edges(line: &str) -> Option<u64> {
    line.split_once("cov: ")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_fuzzer_says() {
        let mut outcome = Outcome::new("core");
        for (second, line) in [
            (0, "INFO: Seed: 3591418948"),
            (1, "#20\tINITED cov: 100 ft: 200 corp: 8/9b exec/s: 0 rss: 27Mb"),
            (2, "#30\tREDUCE cov: 100 ft: 201 corp: 8/9b exec/s: 0 rss: 27Mb"),
            (3, "\tNEW_PC: 0x5581144a0a94"),
            (3, "#47\tNEW    cov: 101 ft: 209 corp: 2/5b lim: 4 exec/s: 0"),
            (9, "#99\tDONE   cov: 101 ft: 211 corp: 13/37b"),
            (10, "stat::number_of_executed_units: 1000"),
        ] {
            outcome.take(line, Duration::from_secs(second));
        }
        assert_eq!((outcome.runs, outcome.edges), (1000, (100, 101)));
        assert_eq!(outcome.found, [(Duration::from_secs(3), "0x5581144a0a94".to_owned())]);
    }

    #[test]
    fn a_line_is_new_that_no_target_reached() {
        let path = |file: &str| tools::root().join(file).display().to_string();
        let mut uncovered = Uncovered::default();
        let mut file = String::new();
        for line in [
            &format!("SF:{}", path("agent/src/event.rs")),
            "FN:11,event",
            "DA:11,7",
            "DA:12,0",
            "end_of_record",
        ] {
            uncovered.take(line, &mut file);
        }
        let at = |place: &str| uncovered.at(&path(place));
        assert_eq!(at("agent/src/event.rs:12:5").as_deref(), Some("agent/src/event.rs:12"));
        for other in [
            "agent/src/event.rs:11:5",
            "agent/src/event.rs:13:5",
            "agent/src/other.rs:12:5",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
        assert_eq!(
            uncovered.at("/rust/deps/hashbrown-0.16.1/src/control/bitmask.rs:50:16"),
            None
        );
    }

    #[test]
    fn a_new_line_in_the_last_fifth_is_told() {
        let mut outcome = Outcome {
            took: Duration::from_secs(10),
            ..Outcome::new("core")
        };
        assert!(outcome.row().ends_with(" 0"), "{}", outcome.row());
        outcome.new_lines.push((Duration::from_secs(3), "a.rs:1".to_owned()));
        assert!(
            outcome.row().ends_with("1; at 3 s of 10 s (a.rs:1)"),
            "{}",
            outcome.row()
        );
        outcome.new_lines.push((Duration::from_secs(9), "a.rs:2".to_owned()));
        assert!(outcome.row().contains("last fifth"), "{}", outcome.row());
    }
}
