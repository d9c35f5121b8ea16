//! Event loops of real programs: a request waits while a task beside it makes calls. No such call is the request's
//! child, although it is the only request and its thread makes the call.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::Recorder,
    net,
    otlp::{Kind, Span},
    process::Process,
    services::{Server, Service, built, sources},
};

/// Number of requests, one after the other, each of which waits for a second.
const REQUESTS: usize = 3;
/// Least number of calls of the task meanwhile: it pauses for 100 ms after each.
const CALLS: usize = REQUESTS * 5;
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn background_calls_are_roots(name: &'static str, mut command: Command) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let address = net::free_address();
    for (key, value) in [
        ("OTEL_SERVICE_NAME", "loop".to_owned()),
        ("PORT", address.port().to_string()),
        ("URL", leaf.url("/leaf")),
    ] {
        command.env(key, value);
    }
    let mut process = Process::start_with(name, command, Stdio::null(), Stdio::inherit(), Stdio::inherit())?;
    net::wait_accepting(address, &mut process)?;
    // Workers have the port, too.
    let agent = Recorder::start(&[format!("--port={}", address.port())])?;
    for _ in 0..REQUESTS {
        wait(address)?;
    }
    let (spans, said) = agent.finish()?;
    drop(process);
    check(&spans).with_context(|| format!("the agent said:\n{said}"))
}

fn wait(address: SocketAddr) -> Result<()> {
    let status = net::get(address, "/wait", &[])?;
    ensure!(status == 200, "status {status}");
    // The task also calls while there is no request.
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

fn check(spans: &[Span]) -> Result<()> {
    let of = |kind| spans.iter().filter(move |span| span.kind == kind);
    let (waited, called) = (of(Kind::Server).count(), of(Kind::Client).count());
    ensure!(waited == REQUESTS, "{waited} spans of {REQUESTS} requests");
    ensure!(called >= CALLS, "{called} spans of at least {CALLS} calls");
    let children: Vec<_> = of(Kind::Client).filter(|span| !span.parent_id.is_empty()).collect();
    ensure!(
        children.is_empty(),
        "{} of {called} calls have a parent: {children:#?}",
        children.len()
    );
    Ok(())
}

fn python(of: &str, keep: bool) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(sources().join("loop.py"));
    command.env("LOOP", of).env("KEEP", if keep { "1" } else { "0" });
    command
}

#[test]
#[ignore = "needs root, the agent, nginx and aiohttp"]
fn asyncio() -> Result<()> {
    background_calls_are_roots("asyncio", python("asyncio", false))
}

#[test]
#[ignore = "needs root, the agent, nginx and aiohttp"]
fn asyncio_with_a_kept_connection() -> Result<()> {
    background_calls_are_roots("asyncio", python("asyncio", true))
}

/// Only the loop's own connections are in its epoll set.
#[test]
#[ignore = "needs root, the agent, nginx and aiohttp"]
fn asyncio_that_is_blocked() -> Result<()> {
    background_calls_are_roots("blocking", python("blocking", false))
}

#[test]
#[ignore = "needs root, the agent, nginx and aiohttp"]
fn asyncio_that_is_blocked_on_a_kept_connection() -> Result<()> {
    background_calls_are_roots("blocking", python("blocking", true))
}

#[test]
#[ignore = "needs root, the agent, nginx and gevent"]
fn gevent() -> Result<()> {
    background_calls_are_roots("gevent", python("gevent", false))
}

#[test]
#[ignore = "needs root, the agent, nginx and gevent"]
fn gevent_with_a_kept_connection() -> Result<()> {
    background_calls_are_roots("gevent", python("gevent", true))
}

/// A worker of gunicorn. eventlet takes a socket out of its epoll set before it reads.
fn eventlet(keep: bool) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["/usr/bin/gunicorn", "--worker-class=eventlet", "--log-level=error"]);
    command.arg("--chdir").arg(sources()).arg("loop:eventlet_application()");
    command
        .env("LOOP", "eventlet")
        .env("KEEP", if keep { "1" } else { "0" });
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
#[ignore = "needs root, the agent, nginx, gunicorn and eventlet"]
fn workers_of_eventlet() -> Result<()> {
    background_calls_are_roots("eventlet", eventlet(false))
}

#[test]
#[ignore = "needs root, the agent, nginx, gunicorn and eventlet"]
fn workers_of_eventlet_with_a_kept_connection() -> Result<()> {
    background_calls_are_roots("eventlet", eventlet(true))
}

#[test]
#[ignore = "needs root, the agent, nginx and Ruby's async-io"]
fn fibers_of_ruby() -> Result<()> {
    let mut command = Command::new("ruby");
    command.arg(sources().join("loop.rb"));
    background_calls_are_roots("async", command)
}

#[test]
#[ignore = "needs root, the agent, nginx and Netty"]
fn netty() -> Result<()> {
    let classes = built::netty()?;
    let mut command = Command::new("java");
    command.args(["-cp", &classes, "NettyService"]);
    background_calls_are_roots("netty", command)
}
