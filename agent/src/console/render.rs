//! A trace as a tree with bars:
//! ```text
//! ── trace 0af7651916cd43dd8448eb211c80319c · 14:03:21.120Z · 48.2 ms · 3 spans · 2 services · 2 errors
//! ████████████████████   48.2 ms  shop GET /buy/{id}           200
//!   ███████████████▊     38.0 ms  └─ shop → GET /stock/{id}    503  ← thread
//!    ██████████████▋     35.1 ms     └─ stock GET /stock/{id}  503  ← same-host
//! ```

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::row::{Row, printable};
use crate::engine::trace::{SpanId, SpanKind, TraceId};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// With colours (ANSI, the eight basic ones, so that they follow the terminal's theme).
    pub colour: bool,
    /// Columns of the terminal; taken as at least 80.
    pub columns: usize,
}

const MIN_COLUMNS: usize = 80;
const BAR_COLUMNS: usize = 20;
const DURATION_COLUMNS: usize = 9;
/// Deeper spans are not indented further.
const MAX_INDENT: usize = 12;

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const YELLOW: &str = "33";
const GREEN: &str = "32";
/// Of services. Red, yellow and green are taken by results.
const SERVICE_COLOURS: [&str; 6] = ["36", "35", "34", "96", "95", "94"];

/// A line of the tree.
struct Line<'a> {
    row: &'a Row,
    /// What stands before the service.
    branch: String,
    /// False if the row has a parent that is not in the trace.
    is_placed: bool,
}

impl Line<'_> {
    fn arrow(&self) -> &'static str {
        match self.row.kind {
            SpanKind::Client => "→ ",
            _ => "",
        }
    }

    /// Branch, service and name.
    fn columns(&self) -> usize {
        self.branch.width() + self.row.resource.service_name.width() + 1 + self.arrow().width() + self.row.name.width()
    }
}

/// The trace's text, with an empty line at its end.
pub fn render(id: TraceId, mut rows: Vec<Row>, complete: bool, style: Style) -> String {
    rows.sort_by_key(|row| (row.start_ns, std::cmp::Reverse(row.end_ns), row.span_id));
    let lines = tree(&rows);
    let begin_ns = rows.iter().map(|row| row.start_ns).min().unwrap_or_default();
    let end_ns = rows.iter().map(|row| row.end_ns).max().unwrap_or_default();
    let whole_ns = end_ns.saturating_sub(begin_ns).max(1);

    let mut out = String::new();
    head(&mut out, id, &rows, (begin_ns, end_ns), complete, style);

    let result_columns = lines
        .iter()
        .map(|line| line.row.result.width())
        .max()
        .unwrap_or_default()
        .clamp(3, 20);
    let method_columns = lines.iter().map(|line| method(line).width()).max().unwrap_or_default();
    let method_columns = if method_columns > 0 { 2 + method_columns } else { 0 };
    let fixed = BAR_COLUMNS + 1 + DURATION_COLUMNS + 2 + 2 + result_columns + method_columns;
    let room = style.columns.max(MIN_COLUMNS).saturating_sub(fixed).max(16);
    let label_columns = lines.iter().map(Line::columns).max().unwrap_or_default().min(room);
    for line in &lines {
        let Row {
            start_ns,
            result,
            failed,
            ..
        } = line.row;
        let bar = bar(start_ns - begin_ns, line.row.duration_ns(), whole_ns);
        paint(
            &mut out,
            style,
            if *failed { RED } else { service_colour(line.row) },
            &bar,
        );
        let _ = write!(out, " {:>DURATION_COLUMNS$}  ", duration(line.row.duration_ns()));
        label(&mut out, line, label_columns, style);
        let result = cut(result, result_columns);
        let pad = result_columns - result.width();
        out.push_str("  ");
        paint(&mut out, style, result_colour(line.row), &result);
        let method = method(line);
        if !method.is_empty() {
            let _ = write!(out, "{:pad$}  ", "");
            paint(&mut out, style, DIM, &method);
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

fn head(out: &mut String, id: TraceId, rows: &[Row], (begin_ns, end_ns): (u64, u64), complete: bool, style: Style) {
    let services: HashSet<&str> = rows.iter().map(|row| row.resource.service_name.as_str()).collect();
    let errors = rows.iter().filter(|row| row.failed).count();
    paint(out, style, DIM, "── trace ");
    paint(out, style, BOLD, &id.to_string());
    let facts = [
        clock(begin_ns),
        duration(end_ns.saturating_sub(begin_ns)),
        counted(rows.len(), "span"),
        counted(services.len(), "service"),
    ];
    paint(out, style, DIM, &format!(" · {}", facts.join(" · ")));
    if errors > 0 {
        paint(out, style, DIM, " · ");
        paint(out, style, RED, &counted(errors, "error"));
    }
    if !complete {
        paint(out, style, DIM, " · ");
        paint(out, style, YELLOW, "incomplete");
    }
    out.push('\n');
}

/// The rows (sorted by start) as a tree: each below its parent; those without one in the trace at the top.
fn tree(rows: &[Row]) -> Vec<Line<'_>> {
    let by_id: HashMap<SpanId, usize> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| (row.span_id, index))
        .collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
    let mut tops = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        match row.parent.and_then(|parent| by_id.get(&parent)) {
            Some(&parent) if parent != index => children[parent].push(index),
            _ => tops.push(index),
        }
    }
    let mut lines = Vec::with_capacity(rows.len());
    let mut seen = vec![false; rows.len()];
    // What no top leads to are parents in a circle (ids from a header can say anything): each circle is cut open.
    for top in tops.into_iter().chain(0..rows.len()) {
        // (row, its depth, what stands before its children, what before itself)
        let mut stack = vec![(top, 0, String::new(), String::new())];
        while let Some((index, depth, below, branch)) = stack.pop() {
            if seen[index] {
                continue;
            }
            seen[index] = true;
            let row = &rows[index];
            lines.push(Line {
                row,
                branch,
                is_placed: depth > 0 || row.is_root,
            });
            let last = children[index].last();
            for child in children[index].iter().rev() {
                let (knee, rail) = if Some(child) == last {
                    ("└─ ", "   ")
                } else {
                    ("├─ ", "│  ")
                };
                let (child_branch, child_below) = if depth < MAX_INDENT {
                    (format!("{below}{knee}"), format!("{below}{rail}"))
                } else {
                    (format!("{below}… "), below.clone())
                };
                stack.push((*child, depth + 1, child_below, child_branch));
            }
        }
    }
    lines
}

