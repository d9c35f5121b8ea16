//! The table of features by kernel: for the terminal, and docs/kernels.md.

use std::fmt::Write as _;

/// The document that holds the table.
pub const DOCUMENT: &str = "docs/kernels.md";

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
    pub title: String,
    release: String,
    /// Spans that were missing beside the process that calls bpf(2) all the time, and how many were expected.
    missing: Option<(u64, u64)>,
    results: Vec<(String, Result)>,
}

impl Column {
    /// Reads the guest's lines: `feature NAME|works`, `feature NAME|cannot|REASON`, `feature NAME|failed|REASON`,
    /// `missing SPANS|ALL`.
    pub fn new(title: String, release: String, lines: &[String]) -> Self {
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
            title,
            release,
            missing,
            results: results.collect(),
        }
    }

    /// Notes that the machine or the suite did not end well.
    pub fn ended(&mut self, reason: String) {
        self.results.push(("the suite".to_owned(), Result::Failed(reason)));
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

    /// Lists all features, in the order of the first kernel's output.
    fn features(&self) -> Vec<&str> {
        let mut features: Vec<&str> = Vec::new();
        for (name, _) in self.columns.iter().flat_map(|column| &column.results) {
            if !features.contains(&name.as_str()) {
                features.push(name);
            }
        }
        features
    }

    fn result(column: &Column, feature: &str) -> Option<Result> {
        let found = column.results.iter().find(|(name, _)| name == feature);
        found.map(|(_, result)| result.clone())
    }

    /// Returns the table for the terminal: a row for each feature, a column for each boot, reasons below.
    pub fn text(&self) -> String {
        let features = self.features();
        let width = features.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut text = format!("{:width$}", "");
        for column in &self.columns {
            let _ = write!(text, "  {}", column.title);
        }
        text.push('\n');
        for feature in features {
            let _ = write!(text, "{feature:width$}");
            for column in &self.columns {
                let word = match Self::result(column, feature) {
                    Some(Result::Works) => "works",
                    Some(Result::Cannot(_)) => "cannot",
                    Some(Result::Failed(_)) => "FAILED",
                    None => "",
                };
                let _ = write!(text, "  {word:width$}", width = column.title.len());
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
                    failures.push(format!("  {}, {feature}: {reason}", column.title));
                }
            }
        }
        failures
    }

    /// Returns the text of docs/kernels.md.
    pub fn document(&self) -> String {
        let mut text = "# Kernels

`cargo xtask kernels` wrote this page. It boots Debian's kernels in virtual machines, lets processes make the system
calls of servers and clients there, with the release binary attached, and compares all spans and parents with the calls that
they made. A kernel whose preemption is a boot parameter boots a second time with `preempt=full`; in both boots one test runs
beside a process that calls bpf(2) all the time. One kernel: `cargo xtask kernels 6.1`; the machine's own: `cargo xtask kernels host`.

Kernels are for x86-64 unless the table says `arm64`. On 64-bit ARM (`arm64`) Spoor needs Linux 6.0 or newer: older ones
refuse its programs, and Spoor says so. The virtual machines emulate ARM's instructions, which
tests what the kernel accepts and what the programs see, but not the order in which an ARM processor writes to memory.

"
        .to_owned();
        text.push_str("| | kernel | spans missing beside the process that calls bpf(2) |\n|---|---|---|\n");
        for column in &self.columns {
            let missing = match column.missing {
                Some((missing, all)) => format!("{missing} of {all}"),
                None => String::new(),
            };
            let _ = writeln!(text, "| {} | {} | {missing} |", column.title, column.release);
        }
        text.push_str("\n| |");
        for column in &self.columns {
            let _ = write!(text, " {} |", column.title);
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(self.columns.len()));
        text.push('\n');
        let notes = self.features_by_kernel(&mut text);
        text.push_str(
            "
A kernel that preempts everywhere skips programs of system calls while bpf(2) is called on the same processor, or lets
one program preempt another; the second one then does nothing. Spans are missing in both cases, and counters show it
([loss.md](loss.md)): the run fails for a missing span without a grown counter, and for a wrong span or parent.
",
        );
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
    /// Appends a row for each feature; returns the notes that its fields refer to.
    fn features_by_kernel(&self, text: &mut String) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for feature in self.features() {
            let _ = write!(text, "| {feature} |");
            for column in &self.columns {
                let mut noted = |word: &str, reason: String| {
                    let known = notes.iter().position(|note| *note == reason);
                    let number = known.unwrap_or_else(|| {
                        notes.push(reason);
                        notes.len() - 1
                    });
                    format!("{word} ({})", number + 1)
                };
                let word = match Self::result(column, feature) {
                    Some(Result::Works) => "works".to_owned(),
                    Some(Result::Cannot(reason)) => noted("no", reason),
                    Some(Result::Failed(reason)) => noted("**fails**", reason),
                    None => String::new(),
                };
                let _ = write!(text, " {word} |");
            }
            text.push('\n');
        }
        notes
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
            &lines("started\nmissing 3|410\nfeature fork|works\nfeature close_range|cannot|no such call\nend 0"),
        );
        let new = Column::new(
            "6.1".into(),
            "6.1.0-1".into(),
            &lines("feature fork|failed|2 of 3 | spans"),
        );
        old.ended("it died".to_owned());
        let table = Table::new(vec![old, new]);
        assert_eq!(
            table.failures(),
            ["  5.10, the suite: it died", "  6.1, fork: 2 of 3 | spans"]
        );
        let document = table.document();
        assert!(
            document.contains("| fork | works | **fails** (3) |")
                || document.contains("| fork | works | **fails** (1) |")
        );
        assert!(document.contains("| close_range | no ("));
        assert!(document.contains("| 5.10 | 5.10.0-1 | 3 of 410 |"));
        assert!(table.text().contains("FAILED"));
    }
}
