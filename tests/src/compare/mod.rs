//! Comparison of all spans with all log entries.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use anyhow::{Result, bail};

use crate::{
    otlp::{Kind, Span},
    truth::{self, Event, Outcome},
};

/// Knowledge that the logs do not hold.
#[derive(Default)]
pub struct Expectation<'a> {
    /// Services whose `OTEL_SERVICE_NAME` cannot be read, because they write a title over their environment: any name
    /// counts as right that is not another service's.
    pub titled: BTreeSet<String>,
    /// Trace id and span id that untraced callers sent in `traceparent`, by request id.
    pub remote_parents: HashMap<&'a str, (&'a str, &'a str)>,
    /// Time of the attach, in nanoseconds of wall-clock time. Requests that their client began earlier may lack spans
    /// and parents, but wrong ones remain faults.
    pub attached_ns: Option<u64>,
}

/// Kind of a difference between spans and truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An exchange has no span.
    Missing,
    /// A span has no exchange.
    Extra,
    /// The span names the wrong service.
    Service,
    /// The span has the wrong status.
    Status,
    /// The span's parent is not its cause.
    WrongParent,
    /// The span has no parent, although its cause was traced.
    NoParent,
    /// The span is in another trace than its parent, in a trace with another root, or lacks the method by which its
    /// parent was found.
    Trace,
    /// The times of the two ends of an exchange are not in order.
    Order,
}

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Kind of the difference.
    pub fault: Fault,
    /// Id of the exchange; empty if the span has none.
    pub id: String,
    /// Description in words.
    pub text: String,
}

/// Score of parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Spans whose parent was traced.
    pub expected: u64,
    /// Spans that name a parent.
    pub claimed: u64,
    /// Spans that name the right one.
    pub right: u64,
}

impl Score {
    fn add(&mut self, more: Self) {
        self.expected += more.expected;
        self.claimed += more.claimed;
        self.right += more.right;
    }

    /// Returns the share of existing parents that was found; 1 if there are none.
    pub fn recall(self) -> f64 {
        ratio(self.right, self.expected)
    }

    /// Returns the share of named parents that is right; 1 if there are none.
    pub fn precision(self) -> f64 {
        ratio(self.right, self.claimed)
    }
}

/// Result of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Number of spans.
    pub spans: usize,
    /// Parents of SERVER spans: the call that brought the request.
    pub links: Score,
    /// Parents of CLIENT spans: the request that the call was made for.
    pub calls: Score,
    /// Number of spans for each `spoor.parent.method`.
    pub methods: BTreeMap<String, u64>,
    /// All differences.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Fails, with the first differences, unless the set of spans is exact, the times are in order, links and calls
    /// have at least this precision, links at least this recall, and calls at least `call_recall`.
    pub fn check(&self, parents: f64, call_recall: f64) -> Result<()> {
        let good = self
            .differences
            .iter()
            .all(|d| matches!(d.fault, Fault::WrongParent | Fault::NoParent))
            && [self.links.precision(), self.calls.precision(), self.links.recall()]
                .iter()
                .all(|&part| part >= parents)
            && self.calls.recall() >= call_recall;
        if !good {
            bail!("{self}");
        }
        Ok(())
    }

    /// Returns the differences of a kind.
    pub fn of(&self, fault: Fault) -> impl Iterator<Item = &Difference> {
        self.differences
            .iter()
            .filter(move |difference| difference.fault == fault)
    }

    /// Returns the number of differences of a kind.
    pub fn count(&self, fault: Fault) -> usize {
        self.of(fault).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        writeln!(
            f,
            "{} spans; links {:?}, calls {:?}, methods {:?}",
            self.spans, self.links, self.calls, self.methods
        )?;
        let mut by_fault = BTreeMap::<_, Vec<_>>::new();
        for difference in &self.differences {
            by_fault.entry(difference.fault).or_default().push(&difference.text);
        }
        for (fault, texts) in by_fault {
            writeln!(f, "{fault:?}: {}", texts.len())?;
            for text in texts.iter().take(SHOWN) {
                writeln!(f, "    {text}")?;
            }
        }
        Ok(())
    }
}

