//! Services and clients without an agent: their log must be complete to be the ground truth.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use spoor_tests::{
    clients::{Client, Load},
    services::{Server, Service, route},
    truth,
};

const REQUESTS: usize = 200;

/// Clients, in the order in which the servers get them.
const CLIENTS: [Client; 12] = [
    Client::Curl,
    Client::PythonRequests,
    Client::NodeFetch,
    Client::Go,
    Client::Wrk,
    Client::Wget,
    Client::Aiohttp,
    Client::NodeHttp,
    Client::JavaHttpClient,
    Client::RubyNetHttp,
    Client::PhpCurl,
    Client::Hyper,
];

/// Returns all servers; the proxies pass requests on to `upstream`.
fn servers(upstream: SocketAddr) -> [Server; 25] {
    [
        Server::NginxProxy {
            upstream,
            keepalive: false,
        },
        Server::NginxProxy {
            upstream,
            keepalive: true,
        },
        Server::HaProxy { upstream },
        Server::GunicornSync,
        Server::GunicornGthread,
        Server::GunicornForwarding,
        Server::Puma { reactor: true },
        Server::Jdk,
        Server::Node,
        Server::Go,
        Server::Php,
        Server::Perl,
        Server::ApachePrefork,
        Server::ApacheWorker,
        Server::ApacheEvent { upstream },
        Server::Caddy { upstream },
        Server::Lighttpd { upstream },
        Server::Varnish { upstream },
        Server::Envoy { upstream },
        Server::Uvicorn,
        Server::PhpFpm,
        Server::Tomcat,
        Server::Jetty,
        Server::Hyper,
        Server::Inets,
    ]
}

#[test]
#[ignore = "needs the servers and clients to be installed"]
fn every_server_logs_what_every_client_does() -> Result<()> {
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let upstream = leaf.address;
    for (number, (server, client)) in servers(upstream)
        .into_iter()
        .zip(CLIENTS.into_iter().cycle())
        .enumerate()
    {
        let start = Instant::now();
        let service = Service::start(
            server,
            "server",
            &[route("/call", 200, 0, &[leaf.url("/leaf"), leaf.url("/leaf")])],
        )?;
        let url = service.url("/call");
        let prefix = &format!("truth{number}");
        let ready = start.elapsed();
        let load = Load {
            url: &url,
            count: REQUESTS,
            in_flight: 32,
            prefix,
        };
        let calls = client.prepare("client", load)?.run(Duration::from_secs(60))?;
        let events = truth::settled(|| {
            let mut events = calls.clone();
            events.extend(service.truth()?);
            let own = |event: &truth::Event| event.id.starts_with(&format!("{prefix}-"));
            events.extend(leaf.truth()?.into_iter().filter(own));
            Ok(events)
        })
        .with_context(|| format!("{server:?} with {client:?}"))?;
        let expected = REQUESTS * if server.is_proxy() { 4 } else { 6 };
        assert_eq!(events.len(), expected, "{server:?} with {client:?}");
        println!(
            "{server:?} with {client:?}: ready after {ready:.1?}, done after {:.1?}",
            start.elapsed()
        );
    }
    Ok(())
}
