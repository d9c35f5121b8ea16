//! A server that asks Redis for each request: both ends of each command, under the request that it was made for.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use spoor_tests::{
    agent::Recorder,
    clients::Client,
    otlp::{Kind, Span},
    services::{Server, Service, route},
};

use super::{Calls, LOAD_LIMIT, REQUESTS, Scene};

#[test]
#[ignore = "needs root, the agent, gunicorn, nginx and Redis"]
fn gunicorn_redis() -> Result<()> {
    let redis = Service::start(Server::Redis, "cache", &[])?;
    let scene = Scene::serve("gunicorn_redis", |leaf| {
        let urls = [leaf.url("/leaf"), format!("redis://{}/", redis.address)];
        Service::start(Server::GunicornSync, "server", &[route("/call", 200, 0, &urls)])
    })?;
    let client = scene.client(Client::PythonRequests, REQUESTS)?;
    let mut selection = scene.selection(&client)?;
    selection.extend(redis.selection()?);
    let agent = Recorder::start(&selection)?;
    let sent = client.run(LOAD_LIMIT)?;
    let (spans, said) = agent.finish()?;
    let (commands, http): (Vec<_>, Vec<_>) = spans
        .into_iter()
        .partition(|span| span.text("db.system.name").is_some());
    let judged = scene
        .judge(&sent, &http, Calls::Certain, None)
        .and_then(|_| judge(&commands, &http));
    judged.with_context(|| format!("the agent said:\n{said}"))
}

/// Attributes of a command's span.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told<'a> {
    name: &'a str,
    keys: Option<u64>,
    error: Option<&'a str>,
}

fn told(span: &Span) -> Told<'_> {
    Told {
        name: &span.name,
        keys: span
            .attributes
            .get("spoor.db.key_count")
            .and_then(serde_json::Value::as_u64),
        error: span.text("error.type"),
    }
}

/// Holds the commands against the requests that the service logged: [`Scene::judge`] has found a span for each.
fn judge(commands: &[Span], http: &[Span]) -> Result<()> {
    let mut children: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in commands {
        children.entry(&span.parent_id).or_default().push(span);
    }
    let requests: Vec<_> = http
        .iter()
        .filter(|span| span.kind == Kind::Server && span.service == "server")
        .collect();
    ensure!(requests.len() == REQUESTS, "{} requests", requests.len());
    for request in &requests {
        let mut calls = children.remove(&*request.span_id).unwrap_or_default();
        calls.sort_by_key(|call| call.start_ns);
        let number = request
            .request_id()
            .and_then(|id| id.rsplit_once('-')?.1.parse::<u64>().ok());
        let number = number.context("a request without a number")?;
        let due = |name, keys, error| Told {
            name,
            keys: Some(keys),
            error,
        };
        let all = [
            due("SET", 1, None),
            due("EXISTS", 1 + number % 256, None),
            due("INCR", 1, Some("ERR")),
        ];
        let seen: Vec<_> = calls.iter().map(|call| told(call)).collect();
        ensure!(seen == all, "{request:?} made {seen:?}");
        for call in calls {
            ensure!(
                call.kind == Kind::Client && call.trace_id == request.trace_id,
                "{call:?}"
            );
            let served = children.remove(&*call.span_id).unwrap_or_default();
            let [served] = served.as_slice() else {
                anyhow::bail!("{call:?} is served by {served:?}");
            };
            ensure!(
                served.kind == Kind::Server && told(served) == told(call),
                "{call:?} {served:?}"
            );
            ensure!(
                served.trace_id == call.trace_id && served.service != "server",
                "{served:?}"
            );
            let times = [call.start_ns, served.start_ns, served.end_ns, call.end_ns];
            ensure!(times.is_sorted(), "{call:?} {served:?}");
        }
    }
    ensure!(children.is_empty(), "more commands than there were: {children:?}");
    println!(
        "| gunicorn_redis: {} commands, each with both ends |",
        commands.len() / 2
    );
    Ok(())
}
