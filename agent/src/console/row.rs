//! What the console keeps of a span.

use std::sync::Arc;

use opentelemetry_semantic_conventions::attribute::{ERROR_TYPE, HTTP_RESPONSE_STATUS_CODE};

use crate::engine::trace::{Resource, Span, SpanId, SpanKind, Status, Value};

/// What the console keeps of a span.
#[derive(Debug)]
pub struct Row {
    pub span_id: SpanId,
    pub parent: Option<SpanId>,
    /// `spoor.parent.method`.
    pub method: Option<&'static str>,
    pub is_root: bool,
    pub kind: SpanKind,
    pub resource: Arc<Resource>,
    pub name: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub failed: bool,
    /// The status code, or what went wrong, or both.
    pub result: String,
}

impl From<&Span> for Row {
    fn from(span: &Span) -> Self {
        Self {
            span_id: span.span_id,
            parent: span.parent.map(|(id, _)| id),
            method: span.parent.map(|(_, method)| method.name()),
            is_root: span.is_topmost(),
            kind: span.kind,
            resource: span.resource.clone(),
            name: printable(&span.name),
            start_ns: span.start_unix_ns,
            end_ns: span.end_unix_ns,
            failed: span.status != Status::Unset,
            result: printable(&result(span)),
        }
    }
}

impl Row {
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
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

/// Text from outside must not steer the terminal: no control characters, nor those that turn the direction of writing.
pub fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}
