//! The listing as a table, for people.

use unicode_width::UnicodeWidthChar;

use super::{Listing, Row, agent_elsewhere};
use crate::{
    config::{Asked, CONTROL_SOCKET},
    console::printable,
};

/// Largest width of a service's name, in columns.
const SERVICE_COLUMNS: usize = 24;
/// Largest width of the reason why a process is selected or not, in columns.
const WHY_COLUMNS: usize = 32;
/// Fewest columns of both, in whatever terminal.
const LEAST_COLUMNS: usize = 12;
/// Columns reserved for the list of blind spots, if it needs them.
const UNSEEN_COLUMNS: usize = 20;
/// Indent of the list of blind spots, where it has lines of its own for lack of room.
const INDENT: usize = 2;
/// Blanks between two cells.
const GAP: usize = 2;

/// Number of kinds of cells, without the list of blind spots.
const FIELDS: usize = 8;
/// Titles of the cells.
const TITLES: [&str; FIELDS] = [
    "PID", "SERVICE", "RUNTIME", "CONNS", "REQUESTS", "CALLS", "MISSED", "SELECTED",
];
/// Largest width of each kind of cell, in columns.
const MOST_COLUMNS: [usize; FIELDS] = [7, SERVICE_COLUMNS, 10, 6, 10, 10, 7, WHY_COLUMNS];
/// Columns whose cells are numbers, which are aligned to the right.
const IS_NUMBER: [bool; FIELDS] = [true, false, false, true, true, true, true, false];
/// Title of the list of blind spots.
const UNSEEN_TITLE: &str = "NOT VISIBLE";
const SERVICE: usize = 1;
const SELECTED: usize = 7;

/// Row of the table, without characters that steer a terminal.
struct Cells {
    fields: [String; FIELDS],
    /// Things that are not visible, separated by commas.
    unseen: String,
}

/// Widths of the cells.
struct Layout {
    widths: [usize; FIELDS],
    /// Columns of the terminal.
    columns: usize,
    /// Column at which the list of blind spots begins.
    unseen_at: usize,
    /// Set in a narrow terminal: the list of blind spots is below the rest of its row, which is cut.
    is_below: bool,
}

/// Formats the listing in lines of `columns` width.
pub(super) fn table(listing: &Listing, asked: &Asked, columns: usize) -> Vec<String> {
    let others = listing.others.iter().map(agent_elsewhere);
    // How to ask another agent is at the end of its line, so this is not cut.
    let mut lines: Vec<String> = others
        .flat_map(|other| wrap(&printable(&other), " ", columns))
        .collect();
    lines.push(fitted(&printable(&heading(listing, asked)), columns));
    if listing.workloads.is_empty() {
        lines.push("Nothing listens on TCP or was seen to communicate; --all lists every process.".to_owned());
        return lines;
    }
    let rows: Vec<Cells> = listing.workloads.iter().map(Cells::of).collect();
    let layout = Layout::new(&rows, columns);
    let titles = Cells {
        fields: TITLES.map(str::to_owned),
        unseen: UNSEEN_TITLE.to_owned(),
    };
    for row in [&titles].into_iter().chain(&rows) {
        layout.write(row, &mut lines);
    }
    if listing.left_off > 0 {
        lines.push(format!("… {} more", listing.left_off));
    }
    lines
}

impl Layout {
    fn new(rows: &[Cells], columns: usize) -> Self {
        let mut widths = TITLES.map(str::len);
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(&row.fields) {
                *width = (*width).max(width_of(cell));
            }
        }
        let parts = rows.iter().flat_map(|row| row.unseen.split(", "));
        let longest = parts.map(width_of).max().unwrap_or(0);
        // A comma may follow.
        let unseen = (longest + 1).clamp(UNSEEN_TITLE.len(), UNSEEN_COLUMNS);
        let before = |widths: &[usize; FIELDS]| widths.iter().map(|width| width + GAP).sum::<usize>();
        // Cells that are too wide are cut where that hurts least: --json has everything.
        if before(&widths) + unseen > columns {
            for (width, most) in widths.iter_mut().zip(MOST_COLUMNS) {
                *width = (*width).min(most);
            }
        }
        for (field, least) in [
            (SERVICE, 16),
            (SELECTED, 20),
            (SERVICE, LEAST_COLUMNS),
            (SELECTED, LEAST_COLUMNS),
        ] {
            let excess = (before(&widths) + unseen).saturating_sub(columns);
            if let Some(width) = widths.get_mut(field) {
                *width -= excess.min(width.saturating_sub(least));
            }
        }
        let is_below = before(&widths) + unseen > columns;
        Self {
            widths,
            columns,
            unseen_at: if is_below { INDENT } else { before(&widths) },
            is_below,
        }
    }

    /// Writes the lines of a row.
    fn write(&self, row: &Cells, lines: &mut Vec<String>) {
        let rest = self.columns.saturating_sub(self.unseen_at).max(1);
        let mut wrapped = wrap(&row.unseen, ", ", rest)
            .into_iter()
            .filter(|line| !line.is_empty());
        let fields = self.fields(row);
        lines.push(if self.is_below {
            fitted(fields.trim_end(), self.columns)
        } else {
            let first = wrapped.next().unwrap_or_default();
            (fields + &first).trim_end().to_owned()
        });
        lines.extend(wrapped.map(|more| " ".repeat(self.unseen_at) + &more));
    }

    /// Formats a row's cells but for the last, with blanks behind them.
    fn fields(&self, row: &Cells) -> String {
        let cells = row.fields.iter().zip(self.widths).zip(IS_NUMBER);
        cells
            .map(|((cell, width), is_number)| {
                let cell = fitted(cell, width);
                let blank = " ".repeat(width.saturating_sub(width_of(&cell)));
                let gap = " ".repeat(GAP);
                if is_number {
                    blank + &cell + &gap
                } else {
                    cell + &blank + &gap
                }
            })
            .collect()
    }
}

