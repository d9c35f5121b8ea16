//! Spans beside a process that calls bpf(2) all the time. A kernel that preempts everywhere then skips programs of system
//! calls: spans are missing and counted, but none is wrong. Programs at the socket events are not skipped for that.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use spoor::probe::Family;
use spoor_tests::{
    agent::{Agent, wanted_hooks},
    otlp::{self, Kind, Span},
    raw::{Exchange, end_of, target_of},
};

use crate::{
    own_path,
    threads::{Service, part, without_warm_up},
};

pub fn hammered() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("spans.json");
    let (mut service, agent) = Service::traced(&file)?;
    let (hammer, _) = part(own_path()?, "hammer", &[])?;
    service.requests("hammered", 4, 50)?;
    drop(hammer);
    // The agent reads its counters with the next records.
    service.requests("calm", 1, 5)?;
    service.wait_until_told(&file)?;
    let losses = losses(&agent)?;
    let said = agent.finish()?;
    let spans = without_warm_up(otlp::read(&file)?);
    let missing = nothing_wrong(&service.expected, &spans)
        .with_context(|| format!("lost: {losses:?}; the agent said: {said}"))?;
    ensure!(
        missing == 0 || !losses.is_empty(),
        "{missing} of {} spans are missing, and no counter tells of a loss",
        2 * service.expected.len()
    );
    ensure!(
        missing == 0 || !at_socket_events()? || programs_are_preempted()?,
        "{missing} of {} spans are missing at the socket events: {losses:?}; the agent said: {said}",
        2 * service.expected.len()
    );
    println!("counted: {losses:?}");
    println!("@kernels missing {missing}|{}", 2 * service.expected.len());
    service.end()
}

/// Checks that each span is expected and correct, and has the right parent or none. Returns the number of missing
/// spans.
pub fn nothing_wrong(expected: &[Exchange], spans: &[Span]) -> Result<usize> {
    let expected: BTreeMap<&str, &Exchange> = expected
        .iter()
        .map(|exchange| (exchange.target.as_str(), exchange))
        .collect();
    let mut seen: BTreeMap<(Kind, String), &Span> = BTreeMap::new();
    for span in spans {
        let target = target_of(span);
        let exchange = expected.get(target.as_str());
        let exchange = exchange.with_context(|| format!("a span of what was not done: {:?} {target}", span.kind))?;
        let end = if span.kind == Kind::Client {
            &exchange.client
        } else {
            &exchange.server
        };
        let says = end_of(span);
        ensure!(Some(&says) == end.as_ref(), "{:?} {target} says {says:?}", span.kind);
        ensure!(
            seen.insert((span.kind, target.clone()), span).is_none(),
            "{:?} {target} has two spans",
            span.kind
        );
    }
    for ((kind, target), span) in &seen {
        let parent = match (kind, expected[target.as_str()].made_for.as_deref()) {
            (Kind::Server, _) => seen.get(&(Kind::Client, target.clone())),
            (Kind::Client, Some(request)) => seen.get(&(Kind::Server, request.to_owned())),
            (Kind::Client, None) => None,
        };
        let right = span.parent_id.is_empty() || parent.is_some_and(|parent| parent.span_id == span.parent_id);
        ensure!(right, "{kind:?} {target} has a wrong parent");
    }
    Ok(2 * expected.len() - seen.len())
}

/// Returns whether this kernel lets the agent's programs preempt one another. It may do so at any time, and skips a
/// program that is already running on that processor.
pub fn programs_are_preempted() -> Result<bool> {
    /// First kernel that runs programs of raw tracepoints with preemption on.
    const RAW_TRACEPOINTS: (u32, u32) = (7, 0);
    /// Function that runs programs of system calls so.
    const SYSTEM_CALLS: &str = " trace_call_bpf_faultable";
    if at_socket_events()? && kernel()? >= RAW_TRACEPOINTS {
        return Ok(true);
    }
    let functions = std::fs::read_to_string("/proc/kallsyms").context("cannot read the kernel's functions")?;
    Ok(functions.lines().any(|line| line.ends_with(SYSTEM_CALLS)))
}

/// Returns whether agents see bytes at the socket events: where they choose, they do so from 6.3 on.
fn at_socket_events() -> Result<bool> {
    Ok(match wanted_hooks() {
        Some(family) => family == Family::Sock.name(),
        None => kernel()? >= (6, 3),
    })
}

/// Returns the first two numbers of the kernel's version.
fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("the kernel's release names no version: {release}"),
    }
}

/// Returns whether programs did nothing for this cause, from the agent's log at its end.
pub fn were_preempted(said: &str) -> Result<bool> {
    Ok(said.contains("program_preempted") || said.contains("program_skipped") && programs_are_preempted()?)
}

/// Returns the counters of loss that are not 0, in bytes, records or exchanges.
pub fn losses(agent: &Agent) -> Result<Vec<(&'static str, f64)>> {
    const COUNTERS: [&str; 9] = [
        "spoor_kernel_lost_total{cause=\"program_preempted\"}",
        "spoor_kernel_lost_total{cause=\"sequence_mismatch\"}",
        "spoor_kernel_lost_total{cause=\"unreported_bytes\"}",
        "spoor_kernel_lost_total{cause=\"ring_full\"}",
        "spoor_core_total{cause=\"missed\"}",
        "spoor_core_total{cause=\"missed_gap\"}",
        "spoor_core_total{cause=\"unsolicited\"}",
        "spoor_core_total{cause=\"gap_bytes\"}",
        "spoor_core_total{cause=\"unknown_connection\"}",
    ];
    let metrics = agent.metrics()?;
    let counted = COUNTERS.iter().filter_map(|name| Some((*name, metrics.value(name)?)));
    Ok(counted.filter(|(_, value)| *value != 0.0).collect())
}
