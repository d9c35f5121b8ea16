//! A `traceparent` from an untraced caller that a service passes on unchanged to a leaf: the leaf's request is a child
//! of the service's call, not its sibling. And a `traceparent` that a traced client writes itself, like a tracing
//! library: both ends of the call are children of the span that it names.

use std::{
    collections::{BTreeSet, HashMap},
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::Recorder,
    compare::{Expectation, Fault, Report, compare},
    net,
    otlp::{Kind, Span},
    process::Gated,
    services::{Server, Service, route},
    truth::Event,
};

const REQUESTS: usize = 20;
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Calls of the service in the middle that must have a parent. A named parent must be right in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    Certain,
    MayBeRoots,
}

fn forwarded(name: &str, middle: impl FnOnce(&Service) -> Server, calls: Calls) -> Result<()> {
    let story = Story::run(name, middle, "01")?;
    let (report, said) = (&story.report, &story.said);
    let allowed = |fault| calls == Calls::MayBeRoots && fault == Fault::NoParent;
    ensure!(
        report.differences.iter().all(|difference| allowed(difference.fault)),
        "{report}\nthe agent said:\n{said}"
    );
    // Only parents of calls may be missing: each request's call is known.
    ensure!(report.links.recall() == 1.0, "{report}\nthe agent said:\n{said}");
    let expected = 3 * REQUESTS;
    ensure!(
        story.events.len() == expected,
        "{} of {expected} ends were logged",
        story.events.len()
    );
    Ok(())
}

/// Checks that the flag for "not sampled" leaves no span, in the middle or behind it.
fn not_sampled(name: &str, middle: impl FnOnce(&Service) -> Server) -> Result<()> {
    let story = Story::run(name, middle, "00")?;
    ensure!(
        story.events.len() == 3 * REQUESTS,
        "{} ends were logged",
        story.events.len()
    );
    let first: Vec<_> = story.spans.iter().take(10).collect();
    ensure!(
        first.is_empty(),
        "{} spans: {first:#?}\nthe agent said:\n{}",
        story.spans.len(),
        story.said
    );
    Ok(())
}

struct Story {
    events: Vec<Event>,
    spans: Vec<Span>,
    report: Report,
    said: String,
}

impl Story {
    fn run(name: &str, middle: impl FnOnce(&Service) -> Server, flags: &str) -> Result<Self> {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
        let middle = Service::start(middle(&leaf), "middle", &[route("/call", 200, 0, &[leaf.url("/leaf")])])?;
        let services = [&middle, &leaf];
        let mut selection = Vec::new();
        for service in services {
            selection.extend(service.selection()?);
        }
        let agent = Recorder::start(&selection)?;

        let parents: Vec<_> = (1..=REQUESTS)
            .map(|number| {
                (
                    format!("{name}-{number}"),
                    format!("{:032x}", 0xabc0_0000 + number),
                    format!("{:016x}", 0xdef0_0000 + number),
                )
            })
            .collect();
        std::thread::scope(|scope| {
            let get = |(id, trace_id, span_id): &(String, String, String)| {
                let traceparent = format!("00-{trace_id}-{span_id}-{flags}");
                net::get(
                    middle.address,
                    "/call",
                    &[("x-request-id", id), ("traceparent", &traceparent)],
                )
            };
            let requests: Vec<_> = parents.iter().map(|parent| scope.spawn(move || get(parent))).collect();
            for request in requests {
                let status = request.join().expect("the request did not panic")?;
                ensure!(status == 200, "status {status}");
            }
            Ok(())
        })?;
        // Proxies log after they have answered; HAProxy may take its time.
        let logged = || -> Result<usize> {
            let truths: Result<Vec<_>> = services.iter().map(|service| service.truth()).collect();
            Ok(truths?.iter().map(Vec::len).sum())
        };
        let until = Instant::now() + Duration::from_secs(10);
        while logged()? < 3 * REQUESTS && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let (spans, said) = agent.finish()?;

        let mut events = Vec::new();
        for service in services {
            events.extend(service.truth()?);
        }
        let titled: BTreeSet<_> = services
            .into_iter()
            .filter(|service| service.titled)
            .map(|service| service.name.clone())
            .collect();
        let remote_parents: HashMap<_, _> = parents
            .iter()
            .map(|(id, trace, span)| (id.as_str(), (trace.as_str(), span.as_str())))
            .collect();
        let report = compare(
            &events,
            &spans,
            &Expectation {
                titled,
                remote_parents,
                attached_ns: None,
            },
        );
        Ok(Self {
            events,
            spans,
            report,
            said,
        })
    }
}

