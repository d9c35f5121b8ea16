//! HTTP over real sockets, byte by byte and call by call, with the agent attached to both ends: every case says which spans
//! there must be, and nothing else may be there. Then the same through tapes.

mod bodies;
mod calls;
mod ends;
mod expected;
mod load;
mod messages;
mod namespaces;
mod odd;
mod peer;
mod sockets;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use expected::compare;
use spoor_tests::{
    agent::{Agent, Recorder, Tape},
    otlp::Span,
};
use world::World;

/// How long the agent may take to attach the hooks that it needs for Unix connections.
const HOOKS_LIMIT: Duration = Duration::from_secs(20);

/// Cases that the agent is known to get wrong, each with the reason. They are played and compared like all others; what is
/// different is printed, and one that comes out right must leave this list.
const KNOWN_FAILING: &[(&str, &str)] = &[];

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn over_real_sockets() -> Result<()> {
    let mut world = World::start()?;
    let agent = Recorder::start(&selection(&world))?;
    play(&mut world, &agent.agent)?;
    check_counters(&world, &agent.agent)?;
    let (spans, said) = agent.finish()?;
    check(&world, &spans, &said)
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn through_tapes() -> Result<()> {
    let mut world = World::start()?;
    let tape = Tape::record(&selection(&world))?;
    play(&mut world, &tape.agent)?;
    let (tape, said) = tape.finish()?;
    // For a golden test: see agent/tests/golden.rs.
    if let Some(path) = std::env::var_os("SPOOR_RAW_TAPE") {
        tape.copy_to(path.as_ref())?;
    }
    let (first, spans) = tape.replay()?;
    let (second, _) = tape.replay()?;
    ensure!(first == second, "two replays of one tape are different");
    check(&world, &spans, &said)
}

/// All peers, and a log of what the agent attaches.
fn selection(world: &World) -> Vec<String> {
    let mut arguments = world.selection();
    arguments.push("--log-level=debug".to_owned());
    arguments
}

fn play(world: &mut World, agent: &Agent) -> Result<()> {
    // The hooks for their ends are attached when a Unix connection carries HTTP: what ended before is missed.
    world.cases.push("unix-first".to_owned());
    sockets::over_unix(world, "unix-first")?;
    agent.wait_until_said("ends of Unix connections are told from now on", HOOKS_LIMIT)?;
    messages::play(world)?;
    ends::play(world)?;
    calls::play(world)?;
    sockets::play(world)?;
    bodies::play(world)?;
    odd::play(world)
}

/// What gives no span, or no link, is counted.
fn check_counters(world: &World, agent: &Agent) -> Result<()> {
    // They are shown when the agent has nothing to do.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = agent.metrics()?;
        let wrong = world
            .counters
            .iter()
            .find(|&(series, expected)| metrics.value(series) != Some(*expected));
        match wrong {
            None => return Ok(()),
            Some((series, expected)) => ensure!(
                Instant::now() < until,
                "{series} is {:?}, not {expected}",
                metrics.value(series)
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn check(world: &World, spans: &[Span], said: &str) -> Result<()> {
    let mut differences = compare(&world.expected, spans);
    let mut better = Vec::new();
    for (case, reason) in KNOWN_FAILING {
        match differences.0.remove(*case) {
            Some(these) => println!(
                "known to fail: {case}: {reason}: {} differences: {:.300}",
                these.len(),
                these[0]
            ),
            None => better.push(*case),
        }
    }
    println!(
        "{} cases, {} exchanges, {} spans, {} cases known to fail, {} skipped",
        world.cases.len(),
        world.expected.len(),
        spans.len(),
        KNOWN_FAILING.len() - better.len(),
        usize::from(world.namespaces.is_none()),
    );
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    // Cases that were not played cannot have come out right.
    if std::env::var_os("SPOOR_RAW_CASE").is_some() {
        return Ok(());
    }
    ensure!(
        better.is_empty(),
        "no longer failing, take them off KNOWN_FAILING: {better:?}"
    );
    Ok(())
}
