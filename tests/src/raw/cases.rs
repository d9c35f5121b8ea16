//! All cases.

use std::time::Duration;

use crate::agent::Agent;
use anyhow::Result;

use super::{blind, bodies, bodiless, calls, ends, field, half_close, messages, odd, older, sockets, world::World};

/// How long the agent may take to attach the hooks that it needs for Unix connections.
const HOOKS_LIMIT: Duration = Duration::from_secs(60);

/// The agent's selection: all peers, and a log of what it attaches.
pub fn selection(world: &World) -> Vec<String> {
    let mut arguments = world.selection();
    arguments.push("--log-level=debug".to_owned());
    arguments
}

/// Plays those whose bytes are made to mislead: none of them may lose anything.
pub fn play_hostile(world: &mut World) -> Result<()> {
    blind::play(world)?;
    bodiless::play(world)
}

/// Plays all of them.
pub fn play(world: &mut World, agent: &Agent) -> Result<()> {
    // The hooks for their ends are attached when a Unix connection carries HTTP: what ended before is missed.
    world.cases.push("unix-first".to_owned());
    sockets::over_unix(world, "unix-first")?;
    agent.wait_until_said("ends of Unix connections are told from now on", HOOKS_LIMIT)?;
    older::play(world)?;
    messages::play(world)?;
    ends::play(world)?;
    half_close::play(world)?;
    field::play(world)?;
    calls::play(world)?;
    sockets::play(world)?;
    bodies::play(world)?;
    play_hostile(world)?;
    odd::play(world)
}
