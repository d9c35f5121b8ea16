//! The listing for people.

use unicode_width::UnicodeWidthChar;

use super::{Listing, Row};
use crate::console::printable;

/// Most columns of a service's name.
const SERVICE_COLUMNS: usize = 24;
/// Most columns of the reason why a process is selected or not.
const WHY_COLUMNS: usize = 32;
/// Fewest columns of both, in whatever terminal.
const LEAST_COLUMNS: usize = 12;
/// As many columns of what is not visible are kept free, if it needs them.
const UNSEEN_COLUMNS: usize = 20;
/// Columns that what is not visible is indented by, where it has lines of its own for want of room.
const INDENT: usize = 2;

/// The lines of the listing, for so many columns. `asked`: an agent would have been heard.
pub(super) fn table(listing: &Listing, asked: bool, columns: usize) -> Vec<String> {
    let mut lines = vec![fitted(&printable(&heading(listing, asked)), columns)];
    if listing.workloads.is_empty() {
        lines.push("Nothing listens on TCP or was seen to communicate; --all lists every process.".to_owned());
        return lines;
    }
    let cells: Vec<[String; 9]> = listing.workloads.iter().map(cells).collect();
    let titles = [
        "PID",
        "SERVICE",
        "RUNTIME",
        "CONNS",
        "REQUESTS",
        "CALLS",
        "MISSED",
        "SELECTED",
        "NOT VISIBLE",
    ];
    let most = [7, SERVICE_COLUMNS, 10, 6, 10, 10, 7, WHY_COLUMNS];
    let mut widths = [0; 8];
    for (index, (width, most)) in widths.iter_mut().zip(most).enumerate() {
        let longest = cells.iter().map(|row| width_of(&row[index])).max().unwrap_or(0);
        *width = longest.max(titles[index].len()).min(most);
    }
    let parts = cells.iter().flat_map(|row| row[8].split(", "));
    let longest = parts.map(width_of).max().unwrap_or(0);
    // A comma may follow.
    let unseen = (longest + 1).clamp(titles[8].len(), UNSEEN_COLUMNS);
    // What is too wide is cut where that hurts least: --json has all.
    for (index, least) in [(1, 16), (7, 20), (1, LEAST_COLUMNS), (7, LEAST_COLUMNS)] {
        let all: usize = widths.iter().map(|width| width + 2).sum::<usize>() + unseen;
        widths[index] -= all.saturating_sub(columns).min(widths[index].saturating_sub(least));
    }
    let mut before: usize = widths.iter().map(|width| width + 2).sum();
    // In a narrow terminal, what is not visible is below the rest of its row, which is cut.
    let below = before + unseen > columns;
    if below {
        before = INDENT;
    }
    let rest = columns.saturating_sub(before).max(1);
    let line = |row: &[String; 9], last: &str| {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = fitted(cell, width);
            let blank = " ".repeat(width - width_of(&cell));
            // Numbers to the right.
            let is_number = index == 0 || (3..=6).contains(&index);
            line.push_str(&if is_number { blank + &cell } else { cell + &blank });
            line.push_str("  ");
        }
        line.push_str(last);
        line.trim_end().to_owned()
    };
    let heads = titles.map(str::to_owned);
    if below {
        lines.push(fitted(&line(&heads, ""), columns));
        lines.push(fitted(&(" ".repeat(before) + titles[8]), columns));
    } else {
        lines.push(line(&heads, titles[8]));
    }
    for row in &cells {
        let mut wrapped = wrap(&row[8], rest).into_iter().filter(|line| !line.is_empty());
        if below {
            lines.push(fitted(&line(row, ""), columns));
        } else {
            lines.push(line(row, &wrapped.next().unwrap_or_default()));
        }
        lines.extend(wrapped.map(|more| " ".repeat(before) + &more));
    }
    if listing.left_off > 0 {
        lines.push(format!("… {} more", listing.left_off));
    }
    lines
}

fn heading(listing: &Listing, asked: bool) -> String {
    let selected = |row: &&Row| row.workload.selected != Some(false);
    let count = listing.workloads.iter().filter(selected).count();
    match &listing.agent {
        Some(agent) => format!("spoor {} (process {}) {}", agent.version, agent.pid, agent.doing),
        None if asked => format!("No agent runs. It would trace {count} of these:"),
        None => format!("No agent was asked. One with this selection would trace {count} of these:"),
    }
}

