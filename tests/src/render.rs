//! Traces and their figures as text, for the demo.

use std::{collections::BTreeMap, fmt::Write};

use crate::otlp::{Kind, Span};

/// Formats one trace as a tree, a line for each span: duration, time, service, operation and result.
pub fn tree(spans: &[&Span]) -> String {
    let mut children = BTreeMap::<&str, Vec<&Span>>::new();
    for &span in spans {
        let has_parent = spans.iter().any(|other| other.span_id == span.parent_id);
        children
            .entry(if has_parent { &span.parent_id } else { "" })
            .or_default()
            .push(span);
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|span| span.start_ns);
    }
    let start = spans.iter().map(|span| span.start_ns).min().unwrap_or_default();
    let end = spans.iter().map(|span| span.end_ns).max().unwrap_or_default();
    let mut text = String::new();
    draw("", 0, &children, (start, end), &mut text);
    text
}

fn draw(parent: &str, depth: usize, children: &BTreeMap<&str, Vec<&Span>>, whole: (u64, u64), text: &mut String) {
    for span in children.get(parent).into_iter().flatten() {
        let kind = match span.kind {
            Kind::Server => "<-",
            Kind::Client => "->",
        };
        let label = format!(
            "{:1$}{kind} {service}  {name}",
            "",
            depth * 2,
            service = span.service,
            name = span.name
        );
        let result = span.status().map_or_else(
            || span.text("error.type").unwrap_or("?").to_owned(),
            |status| status.to_string(),
        );
        let (bar, ms) = (bar(span, whole), span.duration_ns() as f64 / 1e6);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<56} {result:>12} {ms:>9.2} ms  {bar}");
        draw(&span.span_id, depth + 1, children, whole, text);
    }
}

fn bar(span: &Span, (start, end): (u64, u64)) -> String {
    const WIDTH: u64 = 30;
    let column = |time: u64| ((time - start) * WIDTH / (end - start).max(1)).min(WIDTH - 1) as usize;
    let (from, to) = (column(span.start_ns), column(span.end_ns));
    format!(
        "|{}{}{}|",
        " ".repeat(from),
        "=".repeat(to + 1 - from),
        " ".repeat(WIDTH as usize - 1 - to)
    )
}

/// Formats a table of the requests that each service served.
pub fn table(spans: &[Span]) -> String {
    let mut services = BTreeMap::<&str, Vec<&Span>>::new();
    for span in spans.iter().filter(|span| span.kind == Kind::Server) {
        services.entry(&span.service).or_default().push(span);
    }
    let mut text = format!(
        "{:<12} {:>8} {:>6} {:>10} {:>10} {:>10}\n",
        "service", "requests", "errors", "p50 ms", "p95 ms", "p99 ms"
    );
    for (service, spans) in services {
        let errors = spans
            .iter()
            .filter(|span| span.attributes.contains_key("error.type"))
            .count();
        let mut durations: Vec<u64> = spans.iter().map(|span| span.duration_ns()).collect();
        durations.sort_unstable();
        let percentile = |percent: usize| durations[(durations.len() * percent).div_ceil(100) - 1] as f64 / 1e6;
        let (p50, p95, p99) = (percentile(50), percentile(95), percentile(99));
        let _ = writeln!(
            text,
            "{service:<12} {:>8} {errors:>6} {p50:>10.2} {p95:>10.2} {p99:>10.2}",
            spans.len()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn span(kind: Kind, id: &str, parent: &str, times: (u64, u64)) -> Span {
        Span {
            service: "shop".to_owned(),
            kind,
            name: "GET /".to_owned(),
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            parent_is_remote: None,
            start_ns: times.0,
            end_ns: times.1,
            attributes: BTreeMap::from([("http.response.status_code".to_owned(), json!(200))]),
        }
    }

    #[test]
    fn children_stand_below_their_parent_in_the_order_of_time() {
        let spans = [
            span(Kind::Client, "c", "a", (20_000_000, 30_000_000)),
            span(Kind::Client, "b", "a", (0, 15_000_000)),
            span(Kind::Server, "a", "elsewhere", (0, 30_000_000)),
        ];
        let expected = [
            ("<- shop  GET /", "30.00 ms  |==============================|"),
            ("  -> shop  GET /", "15.00 ms  |================              |"),
            ("  -> shop  GET /", "10.00 ms  |                    ==========|"),
        ];
        let text = tree(&spans.iter().collect::<Vec<_>>());
        let lines = expected.map(|(label, rest)| format!("{label:<56} {:>12} {rest:>46}\n", 200));
        assert_eq!(text, lines.concat());
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let spans: Vec<_> = (1..=100)
            .map(|ms| span(Kind::Server, "a", "", (0, ms * 1_000_000)))
            .collect();
        let words: Vec<String> = table(&spans)
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(words, ["shop", "100", "0", "50.00", "95.00", "99.00"]);
    }
}