/// Compares spans with the log.
pub fn compare(events: &[Event], spans: &[Span], expectation: &Expectation<'_>) -> Report {
    let events: Vec<Event> = events.iter().map(with_visible_id).collect();
    let began_before = |event: &&Event| {
        expectation
            .attached_ns
            .is_some_and(|attached_ns| event.began_ns.is_some_and(|began_ns| began_ns < attached_ns))
    };
    let before = events
        .iter()
        .filter(began_before)
        .map(|event| root(&event.id))
        .collect();
    let spans_by_id: HashMap<&str, &Span> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let mut comparison = Comparison {
        services: events.iter().map(|event| event.service.as_str()).collect(),
        truth: truth::by_id(&events),
        observed: BTreeMap::new(),
        spans_by_id,
        before,
        expectation,
        report: Report {
            spans: spans.len(),
            ..Report::default()
        },
    };
    for span in spans {
        let id = comparison.id(span);
        comparison.observed.entry((id, span.kind)).or_default().push(span);
    }
    comparison.sets();
    comparison.parents();
    comparison.traces(spans);
    comparison.order();
    comparison.report
}

/// Returns the event with the id that the wire shows: a refused connection carried none, so it gets that of its
/// request.
fn with_visible_id(event: &Event) -> Event {
    let mut event = event.clone();
    if event.outcome == Outcome::NotConnected {
        event.id = format!("{}.connect", caller(&event.id).unwrap_or_default());
    }
    event
}

struct Comparison<'a> {
    services: BTreeSet<&'a str>,
    truth: BTreeMap<(&'a str, Kind), Vec<&'a Event>>,
    observed: BTreeMap<(String, Kind), Vec<&'a Span>>,
    spans_by_id: HashMap<&'a str, &'a Span>,
    /// Prefixes of the requests that had begun when the agent came.
    before: HashSet<&'a str>,
    expectation: &'a Expectation<'a>,
    report: Report,
}

impl<'a> Comparison<'a> {
    fn id(&self, span: &Span) -> String {
        match span.request_id() {
            Some(id) => id.to_owned(),
            None if span.kind == Kind::Client && span.name == "connect" => {
                let parent = self
                    .spans_by_id
                    .get(span.parent_id.as_str())
                    .and_then(|parent| parent.request_id());
                format!("{}.connect", parent.unwrap_or_default())
            }
            None => String::new(),
        }
    }

    fn difference(&mut self, fault: Fault, id: &str, text: String) {
        let id = id.to_owned();
        self.report.differences.push(Difference { fault, id, text });
    }

    fn sets(&mut self) {
        let mut found = Vec::new();
        for (&(id, kind), events) in &self.truth {
            let spans = self
                .observed
                .get(&(id.to_owned(), kind))
                .map(Vec::as_slice)
                .unwrap_or_default();
            let all_are_due = !self.before.contains(root(id));
            for event in events.iter().skip(spans.len()).filter(|_| all_are_due) {
                found.push((
                    Fault::Missing,
                    id,
                    format!("{} of {}: {:?}", describe(id, kind), event.service, event.outcome),
                ));
            }
            for span in spans {
                if !self.service_fits(&events[0].service, &span.service) {
                    let text = format!(
                        "{} of {} is said to be of {}",
                        describe(id, kind),
                        events[0].service,
                        span.service
                    );
                    found.push((Fault::Service, id, text));
                }
            }
            if let ([event], [span]) = (events.as_slice(), spans)
                && !outcome_fits(event.outcome, span)
            {
                let text = format!("{}: {:?}, but {}", describe(id, kind), event.outcome, show(span));
                found.push((Fault::Status, id, text));
            }
        }
        for ((id, kind), spans) in &self.observed {
            let expected = self.truth.get(&(id.as_str(), *kind)).map_or(0, Vec::len);
            for span in spans.iter().skip(expected) {
                found.push((Fault::Extra, id, show(span)));
            }
        }
        let found: Vec<_> = found
            .into_iter()
            .map(|(fault, id, text)| (fault, id.to_owned(), text))
            .collect();
        for (fault, id, text) in found {
            self.difference(fault, &id, text);
        }
    }

    fn service_fits(&self, truth: &str, said: &str) -> bool {
        said == truth || self.expectation.titled.contains(truth) && !self.services.contains(said)
    }

