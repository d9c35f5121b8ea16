//! The words that flow back: what Core tells the programs of a connection, and where they find it.

/// Slots of [`Follow`], a power of two. Which is a connection's, [`follow_slot`] says: a collision loses a word of advice,
/// never a boundary.
pub const FOLLOW_SLOTS: u32 = 16384;

/// Low bits of a connection's name that say on which processor it was given; above them each processor counts.
pub const CONN_CPU_BITS: u32 = 12;

/// The slot of a connection in the table of [`Follow`]. Connections that were named one after the other on a processor
/// have slots one after the other; processors begin far apart.
#[inline(always)]
pub const fn follow_slot(conn: u64) -> u32 {
    // About the golden ratio of the slots, and odd: no two processors begin at the same slot.
    const APART: u32 = 10_125;
    let cpu = conn as u32 & ((1 << CONN_CPU_BITS) - 1);
    ((conn >> CONN_CPU_BITS) as u32).wrapping_add(cpu.wrapping_mul(APART)) & (FOLLOW_SLOTS - 1)
}

/// What Core tells the programs of a connection: an entry of the memory-mapped array `FOLLOW`.
///
/// The agent writes `conn` = 0, then `until`, then `conn`; the programs use an entry only if `conn` is theirs. An entry
/// means: Core follows this connection (capture every segment, though its birth was not seen), and a segment that lies
/// wholly below `until[direction]` needs no record. `u64::MAX`: the connection is of no interest any more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Follow {
    /// The connection that the words are for.
    pub conn: u64,
    /// Indexed by [`Direction`](super::Direction).
    pub until: [u64; 2],
}

/// In [`Follow::until`]: only the connection's end ends the body. The programs tell then how long it was.
pub const UNTIL_CLOSE: u64 = u64::MAX - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_a_processor_share_no_slots() {
        let taken = |names: &mut dyn Iterator<Item = u64>| {
            let mut taken = [false; FOLLOW_SLOTS as usize];
            names.for_each(|conn| taken[follow_slot(conn) as usize] = true);
            taken.into_iter().filter(|&taken| taken).count()
        };
        let conn = |cpu: u64, number: u64| number << CONN_CPU_BITS | cpu;
        assert_eq!(taken(&mut (0..16_384).map(|number| conn(7, number))), 16_384);
        // Nor do the first hundred of each of 64 processors.
        let first = &mut (0..64).flat_map(|cpu| (1..=100).map(move |number| conn(cpu, number)));
        assert_eq!(taken(first), 6_400);
    }
}
