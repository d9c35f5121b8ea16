//! A trace as a tree with bars:
//! ```text
//! ── trace 0af7651916cd43dd8448eb211c80319c · 14:03:21.120Z · 48.2 ms · 3 spans · 2 services · 2 errors
//! ████████████████████   48.2 ms  shop GET /buy/{id}           200
//!   ███████████████▊     38.0 ms  └─ shop → GET /stock/{id}    503  ← thread
//!    ██████████████▋     35.1 ms     └─ stock GET /stock/{id}  503  ← same-host
//! ```

use std::{
    collections::HashSet,
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
};

use unicode_width::UnicodeWidthStr;

use super::{
    row::Row,
    text::{clock, counted, cut, duration},
};
use crate::{engine::trace::SpanKind, traces::Trace};

/// Look of the printed traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Paint with colours (ANSI, the eight basic ones, so that they follow the terminal's theme).
    pub colour: bool,
    /// Columns of the terminal; taken as at least 80.
    pub columns: usize,
}

const MIN_COLUMNS: usize = 80;
const BAR_COLUMNS: usize = 20;
const DURATION_COLUMNS: usize = 9;

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const YELLOW: &str = "33";
const GREEN: &str = "32";
const NO_COLOUR: &str = "";
/// Colours of services. Red, yellow and green are taken by results.
const SERVICE_COLOURS: [&str; 6] = ["36", "35", "34", "96", "95", "94"];

/// Returns the trace's text, with an empty line at its end.
pub fn render(trace: &Trace, style: Style) -> String {
    let rows = Row::of_trace(trace);
    let scale = Scale {
        start_ns: trace.start_unix_ns(),
        length_ns: trace.end_unix_ns().saturating_sub(trace.start_unix_ns()),
    };
    let columns = Columns::of(&rows, style);
    let mut out = String::new();
    head(&mut out, trace, &rows, scale, style);
    for row in &rows {
        let bar_colour = if row.has_failed() { RED } else { service_colour(row) };
        paint(&mut out, style, bar_colour, &bar(row, scale));
        let _ = write!(out, " {:>DURATION_COLUMNS$}  ", duration(row.duration_ns()));
        label(&mut out, row, columns.label, style);
        let result = cut(&row.result, columns.result);
        let pad = columns.result.saturating_sub(result.width());
        out.push_str("  ");
        paint(&mut out, style, result_colour(row), &result);
        if !row.method.is_empty() {
            let _ = write!(out, "{:pad$}  ", "");
            paint(&mut out, style, DIM, &row.method);
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

/// Time that the bars of a trace span.
#[derive(Clone, Copy)]
struct Scale {
    start_ns: u64,
    length_ns: u64,
}

/// Widths of the columns that depend on the rows.
struct Columns {
    /// Branch, service, name and peer.
    label: usize,
    result: usize,
}

impl Columns {
    fn of<'a>(rows: &[Row<'a>], style: Style) -> Self {
        let widest = |width: fn(&Row<'a>) -> usize| rows.iter().map(width).max().unwrap_or_default();
        let result = widest(|row| row.result.width()).clamp(3, 20);
        let method = match widest(|row| row.method.width()) {
            0 => 0,
            method => 2 + method,
        };
        let others = BAR_COLUMNS + 1 + DURATION_COLUMNS + 2 + 2 + result + method;
        let room = style.columns.max(MIN_COLUMNS).saturating_sub(others).max(16);
        Self {
            label: widest(Row::label_columns).min(room),
            result,
        }
    }
}

fn head(out: &mut String, trace: &Trace, rows: &[Row<'_>], scale: Scale, style: Style) {
    let services: HashSet<&str> = rows.iter().map(|row| row.span.resource.service_name.as_str()).collect();
    let errors = rows.iter().filter(|row| row.has_failed()).count();
    paint(out, style, DIM, "── trace ");
    paint(out, style, BOLD, &trace.id.to_string());
    let facts = [
        clock(scale.start_ns),
        duration(scale.length_ns),
        counted(rows.len(), "span"),
        counted(services.len(), "service"),
    ];
    paint(out, style, DIM, &format!(" · {}", facts.join(" · ")));
    if errors > 0 {
        paint(out, style, DIM, " · ");
        paint(out, style, RED, &counted(errors, "error"));
    }
    if !trace.is_complete {
        paint(out, style, DIM, " · ");
        paint(out, style, YELLOW, "incomplete");
    }
    out.push('\n');
}

/// Returns where in the trace the span lies, in eighths of a column. A span too short to be seen has one.
fn bar(row: &Row<'_>, scale: Scale) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let whole_ns = scale.length_ns.max(1);
    let eighths = |ns: u64| (u128::from(ns) * 8 * BAR_COLUMNS as u128 / u128::from(whole_ns)) as usize;
    let offset_ns = row.span.start_unix_ns.saturating_sub(scale.start_ns);
    // A character can be filled from the left only, so a bar begins with a column.
    let begin = (eighths(offset_ns) / 8).min(BAR_COLUMNS - 1);
    let end = eighths(offset_ns.saturating_add(row.duration_ns())).clamp(8 * begin + 1, 8 * BAR_COLUMNS);
    let filled = end - 8 * begin;
    let mut bar = " ".repeat(begin) + &"█".repeat(filled / 8);
    bar.extend(filled.checked_rem(8).and_then(|rest| EIGHTHS.get(rest.checked_sub(1)?)));
    let pad = BAR_COLUMNS - bar.width();
    bar + &" ".repeat(pad)
}

/// Writes branch, service, name and peer, in exactly `columns` columns. Where they do not fit, the name is cut before the
/// peer, until that takes half of the columns.
fn label(out: &mut String, row: &Row<'_>, columns: usize, style: Style) {
    let name_colour = match row.span.kind {
        SpanKind::Client => DIM,
        SpanKind::Server => NO_COLOUR,
    };
    let for_peer = row.peer.width().min(columns / 2);
    // Each with the columns that are kept for what comes behind it.
    let parts = [
        (DIM, row.branch.clone(), for_peer),
        (service_colour(row), row.service.clone(), for_peer),
        (name_colour, format!(" {}", row.name), for_peer),
        (name_colour, row.peer.clone(), 0),
    ];
    let mut left = columns;
    for (colour, text, kept) in parts {
        let text = cut(&text, left.saturating_sub(kept));
        left = left.saturating_sub(text.width());
        paint(out, style, colour, &text);
    }
    let _ = write!(out, "{:left$}", "");
}

fn result_colour(row: &Row<'_>) -> &'static str {
    match row.result.as_bytes().first() {
        _ if row.has_failed() => RED,
        Some(b'4') => YELLOW,
        Some(b'1'..=b'3') => GREEN,
        _ => NO_COLOUR,
    }
}

fn service_colour(row: &Row<'_>) -> &'static str {
    let mut hasher = DefaultHasher::new();
    row.span.resource.service_name.hash(&mut hasher);
    let nth = hasher.finish() % SERVICE_COLOURS.len() as u64;
    SERVICE_COLOURS.get(nth as usize).copied().unwrap_or(NO_COLOUR)
}

fn paint(out: &mut String, style: Style, colour: &str, text: &str) {
    if style.colour && !colour.is_empty() && !text.trim().is_empty() {
        let _ = write!(out, "\x1b[{colour}m{text}\x1b[0m");
    } else {
        out.push_str(text);
    }
}
