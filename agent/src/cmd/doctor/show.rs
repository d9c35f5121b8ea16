//! The report as text for people, and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json as value};

use super::verdict::{Group, Line, Report, State};

/// Formats the report for people. A group of many checks has one line for all that work; a check that fails shows its
/// consequence and advice.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.summary());
    for group in Group::ALL {
        let lines: Vec<&Line> = report.lines.iter().filter(|line| line.group == group).collect();
        if lines.is_empty() {
            continue;
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{}", group.name());
        let (well, rest): (Vec<_>, Vec<_>) = lines
            .into_iter()
            .partition(|line| line.state == State::Works && group.is_list());
        if !well.is_empty() {
            let all = well.len() + rest.len();
            let names: Vec<&str> = well.iter().map(|line| line.name.as_str()).collect();
            let names = if names.len() > LISTED {
                String::new()
            } else {
                format!(": {}", names.join(", "))
            };
            let _ = writeln!(text, "  ✓ {} of {all}{names}", well.len());
        }
        let width = rest.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
        for Line {
            name,
            state,
            found,
            cost,
            remedy,
            ..
        } in rest
        {
            let _ = writeln!(text, "  {} {name:width$}  {found}", state.mark());
            for (label, what) in [("costs", cost), ("do", remedy)] {
                if let Some(what) = what {
                    let _ = writeln!(text, "    {label:<5} {what}");
                }
            }
        }
    }
    text
}

/// Number of names of a list that are shown; the names of a longer one are only counted.
const LISTED: usize = 8;

/// Formats the report for programs: one JSON object with all lines.
pub fn json(report: &Report) -> String {
    let checks: Vec<Value> = report
        .lines
        .iter()
        .map(|line| {
            value!({
                "group": line.group.name(),
                "name": line.name,
                "state": line.state.name(),
                "found": line.found,
                "costs": line.cost,
                "do": line.remedy,
            })
        })
        .collect();
    let whole = value!({
        "version": env!("CARGO_PKG_VERSION"),
        "works": report.works(),
        "summary": report.summary(),
        "checks": checks,
    });
    format!("{whole:#}\n")
}
