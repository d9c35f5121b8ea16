//! A span as a row of the printed tree: its texts, and where it stands.

use opentelemetry_semantic_conventions::attribute::{ERROR_TYPE, HTTP_RESPONSE_STATUS_CODE};
use unicode_width::UnicodeWidthStr;

use super::text::printable;
use crate::{
    engine::trace::{Span, SpanKind, Status, Value},
    traces::{Node, Trace},
};

/// Deeper spans are not indented further.
const MAX_INDENT: usize = 12;

/// A span as a row of the printed tree.
#[derive(Debug)]
pub struct Row<'a> {
    pub span: &'a Span,
    /// The lines that lead to the row from its parent and pass by to siblings of its ancestors.
    pub branch: String,
    /// The service, without characters that steer a terminal.
    pub service: String,
    /// The span's name, with an arrow before that of a client.
    pub name: String,
    /// The status code, or what went wrong, or both.
    pub result: String,
    /// The way by which the parent was found; empty for a root.
    pub method: String,
}

impl<'a> Row<'a> {
    /// Returns the rows of a trace, from the top down.
    pub fn of_trace(trace: &'a Trace) -> Vec<Self> {
        let mut rails = Vec::new();
        trace
            .nodes
            .iter()
            .map(|node| Self::new(node, branch(node, &mut rails)))
            .collect()
    }

    fn new(node: &'a Node, branch: String) -> Self {
        let span = &node.span;
        let arrow = match span.kind {
            SpanKind::Client => "→ ",
            SpanKind::Server => "",
        };
        let method = match span.parent {
            Some((_, method)) if node.misses_parent() => format!("← {}, parent not seen", method.name()),
            Some((_, method)) => format!("← {}", method.name()),
            None => String::new(),
        };
        Self {
            span,
            branch,
            service: printable(&span.resource.service_name),
            name: format!("{arrow}{}", printable(&span.name)),
            result: printable(&result(span)),
            method,
        }
    }

    pub fn duration_ns(&self) -> u64 {
        self.span.end_unix_ns.saturating_sub(self.span.start_unix_ns)
    }

    pub fn has_failed(&self) -> bool {
        self.span.status != Status::Unset
    }

    /// Returns the columns of branch, service and name.
    pub fn label_columns(&self) -> usize {
        self.branch.width() + self.service.width() + 1 + self.name.width()
    }
}

/// Returns the branch of a node. `rails` is for the rows to come: a rail for each ancestor that is a child itself.
fn branch(node: &Node, rails: &mut Vec<&'static str>) -> String {
    let Some(ancestors_below_top) = node.depth.checked_sub(1) else {
        rails.clear();
        return String::new();
    };
    rails.truncate(ancestors_below_top);
    let (knee, rail) = match node.is_last_child {
        _ if node.depth > MAX_INDENT => ("… ", None),
        true => ("└─ ", Some("   ")),
        false => ("├─ ", Some("│  ")),
    };
    let branch = rails.concat() + knee;
    rails.extend(rail);
    branch
}

fn result(span: &Span) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |text: String| {
        if !text.is_empty() && !parts.contains(&text) {
            parts.push(text);
        }
    };
    for key in [HTTP_RESPONSE_STATUS_CODE, ERROR_TYPE] {
        match span
            .attributes
            .iter()
            .find(|attribute| attribute.key == key)
            .map(|attribute| &attribute.value)
        {
            Some(Value::Int(code)) => add(code.to_string()),
            Some(Value::Str(text)) => add(text.to_string()),
            _ => {}
        }
    }
    if let Status::Error(description) = &span.status {
        add(description.to_string());
    }
    if span.status != Status::Unset && parts.is_empty() {
        parts.push("error".to_owned());
    }
    parts.join(" ")
}
