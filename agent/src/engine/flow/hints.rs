//! Hints from Core to the kernel programs: docs/dev/kernel-contract.md.

use agent_ebpf::abi::{Direction, Hint, IGNORED, Mode, WayState};

use crate::engine::proto::Ahead;

/// Hints for a connection that is given up: the programs ignore it.
pub const IGNORE: [Hint; 2] = [Hint {
    until: IGNORED,
    state: WayState::new(Mode::Ignored, false).with_epoch(WayState::GIVEN_UP),
}; 2];

/// Offset and epoch of a connection's last hint.
///
/// Packed: with eight bytes more, a connection would fall into the allocator's next size, 32 bytes up.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))]
pub struct Told {
    /// Offset below which no record is needed, from the last hint, in the direction that needed it.
    until: u64,
    /// Number of hints sent so far.
    epoch: u32,
}

/// State of one direction of a connection, as Core knows it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Stream offset of the next byte.
    pub next: u64,
    /// Framing that the parser knows of the bytes ahead.
    pub ahead: Ahead,
    /// Whether this direction carries responses.
    pub responses: bool,
    /// Whether Core trusts no boundary of this direction, including those that the programs claim.
    pub doubted: bool,
}

impl Known {
    fn hint(self, epoch: u32) -> Hint {
        let Self {
            next, ahead, responses, ..
        } = self;
        // The programs count exchanges modulo 2¹⁶.
        let number = ahead.exchange as u16;
        Hint {
            until: ahead.until.max(next),
            state: WayState::new(ahead.mode, responses)
                .with_number(number)
                .with_epoch(epoch),
        }
    }

    /// Returns whether a message's head comes next.
    fn is_at_boundary(self) -> bool {
        self.ahead.mode == Mode::Head && self.ahead.until <= self.next
    }
}

impl Told {
    /// Returns the number of hints sent so far.
    pub fn epoch(self) -> u32 {
        self.epoch
    }

    /// Returns the hints that the programs need after a call in the direction `way`, if they need any.
    ///
    /// `claim` is the programs' own framing, from the call's last record
    /// ([`Segment::until`](agent_ebpf::abi::Segment::until)). `unheard`: the programs copy nothing, or guess, until
    /// Core has sent a hint.
    pub fn hints(&mut self, known: [Known; 2], way: Direction, claim: u64, unheard: bool) -> Option<[Hint; 2]> {
        let [read, written] = known;
        let here = if way == Direction::Read { read } else { written };
        let told = self.until;
        let until = here.ahead.until;
        // Without a hint, the programs would report body bytes.
        let can_skip = until > here.next && until != claim && until != told;
        // The programs would skip more than the body. Their own framing may be one of two readings; Core's word
        // overrides it.
        let is_known = here.ahead.mode != Mode::Unknown || until > 0 || here.doubted;
        let is_wrong = is_known && claim > until.max(here.next);
        // The programs do not know that both directions are between two messages.
        let is_lost = claim == 0 && read.is_at_boundary() && written.is_at_boundary();
        if !(can_skip || is_wrong || is_lost || unheard) {
            return None;
        }
        // Epoch 0 means none, and the last one belongs to `IGNORE`.
        self.epoch = self.epoch % (WayState::GIVEN_UP - 1) + 1;
        self.until = until;
        Some([read.hint(self.epoch), written.hint(self.epoch)])
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::UNTIL_CLOSE;

    use super::*;

    fn known(next: u64, until: u64, mode: Mode) -> Known {
        Known {
            next,
            ahead: Ahead {
                until,
                mode,
                exchange: 65_536 + 7,
            },
            responses: true,
            doubted: false,
        }
    }

    fn hints(told: &mut Told, read: Known, claim: u64) -> Option<[u64; 2]> {
        let written = known(10, 0, Mode::Head);
        let hints = told.hints([read, written], Direction::Read, claim, false)?;
        assert!(
            hints
                .iter()
                .all(|hint| hint.state.epoch() == told.epoch() && hint.state.number() == 7)
        );
        Some(hints.map(|hint| hint.until))
    }

    #[test]
    fn hints_are_given_where_they_change_something() {
        let told = &mut Told::default();
        // The programs know it, too.
        assert_eq!(hints(told, known(100, 5000, Mode::Head), 5000), None);
        assert_eq!(hints(told, known(100, 0, Mode::Head), 100), None);
        // The programs know less: one hint is enough.
        assert_eq!(hints(told, known(100, 5000, Mode::Head), 0), Some([5000, 10]));
        assert_eq!(hints(told, known(200, 5000, Mode::Head), 0), None);
        // The programs do not know that they are at a boundary.
        assert_eq!(hints(told, known(5000, 0, Mode::Head), 0), Some([5000, 10]));
        assert_eq!(hints(told, known(5000, 0, Mode::Unknown), 0), None);
        // The programs claim more than is body.
        assert_eq!(hints(told, known(100, 0, Mode::Head), 1 << 50), Some([100, 10]));
        assert_eq!(hints(told, known(100, 300, Mode::Chunk), 301), Some([300, 10]));
        // Core does not know better.
        assert_eq!(hints(told, known(100, 0, Mode::Unknown), 1 << 50), None);
        // Core trusts no boundary, the programs claim one.
        let doubted = Known {
            doubted: true,
            ..known(100, 0, Mode::Unknown)
        };
        assert_eq!(hints(told, doubted, 1 << 50), Some([100, 10]));
        assert_eq!(hints(told, doubted, 100), None);
        assert_eq!(
            hints(told, known(100, UNTIL_CLOSE, Mode::Close), 0),
            Some([UNTIL_CLOSE, 10])
        );
        assert_eq!(told.epoch(), 6);
    }

    #[test]
    fn epochs_never_are_none_nor_that_of_connections_to_be_ignored() {
        let told = &mut Told {
            epoch: u32::MAX - 2,
            ..Told::default()
        };
        for expected in [u32::MAX - 1, 1] {
            assert!(hints(told, known(100, 0, Mode::Head), 0).is_some());
            assert_eq!(told.epoch(), expected);
        }
    }
}
