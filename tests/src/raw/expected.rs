//! Expected spans, and their differences from the real ones.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use crate::otlp::{Kind, Span};

/// Expected span of one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// `http.request.method`; `connect` for a connect that failed.
    pub method: String,
    /// `http.response.status_code`.
    pub status: Option<u64>,
    /// `error.type`.
    pub error: Option<String>,
    /// `http.request.body.size`.
    pub request_bytes: Option<u64>,
    /// `http.response.body.size`.
    pub response_bytes: Option<u64>,
}

impl End {
    /// Returns an end that was answered with this status and an empty body.
    pub fn ok(method: &str, status: u64) -> Self {
        Self {
            method: method.to_owned(),
            status: Some(status),
            error: None,
            request_bytes: None,
            response_bytes: Some(0),
        }
    }

    /// Returns an end without a response, with this `error.type`.
    pub fn failed(method: &str, error: &str) -> Self {
        Self {
            method: method.to_owned(),
            status: None,
            error: Some(error.to_owned()),
            request_bytes: None,
            response_bytes: None,
        }
    }

    /// Returns whether everything is correct except for a body's size, some bytes of which were lost.
    fn says_less_than(&self, end: &Self) -> bool {
        let less = |size: Option<u64>, expected| size.is_none() || size == expected;
        let Self {
            method,
            status,
            error,
            request_bytes,
            response_bytes,
        } = self;
        (method, status, error) == (&end.method, &end.status, &end.error)
            && less(*request_bytes, end.request_bytes)
            && less(*response_bytes, end.response_bytes)
    }

    /// Sets the sizes of the bodies; `None`: the span has no size.
    pub fn bodies(mut self, request: Option<u64>, response: Option<u64>) -> Self {
        (self.request_bytes, self.response_bytes) = (request, response);
        self
    }
}

/// An exchange, with the spans of its ends.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Case that it belongs to.
    pub case: String,
    /// Target: `/case/…`, `authority` for CONNECT, or the address of a connect.
    pub target: String,
    /// Target of the request that the call was made for; `None` for a root.
    pub made_for: Option<String>,
    /// Whether the two ends cannot be matched: each is a root.
    pub apart: bool,
    /// Expected CLIENT span, if any.
    pub client: Option<End>,
    /// Expected SERVER span, if any.
    pub server: Option<End>,
}

/// A difference between expected and real spans.
#[derive(Debug)]
pub struct Difference {
    /// Whether a system call that the agent did not see can cause it: a missing span, a root in place of a child, a
    /// body without a size. Never another status, size or parent.
    pub may_be_unseen: bool,
    /// Description.
    pub text: String,
}

impl Difference {
    fn wrong(text: String) -> Self {
        Self {
            may_be_unseen: false,
            text,
        }
    }

    fn missing(text: String) -> Self {
        Self {
            may_be_unseen: true,
            text,
        }
    }
}

impl Display for Difference {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.text.fmt(formatter)
    }
}

/// Differences by case.
#[derive(Debug, Default)]
pub struct Differences(pub BTreeMap<String, Vec<Difference>>);

impl Differences {
    fn add(&mut self, case: &str, what: Difference) {
        self.0.entry(case.to_owned()).or_default().push(what);
    }
}

impl Display for Differences {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        /// Number of differences that are shown for each case.
        const SHOWN: usize = 6;
        for (case, differences) in &self.0 {
            writeln!(formatter, "{case}: {} differences", differences.len())?;
            for difference in differences.iter().take(SHOWN) {
                writeln!(formatter, "  {difference}")?;
            }
        }
        Ok(())
    }
}

/// Returns the case that a target belongs to: its first path segment, or the first label of its host.
pub fn case_of(target: &str) -> &str {
    let target = target.strip_prefix('/').unwrap_or(target);
    target.split(['/', '.', '?', ':']).next().unwrap_or_default()
}

