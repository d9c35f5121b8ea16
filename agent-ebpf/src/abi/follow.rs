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
/// A word for a connection ([`Follow::told`]) means: Core follows it (capture every segment, though its birth was not seen),
/// and a segment that lies wholly below the word of its direction needs no record; 1 says no more than that it is followed.
/// `u64::MAX` in both: the connection is of no interest any more.
///
/// The agent writes while programs read, another connection may get the slot meanwhile, and some processors (64-bit ARM)
/// do not keep the order of writes, nor of reads: so each word says by itself whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Follow {
    /// Indexed by [`Direction`](super::Direction).
    pub until: [u64; 2],
    /// Each word again, mixed with the name of its connection: [`Follow::seal`].
    pub seals: [u64; 2],
}

impl Follow {
    /// What goes with a word for a connection.
    #[inline(always)]
    pub const fn seal(conn: u64, until: u64) -> u64 {
        until ^ conn
    }

    /// The word, if it is for this connection; else 0, which is no advice. Words of two connections do not fit, but where
    /// they say the same.
    #[inline(always)]
    pub const fn told(conn: u64, until: u64, seal: u64) -> u64 {
        if Self::seal(conn, until) == seal { until } else { 0 }
    }
}

/// In [`Follow::until`]: only the connection's end ends the body. The programs tell then how long it was.
pub const UNTIL_CLOSE: u64 = u64::MAX - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_another_connection_are_none() {
        let (one, other) = (7 << CONN_CPU_BITS | 1, (7 + FOLLOW_SLOTS as u64) << CONN_CPU_BITS | 1);
        assert_eq!(follow_slot(one), follow_slot(other));
        for (mine, others) in [(5000, 70_000), (1, u64::MAX), (UNTIL_CLOSE, u64::MAX), (u64::MAX, 1)] {
            let (seal, others_seal) = (Follow::seal(one, mine), Follow::seal(other, others));
            assert_eq!(Follow::told(one, mine, seal), mine);
            assert_eq!(Follow::told(one, others, others_seal), 0);
            // Half of it was written.
            assert_eq!(Follow::told(one, others, seal), 0);
            assert_eq!(Follow::told(one, mine, others_seal), 0);
        }
        let Follow { until, seals, .. } = Follow::default();
        assert_eq!(Follow::told(one, until[0], seals[0]), 0);
    }

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
