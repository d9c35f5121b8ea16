//! A pool that gives one thread's connection to another thread, which serves another request: the call on it belongs to
//! that request.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::Recorder,
    net,
    otlp::{Kind, Span},
    process::Process,
    services::{Server, Service, sources},
};

const ROUNDS: usize = 20;

#[test]
#[ignore = "needs root, the agent and nginx"]
fn a_connection_that_another_thread_dialed() -> Result<()> {
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let address = net::free_address();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(sources().join("dialed.py"));
    command.env("OTEL_SERVICE_NAME", "pool");
    command.env("PORT", address.port().to_string());
    command.env("LEAF", leaf.address.to_string());
    let mut process = Process::start_with("the pool", command, Stdio::null(), Stdio::inherit(), Stdio::inherit())?;
    net::wait_accepting(address, &mut process)?;
    let agent = Recorder::start(&[format!("--pid={}", process.id())])?;
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            let dial = scope.spawn(move || net::get(address, "/dial", &[("x-request-id", &format!("dial-{round}"))]));
            // Long enough that the connection usually waits. In any order, the call is the second request's.
            thread::sleep(Duration::from_millis(20));
            let used = net::get(address, "/use", &[("x-request-id", &format!("use-{round}"))])?;
            let dialed = dial.join().expect("the request does not panic")?;
            ensure!((dialed, used) == (200, 200), "status {dialed} and {used}");
            Ok(())
        })?;
    }
    let (spans, said) = agent.finish()?;
    drop(process);
    check(&spans).with_context(|| format!("the agent said:\n{said}"))
}

fn check(spans: &[Span]) -> Result<()> {
    let calls: Vec<_> = spans.iter().filter(|span| span.kind == Kind::Client).collect();
    ensure!(calls.len() == ROUNDS, "{} spans of {ROUNDS} calls", calls.len());
    for call in calls {
        let parent = spans.iter().find(|span| span.span_id == call.parent_id);
        let of = parent.with_context(|| format!("no parent: {call:?}"))?.request_id();
        let own = call.request_id().and_then(|id| id.strip_suffix(".1"));
        ensure!(of.is_some() && of == own, "the parent is {of:?}: {call:?}");
    }
    Ok(())
}
