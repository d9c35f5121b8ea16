//! A span as a row of the printed tree: its texts, and where it stands.

use std::{borrow::Cow, collections::HashSet};

use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, HTTP_RESPONSE_STATUS_CODE, NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, NETWORK_TRANSPORT, SERVER_ADDRESS,
    SERVER_PORT,
};
use unicode_width::UnicodeWidthStr;

use super::text::printable;
use crate::{
    engine::trace::{Span, SpanId, SpanKind, Status, Value},
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
    /// The server of a call where no row below shows it, with a space before; else empty.
    pub peer: String,
    /// The status code, or what went wrong, or both.
    pub result: String,
    /// The way by which the parent was found; empty for a root.
    pub method: String,
}

impl<'a> Row<'a> {
    /// Returns the rows of a trace, from the top down.
    pub fn of_trace(trace: &'a Trace) -> Vec<Self> {
        let nodes = trace.nodes.iter();
        let servers = nodes.clone().filter(|node| node.span.kind == SpanKind::Server);
        let seen_calls: HashSet<SpanId> = servers.filter_map(|server| Some(server.span.parent?.0)).collect();
        let mut rails = Vec::new();
        nodes
            .map(|node| Self::new(node, branch(node, &mut rails), &seen_calls))
            .collect()
    }

    /// Creates the row of a node. `seen_calls`: the calls whose server has a row.
    fn new(node: &'a Node, branch: String, seen_calls: &HashSet<SpanId>) -> Self {
        let span = &node.span;
        let peer = match span.kind {
            SpanKind::Client if !seen_calls.contains(&span.span_id) => peer(span),
            _ => None,
        };
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
            peer: peer.map_or_else(String::new, |peer| format!(" {}", printable(&peer))),
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

    /// Returns the columns of branch, service, name and peer.
    pub fn label_columns(&self) -> usize {
        self.branch.width() + self.service.width() + 1 + self.name.width() + self.peer.width()
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

/// Returns where a call went: `host:port` as the request names the server, else the address of the socket. A Unix socket
/// has a path only, whatever host the request names.
fn peer(span: &Span) -> Option<String> {
    let is_unix = text(span, NETWORK_TRANSPORT) == Some("unix");
    let socket = || text(span, NETWORK_PEER_ADDRESS).map(|address| (address, int(span, NETWORK_PEER_PORT)));
    let server = || text(span, SERVER_ADDRESS).map(|address| (address, int(span, SERVER_PORT)));
    let (address, port) = if is_unix {
        socket().or_else(server)
    } else {
        server().or_else(socket)
    }?;
    let Some(port) = port.filter(|_| !is_unix) else {
        return Some(address.to_owned());
    };
    // RFC 3986, section 3.2.2: an IPv6 address stands in brackets before a port.
    let host = if address.contains(':') && !address.starts_with('[') {
        Cow::Owned(format!("[{address}]"))
    } else {
        Cow::Borrowed(address)
    };
    Some(format!("{host}:{port}"))
}

fn result(span: &Span) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |text: String| {
        if !text.is_empty() && !parts.contains(&text) {
            parts.push(text);
        }
    };
    for key in [HTTP_RESPONSE_STATUS_CODE, ERROR_TYPE] {
        match value(span, key) {
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

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match value(span, key)? {
        Value::Str(text) => Some(text),
        _ => None,
    }
}

fn int(span: &Span, key: &str) -> Option<i64> {
    match value(span, key)? {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn value<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    let mut attributes = span.attributes.iter();
    attributes
        .find(|attribute| attribute.key == key)
        .map(|attribute| &attribute.value)
}
