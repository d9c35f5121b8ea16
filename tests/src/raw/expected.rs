//! What spans there must be, and what is different.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use crate::otlp::{Kind, Span};

/// What one end's span says.
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
    /// Answered with this status and a body without bytes.
    pub fn ok(method: &str, status: u64) -> Self {
        Self {
            method: method.to_owned(),
            status: Some(status),
            error: None,
            request_bytes: None,
            response_bytes: Some(0),
        }
    }

    /// Ended by this `error.type`, without a response.
    pub fn failed(method: &str, error: &str) -> Self {
        Self {
            method: method.to_owned(),
            status: None,
            error: Some(error.to_owned()),
            request_bytes: None,
            response_bytes: None,
        }
    }

    /// Whether all that is said is right, and a body's size is not: bytes of it were lost.
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

    /// With bodies of so many bytes; `None`: of no size that is told.
    pub fn bodies(mut self, request: Option<u64>, response: Option<u64>) -> Self {
        (self.request_bytes, self.response_bytes) = (request, response);
        self
    }
}

/// An exchange, and which of its ends have spans.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The case it belongs to.
    pub case: String,
    /// `/case/…`, or `authority` for CONNECT, or where a connect went.
    pub target: String,
    /// The target of the request that the call was made for; none for a root.
    pub made_for: Option<String>,
    /// The two ends cannot be matched: each is a root.
    pub apart: bool,
    /// What the CLIENT span says; `None`: there is none.
    pub client: Option<End>,
    /// What the SERVER span says; `None`: there is none.
    pub server: Option<End>,
}

/// Something that is different from what must be.
#[derive(Debug)]
pub struct Difference {
    /// A system call that the agent did not see can lead to it: no span, a root where a child should be, a body without a
    /// size. Never another status, size or parent.
    pub may_be_unseen: bool,
    /// What it is.
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

/// What is different from what must be, by case.
#[derive(Debug, Default)]
pub struct Differences(pub BTreeMap<String, Vec<Difference>>);

impl Differences {
    fn add(&mut self, case: &str, what: Difference) {
        self.0.entry(case.to_owned()).or_default().push(what);
    }
}

impl Display for Differences {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        /// More of one case are as good as these.
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

/// The case that a target belongs to: its first path segment, or the first label of its host.
pub fn case_of(target: &str) -> &str {
    let target = target.strip_prefix('/').unwrap_or(target);
    target.split(['/', '.', '?', ':']).next().unwrap_or_default()
}

/// Holds all spans against all exchanges.
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

/// The parents, and the order of the four times.
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
            // Who gives up does not wait for the other end.
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

/// The path, or the address of a connect.
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

/// What a span says of its end.
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
