//! Tables, medians, and bars.

use std::fmt;

/// Figure of a result.
pub type Figure<T> = fn(&T) -> f64;

/// Least and greatest value that a bar allows.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// This value or less.
    AtMost(f64),
    /// This value or more.
    AtLeast(f64),
    /// This value only.
    Exactly(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Exactly(bound) => value == bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {}", figure(*bound)),
            Self::AtLeast(bound) => write!(f, "≥ {}", figure(*bound)),
            Self::Exactly(bound) => write!(f, "= {}", figure(*bound)),
        }
    }
}

/// A figure with a promise.
#[derive(Debug)]
pub struct Bar {
    /// Name of the figure, with its unit.
    pub what: String,
    /// The promise.
    pub must: Bound,
    /// The aim.
    pub aim: Bound,
    /// Measured value; `None` if this agent does not allow the measurement.
    pub measured: Option<f64>,
}

impl Bar {
    /// Creates a bar with its result.
    pub fn new(what: impl Into<String>, must: Bound, aim: Bound, measured: f64) -> Self {
        Self {
            what: what.into(),
            must,
            aim,
            measured: measured.is_finite().then_some(measured),
        }
    }

    /// Creates a bar for the median of rounds.
    pub fn median(what: impl Into<String>, must: Bound, aim: Bound, rounds: &[f64]) -> Self {
        Self::new(what, must, aim, median(rounds))
    }

    /// Returns whether the promise is kept.
    pub fn kept(&self) -> bool {
        self.measured.is_some_and(|value| self.must.holds(value))
    }

    fn verdict(&self) -> &'static str {
        match self.measured {
            None => "MISSED (not measured)",
            Some(value) if !self.must.holds(value) => "MISSED",
            Some(value) if !self.aim.holds(value) => "ok",
            Some(_) => "ok, aim reached",
        }
    }
}

/// Returns the bars as a table.
pub fn bars(bars: &[Bar]) -> Table {
    let mut table = Table::new(&["bar", "must", "aim", "measured", ""]);
    for bar in bars {
        table.row([
            bar.what.clone(),
            bar.must.to_string(),
            bar.aim.to_string(),
            bar.measured.map_or("-".to_owned(), figure),
            bar.verdict().to_owned(),
        ]);
    }
    table
}

/// Lines of cells, printed in columns.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// Creates a table with its heads.
    pub fn new(heads: &[&str]) -> Self {
        Self(vec![heads.iter().map(|&head| head.to_owned()).collect()])
    }

    /// Adds a line.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    /// Adds a line for a series: median, minimum and maximum.
    pub fn series(&mut self, name: &str, values: &[f64]) {
        let (least, greatest) = range(values);
        self.row([name.to_owned(), figure(median(values)), figure(least), figure(greatest)]);
    }

    /// Adds a line for a figure and the series behind it: the figure, then the series as [`Table::series`] does.
    pub fn figure_and_series(&mut self, name: &str, value: f64, values: &[f64]) {
        let (least, greatest) = range(values);
        self.row([
            name.to_owned(),
            figure(value),
            figure(median(values)),
            figure(least),
            figure(greatest),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.0.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.0 {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let has_head = self.0[0].get(column).is_some_and(|head| !head.is_empty());
                // Names are left-aligned, figures right-aligned; the verdict, which has no head, left-aligned again.
                match column {
                    0 => line += &format!("{cell}{pad}"),
                    _ if !has_head => line += &format!("  {cell}"),
                    _ => line += &format!("  {pad}{cell}"),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns the minimum.
pub fn least(values: &[f64]) -> f64 {
    range(values).0
}

/// Returns the minimum and the maximum.
fn range(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), &value| {
            (least.min(value), greatest.max(value))
        })
}

/// Prints the progress of a comparison on stderr.
pub fn progress(round: u32, rounds: u32) {
    eprintln!("round {} of {rounds}", round + 1);
}

/// Returns the median: for an even number of values the mean of the two in the middle, for none NaN.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Returns the value that this share of all does not exceed (nearest rank); for no values NaN.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(f64::NAN)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Formats a figure with as many decimals as its size justifies.
pub fn figure(value: f64) -> String {
    let places = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    // 0.999999 must not look like the 1 that is promised.
    if value != 1.0 && text.parse() == Ok(1.0) {
        return format!("{value:.6}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&hundred, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn figures() {
        assert_eq!(
            [4.0, 1234.5, 12.34, 1.234, 0.0512, 0.999_999, 10.966].map(figure),
            ["4", "1234", "12.3", "1.23", "0.051", "0.999999", "11.0"]
        );
    }

    #[test]
    fn verdicts() {
        let verdict = |measured| Bar::new("", Bound::AtMost(4.0), Bound::AtMost(2.5), measured).verdict();
        assert_eq!(
            [2.5, 4.0, 4.1, f64::NAN].map(verdict),
            ["ok, aim reached", "ok", "MISSED", "MISSED (not measured)"]
        );
        assert!(!Bar::new("", Bound::Exactly(1.0), Bound::Exactly(1.0), 0.999_999).kept());
        assert!(Bar::new("", Bound::AtLeast(0.8), Bound::AtLeast(0.9), 0.8).kept());
    }

    #[test]
    fn columns() {
        let table = bars(&[Bar::new("a b", Bound::AtMost(4.0), Bound::AtMost(2.0), 3.0)]).to_string();
        assert_eq!(table, "bar  must  aim  measured\na b   ≤ 4  ≤ 2         3  ok\n");
    }
}
