//! kill -9 of the agent, which leaves nothing in the kernel.

use std::{
    collections::BTreeSet,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use spoor_tests::agent::Agent;

use crate::{
    bpf::{self, Kind},
    threads::Service,
};

/// Time limit for the kernel to free objects without holders: it waits for all processors.
const LIMIT: Duration = Duration::from_secs(30);

pub fn nothing_left() -> Result<()> {
    let mut service = Service::start()?;
    let mut agent = Agent::start(&service.selection(), "otlp-json=/dev/null", &[], Stdio::null())?;
    service.requests("killed", 2, 5)?;
    let held = held_by(agent.id())?;
    let count = |kind| held.iter().filter(|(other, _)| *other == kind).count();
    ensure!(
        count(Kind::Program) > 20 && count(Kind::Map) > 5,
        "the agent holds {} programs and {} maps only",
        count(Kind::Program),
        count(Kind::Map)
    );
    for (kind, id) in &held {
        ensure!(bpf::exists(*kind, *id)?, "the {kind:?} {id} of the agent is not there");
    }
    agent.signal(Signal::SIGKILL)?;
    drop(agent);
    service
        .requests("after", 2, 5)
        .context("the services after the agent's death")?;
    let deadline = Instant::now() + LIMIT;
    let mut left: Vec<_> = held.into_iter().collect();
    loop {
        let mut still = Vec::new();
        for (kind, id) in left {
            if bpf::exists(kind, id)? {
                still.push((kind, id));
            }
        }
        left = still;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the objects whose descriptors a process holds, from /proc.
fn held_by(process: u32) -> Result<BTreeSet<(Kind, u32)>> {
    let mut held = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let kind = match name {
                "prog_id" => Kind::Program,
                "map_id" => Kind::Map,
                "link_id" => Kind::Link,
                _ => continue,
            };
            held.insert((kind, value.trim().parse()?));
        }
    }
    Ok(held)
}
