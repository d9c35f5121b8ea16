//! Load that begins before the agent: it attaches while requests are in flight on connections that it did not see
//! begin.
//!
//! A request began after the attach if its client logged its beginning (before it sent a byte) at or after the time at
//! which the agent's line `ready` was read. Such a request must have all spans and parents, as in [`super::whole`].
//! Earlier requests may lack them, but none may be wrong.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use spoor_tests::{
    agent::Recorder,
    clients::Client,
    compare::{Fault, Report, caller},
    otlp::{Kind, Span},
    services::Server,
    truth::Event,
};

use super::{Calls, IN_FLIGHT, LOAD_LIMIT, REQUESTS, Scene, Subject};

/// Number of requests that are answered before the agent comes: all connections are open by then.
const BEFORE: usize = 8 * IN_FLIGHT;
/// More requests than the time allows.
const UNTIL_STOPPED: usize = 100_000_000;

fn run(name: &'static str, subject: Subject, client: Client, calls: Calls) -> Result<()> {
    let scene = Scene::set(name, subject)?;
    let client = scene.client(client, UNTIL_STOPPED)?;
    let selection = scene.selection(&client)?;
    let mut client = client.start()?;
    client.wait_for(LOAD_LIMIT, |logged| logged.len() >= BEFORE)?;

    let agent = Recorder::start(&selection)?;
    let attached_ns = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().try_into()?;
    let is_after = |event: &&Event| event.began_ns.is_some_and(|began_ns| began_ns >= attached_ns);
    client.wait_for(LOAD_LIMIT, |logged| logged.iter().filter(is_after).count() >= REQUESTS)?;
    let sent = client.stop(Duration::from_secs(20))?;
    let (spans, said) = agent.finish()?;

    ensure!(
        sent.iter().all(|event| event.began_ns.is_some()),
        "the client did not log when it began"
    );
    let judged = scene.judge(&sent, &spans, calls, Some(attached_ns));
    let judged = judged.and_then(|report| match calls {
        Calls::Certain => only_first_calls_are_roots(&report, &spans, matches!(subject, Subject::NginxProxy { .. })),
        Calls::MayBeRoots => Ok(()),
    });
    judged.with_context(|| format!("the agent said:\n{said}"))
}

/// Checks that calls without a parent are first calls on older connections. The first request on such a connection is
/// known when its response comes, so a call before it is a root. So is nginx's first call there, because the turn that
/// made it is over then. The number of such connections bounds the number of roots.
fn only_first_calls_are_roots(report: &Report, spans: &[Span], of_nginx: bool) -> Result<()> {
    let mut requests = HashMap::new();
    let mut first_on = HashMap::new();
    for span in spans.iter().filter(|span| span.kind == Kind::Server) {
        let Some(id) = span.request_id() else { continue };
        let connection = (span.service.as_str(), span.attributes.get("network.peer.port"));
        requests.insert(id, connection);
        let first = first_on.entry(connection).or_insert(span);
        if span.start_ns < first.start_ns {
            *first = span;
        }
    }
    let is_first = |id: &str| {
        let connection = requests.get(id)?;
        (first_on.get(connection)?.request_id() == Some(id)).then_some(*connection)
    };
    let mut excused = HashSet::new();
    let mut excused_in_nginx = HashSet::new();
    for orphan in report.of(Fault::NoParent) {
        if let Some(connection) = caller(&orphan.id).and_then(is_first) {
            excused.insert(connection);
        } else if let Some(connection) = is_first(&orphan.id).filter(|_| of_nginx) {
            excused_in_nginx.insert(connection);
        } else {
            bail!("{} has no parent, and is not the first of its connection", orphan.text);
        }
    }
    let most = excused.len().max(excused_in_nginx.len());
    ensure!(
        most <= IN_FLIGHT,
        "calls of {most} connections are roots, of {IN_FLIGHT}: {report}"
    );
    Ok(())
}

macro_rules! matrix {
    ($($name:ident: $subject:expr, $client:ident, $calls:ident;)*) => {$(
        #[test]
        #[ignore = "needs root, the agent and the servers and clients"]
        fn $name() -> Result<()> {
            run(concat!("attached_", stringify!($name)), $subject, Client::$client, Calls::$calls)
        }
    )*};
}

matrix! {
    nginx_static: Subject::NginxStatic, PythonRequests, Certain;
    nginx_proxy: Subject::NginxProxy { keepalive: false }, Go, Certain;
    nginx_proxy_keepalive: Subject::NginxProxy { keepalive: true }, NodeHttp, Certain;
    apache_prefork: Subject::Calling(Server::ApachePrefork), RubyNetHttp, Certain;
    apache_worker: Subject::Calling(Server::ApacheWorker), Hyper, Certain;
    apache_event: Subject::Proxy(|upstream| Server::ApacheEvent { upstream }), PythonRequests, Certain;
    caddy: Subject::Proxy(|upstream| Server::Caddy { upstream }), Aiohttp, MayBeRoots;
    lighttpd: Subject::Proxy(|upstream| Server::Lighttpd { upstream }), JavaHttpClient, MayBeRoots;
    haproxy: Subject::Proxy(|upstream| Server::HaProxy { upstream }), Go, MayBeRoots;
    varnish: Subject::Proxy(|upstream| Server::Varnish { upstream }), NodeFetch, MayBeRoots;
    envoy: Subject::Proxy(|upstream| Server::Envoy { upstream }), Hyper, MayBeRoots;
    gunicorn_sync: Subject::Calling(Server::GunicornSync), Go, Certain;
    gunicorn_gthread: Subject::Calling(Server::GunicornGthread), PhpCurl, Certain;
    uvicorn: Subject::Calling(Server::Uvicorn), Go, MayBeRoots;
    puma: Subject::Calling(Server::Puma { reactor: true }), NodeFetch, Certain;
    php: Subject::Calling(Server::Php), PythonConnections, Certain;
    php_fpm: Subject::Calling(Server::PhpFpm), RubyNetHttp, MayBeRoots;
    tomcat: Subject::Calling(Server::Tomcat), Go, Certain;
    jetty: Subject::Calling(Server::Jetty), PhpCurl, Certain;
    jdk: Subject::Calling(Server::Jdk), Hyper, Certain;
    node: Subject::Calling(Server::Node), JavaHttpClient, MayBeRoots;
    go: Subject::Calling(Server::Go), Aiohttp, MayBeRoots;
    hyper: Subject::Calling(Server::Hyper), RubyNetHttp, MayBeRoots;
    inets: Subject::Calling(Server::Inets), Go, MayBeRoots;
}
