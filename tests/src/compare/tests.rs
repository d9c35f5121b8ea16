use serde_json::json;

use super::*;
use crate::otlp::ID_ATTRIBUTE;

fn event(service: &str, kind: Kind, id: &str, status: u16) -> Event {
    Event {
        service: service.to_owned(),
        kind,
        id: id.to_owned(),
        outcome: Outcome::Status(status),
        began_ns: None,
    }
}

/// Returns a span `number` in trace `t`, with times that nest by `depth`.
fn span(service: &str, kind: Kind, id: &str, number: &str, parent: &str, depth: u64) -> Span {
    let method = if parent.is_empty() {
        json!(null)
    } else {
        json!("thread")
    };
    let attributes = [
        (ID_ATTRIBUTE, json!([id])),
        ("http.response.status_code", json!(200)),
        ("spoor.parent.method", method),
    ];
    Span {
        service: service.to_owned(),
        kind,
        name: "GET /".to_owned(),
        trace_id: "t".to_owned(),
        span_id: number.to_owned(),
        parent_id: parent.to_owned(),
        parent_is_remote: None,
        start_ns: depth,
        end_ns: 100 - depth,
        attributes: attributes.map(|(key, value)| (key.to_owned(), value)).into(),
    }
}

/// Returns events and spans of a client that calls a shop, which makes one call.
fn story() -> (Vec<Event>, Vec<Span>) {
    let events = vec![
        event("load", Kind::Client, "a", 200),
        event("shop", Kind::Server, "a", 200),
        event("shop", Kind::Client, "a.1", 200),
    ];
    let spans = vec![
        span("load", Kind::Client, "a", "1", "", 0),
        span("shop", Kind::Server, "a", "2", "1", 1),
        span("shop", Kind::Client, "a.1", "3", "2", 2),
    ];
    (events, spans)
}

fn faults(events: &[Event], spans: &[Span]) -> Vec<Fault> {
    compare(events, spans, &Expectation::default())
        .differences
        .iter()
        .map(|difference| difference.fault)
        .collect()
}

#[test]
fn the_truth_has_no_differences() {
    let (events, spans) = story();
    let report = compare(&events, &spans, &Expectation::default());
    assert!(report.differences.is_empty(), "{report}");
    let one = Score {
        expected: 1,
        claimed: 1,
        right: 1,
    };
    assert_eq!((report.links, report.calls), (one, one));
    assert_eq!(report.methods, BTreeMap::from([("thread".to_owned(), 2)]));
    report.check(0.999, 0.999).unwrap();
}

#[test]
fn every_fault_is_found() {
    let changed = |change: &dyn Fn(&mut Vec<Event>, &mut Vec<Span>)| {
        let (mut events, mut spans) = story();
        change(&mut events, &mut spans);
        faults(&events, &spans)
    };
    assert_eq!(changed(&|_, spans| drop(spans.pop())), [Fault::Missing]);
    assert_eq!(changed(&|events, _| drop(events.pop())), [Fault::Extra]);
    assert_eq!(
        changed(&|_, spans| spans[2].service = "load".to_owned()),
        [Fault::Service]
    );
    assert_eq!(
        changed(&|events, _| events[1] = event("shop", Kind::Server, "a", 404)),
        [Fault::Status]
    );
    assert_eq!(
        changed(&|_, spans| spans[2].parent_id = "1".to_owned()),
        [Fault::WrongParent]
    );
    assert_eq!(
        changed(&|_, spans| spans[2].parent_id = "9".to_owned()),
        [Fault::WrongParent]
    );
    let root = |spans: &mut Vec<Span>| {
        spans[2].parent_id.clear();
        spans[2].trace_id = "u".to_owned();
    };
    assert_eq!(changed(&|_, spans| root(spans)), [Fault::NoParent]);
    assert_eq!(changed(&|_, spans| spans[2].trace_id = "u".to_owned()), [Fault::Trace]);
    assert!(changed(&|_, spans| spans[2].span_id = "1".to_owned()).contains(&Fault::Trace));
    assert_eq!(changed(&|_, spans| spans[1].start_ns = 0), []);
    assert_eq!(changed(&|_, spans| spans[0].start_ns = 2), [Fault::Order]);
    assert_eq!(changed(&|_, spans| spans[1].end_ns = 101), [Fault::Order]);
}

#[test]
fn a_span_twice_is_extra() {
    let (events, mut spans) = story();
    let mut again = spans[2].clone();
    again.span_id = "4".to_owned();
    spans.push(again);
    assert_eq!(faults(&events, &spans), [Fault::Extra]);
}

#[test]
fn a_refused_connection_is_known_by_its_parent() {
    let (mut events, mut spans) = story();
    events[2].outcome = Outcome::NotConnected;
    spans[2].name = "connect".to_owned();
    spans[2].attributes = [
        ("error.type", json!("ECONNREFUSED")),
        ("spoor.parent.method", json!("thread")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    assert_eq!(faults(&events, &spans), []);
}

#[test]
fn a_remote_parent_is_expected_of_the_first_server_only() {
    let (mut events, mut spans) = story();
    drop((events.remove(0), spans.remove(0)));
    let expectation = |parent| Expectation {
        remote_parents: HashMap::from([("a", ("t", parent))]),
        ..Expectation::default()
    };
    assert!(compare(&events, &spans, &expectation("1")).differences.is_empty());
    let report = compare(&events, &spans, &expectation("8"));
    assert_eq!(
        (report.differences.len(), report.count(Fault::WrongParent)),
        (1, 1),
        "{report}"
    );
}

#[test]
fn a_titled_service_may_have_any_name_but_another_ones() {
    let (events, mut spans) = story();
    let titled = Expectation {
        titled: BTreeSet::from(["shop".to_owned()]),
        ..Expectation::default()
    };
    spans[2].service = "ruby".to_owned();
    assert!(compare(&events, &spans, &titled).differences.is_empty());
    spans[2].service = "load".to_owned();
    assert_eq!(compare(&events, &spans, &titled).count(Fault::Service), 1);
}

#[test]
fn what_began_before_the_agent_was_there_may_be_missing_but_not_wrong() {
    let (mut events, mut spans) = story();
    events[0].began_ns = Some(10);
    let expectation = |attached_ns| Expectation {
        attached_ns: Some(attached_ns),
        ..Expectation::default()
    };
    let faults = |spans: &[Span], attached_ns| -> Vec<Fault> {
        let report = compare(&events, spans, &expectation(attached_ns));
        report.differences.iter().map(|difference| difference.fault).collect()
    };
    // The call's parent is missing, and so is the expected link.
    let less = &spans[..1];
    assert_eq!(faults(less, 10), [Fault::Missing, Fault::Missing]);
    assert_eq!(faults(less, 11), []);
    assert_eq!(faults(&[], 11), []);
    let report = compare(&events, &spans, &expectation(11));
    assert_eq!((report.links.recall(), report.calls.recall()), (1.0, 1.0));

    // The shop's call names the client's span.
    spans[2].parent_id = "1".to_owned();
    assert_eq!(faults(&spans, 11), [Fault::WrongParent]);
    spans[2]
        .attributes
        .insert("http.response.status_code".to_owned(), json!(500));
    assert_eq!(faults(&spans, 11), [Fault::Status, Fault::WrongParent]);
}
