//! The table of features by kernel: for the terminal, and docs/kernels.md.

use std::fmt::Write as _;

use super::Family;

/// The document that holds the table.
pub const DOCUMENT: &str = "docs/kernels.md";

/// Text of the document above its tables.
const HEAD: &str = "# Kernels

`cargo xtask kernels` wrote this page. It boots Debian's kernels in virtual machines, lets processes make the system
calls of servers and clients there, with the release binary attached, and compares all spans and parents with the calls that
they made. It does so once in each family of hooks that the kernel has: from Linux 6.3 on at the socket events (`--hooks sock`),
which Spoor chooses there by itself, and at the exits of system calls (`--hooks syscall`), which is the only family of older
kernels. One kernel: `cargo xtask kernels 6.1`; the machine's own: `cargo xtask kernels host`.

Kernels are for x86-64 unless the table says `arm64`. On 64-bit ARM (`arm64`) Spoor needs Linux 6.0 or newer: older ones
refuse its programs, and Spoor says so. The virtual machines emulate ARM's instructions, which
tests what the kernel accepts and what the programs see, but not the order in which an ARM processor writes to memory.

## Beside a process that calls bpf(2) all the time

A kernel whose preemption is a boot parameter boots again with `preempt=full`; in all boots one test runs beside a process
that calls bpf(2) on each processor, all the time. Spans can be missing there for two reasons, and counters show
both ([loss.md](loss.md)):

- A kernel that preempts everywhere skips programs of system calls while bpf(2) is called on the same processor. It
  does not skip those at the socket events.
- A kernel that lets one program preempt another makes the second one do nothing, or skips it. 7.3 does so with
  programs of system calls, and kernels since 7.0 do with those at the socket events.

The run fails for a missing span without a grown counter, for any missing span at the socket events of kernels
before 7.0, and for a wrong span or parent.

";

/// Result of a feature in a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Result {
    /// The feature works.
    Works,
    /// This kernel cannot do it, which is known and documented: no failure.
    Cannot(String),
    /// The feature failed.
    Failed(String),
}

/// Results of one boot.
pub struct Column {
    /// Series and parameters.
    kernel: String,
    release: String,
    family: Family,
    /// Spans that were missing beside the process that calls bpf(2) all the time, and how many were expected.
    missing: Option<(u64, u64)>,
    results: Vec<(String, Result)>,
}

impl Column {
    /// Reads the guest's lines: `feature NAME|works`, `feature NAME|cannot|REASON`, `feature NAME|failed|REASON`,
    /// `missing SPANS|ALL`.
    pub fn new(kernel: String, release: String, family: Family, lines: &[String]) -> Self {
        let results = lines.iter().filter_map(|line| {
            let mut words = line.strip_prefix("feature ")?.splitn(3, '|');
            let (name, result) = (words.next()?, words.next()?);
            let reason = words.next().unwrap_or_default().to_owned();
            let result = match result {
                "works" => Result::Works,
                "cannot" => Result::Cannot(reason),
                _ => Result::Failed(reason),
            };
            Some((name.to_owned(), result))
        });
        let missing = lines.iter().find_map(|line| {
            let (missing, all) = line.strip_prefix("missing ")?.split_once('|')?;
            Some((missing.parse().ok()?, all.parse().ok()?))
        });
        Self {
            kernel,
            release,
            family,
            missing,
            results: results.collect(),
        }
    }

    /// Returns the series, the parameters and the family of hooks.
    pub fn title(&self) -> String {
        format!("{} {}", self.kernel, self.family.name())
    }

    /// Notes that the machine or the suite did not end well.
    pub fn ended(&mut self, reason: String) {
        self.results.push(("the suite".to_owned(), Result::Failed(reason)));
    }

    fn result(&self, feature: &str) -> Option<Result> {
        let found = self.results.iter().find(|(name, _)| name == feature);
        found.map(|(_, result)| result.clone())
    }

    /// Returns one line for the terminal.
    pub fn summary(&self) -> String {
        let failed: Vec<&str> = self
            .results
            .iter()
            .filter(|(_, result)| matches!(result, Result::Failed(_)))
            .map(|(name, _)| name.as_str())
            .collect();
        let works = self
            .results
            .iter()
            .filter(|(_, result)| *result == Result::Works)
            .count();
        if failed.is_empty() {
            format!("{works} features work")
        } else {
            format!("{works} features work, failed: {}", failed.join(", "))
        }
    }
}

/// Results of all boots.
pub struct Table {
    columns: Vec<Column>,
}