    fn parents(&mut self) {
        let mut found = Vec::new();
        for ((id, kind), spans) in &self.observed {
            let mut score = Score::default();
            let cause = match kind {
                Kind::Server => Some((id.as_str(), Kind::Client)),
                Kind::Client => caller(id).map(|caller| (caller, Kind::Server)),
            };
            let caused_here = cause.is_some_and(|cause| self.truth.contains_key(&cause));
            let remote = match kind {
                Kind::Server if !caused_here => self.expectation.remote_parents.get(id.as_str()),
                _ => None,
            };
            let is_due = !self.before.contains(root(id));
            for span in spans {
                let has_cause = (caused_here || remote.is_some()) && is_due;
                score.expected += u64::from(has_cause);
                if span.parent_id.is_empty() {
                    if has_cause {
                        found.push((Fault::NoParent, id.clone(), show(span)));
                    }
                    continue;
                }
                score.claimed += 1;
                let method = span.text("spoor.parent.method").unwrap_or("none named");
                *self.report.methods.entry(method.to_owned()).or_default() += 1;
                let parent = self.spans_by_id.get(span.parent_id.as_str());
                let right = match (remote, parent) {
                    (Some(&(trace_id, span_id)), _) => span.trace_id == trace_id && span.parent_id == span_id,
                    (None, Some(parent)) => caused_here && cause == Some((&self.id(parent), parent.kind)),
                    (None, None) => false,
                };
                if right {
                    score.right += 1;
                    score.expected += u64::from(!is_due);
                } else {
                    let parent = parent.map_or_else(|| "no span of ours".to_owned(), |parent| show(parent));
                    found.push((
                        Fault::WrongParent,
                        id.clone(),
                        format!("{}: its parent is {parent}", show(span)),
                    ));
                }
            }
            match kind {
                Kind::Server => self.report.links.add(score),
                Kind::Client => self.report.calls.add(score),
            }
        }
        for (fault, id, text) in found {
            self.difference(fault, &id, text);
        }
    }

    fn traces(&mut self, spans: &[Span]) {
        let mut roots = HashSet::new();
        let mut span_ids = HashSet::new();
        for span in spans {
            let id = self.id(span);
            if !span_ids.insert(&span.span_id) {
                self.difference(
                    Fault::Trace,
                    &id,
                    format!("{}: another span has the same span id", show(span)),
                );
            }
            if span.parent_id.is_empty() && !roots.insert(&span.trace_id) {
                self.difference(Fault::Trace, &id, format!("{}: its trace has another root", show(span)));
            }
            if !span.parent_id.is_empty() && span.text("spoor.parent.method").is_none() {
                self.difference(Fault::Trace, &id, format!("{}: no spoor.parent.method", show(span)));
            }
            if let Some(parent) = self.spans_by_id.get(span.parent_id.as_str())
                && parent.trace_id != span.trace_id
            {
                self.difference(
                    Fault::Trace,
                    &id,
                    format!("{}: its parent is in another trace: {}", show(span), show(parent)),
                );
            }
        }
    }

    fn order(&mut self) {
        let mut found = Vec::new();
        for ((id, kind), spans) in &self.observed {
            for span in spans.iter().filter(|span| span.start_ns > span.end_ns) {
                found.push((id.clone(), format!("{}: it ends before it starts", show(span))));
            }
            if *kind == Kind::Server || id.is_empty() {
                continue;
            }
            let served = self.observed.get(&(id.clone(), Kind::Server)).map(Vec::as_slice);
            // The clocks of two ends are compared only if the ends are known to belong together. If they should be and
            // are not, that is a fault of its own.
            if let ([client], Some([server])) = (spans.as_slice(), served)
                && server.parent_id == client.span_id
            {
                let times = [client.start_ns, server.start_ns, server.end_ns, client.end_ns];
                if !times.is_sorted() {
                    let after = times.map(|time| time.cast_signed() - client.start_ns.cast_signed());
                    let text = format!("{id}: client start, server start, server end, client end are at {after:?} ns");
                    found.push((id.clone(), text));
                }
            }
        }
        for (id, text) in found {
            self.difference(Fault::Order, &id, text);
        }
    }
}

/// Returns the id of the request that began it all.
pub fn root(id: &str) -> &str {
    id.split('.').next().unwrap_or_default()
}

/// Returns the id of the request that the call `id` was made for.
pub fn caller(id: &str) -> Option<&str> {
    id.rsplit_once('.').map(|(request, _)| request)
}

fn outcome_fits(outcome: Outcome, span: &Span) -> bool {
    match outcome {
        Outcome::Status(status) => span.status() == Some(status),
        Outcome::NoAnswer | Outcome::NotConnected => span.status().is_none() && span.text("error.type").is_some(),
        Outcome::Unknown => true,
    }
}

fn describe(id: &str, kind: Kind) -> String {
    format!("{kind:?} {id}")
}

fn show(span: &Span) -> String {
    let status = span
        .status()
        .map_or_else(|| "no status".to_owned(), |status| status.to_string());
    let id = span.request_id().unwrap_or("(no id)");
    let Span {
        service,
        kind,
        name,
        trace_id,
        span_id,
        parent_id,
        ..
    } = span;
    let error = span
        .text("error.type")
        .map_or_else(String::new, |error| format!(", error {error}"));
    format!(
        "{kind:?} {id} of {service}: {name:?}, {status}{error}, trace {trace_id} span {span_id} parent {parent_id:?}"
    )
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests;
