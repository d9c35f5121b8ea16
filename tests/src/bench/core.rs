//! Cost of a request in Core: in time, and in instructions.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use spoor_tests::instructions::{self, ENDS, TOLERANCE};

use super::{
    Options,
    report::{Bar, Bound, Table, figure, median, progress},
};

/// Number of requests of a round.
const REQUESTS: &str = "100000";

/// Measures rounds by the clock, then instructions. `bless`: writes these numbers into the repository.
pub fn run(options: Options, bless: bool) -> Result<Vec<Bar>> {
    let program = instructions::program()?;
    let mut ns = [Vec::new(), Vec::new()];
    let count = options.rounds(7);
    for round in 0..count {
        progress(round, count);
        for (ends, ns) in ENDS.iter().zip(&mut ns) {
            let output = Command::new(&program)
                .args([ends, REQUESTS, "time"])
                .output()
                .with_context(|| format!("cannot run {}", program.display()))?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{} failed: {text}", program.display());
            let median = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
            ns.push(median.with_context(|| format!("{} printed {text:?}", program.display()))?);
        }
    }
    let mut counted = [0.0; 2];
    for (ends, counted) in ENDS.iter().zip(&mut counted) {
        *counted = instructions::per_request(&program, ends)?;
    }
    if bless {
        instructions::announce(counted)?;
    }
    let announced = instructions::announced()?;

    let mut table = Table::new(&["", "median", "least", "greatest"]);
    table.series("a request, server traced (1 span), ns", &ns[0]);
    table.series("a request, both ends traced (2 spans), ns", &ns[1]);
    println!("{table}");
    let mut table = Table::new(&["", "counted", "in the repository"]);
    for ((ends, counted), announced) in ["server traced", "both ends traced"].iter().zip(counted).zip(announced) {
        table.row([
            format!("instructions of a request, {ends}"),
            figure(counted.round()),
            figure(announced),
        ]);
    }
    println!("{table}");
    let growth = counted
        .iter()
        .zip(announced)
        .map(|(counted, announced)| counted / announced);
    Ok(vec![
        Bar::new(
            "core: ns a request with its span",
            Bound::AtMost(900.0),
            Bound::AtMost(650.0),
            median(&ns[0]),
        ),
        Bar::new(
            "core: ns a request, by span, both ends traced",
            Bound::AtMost(900.0),
            Bound::AtMost(650.0),
            median(&ns[1]) / 2.0,
        ),
        Bar::new(
            "core: instructions of a request with its span",
            Bound::AtMost(9500.0),
            Bound::AtMost(9500.0),
            counted[0].round(),
        ),
        Bar::new(
            "core: instructions, counted / in the repository",
            Bound::AtMost(1.0 + TOLERANCE),
            Bound::AtMost(1.0),
            growth.fold(0.0, f64::max),
        ),
    ])
}