/// Where in the trace the span lies, in eighths of a column; a span too short to be seen has one.
fn bar(offset_ns: u64, length_ns: u64, whole_ns: u64) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = |ns: u64| (u128::from(ns) * 8 * BAR_COLUMNS as u128 / u128::from(whole_ns)) as usize;
    // A character can be filled from the left only, so a bar begins with a column.
    let begin = (eighths(offset_ns) / 8).min(BAR_COLUMNS - 1);
    let end = eighths(offset_ns.saturating_add(length_ns)).clamp(8 * begin + 1, 8 * BAR_COLUMNS);
    let filled = end - 8 * begin;
    let mut bar = " ".repeat(begin) + &"█".repeat(filled / 8);
    bar.extend(filled.checked_rem(8).and_then(|rest| EIGHTHS.get(rest.checked_sub(1)?)));
    let pad = BAR_COLUMNS - bar.width();
    bar + &" ".repeat(pad)
}

/// Branch, service and name, in exactly so many columns.
fn label(out: &mut String, line: &Line<'_>, columns: usize, style: Style) {
    let branch = cut(&line.branch, columns);
    let mut left = columns - branch.width();
    paint(out, style, DIM, &branch);
    let service = cut(&printable(&line.row.resource.service_name), left);
    left -= service.width();
    paint(out, style, service_colour(line.row), &service);
    let rest = cut(&format!(" {}{}", line.arrow(), line.row.name), left);
    left -= rest.width();
    paint(
        out,
        style,
        if line.row.kind == SpanKind::Client { DIM } else { "" },
        &rest,
    );
    let _ = write!(out, "{:left$}", "");
}

fn method(line: &Line<'_>) -> String {
    match line.row.method {
        Some(method) if line.is_placed => format!("← {method}"),
        Some(method) => format!("← {method}, parent not seen"),
        None => String::new(),
    }
}

fn result_colour(row: &Row) -> &'static str {
    match row.result.as_bytes().first() {
        _ if row.failed => RED,
        Some(b'4') => YELLOW,
        Some(b'1'..=b'3') => GREEN,
        _ => "",
    }
}

fn service_colour(row: &Row) -> &'static str {
    let mut hasher = DefaultHasher::new();
    row.resource.service_name.hash(&mut hasher);
    SERVICE_COLOURS[(hasher.finish() % SERVICE_COLOURS.len() as u64) as usize]
}

fn paint(out: &mut String, style: Style, colour: &str, text: &str) {
    if style.colour && !colour.is_empty() && !text.trim().is_empty() {
        let _ = write!(out, "\x1b[{colour}m{text}\x1b[0m");
    } else {
        out.push_str(text);
    }
}

/// The text, at most so many columns wide.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut cut = String::new();
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        cut.push(c);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// Three digits, and the unit that this takes.
fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (ns as f64 / 1e3, "µs"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// The time of day, UTC.
fn clock(unix_ns: u64) -> String {
    let ms = unix_ns / 1_000_000;
    let seconds = ms / 1000 % 86_400;
    format!(
        "{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1000
    )
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}
