//! The list of all cases.

use std::time::Duration;

use crate::agent::Agent;
use anyhow::Result;

use super::{
    blind, bodies, bodiless, calls, ends, field, half_close, messages, odd, older, sockets, spliced, world::World,
};

/// Time limit for the agent to attach the hooks for Unix connections.
const HOOKS_LIMIT: Duration = Duration::from_secs(60);

/// Returns the agent's selection: all peers, with a log of the hooks that it attaches.
pub fn selection(world: &World) -> Vec<String> {
    let mut arguments = world.selection();
    arguments.push("--log-level=debug".to_owned());
    arguments
}

/// Plays the cases whose bytes are made to mislead: none may lose anything.
pub fn play_hostile(world: &mut World) -> Result<()> {
    blind::play(world)?;
    bodiless::play(world)
}

/// Plays all cases.
pub fn play(world: &mut World, agent: &Agent) -> Result<()> {
    // The hooks for ends are attached when a Unix connection carries HTTP, so earlier ends are missed.
    world.cases.push("unix-first".to_owned());
    sockets::over_unix(world, "unix-first")?;
    // At the socket events, these hooks are the ones that see such a connection begin, too.
    world.events = agent.said().contains("hooks=\"sock\"");
    for exchange in world
        .expected
        .iter_mut()
        .filter(|exchange| exchange.case == "unix-first")
    {
        exchange.apart = world.events;
    }
    agent.wait_until_said("ends of Unix connections are reported from now on", HOOKS_LIMIT)?;
    older::play(world)?;
    messages::play(world)?;
    ends::play(world)?;
    half_close::play(world)?;
    field::play(world)?;
    calls::play(world)?;
    sockets::play(world)?;
    bodies::play(world)?;
    play_hostile(world)?;
    spliced::play(world)?;
    odd::play(world)
}
