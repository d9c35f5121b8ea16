//! All cases.

use anyhow::Result;

use crate::{bodies, calls, ends, messages, sockets, world::World};

/// Cases that the agent is known to get wrong, each with the reason. They are played and compared like all others; what is
/// different is printed, and one that comes out right must leave this list.
pub const KNOWN_FAILING: &[(&str, &str)] = &[
    ("many-messages", "several messages of one call are told as a gap"),
    (
        "refused-unix",
        "a failed connect to a Unix socket does not tell its path",
    ),
    ("nowhere", "the same connect, as it is shown now"),
];

/// Plays all of them.
pub fn play(world: &mut World) -> Result<()> {
    messages::play(world)?;
    ends::play(world)?;
    calls::play(world)?;
    sockets::play(world)?;
    bodies::play(world)
}
