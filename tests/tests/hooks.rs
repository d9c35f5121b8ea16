//! `--hooks`: an agent at the socket events hooks no system call, and one that cannot use them says so.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spoor_tests::{
    agent::{Agent, binary},
    net, otlp,
    services::{Server, Service, directory},
};

const REQUESTS: usize = 20;

#[test]
#[ignore = "needs root, the agent and nginx"]
fn each_family_traces_and_hooks_no_more_than_it_says() -> Result<()> {
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    for family in ["sock", "syscall"] {
        let works = doctor(family).with_context(|| format!("doctor --hooks={family}"))?;
        let traced = traces(&leaf, family).with_context(|| format!("--hooks={family}"));
        match (works, traced) {
            (true, traced) => traced?,
            // A kernel before 6.3.
            (false, Err(error)) if family == "sock" && format!("{error:#}").contains("Use --hooks=auto") => {}
            (false, traced) => anyhow::bail!("--hooks={family}: doctor says that nothing can be traced; {traced:?}"),
        }
    }
    Ok(())
}

/// Returns whether `spoor doctor` says that the family can be used, and checks what it says of the socket events.
fn doctor(family: &str) -> Result<bool> {
    let output = Command::new(binary()?)
        .args(["doctor", "--json", "--hooks", family])
        .stderr(Stdio::inherit())
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let checks = report["checks"].as_array().context("there are no checks")?;
    let events = checks.iter().find(|check| check["name"] == "socket events");
    let state = events.and_then(|check| check["state"].as_str());
    let works = report["works"] == true;
    let expected = match (family, works) {
        ("syscall", _) => "note",
        (_, true) => "works",
        (_, false) => "stops",
    };
    ensure!(state == Some(expected), "{report:#}");
    let all_named = checks.iter().filter(|check| check["group"] == "eBPF programs");
    let has = |name: &str| all_named.clone().any(|check| check["name"] == name);
    ensure!(has("sock_send") == (family == "sock") && has("read_exit") == (family == "syscall"));
    Ok(works)
}

/// Traces some requests with a family of hooks, and checks the spans, the metric, and where the programs are attached.
fn traces(leaf: &Service, family: &str) -> Result<()> {
    let directory = directory("hooks")?;
    let spans = directory.path().join("spans");
    let metrics = net::free_address();
    let mut command = Command::new(binary()?);
    command.args(["run", "--hooks", family]).args(leaf.selection()?);
    command.args([
        "--output",
        "otlp-json",
        "--control",
        "off",
        "--metrics-listen",
        &metrics.to_string(),
    ]);
    let agent = Agent::attach(command, File::create(&spans)?.into(), Some(metrics))?;
    let hooked = tracepoints(agent.id())?;
    let of_calls = hooked.iter().filter(|name| name.starts_with("sys_")).count();
    match family {
        "sock" => ensure!(
            of_calls == 0 && hooked.iter().any(|name| name == "sock_recv_length"),
            "the agent hooks {hooked:?}"
        ),
        // Older kernels do not tell the names of system calls' tracepoints.
        _ => ensure!(
            !hooked.iter().any(|name| name == "sock_recv_length"),
            "the agent hooks {hooked:?}"
        ),
    }
    let name = format!("spoor_hooks{{family=\"{family}\"}}");
    ensure!(agent.metrics()?.value(&name) == Some(1.0), "there is no {name}");
    for _ in 0..REQUESTS {
        ensure!(net::get(leaf.address, "/leaf", &[])? == 200);
    }
    let said = agent.finish()?;
    let spans = otlp::read(&spans)?;
    ensure!(
        spans.len() == REQUESTS,
        "{} spans; the agent said:\n{said}",
        spans.len()
    );
    ensure!(!said.contains("not available"), "the agent said:\n{said}");
    Ok(())
}

/// Returns the tracepoints that a process has programs at, from the links in its /proc/PID/fdinfo.
fn tracepoints(process: u32) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let name = text.lines().find_map(|line| line.strip_prefix("tp_name:"));
        names.extend(name.map(|name| name.trim().to_owned()));
    }
    Ok(names)
}