/// Compares all spans with all exchanges.
pub fn compare(expected: &[Exchange], spans: &[Span]) -> Differences {
    let mut differences = Differences::default();
    let mut seen: BTreeMap<(Kind, String), Vec<&Span>> = BTreeMap::new();
    for span in spans {
        seen.entry((span.kind, target_of(span))).or_default().push(span);
    }
    let serving: BTreeMap<_, _> = spans
        .iter()
        .filter(|span| span.kind == Kind::Server)
        .map(|span| (target_of(span), span.span_id.as_str()))
        .collect();
    for exchange in expected {
        let parent = match &exchange.made_for {
            Some(target) => serving.get(target).copied().unwrap_or("of no span"),
            None => "",
        };
        let mut found = Vec::new();
        for (kind, end) in [(Kind::Client, &exchange.client), (Kind::Server, &exchange.server)] {
            let Some(end) = end else { continue };
            let (case, target) = (&exchange.case, &exchange.target);
            let mut these = seen.remove(&(kind, target.clone())).unwrap_or_default();
            let Some(span) = these.pop() else {
                let text = format!("{kind:?} {target}: no span; expected {end:?}");
                differences.add(case, Difference::missing(text));
                continue;
            };
            if !these.is_empty() {
                let text = format!("{kind:?} {target}: {} spans", these.len() + 1);
                differences.add(case, Difference::wrong(text));
            }
            let says = end_of(span);
            if says != *end {
                let difference = Difference {
                    may_be_unseen: says.says_less_than(end),
                    text: format!("{kind:?} {target}: {says:?}\n    expected {end:?}"),
                };
                differences.add(case, difference);
            }
            found.push(span);
        }
        if let Some(mut difference) = wrong_link(exchange, parent, &found) {
            difference.text = format!("{}: {difference}", exchange.target);
            differences.add(&exchange.case, difference);
        }
    }
    for ((kind, target), spans) in seen {
        let what = format!("{kind:?} {target}: not expected: {:?}", end_of(spans[0]));
        differences.add(case_of(&target), Difference::wrong(what));
    }
    differences
}

/// Checks the parents, and the order of the four times.
fn wrong_link(exchange: &Exchange, parent: &str, found: &[&Span]) -> Option<Difference> {
    let wrong = |text: String| Some(Difference::wrong(text));
    if found.iter().any(|span| span.start_ns > span.end_ns) {
        return wrong("a span ends before it starts".to_owned());
    }
    match found {
        [client, server] if exchange.apart => {
            let roots = client.parent_id.is_empty() && server.parent_id.is_empty();
            if roots && client.trace_id != server.trace_id {
                return None;
            }
            wrong("two ends that cannot be matched are".to_owned())
        }
        [client, server] => {
            let method = server.text("spoor.parent.method");
            if client.parent_id != parent {
                return Some(Difference {
                    may_be_unseen: client.parent_id.is_empty(),
                    text: format!("the client's parent is {:?}, not {parent:?}", client.parent_id),
                });
            }
            if (&server.parent_id, &server.trace_id, method) != (&client.span_id, &client.trace_id, Some("same-host")) {
                let trace = if server.trace_id == client.trace_id {
                    ""
                } else {
                    "another trace, "
                };
                return Some(Difference {
                    may_be_unseen: server.parent_id.is_empty() && method.is_none(),
                    text: format!(
                        "the server's span is not the client's child: {trace}parent {:?} by {method:?}",
                        server.parent_id
                    ),
                });
            }
            if client.start_ns > server.start_ns {
                let early = client.start_ns - server.start_ns;
                return wrong(format!("the server starts {early} ns before the client"));
            }
            // An end that gives up does not wait for the other one.
            let whole = [&exchange.client, &exchange.server]
                .iter()
                .all(|end| end.as_ref().is_some_and(|end| end.error.is_none()));
            if whole && server.end_ns > client.end_ns {
                let late = server.end_ns - client.end_ns;
                return wrong(format!("the server ends {late} ns after the client"));
            }
            None
        }
        [alone] if !alone.parent_id.is_empty() => wrong("a span without its other end has a parent".to_owned()),
        _ => None,
    }
}

/// Returns the path, or the address of a connect.
pub fn target_of(span: &Span) -> String {
    let host = || span.text("server.address").unwrap_or("nowhere");
    match (span.text("http.request.method"), span.text("url.path")) {
        (None | Some("CONNECT"), _) => {
            let port = span.attributes.get("server.port").map(ToString::to_string);
            format!("{}:{}", host(), port.unwrap_or_default())
        }
        (Some(_), Some(path)) => path.to_owned(),
        (Some(_), None) => {
            let url = span.text("url.full").unwrap_or_default();
            let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
            behind_scheme
                .find('/')
                .map_or(behind_scheme, |at| &behind_scheme[at..])
                .to_owned()
        }
    }
}

/// Returns a span's description of its end.
pub fn end_of(span: &Span) -> End {
    let number = |key| span.attributes.get(key).and_then(serde_json::Value::as_u64);
    End {
        method: span.text("http.request.method").unwrap_or(&span.name).to_owned(),
        status: number("http.response.status_code"),
        error: span.text("error.type").map(str::to_owned),
        request_bytes: number("http.request.body.size"),
        response_bytes: number("http.response.body.size"),
    }
}