fn nginx(leaf: &Service) -> Server {
    Server::NginxProxy {
        upstream: leaf.address,
        keepalive: false,
    }
}

fn haproxy(leaf: &Service) -> Server {
    Server::HaProxy { upstream: leaf.address }
}

fn app(_: &Service) -> Server {
    Server::GunicornForwarding
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn forwarded_by_nginx() -> Result<()> {
    forwarded("nginx", nginx, Calls::Certain)
}

#[test]
#[ignore = "needs root, the agent, nginx and HAProxy"]
fn forwarded_by_haproxy() -> Result<()> {
    forwarded("haproxy", haproxy, Calls::MayBeRoots)
}

#[test]
#[ignore = "needs root, the agent, nginx and gunicorn"]
fn forwarded_by_an_app() -> Result<()> {
    forwarded("app", app, Calls::Certain)
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn not_sampled_through_nginx() -> Result<()> {
    not_sampled("nginx", nginx)
}

#[test]
#[ignore = "needs root, the agent, nginx and HAProxy"]
fn not_sampled_through_haproxy() -> Result<()> {
    not_sampled("haproxy", haproxy)
}

#[test]
#[ignore = "needs root, the agent, nginx and gunicorn"]
fn not_sampled_through_an_app() -> Result<()> {
    not_sampled("app", app)
}

/// Program of a client that writes its own `traceparent` into every other request on one connection.
const CLIENT: &str = r#"
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1])
for number in range(1, int(sys.argv[2]) + 1):
    headers = {"x-request-id": f"own-{number}"}
    if number % 2:
        headers["traceparent"] = f"00-{0xabc00000 + number:032x}-{0xdef00000 + number:016x}-{sys.argv[3]}"
    connection.request("GET", "/leaf", headers=headers)
    connection.getresponse().read()
"#;

/// Returns both ends of the n-th call of [`CLIENT`]: the client's, then the server's.
fn ends(spans: &[Span], number: usize) -> Vec<&Span> {
    let id = format!("own-{number}");
    let mut ends: Vec<_> = spans
        .iter()
        .filter(|span| span.request_id() == Some(id.as_str()))
        .collect();
    ends.sort_by_key(|span| span.kind != Kind::Client);
    ends
}

fn of_the_client_itself(flags: &str) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let directory = tempfile::Builder::new().prefix("spoor-own-").tempdir()?;
    let output = directory.path().join("output.log");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", CLIENT, &leaf.address.to_string(), &REQUESTS.to_string(), flags]);
    let client = Gated::prepare("client", command, &output, &output)?;
    let mut selection = leaf.selection()?;
    selection.push(format!("--pid={}", client.id()));
    let agent = Recorder::start(&selection)?;
    let status = client.go()?.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {}", std::fs::read_to_string(&output)?);
    let (spans, said) = agent.finish()?;
    check_ends(&spans, flags).with_context(|| format!("the agent said:\n{said}"))
}

fn check_ends(spans: &[Span], flags: &str) -> Result<()> {
    for number in 1..=REQUESTS {
        let ends = ends(spans, number);
        if number % 2 == 1 && flags == "00" {
            ensure!(ends.is_empty(), "not sampled: {ends:#?}");
            continue;
        }
        let [client, server] = ends.as_slice() else {
            anyhow::bail!("not two ends of call {number}: {ends:#?}");
        };
        let remote = (client.parent_is_remote, server.parent_is_remote);
        ensure!(remote == (Some(false), Some(true)), "{remote:?}: {ends:#?}");
        ensure!(client.trace_id == server.trace_id, "two traces: {ends:#?}");
        if number % 2 == 1 {
            let trace = format!("{:032x}", 0xabc0_0000 + number);
            let span = format!("{:016x}", 0xdef0_0000 + number);
            let is_child = |end: &&Span| end.trace_id == trace && end.parent_id == span;
            ensure!(is_child(client) && is_child(server), "not the header's: {ends:#?}");
        } else {
            let linked = client.parent_id.is_empty() && server.parent_id == client.span_id;
            ensure!(linked, "a header of another call is left over: {ends:#?}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn written_by_a_traced_client() -> Result<()> {
    of_the_client_itself("01")
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn not_sampled_by_a_traced_client() -> Result<()> {
    of_the_client_itself("00")
}