impl Table {
    /// Takes the boots in the order in which they are shown.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns }
    }

    /// Returns the boots in a family of hooks.
    fn of(&self, family: Family) -> Vec<&Column> {
        self.columns.iter().filter(|column| column.family == family).collect()
    }

    /// Returns the table for the terminal: a row for each feature, a column for each boot, reasons below.
    pub fn text(&self) -> String {
        let columns: Vec<&Column> = self.columns.iter().collect();
        let features = features(&columns);
        let width = features.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut text = format!("{:width$}", "");
        for column in &self.columns {
            let _ = write!(text, "  {}", column.title());
        }
        text.push('\n');
        for feature in features {
            let _ = write!(text, "{feature:width$}");
            for column in &self.columns {
                let word = match column.result(feature) {
                    Some(Result::Works) => "works",
                    Some(Result::Cannot(_)) => "cannot",
                    Some(Result::Failed(_)) => "FAILED",
                    None => "",
                };
                let _ = write!(text, "  {word:width$}", width = column.title().len());
            }
            text.push('\n');
        }
        text
    }

    /// Lists each failure with its reason.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for column in &self.columns {
            for (feature, result) in &column.results {
                if let Result::Failed(reason) = result {
                    failures.push(format!("  {}, {feature}: {reason}", column.title()));
                }
            }
        }
        failures
    }

    /// Returns the text of docs/kernels.md.
    pub fn document(&self) -> String {
        let mut text = HEAD.to_owned();
        self.missing(&mut text);
        let mut notes = Vec::new();
        for family in Family::ALL {
            let columns = self.of(family);
            if !columns.is_empty() {
                let _ = writeln!(text, "\n## `--hooks {}`\n", family.name());
                features_by_kernel(&columns, &mut text, &mut notes);
            }
        }
        if notes.is_empty() {
            text.push_str("\nEverything works in all of them.\n");
        } else {
            text.push('\n');
            for (index, note) in notes.iter().enumerate() {
                let _ = writeln!(text, "{}. {note}", index + 1);
            }
        }
        text
    }

    /// Appends a row for each kernel, with the spans that were missing beside the process that calls bpf(2).
    fn missing(&self, text: &mut String) {
        text.push_str("| | kernel |");
        for family in Family::ALL {
            let _ = write!(text, " missing with `--hooks {}` |", family.name());
        }
        text.push_str("\n|---|---|");
        text.push_str(&"---|".repeat(Family::ALL.len()));
        text.push('\n');
        let mut kernels: Vec<&Column> = Vec::new();
        for column in &self.columns {
            if kernels.iter().all(|other| other.kernel != column.kernel) {
                kernels.push(column);
            }
        }
        for Column { kernel, release, .. } in kernels {
            let _ = write!(text, "| {kernel} | {release} |");
            for family in Family::ALL {
                let column = self.of(family).into_iter().find(|column| column.kernel == *kernel);
                match column.and_then(|column| column.missing) {
                    Some((missing, all)) => drop(write!(text, " {missing} of {all} |")),
                    None => text.push_str("  |"),
                }
            }
            text.push('\n');
        }
    }
}

/// Lists all features of these boots, in the order of the first one's output.
fn features<'a>(columns: &[&'a Column]) -> Vec<&'a str> {
    let mut features: Vec<&str> = Vec::new();
    for (name, _) in columns.iter().flat_map(|column| &column.results) {
        if !features.contains(&name.as_str()) {
            features.push(name);
        }
    }
    features
}

/// Appends a row for each feature, and to `notes` what its fields refer to.
fn features_by_kernel(columns: &[&Column], text: &mut String, notes: &mut Vec<String>) {
    text.push_str("| |");
    for column in columns {
        let _ = write!(text, " {} |", column.kernel);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for feature in features(columns) {
        let _ = write!(text, "| {feature} |");
        for column in columns {
            let mut noted = |word: &str, reason: String| {
                let known = notes.iter().position(|note| *note == reason);
                let number = known.unwrap_or_else(|| {
                    notes.push(reason);
                    notes.len() - 1
                });
                format!("{word} ({})", number + 1)
            };
            let word = match column.result(feature) {
                Some(Result::Works) => "works".to_owned(),
                Some(Result::Cannot(reason)) => noted("no", reason),
                Some(Result::Failed(reason)) => noted("**fails**", reason),
                None => String::new(),
            };
            let _ = write!(text, " {word} |");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_become_a_table() {
        let mut old = Column::new(
            "5.10".into(),
            "5.10.0-1".into(),
            Family::Syscall,
            &lines("started\nmissing 3|410\nfeature fork|works\nfeature close_range|cannot|no such call\nend 0"),
        );
        let [sock, syscall] = Family::ALL.map(|family| {
            Column::new(
                "6.12".into(),
                "6.12.0-1".into(),
                family,
                &lines("missing 0|410\nfeature fork|failed|2 of 3 | spans\nfeature close_range|cannot|no such call"),
            )
        });
        old.ended("it died".to_owned());
        let table = Table::new(vec![old, sock, syscall]);
        assert_eq!(
            table.failures(),
            [
                "  5.10 syscall, the suite: it died",
                "  6.12 sock, fork: 2 of 3 | spans",
                "  6.12 syscall, fork: 2 of 3 | spans",
            ]
        );
        assert!(table.text().contains("FAILED"));
        let document = table.document();
        for rows in [
            "| 5.10 | 5.10.0-1 |  | 3 of 410 |\n| 6.12 | 6.12.0-1 | 0 of 410 | 0 of 410 |\n",
            "## `--hooks sock`\n\n| | 6.12 |\n|---|---|\n| fork | **fails** (1) |\n| close_range | no (2) |\n",
            "## `--hooks syscall`\n\n| | 5.10 | 6.12 |\n|---|---|---|\n| fork | works | **fails** (1) |\n",
            "| close_range | no (2) | no (2) |\n| the suite | **fails** (3) |  |\n",
            "\n1. 2 of 3 | spans\n2. no such call\n3. it died\n",
        ] {
            assert!(document.contains(rows), "{document}");
        }
    }
}
