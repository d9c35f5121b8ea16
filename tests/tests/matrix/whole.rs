//! An agent that starts before the first request.

use anyhow::{Context as _, Result};
use spoor_tests::{agent::Recorder, clients::Client, services::Server};

use super::{Calls, LOAD_LIMIT, REQUESTS, Scene, Subject};

fn run(name: &'static str, subject: Subject, client: Client, calls: Calls) -> Result<()> {
    let scene = Scene::set(name, subject)?;
    let client = scene.client(client, REQUESTS)?;
    let agent = Recorder::start(&scene.selection(&client)?)?;
    let sent = client.run(LOAD_LIMIT)?;
    let (spans, said) = agent.finish()?;
    let judged = scene.judge(&sent, &spans, calls, None);
    judged.with_context(|| format!("the agent said:\n{said}"))?;
    Ok(())
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
