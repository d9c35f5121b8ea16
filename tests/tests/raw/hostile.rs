//! Misleading bytes, in cases and in random conversations: all spans at both ends, and no counter of loss.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::{Agent, Recorder},
    raw::{World, compare, converse, play_hostile},
};

use crate::RAWPEER;

/// Duration of the conversations.
const TIME: Duration = Duration::from_secs(20);
/// Variable with the seed, to repeat a conversation.
const SEED: &str = "SPOOR_RAW_SEED";
/// Time in which the agent reads the programs' counters.
const COUNTING_TIME: Duration = Duration::from_millis(1500);

/// Counters that must stay 0: whatever the bytes are, the programs and Core follow the messages.
const LOSSES: [&str; 15] = [
    "spoor_kernel_lost_total{cause=\"ring_full\"}",
    "spoor_kernel_lost_total{cause=\"sequence_mismatch\"}",
    "spoor_kernel_lost_total{cause=\"unreported_bytes\"}",
    "spoor_kernel_lost_total{cause=\"user_fault\"}",
    "spoor_kernel_lost_total{cause=\"kernel_fault\"}",
    "spoor_kernel_lost_total{cause=\"too_many_buffers\"}",
    "spoor_kernel_lost_total{cause=\"no_reporter\"}",
    "spoor_core_total{cause=\"malformed_records\"}",
    "spoor_core_total{cause=\"missed\"}",
    "spoor_core_total{cause=\"missed_gap\"}",
    "spoor_core_total{cause=\"malformed\"}",
    "spoor_core_total{cause=\"unsolicited\"}",
    "spoor_core_total{cause=\"unknown_connection\"}",
    "spoor_core_total{cause=\"gap_bytes\"}",
    "spoor_core_total{cause=\"repeated_records\"}",
];

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn hostile_bytes() -> Result<()> {
    hold(play_hostile)
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn random_conversations() -> Result<()> {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED} is no number"))?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64,
    };
    let converse = |world: &mut World| {
        world.cases.push("random".to_owned());
        let count = converse(world, seed, TIME)?;
        println!("{count} conversations, seed {seed}");
        Ok(())
    };
    hold(converse).with_context(|| format!("again with {SEED}={seed}"))
}

/// Compares the spans with the expected ones, and the counters with 0.
fn hold(play: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let mut world = World::start(RAWPEER.as_ref())?;
    let recorder = Recorder::start(&world.selection())?;
    play(&mut world)?;
    let losses = losses(&recorder.agent)?;
    let (spans, said) = recorder.finish()?;
    println!("{} exchanges, {} spans", world.expected.len(), spans.len());
    let differences = compare(&world.expected, &spans);
    ensure!(
        differences.0.is_empty() && losses.is_empty(),
        "{differences}\nlost: {losses:?}\nthe agent said:\n{said}"
    );
    Ok(())
}

/// Returns the counters of loss that are not 0.
fn losses(agent: &Agent) -> Result<Vec<(&'static str, f64)>> {
    std::thread::sleep(COUNTING_TIME);
    let metrics = agent.metrics()?;
    let mut lost = Vec::new();
    for series in LOSSES {
        let value = metrics.value(series).with_context(|| format!("there is no {series}"))?;
        if value != 0.0 {
            lost.push((series, value));
        }
    }
    Ok(lost)
}
