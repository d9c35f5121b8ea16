//! Every server with several clients, each client with several servers: 2,048 requests, 32 in flight, all processes
//! traced by one agent, and all spans and parents compared with the log of the processes.
//!
//! A server under test makes two calls for each request, a proxy one. Standard output has the table of results
//! (`--nocapture`). In [`whole`] the agent starts first, in [`attached`] the load. In [`database`] a server calls a database, too.

mod attached;
mod database;
mod named;
mod whole;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use spoor_tests::{
    clients::{Client, Load, Prepared},
    compare::{Expectation, Fault, Report, compare},
    otlp::Span,
    services::{Server, Service, route},
    truth::{self, Event},
};

const REQUESTS: usize = 2_048;
const IN_FLIGHT: usize = 32;
/// Least precision of named parents, and least recall of certain ones.
const PARENTS: f64 = 0.999;
/// Time limit of a client for all of its requests.
const LOAD_LIMIT: Duration = Duration::from_secs(90);
/// Lock: one of these tests uses both cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A server under test. Its upstream is known only when it starts.
#[derive(Clone, Copy, Debug)]
enum Subject {
    NginxStatic,
    NginxProxy {
        keepalive: bool,
    },
    /// A proxy other than nginx.
    Proxy(fn(SocketAddr) -> Server),
    Calling(Server),
}

/// Calls of a server that must have a parent.
#[derive(Clone, Copy, Debug)]
enum Calls {
    /// All calls: a thread or a process for each request, or a proxy.
    Certain,
    /// Calls may be roots, because no rule is certain for this server.
    MayBeRoots,
}

/// Processes of one test.
struct Scene {
    name: &'static str,
    start: Instant,
    service: Service,
    leaf: Service,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    fn set(name: &'static str, subject: Subject) -> Result<Self> {
        Self::serve(name, |leaf| {
            let upstream = leaf.address;
            let (server, routes) = match subject {
                Subject::NginxStatic => (Server::NginxStatic, vec![]),
                Subject::NginxProxy { keepalive } => (Server::NginxProxy { upstream, keepalive }, vec![]),
                Subject::Proxy(server) => (server(upstream), vec![]),
                Subject::Calling(server) => (
                    server,
                    vec![route("/call", 200, 0, &[leaf.url("/leaf"), leaf.url("/leaf")])],
                ),
            };
            Service::start(server, "server", &routes)
        })
    }

    /// The same, where `start` makes the server that calls the leaf.
    fn serve(name: &'static str, start: impl FnOnce(&Service) -> Result<Service>) -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
        Ok(Self {
            name,
            start: began,
            service: start(&leaf)?,
            leaf,
            _turn: turn,
        })
    }

    fn client(&self, client: Client, count: usize) -> Result<Prepared> {
        let load = Load {
            url: &self.service.url("/call"),
            count,
            in_flight: IN_FLIGHT,
            prefix: &format!("{}-{}", self.name, std::process::id()),
        };
        client.prepare("client", load)
    }

    fn selection(&self, client: &Prepared) -> Result<Vec<String>> {
        let mut selection = vec![client.selection()];
        for service in [&self.service, &self.leaf] {
            selection.extend(service.selection()?);
        }
        Ok(selection)
    }

    /// Compares the spans with the log of the client (`sent`) and the services. The agent came at `attached_ns`, or
    /// before everything; in the first case certain calls may lack a parent, which [`attached`] checks.
    fn judge(&self, sent: &[Event], spans: &[Span], calls: Calls, attached_ns: Option<u64>) -> Result<Report> {
        let events = truth::settled(|| {
            let mut events = sent.to_vec();
            for service in [&self.service, &self.leaf] {
                events.extend(service.truth()?);
            }
            Ok(events)
        });
        let events = events.with_context(|| {
            let printed = [&self.service, &self.leaf].map(Service::printed).join("\n");
            format!("the services printed:\n{printed}")
        })?;
        let titled = [&self.service, &self.leaf].into_iter().filter(|service| service.titled);
        let expectation = Expectation {
            titled: titled.map(|service| service.name.clone()).collect(),
            attached_ns,
            ..Expectation::default()
        };
        let report = compare(&events, spans, &expectation);
        self.print(&report, events.len());
        let call_recall = match (calls, attached_ns) {
            (Calls::Certain, None) => PARENTS,
            (Calls::Certain, Some(_)) | (Calls::MayBeRoots, _) => 0.0,
        };
        report.check(PARENTS, call_recall)?;
        one_less_is_noticed(&events, spans, &expectation)?;
        Ok(report)
    }

    fn print(&self, report: &Report, logged: usize) {
        let Report {
            spans, links, calls, ..
        } = report;
        println!(
            "| {name:<28} | {logged:>6} logged, {spans:>6} spans, {missing} missing, {extra} extra \
            | links {:.4} recall {:.4} precision | calls {:.4} recall {:.4} precision | {order} out of order | {:.1} s |",
            links.recall(),
            links.precision(),
            calls.recall(),
            calls.precision(),
            self.start.elapsed().as_secs_f64(),
            name = self.name,
            missing = report.count(Fault::Missing),
            extra = report.count(Fault::Extra),
            order = report.count(Fault::Order),
        );
    }
}

/// Checks that the comparison can fail: it must, without any one of the spans that are due.
fn one_less_is_noticed(events: &[Event], spans: &[Span], expectation: &Expectation<'_>) -> Result<()> {
    let due: BTreeSet<&str> = events
        .iter()
        .filter(|event| event.began_ns >= expectation.attached_ns)
        .map(|event| event.id.as_str())
        .collect();
    let is_due = |span: &Span| span.request_id().is_some_and(|id| due.contains(id));
    let due: Vec<usize> = (0..spans.len()).filter(|&index| is_due(&spans[index])).collect();
    let mut less = spans.to_vec();
    for &taken in [due.first(), due.get(due.len() / 2), due.last()].into_iter().flatten() {
        let span = less.remove(taken);
        let missing = compare(events, &less, expectation).count(Fault::Missing);
        ensure!(missing == 1, "without {span:?} {missing} spans are said to be missing");
        less.insert(taken, span);
    }
    ensure!(!due.is_empty(), "no span was due");
    Ok(())
}
