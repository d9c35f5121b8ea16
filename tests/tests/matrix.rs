//! Every server with several clients, each client with several servers: 2,048 requests, 32 in flight, all processes traced by
//! one agent, and every span and every parent held against what the processes logged.
//!
//! A server under test makes two calls for each request, a proxy one. The table of the outcomes is on standard output
//! (`--nocapture`).

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use spoor_tests::{
    agent::Recorder,
    clients::{Client, Load},
    compare::{Expectation, Fault, Report, compare},
    services::{Server, Service, route},
};

const REQUESTS: usize = 2_048;
const IN_FLIGHT: usize = 32;
/// What of the parents that are named must be right, and what of those that are certain must be named.
const PARENTS: f64 = 0.999;
/// Two cores have enough to do with one of these tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A server, whose upstream is there only when it starts.
#[derive(Clone, Copy, Debug)]
enum Subject {
    NginxStatic,
    NginxProxy { keepalive: bool },
    Calling(Server),
}

/// Which of a server's calls must name their request.
#[derive(Clone, Copy, Debug)]
enum Calls {
    /// All: a thread or a process for each request, or a proxy.
    Certain,
    /// Those that nothing is certain of may be roots.
    MayBeRoots,
}

fn run(name: &str, subject: Subject, client: Client, calls: Calls) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let start = Instant::now();
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let upstream = leaf.address;
    let (server, routes) = match subject {
        Subject::NginxStatic => (Server::NginxStatic, vec![]),
        Subject::NginxProxy { keepalive } => (Server::NginxProxy { upstream, keepalive }, vec![]),
        Subject::Calling(server) => (
            server,
            vec![route("/call", 200, 0, &[leaf.url("/leaf"), leaf.url("/leaf")])],
        ),
    };
    let service = Service::start(server, "server", &routes)?;
    let url = service.url("/call");
    let prefix = &format!("{name}.{}", std::process::id()).replace('.', "-");
    let load = Load {
        url: &url,
        count: REQUESTS,
        in_flight: IN_FLIGHT,
        prefix,
    };
    let client = client.prepare("client", load)?;

    let mut selection = vec![client.selection()];
    for service in [&service, &leaf] {
        selection.extend(service.selection()?);
    }
    let agent = Recorder::start(&selection)?;
    let mut events = client.run(Duration::from_secs(90))?;
    // nginx logs after it has answered.
    std::thread::sleep(Duration::from_millis(300));
    let (spans, said) = agent.finish()?;

    for service in [&service, &leaf] {
        events.extend(service.truth()?);
    }
    let titled = [&service, &leaf].into_iter().filter(|service| service.titled);
    let titled: BTreeSet<_> = titled.map(|service| service.name.clone()).collect();
    let report = compare(
        &events,
        &spans,
        &Expectation {
            titled,
            ..Expectation::default()
        },
    );
    print_row(name, &report, start.elapsed());
    let call_recall = match calls {
        Calls::Certain => PARENTS,
        Calls::MayBeRoots => 0.0,
    };
    let checked = report.check(PARENTS, call_recall);
    checked.map_err(|error| anyhow!("{error}\nthe agent said:\n{said}"))
}

fn print_row(name: &str, report: &Report, took: Duration) {
    let Report {
        spans, links, calls, ..
    } = report;
    println!(
        "| {name:<28} | {spans:>6} spans, {missing} missing, {extra} extra | links {:.4} recall {:.4} precision \
        | calls {:.4} recall {:.4} precision | {order} out of order | {:.1} s |",
        links.recall(),
        links.precision(),
        calls.recall(),
        calls.precision(),
        took.as_secs_f64(),
        missing = report.count(Fault::Missing),
        extra = report.count(Fault::Extra),
        order = report.count(Fault::Order),
    );
}

macro_rules! matrix {
    ($($name:ident: $subject:expr, $client:ident, $calls:ident;)*) => {$(
        #[test]
        #[ignore = "needs root, the agent and the servers and clients"]
        fn $name() -> Result<()> {
            run(stringify!($name), $subject, Client::$client, Calls::$calls)
        }
    )*};
}

matrix! {
    nginx_static_curl: Subject::NginxStatic, Curl, Certain;
    nginx_static_wrk: Subject::NginxStatic, Wrk, Certain;
    nginx_proxy_python: Subject::NginxProxy { keepalive: false }, PythonRequests, Certain;
    nginx_proxy_wrk: Subject::NginxProxy { keepalive: false }, Wrk, Certain;
    nginx_proxy_keepalive_curl: Subject::NginxProxy { keepalive: true }, Curl, Certain;
    nginx_proxy_keepalive_go: Subject::NginxProxy { keepalive: true }, Go, Certain;
    gunicorn_sync_python: Subject::Calling(Server::GunicornSync), PythonRequests, Certain;
    gunicorn_sync_curl: Subject::Calling(Server::GunicornSync), Curl, Certain;
    gunicorn_gthread_node: Subject::Calling(Server::GunicornGthread), NodeFetch, Certain;
    gunicorn_gthread_wrk: Subject::Calling(Server::GunicornGthread), Wrk, Certain;
    puma_python: Subject::Calling(Server::Puma { reactor: true }), PythonRequests, Certain;
    puma_go: Subject::Calling(Server::Puma { reactor: true }), Go, Certain;
    puma_without_reactor_python: Subject::Calling(Server::Puma { reactor: false }), PythonConnections, Certain;
    jdk_node: Subject::Calling(Server::Jdk), NodeFetch, Certain;
    jdk_wrk: Subject::Calling(Server::Jdk), Wrk, Certain;
    node_go: Subject::Calling(Server::Node), Go, MayBeRoots;
    node_curl: Subject::Calling(Server::Node), Curl, MayBeRoots;
    go_python: Subject::Calling(Server::Go), PythonRequests, MayBeRoots;
    go_wrk: Subject::Calling(Server::Go), Wrk, MayBeRoots;
}
