//! `spoor run -- CMD…`: traces CMD and its children from the first byte, and exits as CMD does.

use std::{fs::OpenOptions, process::Command};

use anyhow::{Result, ensure};
use spoor_tests::{
    agent::{binary, hooks, run_command},
    compare::{Expectation, compare},
    services::{Server, Service},
    truth,
};

#[test]
#[ignore = "needs root, the agent, nginx and curl"]
fn short_lived_children_are_traced_from_their_first_byte() -> Result<()> {
    const REQUESTS: usize = 500;
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let url = leaf.url("/leaf");
    // A process for each request, 32 at a time.
    let script = format!(
        "seq {REQUESTS} | OTEL_SERVICE_NAME=client xargs -P 32 -I NUMBER \
        curl -s -o /dev/null -w 'C client command-NUMBER %{{http_code}}\\n' -H 'x-request-id: command-NUMBER' {url}"
    );
    let (code, spans, stdout) = run_command(&["sh", "-c", &script])?;
    let events = truth::parse(&stdout)?;
    ensure!(
        (code, events.len()) == (Some(0), REQUESTS),
        "exit code {code:?}, {} requests",
        events.len()
    );
    compare(&events, &spans, &Expectation::default()).check(1.0, 1.0)
}

#[test]
#[ignore = "needs root and the agent"]
fn its_end_is_that_of_the_command() -> Result<()> {
    for (script, expected) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
    ] {
        let (code, spans, stdout) = run_command(&["sh", "-c", &format!("echo said; {script}")])?;
        ensure!(
            (code, stdout.as_str()) == (Some(expected), "said\n"),
            "{script}: exit code {code:?}, printed {stdout:?}"
        );
        ensure!(spans.is_empty(), "{script}: {spans:?}");
    }
    Ok(())
}

/// Runs with standard error on a full disk: neither the agent nor the command ends.
#[test]
#[ignore = "needs root and the agent"]
fn nothing_ends_because_the_log_cannot_be_written() -> Result<()> {
    let full = || OpenOptions::new().write(true).open("/dev/full");
    let run = [
        "--metrics-listen",
        "127.0.0.1:0",
        "--control",
        "off",
        "--",
        "sh",
        "-c",
        "exit 7",
    ];
    let mut agent = Command::new(binary()?);
    agent.arg("run").args(hooks()).args(run);
    let status = agent.stderr(full()?).status()?;
    ensure!(status.code() == Some(7), "spoor run: {status}");
    let status = Command::new(binary()?)
        .args(["replay", "/no/tape"])
        .stderr(full()?)
        .status()?;
    ensure!(status.code() == Some(1), "spoor replay: {status}");
    Ok(())
}
