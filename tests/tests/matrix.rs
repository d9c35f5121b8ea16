//! Every server with several clients, each client with several servers: 2,048 requests, 32 in flight, all processes traced by
//! one agent, and every span and every parent held against what the processes logged.
//!
//! A server under test makes two calls for each request, a proxy one. The table of the outcomes is on standard output
//! (`--nocapture`).

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use spoor_tests::{
    agent::Recorder,
    clients::{Client, Load},
    compare::{Expectation, Fault, Report, compare},
    otlp::Span,
    services::{Server, Service, route},
    truth::{self, Event},
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
    NginxProxy {
        keepalive: bool,
    },
    /// Another proxy.
    Proxy(fn(SocketAddr) -> Server),
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
        Subject::Proxy(server) => (server(upstream), vec![]),
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
    let sent = client.run(Duration::from_secs(90))?;
    let (spans, said) = agent.finish()?;
    let events = truth::settled(|| {
        let mut events = sent.clone();
        for service in [&service, &leaf] {
            events.extend(service.truth()?);
        }
        Ok(events)
    })?;
    let titled = [&service, &leaf].into_iter().filter(|service| service.titled);
    let titled: BTreeSet<_> = titled.map(|service| service.name.clone()).collect();
    let expectation = Expectation {
        titled,
        ..Expectation::default()
    };
    let report = compare(&events, &spans, &expectation);
    print_row(name, &report, start.elapsed());
    let call_recall = match calls {
        Calls::Certain => PARENTS,
        Calls::MayBeRoots => 0.0,
    };
    let checked = report.check(PARENTS, call_recall);
    checked.map_err(|error| anyhow!("{error}\nthe agent said:\n{said}"))?;
    one_less_is_noticed(&events, &spans, &expectation)
}

/// A comparison that could not fail would be worth nothing: it must, when any one of the spans is taken away.
fn one_less_is_noticed(events: &[Event], spans: &[Span], expectation: &Expectation<'_>) -> Result<()> {
    let mut less = spans.to_vec();
    for taken in [0, spans.len() / 2, spans.len() - 1] {
        let span = less.remove(taken);
        let missing = compare(events, &less, expectation).count(Fault::Missing);
        ensure!(missing == 1, "without {span:?} {missing} spans are said to be missing");
        less.insert(taken, span);
    }
    Ok(())
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
    nginx_static_wget: Subject::NginxStatic, Wget, Certain;
    nginx_proxy_python: Subject::NginxProxy { keepalive: false }, PythonRequests, Certain;
    nginx_proxy_wrk: Subject::NginxProxy { keepalive: false }, Wrk, Certain;
    nginx_proxy_keepalive_curl: Subject::NginxProxy { keepalive: true }, Curl, Certain;
    nginx_proxy_keepalive_go: Subject::NginxProxy { keepalive: true }, Go, Certain;
    apache_prefork_python: Subject::Calling(Server::ApachePrefork), PythonRequests, Certain;
    apache_prefork_php: Subject::Calling(Server::ApachePrefork), PhpCurl, Certain;
    apache_worker_curl: Subject::Calling(Server::ApacheWorker), Curl, Certain;
    apache_worker_ruby: Subject::Calling(Server::ApacheWorker), RubyNetHttp, Certain;
    apache_event_node: Subject::Proxy(|upstream| Server::ApacheEvent { upstream }), NodeHttp, Certain;
    apache_event_wrk: Subject::Proxy(|upstream| Server::ApacheEvent { upstream }), Wrk, Certain;
    caddy_java: Subject::Proxy(|upstream| Server::Caddy { upstream }), JavaHttpClient, MayBeRoots;
    caddy_wrk: Subject::Proxy(|upstream| Server::Caddy { upstream }), Wrk, MayBeRoots;
    lighttpd_aiohttp: Subject::Proxy(|upstream| Server::Lighttpd { upstream }), Aiohttp, MayBeRoots;
    lighttpd_hyper: Subject::Proxy(|upstream| Server::Lighttpd { upstream }), Hyper, MayBeRoots;
    haproxy_node: Subject::Proxy(|upstream| Server::HaProxy { upstream }), NodeHttp, MayBeRoots;
    haproxy_curl: Subject::Proxy(|upstream| Server::HaProxy { upstream }), Curl, MayBeRoots;
    varnish_ruby: Subject::Proxy(|upstream| Server::Varnish { upstream }), RubyNetHttp, MayBeRoots;
    varnish_wrk: Subject::Proxy(|upstream| Server::Varnish { upstream }), Wrk, MayBeRoots;
    envoy_go: Subject::Proxy(|upstream| Server::Envoy { upstream }), Go, MayBeRoots;
    envoy_php: Subject::Proxy(|upstream| Server::Envoy { upstream }), PhpCurl, MayBeRoots;
    gunicorn_sync_python: Subject::Calling(Server::GunicornSync), PythonRequests, Certain;
    gunicorn_sync_curl: Subject::Calling(Server::GunicornSync), Curl, Certain;
    gunicorn_gthread_node: Subject::Calling(Server::GunicornGthread), NodeFetch, Certain;
    gunicorn_gthread_wrk: Subject::Calling(Server::GunicornGthread), Wrk, Certain;
    uvicorn_aiohttp: Subject::Calling(Server::Uvicorn), Aiohttp, MayBeRoots;
    uvicorn_java: Subject::Calling(Server::Uvicorn), JavaHttpClient, MayBeRoots;
    puma_python: Subject::Calling(Server::Puma { reactor: true }), PythonRequests, Certain;
    puma_go: Subject::Calling(Server::Puma { reactor: true }), Go, Certain;
    puma_without_reactor_python: Subject::Calling(Server::Puma { reactor: false }), PythonConnections, Certain;
    php_hyper: Subject::Calling(Server::Php), Hyper, Certain;
    php_wget: Subject::Calling(Server::Php), Wget, Certain;
    php_fpm_curl: Subject::Calling(Server::PhpFpm), Curl, MayBeRoots;
    php_fpm_go: Subject::Calling(Server::PhpFpm), Go, MayBeRoots;
    tomcat_java: Subject::Calling(Server::Tomcat), JavaHttpClient, Certain;
    tomcat_wrk: Subject::Calling(Server::Tomcat), Wrk, Certain;
    jetty_ruby: Subject::Calling(Server::Jetty), RubyNetHttp, Certain;
    jetty_hyper: Subject::Calling(Server::Jetty), Hyper, Certain;
    jdk_node: Subject::Calling(Server::Jdk), NodeFetch, Certain;
    jdk_wrk: Subject::Calling(Server::Jdk), Wrk, Certain;
    node_go: Subject::Calling(Server::Node), Go, MayBeRoots;
    node_curl: Subject::Calling(Server::Node), Curl, MayBeRoots;
    go_python: Subject::Calling(Server::Go), PythonRequests, MayBeRoots;
    go_wrk: Subject::Calling(Server::Go), Wrk, MayBeRoots;
    hyper_aiohttp: Subject::Calling(Server::Hyper), Aiohttp, MayBeRoots;
    hyper_php: Subject::Calling(Server::Hyper), PhpCurl, MayBeRoots;
    inets_curl: Subject::Calling(Server::Inets), Curl, MayBeRoots;
    inets_node: Subject::Calling(Server::Inets), NodeFetch, MayBeRoots;
}
