//! Features, and their results.

use std::collections::BTreeMap;

use anyhow::Result;
use spoor_tests::{
    agent::Recorder,
    otlp::{Kind, Span},
    raw::{Difference, Exchange, World, compare, open_older, play, selection, target_of},
};

use crate::{beside, lossy::were_preempted};

/// Reason for missing spans that is no fault.
const UNSEEN: &str = "a few spans or links are missing: this kernel lets the program of one call preempt that of another, and then \
                      the second call is not seen, which the counters `program_preempted` and `program_skipped` tell";

/// Printer of results, a line each.
#[derive(Default)]
pub struct Report {
    failed: usize,
}

impl Report {
    /// Tries a feature.
    pub fn feature(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        let result = run().map_err(|error| format!("{error:#}"));
        self.tell(name, result);
    }

    /// Prints the result of a feature.
    pub fn tell(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => println!("@kernels feature {name}|works"),
            Err(reason) => {
                self.failed += 1;
                let flat: String = reason.split_whitespace().collect::<Vec<_>>().join(" ");
                let short: String = flat.chars().take(700).collect();
                println!("@kernels feature {name}|failed|{short}");
            }
        }
    }

    /// Prints that this machine cannot do it.
    fn cannot(name: &str, reason: &str) {
        println!("@kernels feature {name}|cannot|{reason}");
    }

    /// Returns whether nothing failed.
    pub fn all_good(&self) -> bool {
        self.failed == 0
    }
}

/// Checks that no program is refused.
fn load(said: &str) -> Result<(), String> {
    let refused: Vec<&str> = said.lines().filter(|line| line.contains("not available")).collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(refused.join("; "))
    }
}

/// Returns the feature that a case of the raw-socket test belongs to.
fn feature_of(case: &str) -> &'static str {
    match case {
        "late-accept" | "same-number" => "accept(2), accept4(2)",
        "unseen-bodies" => "sendfile(2), splice(2)",
        "namespaces" => "network namespaces",
        "proxy" => "calls and what they were made for",
        "tagged-addresses" => "addresses with a tag",
        "calls" | "many-buffers" | "peek" | "truncate" | "zero-length" => "each way to send and to receive",
        "upload" | "download" | "slow-reader" => "large bodies",
        "ipv6" | "v4-mapped-server" | "v4-mapped-client" => "IPv6",
        "kernel-tls" => "TLS in the kernel is opaque",
        "mptcp" | "mptcp-client" | "mptcp-server" => "multipath TCP",
        "fast-open" => "TCP Fast Open",
        "zerocopy" | "more" | "spliced-bodies" | "spliced-wholly" => "sendfile(2), splice(2)",
        "threads-in-turn" | "threads-at-once" => "threads that share a connection",
        "passed-descriptor" | "replaced-under-read" | "close-range" | "one-process" => {
            "descriptors that are duplicated, passed on, closed at once"
        }
        "refused" | "unreachable" | "no-local-port" | "listener-full" => "connects that fail",
        "head" | "no-content" | "not-modified" | "continue" | "early-hints" | "upgrade" | "connect-method" => {
            "the framing of HTTP/1"
        }
        _ if case.starts_with("pipelining") || case == "merged-responses" => "pipelining",
        _ if case.contains("unix") => "Unix sockets",
        _ if case.starts_with("fork") => "fork(2)",
        _ if case.starts_with("duplicate") => "descriptors that are duplicated, passed on, closed at once",
        _ if case.starts_with("chunked-") && !case.starts_with("chunked-e") && !case.starts_with("chunked-r") => {
            "large bodies"
        }
        _ if ["reset", "closed", "client-", "half", "race", "killed"]
            .iter()
            .any(|word| case.starts_with(word)) =>
        {
            "resets, time limits, killed processes"
        }
        _ => "the framing of HTTP/1",
    }
}

/// Plays all cases of the raw-socket test, and compares all spans and parents.
pub fn raw(report: &mut Report) {
    let played = || -> Result<(World, Vec<Span>, String)> {
        let mut world = World::start(&beside("rawpeer")?)?;
        open_older(&mut world)?;
        let agent = Recorder::start(&selection(&world))?;
        play(&mut world, &agent.agent)?;
        let (spans, said) = agent.finish()?;
        Ok((world, spans, said))
    };
    let (world, spans, said) = match played() {
        Ok(played) => played,
        Err(error) => return report.tell("raw sockets", Err(format!("{error:#}"))),
    };
    report.tell("every program loads", load(&said));
    // The agent's last log lines name the counters that have grown.
    let preempted = match were_preempted(&said) {
        Ok(preempted) => preempted,
        Err(error) => return report.tell("raw sockets", Err(format!("{error:#}"))),
    };
    report.tell("same-host links", same_host(&world.expected, &spans, preempted));
    let mut differences = compare(&world.expected, &spans).0;
    let mut features: BTreeMap<&str, Vec<Difference>> = BTreeMap::new();
    for case in &world.cases {
        let wrong = features.entry(feature_of(case)).or_default();
        for mut difference in differences.remove(case).into_iter().flatten() {
            difference.text = format!("{case}: {difference}");
            wrong.push(difference);
        }
    }
    let stray: Vec<Difference> = differences.into_values().flatten().collect();
    if !stray.is_empty() {
        features.insert("nothing but what was done", stray);
    }
    let any = features.values().any(|wrong| !wrong.is_empty());
    let skipped: BTreeMap<&str, &str> = world
        .skipped
        .iter()
        .map(|(case, reason)| (feature_of(case), *reason))
        .collect();
    for (feature, reason) in skipped {
        if !features.contains_key(feature) {
            Report::cannot(feature, reason);
        }
    }
    for (feature, wrong) in features {
        if preempted && !wrong.is_empty() && wrong.iter().all(|difference| difference.may_be_unseen) {
            Report::cannot(feature, UNSEEN);
            continue;
        }
        let texts: Vec<&str> = wrong.iter().map(|difference| difference.text.as_str()).collect();
        let reason = format!("{} differences: {}", wrong.len(), texts.join("; "));
        report.tell(feature, if wrong.is_empty() { Ok(()) } else { Err(reason) });
    }
    println!(
        "{} cases, {} exchanges, {} spans",
        world.cases.len(),
        world.expected.len(),
        spans.len()
    );
    if any {
        println!("the agent said:\n{said}");
    }
}

/// Checks that each request seen at both ends is a child of the call that sent it, where the ends of its connection can
/// be matched. Where programs were preempted, it may be a root instead.
fn same_host(expected: &[Exchange], spans: &[Span], preempted: bool) -> Result<(), String> {
    let calls: BTreeMap<String, &Span> = spans
        .iter()
        .filter(|span| span.kind == Kind::Client)
        .map(|span| (target_of(span), span))
        .collect();
    let both = expected
        .iter()
        .filter(|exchange| exchange.client.is_some() && exchange.server.is_some() && !exchange.apart);
    let both: BTreeMap<&str, ()> = both.map(|exchange| (exchange.target.as_str(), ())).collect();
    let mut linked = 0;
    for server in spans.iter().filter(|span| span.kind == Kind::Server) {
        let target = target_of(server);
        if !both.contains_key(target.as_str()) {
            continue;
        }
        let Some(client) = calls.get(&target) else { continue };
        if preempted && server.parent_id.is_empty() {
            continue;
        }
        if server.parent_id != client.span_id || server.text("spoor.parent.method") != Some("same-host") {
            return Err(format!("the server's span of {target} is not the client's child"));
        }
        linked += 1;
    }
    if linked == 0 {
        return Err("no request was seen at both ends".to_owned());
    }
    Ok(())
}