/// The cells of a row, without what steers a terminal.
fn cells(row: &Row) -> [String; 9] {
    let workload = &row.workload;
    let ports: Vec<String> = row.listens.iter().map(|port| format!(":{port}")).collect();
    let service = workload.service.clone().unwrap_or_default();
    let decision = match workload.selected {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    let unseen = workload.unseen.iter().map(|unseen| match unseen.count {
        Some(count) if count > 1 => format!("{} ×{count}", unseen.what),
        _ => unseen.what.clone(),
    });
    let cells = [
        workload.pid.to_string(),
        [service, ports.join(" ")].join(" ").trim_end().to_owned(),
        workload.runtime.clone().unwrap_or_default(),
        workload.connections.to_string(),
        workload.requests.to_string(),
        workload.calls.to_string(),
        workload.missed.to_string(),
        format!("{decision}: {}", workload.why),
        unseen.collect::<Vec<_>>().join(", "),
    ];
    cells.map(|cell| printable(&cell))
}

/// The text in at most so many columns.
fn fitted(text: &str, columns: usize) -> String {
    if width_of(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        if width_of(&cut) + c.width().unwrap_or(0) + 1 > columns {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

fn width_of(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Breaks a list at its commas.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(", ") {
        match lines.last_mut() {
            Some(line) if line.is_empty() || width_of(line) + width_of(part.trim_end()) <= columns => {
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines.iter().map(|line| fitted(line.trim_end(), columns)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Status, Unseen, Workload};

    fn listing() -> Listing {
        let unseen = |names: &[&str]| {
            let unseen = names.iter().map(|what| Unseen {
                what: (*what).to_owned(),
                count: Some(12),
            });
            unseen.collect()
        };
        Listing {
            agent: Some(Status {
                version: "0.1.0".to_owned(),
                pid: 4242,
                doing: "traces --exe nginx".to_owned(),
                rules: vec!["--exe nginx".to_owned()],
                since_unix_s: 0,
                control: None,
            }),
            workloads: vec![
                Row {
                    workload: Workload {
                        pid: 4_194_304,
                        service: Some("a-service-with-a-long-name-indeed".to_owned()),
                        runtime: Some("nginx".to_owned()),
                        selected: Some(true),
                        why: "--exe matches /usr/local/openresty/nginx/sbin/nginx".to_owned(),
                        connections: 65_536,
                        requests: 1_234_567_890,
                        calls: 7,
                        missed: 3,
                        unseen: unseen(&["FastCGI", "TLS", "HTTP/2", "PostgreSQL", "io_uring", "Redis"]),
                    },
                    listens: vec![80, 443],
                },
                Row {
                    workload: Workload {
                        pid: 7,
                        service: Some("evil\u{1b}[31m\u{202e}\u{2066}\u{61c}moc".to_owned()),
                        selected: Some(false),
                        why: "no rule fits".to_owned(),
                        ..Workload::default()
                    },
                    listens: vec![],
                },
            ],
            left_off: 3,
        }
    }

    #[test]
    fn it_fits_and_says_all_that_is_not_visible() {
        let lines = table(&listing(), true, 120);
        for line in &lines {
            assert!(width_of(line) <= 120, "{}: {line}", width_of(line));
        }
        let text = lines.join("\n");
        for part in [
            "FastCGI ×12",
            "TLS ×12",
            "PostgreSQL ×12",
            "io_uring ×12",
            "Redis ×12",
            "1234567890",
            "… 3 more",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.contains("evil\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}moc  "), "{text}");
        assert_eq!(lines[0], "spoor 0.1.0 (process 4242) traces --exe nginx");
        assert!(lines[1].trim_start().starts_with("PID  SERVICE"), "{}", lines[1]);
    }

    #[test]
    fn nothing_that_another_process_says_steers_the_terminal() {
        let evil = "\u{1b}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{61c}\n";
        let mut listing = listing();
        let agent = listing.agent.as_mut().unwrap();
        agent.version = evil.to_owned();
        agent.doing = evil.to_owned();
        for row in &mut listing.workloads {
            row.workload.service = Some(evil.to_owned());
            row.workload.runtime = Some(evil.to_owned());
            row.workload.why = evil.to_owned();
            row.workload.unseen = vec![Unseen {
                what: evil.to_owned(),
                count: None,
            }];
        }
        for columns in [40, 120] {
            let text = table(&listing, true, columns).concat();
            assert!(!text.contains(|c| evil.contains(c)), "{text:?}");
        }
    }

    #[test]
    fn a_narrow_terminal_does_not_break_it() {
        for columns in [0, 1, 40, 80] {
            let lines = table(&listing(), true, columns);
            assert!(lines.len() > 4);
            for line in lines {
                assert!(
                    columns < 40 || width_of(&line) <= columns,
                    "{} of {columns}: {line}",
                    width_of(&line)
                );
            }
        }
        let text = table(&listing(), true, 40).join("\n");
        for part in ["NOT VISIBLE", "FastCGI ×12", "Redis ×12"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let nothing = Listing {
            agent: None,
            workloads: vec![],
            left_off: 0,
        };
        assert_eq!(table(&nothing, true, 120).len(), 2);
    }

    #[test]
    fn that_no_agent_runs_is_said_only_if_one_was_asked() {
        let nothing = Listing {
            agent: None,
            workloads: vec![],
            left_off: 0,
        };
        assert!(table(&nothing, true, 120)[0].starts_with("No agent runs. "));
        assert!(table(&nothing, false, 120)[0].starts_with("No agent was asked. "));
    }
}
