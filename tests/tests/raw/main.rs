//! HTTP over real sockets, byte by byte and call by call, with the agent attached to both ends: every case names its
//! spans, and there must be no others. Then the same through tapes.

mod hostile;
mod load;
mod uncounted;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use spoor_tests::{
    agent::{Agent, Recorder, Tape},
    otlp::Span,
    raw::{World, compare, open_older, play, response, selection},
};

/// Path of the peers' program.
const RAWPEER: &str = env!("CARGO_BIN_EXE_rawpeer");

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn over_real_sockets() -> Result<()> {
    let mut world = World::start(RAWPEER.as_ref())?;
    open_older(&mut world)?;
    let agent = Recorder::start(&selection(&world))?;
    play(&mut world, &agent.agent)?;
    check_counters(&mut world, &agent.agent)?;
    let (spans, said) = agent.finish()?;
    check(&world, &spans, &said)
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn through_tapes() -> Result<()> {
    let mut world = World::start(RAWPEER.as_ref())?;
    open_older(&mut world)?;
    let tape = Tape::record(&selection(&world))?;
    play(&mut world, &tape.agent)?;
    let (tape, said) = tape.finish()?;
    // Tape for a golden test: see agent/tests/golden.rs.
    if let Some(path) = std::env::var_os("SPOOR_RAW_TAPE") {
        tape.copy_to(path.as_ref())?;
    }
    let (first, spans) = tape.replay()?;
    let (second, _) = tape.replay()?;
    ensure!(first == second, "two replays of one tape are different");
    check(&world, &spans, &said)
}

/// Checks the counters of exchanges without a span or a link.
fn check_counters(world: &mut World, agent: &Agent) -> Result<()> {
    // Both ends count telemetry, which only this case sends. Once this counter is right, so are the earlier ones.
    const LAST: &str = "spoor_core_total{cause=\"telemetry_ignored\"}";
    let connection = world.connect()?;
    let export = "POST /v1/traces HTTP/1.1\r\nHost: raw.test\r\nContent-Type: application/x-protobuf\r\n\
                  Content-Length: 2\r\n\r\n\n\0";
    world.exchange(&connection, export, &response(200, ""))?;
    world.close(&connection)?;
    let until = Instant::now() + Duration::from_secs(10);
    let metrics = loop {
        let metrics = agent.metrics()?;
        let shown = metrics.value(LAST);
        if shown == Some(2.0) {
            break metrics;
        }
        ensure!(Instant::now() < until, "{LAST} is {shown:?}, not 2");
        std::thread::sleep(Duration::from_millis(50));
    };
    for (series, expected) in &world.counters {
        let value = metrics.value(series);
        ensure!(value == Some(*expected), "{series} is {value:?}, not {expected}");
    }
    Ok(())
}

fn check(world: &World, spans: &[Span], said: &str) -> Result<()> {
    let differences = compare(&world.expected, spans);
    println!(
        "{} cases, {} exchanges, {} spans, {} skipped",
        world.cases.len(),
        world.expected.len(),
        spans.len(),
        world.skipped.len(),
    );
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    Ok(())
}