fn heading(listing: &Listing, asked: &Asked) -> String {
    let selected = |row: &&Row| row.workload.selected != Some(false);
    let count = listing.workloads.iter().filter(selected).count();
    let traced = match listing.workloads.is_empty() {
        true => "nothing now.".to_owned(),
        false => format!("{count} of these:"),
    };
    match &listing.agent {
        Some(agent) => format!("spoor {} (process {}) {}", agent.version, agent.pid, agent.doing),
        None if *asked != Asked::Nobody && listing.others.is_empty() => {
            format!("No agent runs. `spoor run` would trace {traced}")
        }
        None if *asked != Asked::Nobody => {
            format!("No agent answers at {CONTROL_SOCKET}. `spoor run` would trace {traced}")
        }
        None => format!("No agent was asked. With these rules, `spoor run` would trace {traced}"),
    }
}

impl Cells {
    fn of(row: &Row) -> Self {
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
        let fields = [
            workload.pid.to_string(),
            [service, ports.join(" ")].join(" ").trim_end().to_owned(),
            workload.runtime.clone().unwrap_or_default(),
            workload.connections.to_string(),
            workload.requests.to_string(),
            workload.calls.to_string(),
            workload.missed.to_string(),
            format!("{decision}: {}", workload.why),
        ];
        Self {
            fields: fields.map(|field| printable(&field)),
            unseen: printable(&unseen.collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Cuts a text to a number of columns.
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

/// Breaks a text behind its separators into lines of at most `columns` width.
fn wrap(text: &str, separator: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(separator) {
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
    use crate::{
        control::{Status, Unseen, Workload},
        probe::Family,
    };

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
                hooks: Some(Family::Sock),
            }),
            others: vec![],
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
                        why: "no rule matches".to_owned(),
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
        let lines = table(&listing(), &Asked::Usual, 120);
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
        agent.control = Some(evil.to_owned());
        listing.others = vec![agent.clone()];
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
            let text = table(&listing, &Asked::Usual, columns).concat();
            assert!(!text.contains(|c| evil.contains(c)), "{text:?}");
        }
    }

    #[test]
    fn a_narrow_terminal_does_not_break_it() {
        for columns in [0, 1, 40, 80] {
            let lines = table(&listing(), &Asked::Usual, columns);
            assert!(lines.len() > 4);
            for line in lines {
                assert!(
                    columns < 40 || width_of(&line) <= columns,
                    "{} of {columns}: {line}",
                    width_of(&line)
                );
            }
        }
        let text = table(&listing(), &Asked::Usual, 40).join("\n");
        for part in ["NOT VISIBLE", "FastCGI ×12", "Redis ×12"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let nothing = Listing {
            agent: None,
            others: vec![],
            workloads: vec![],
            left_off: 0,
        };
        assert_eq!(table(&nothing, &Asked::Usual, 120).len(), 2);
    }

    #[test]
    fn that_no_agent_runs_is_said_only_if_one_was_asked() {
        let nothing = Listing {
            agent: None,
            others: vec![],
            workloads: vec![],
            left_off: 0,
        };
        assert!(table(&nothing, &Asked::Usual, 120)[0].starts_with("No agent runs. "));
        assert!(table(&nothing, &Asked::Nobody, 120)[0].starts_with("No agent was asked. "));
    }

    #[test]
    fn agents_elsewhere_are_named_with_how_to_ask_them() {
        let agent = listing().agent.unwrap();
        let mut listing = Listing {
            agent: None,
            others: vec![
                Status {
                    control: Some("/tmp/c.sock".to_owned()),
                    ..agent.clone()
                },
                agent.clone(),
            ],
            workloads: vec![],
            left_off: 0,
        };
        let lines = table(&listing, &Asked::Usual, usize::MAX);
        assert_eq!(
            lines[..3],
            [
                "process 4242 traces --exe nginx (`spoor ps --control /tmp/c.sock` asks it)",
                "process 4242 traces --exe nginx without a control socket (as with `--control off`), so it cannot be asked",
                "No agent answers at /run/spoor/control.sock. `spoor run` would trace nothing now.",
            ]
        );
        listing.others[1].control = Some(CONTROL_SOCKET.to_owned());
        let lines = table(&listing, &Asked::Nobody, usize::MAX);
        assert_eq!(lines[1], "process 4242 traces --exe nginx (`spoor ps` asks it)");
        // A narrow terminal shows all of it.
        listing.others.pop();
        let lines = table(&listing, &Asked::Usual, 40);
        assert_eq!(
            lines[..2],
            [
                "process 4242 traces --exe nginx (`spoor",
                "ps --control /tmp/c.sock` asks it)"
            ]
        );
        listing.agent = Some(agent);
        let lines = table(&listing, &Asked::Usual, usize::MAX);
        assert_eq!(lines[1], "spoor 0.1.0 (process 4242) traces --exe nginx");
    }

    #[test]
    fn nothing_is_cut_where_there_is_room() {
        for columns in [250, usize::MAX] {
            let text = table(&listing(), &Asked::Usual, columns).join("\n");
            for whole in [
                "a-service-with-a-long-name-indeed :80 :443  nginx",
                "yes: --exe matches /usr/local/openresty/nginx/sbin/nginx  ",
            ] {
                assert!(text.contains(whole), "{whole} is not in\n{text}");
            }
        }
        let lines = table(&listing(), &Asked::Usual, usize::MAX);
        assert!(lines[2].ends_with("FastCGI ×12, TLS ×12, HTTP/2 ×12, PostgreSQL ×12, io_uring ×12, Redis ×12"));
    }
}
