//! Hints from Core to the programs, and the table that holds them.

use super::Layer;

/// Number of slots of [`Hints`], a power of two. A collision ([`StreamName::slot`]) loses a hint, never a message
/// boundary.
pub const HINT_SLOTS: u32 = 16384;

/// Low bits of a connection's name: the processor that gave the name. The bits above count on each processor.
pub const CONN_CPU_BITS: u32 = 12;

/// A layer of a connection: what hints are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamName(u64);

impl StreamName {
    /// Bit of [`Layer::Tls`]. Names of connections never grow so long.
    const LAYER_SHIFT: u32 = 63;

    /// Names a layer of a connection.
    #[inline(always)]
    pub const fn new(conn: u64, layer: Layer) -> Self {
        Self(conn | (layer as u64) << Self::LAYER_SHIFT)
    }

    /// Returns the slot in the table of [`Hints`]. Connections that a processor names in sequence have slots in
    /// sequence; the sequences of different processors begin far apart.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        // Near the golden ratio of the slots, and odd: no two processors begin at the same slot.
        const APART: u32 = 10_125;
        let cpu = self.0 as u32 & ((1 << CONN_CPU_BITS) - 1);
        let layer = (self.0 >> Self::LAYER_SHIFT) as u32;
        ((self.0 >> CONN_CPU_BITS) as u32)
            .wrapping_add(cpu.wrapping_mul(APART))
            .wrapping_add(layer * (HINT_SLOTS / 2))
            & (HINT_SLOTS - 1)
    }
}

/// Kind of the bytes that begin at a stream offset of one direction.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Unknown: every byte from there on is wanted.
    Unknown = 0,
    /// The first byte of a message's head.
    Head = 1,
    /// The size line of a body's first chunk.
    FirstChunk = 2,
    /// The line end behind a chunk's data, and the next size line.
    Chunk = 3,
    /// Nothing: the body ends with the connection. `until` is [`UNTIL_CLOSE`].
    Close = 4,
    /// Nothing: the connection is of no interest any more. `until` is [`IGNORED`].
    Ignored = 5,
}

/// Value of `until` in [`Mode::Close`].
pub const UNTIL_CLOSE: u64 = u64::MAX - 1;

/// Value of `until` in [`Mode::Ignored`].
pub const IGNORED: u64 = u64::MAX;

/// Mode, kind of messages, numbers and epoch of one direction, in one word so that no reader sees parts of two states.
///
/// ```text
/// bits 0..7: Mode | 7: carries responses | 8..24: number | 24..32: HEAD requests | 32..64: epoch
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WayState(u64);

impl WayState {
    const RESPONSES: u64 = 0x80;
    const NUMBER_SHIFT: u32 = 8;
    const HEADS_SHIFT: u32 = 24;
    /// Number of requests whose method is remembered until their responses come.
    pub const REMEMBERED: u16 = 8;

    /// Creates a state with number and epoch 0.
    #[inline(always)]
    pub const fn new(mode: Mode, responses: bool) -> Self {
        Self(mode as u64 | if responses { Self::RESPONSES } else { 0 })
    }

    /// Returns the state with another mode.
    #[inline(always)]
    pub const fn with_mode(self, mode: Mode) -> Self {
        Self(self.0 & !0x7f | mode as u64)
    }

    /// Returns the state with another number, and no HEAD request remembered.
    #[inline(always)]
    pub const fn with_number(self, number: u16) -> Self {
        const MASK: u64 = 0x00ff_ffff << WayState::NUMBER_SHIFT;
        Self(self.0 & !MASK | (number as u64) << Self::NUMBER_SHIFT)
    }

    /// Returns the state one message later. `head`: that message is a HEAD request.
    #[inline(always)]
    pub const fn after_message(self, head: bool) -> Self {
        let heads = (self.0 >> Self::HEADS_SHIFT << 1 | head as u64) & 0xff;
        let number = self.number().wrapping_add(1);
        Self(self.with_number(number).0 | heads << Self::HEADS_SHIFT)
    }

    /// Returns whether the request with this number was a HEAD request; `None` if it has not been seen, or is
    /// forgotten.
    #[inline(always)]
    pub const fn asked_by_head(self, number: u16) -> Option<bool> {
        let back = self.number().wrapping_sub(number);
        if back == 0 || back > Self::REMEMBERED {
            return None;
        }
        Some(self.0 >> Self::HEADS_SHIFT >> (back - 1) & 1 != 0)
    }

    /// Returns the state with another epoch.
    #[inline(always)]
    pub const fn with_epoch(self, epoch: u32) -> Self {
        Self(self.0 & u32::MAX as u64 | (epoch as u64) << 32)
    }

    /// Returns whether the state has this mode.
    #[inline(always)]
    pub const fn is(self, mode: Mode) -> bool {
        self.0 & 0x7f == mode as u64
    }

    /// Returns whether the direction carries responses, not requests. Without meaning in [`Mode::Unknown`].
    #[inline(always)]
    pub const fn carries_responses(self) -> bool {
        self.0 & Self::RESPONSES != 0
    }

    /// Returns the number of the exchange that the next message belongs to, modulo 2¹⁶.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        (self.0 >> Self::NUMBER_SHIFT) as u16
    }

    /// Epoch of a connection that Core has given up. Core never counts that far.
    pub const GIVEN_UP: u32 = u32::MAX;

    /// Returns the number of Core's hints for the connection, modulo 2³²; 0: none.
    #[inline(always)]
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A hint for one direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Below this stream offset no record is needed; the byte at it always makes one.
    pub until: u64,
    /// The mode at `until`, and the epoch of the hint.
    pub state: WayState,
}

/// A hint, sealed for one stream.
///
/// The agent writes while programs read, another stream may get the slot meanwhile, and 64-bit ARM reorders writes
/// and reads. The seal shows whether both words were written together, and for this stream.
/// docs/dev/kernel-contract.md has the races.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SealedHint {
    /// [`Hint::until`]
    pub until: u64,
    /// [`Hint::state`]
    pub state: WayState,
    /// Mix of both words and the name of the stream.
    pub seal: u64,
}

impl SealedHint {
    /// Seals a hint for a stream.
    #[inline(always)]
    pub const fn new(stream: StreamName, hint: Hint) -> Self {
        Self {
            until: hint.until,
            state: hint.state,
            seal: seal(stream, hint),
        }
    }

    /// Assembles an entry from its words, each of which was read by itself.
    #[inline(always)]
    pub const fn from_words([until, state, seal]: [u64; 3]) -> Self {
        Self {
            until,
            state: WayState(state),
            seal,
        }
    }

    /// Returns the hint, if it is whole and for this stream.
    #[inline(always)]
    pub const fn open(self, stream: StreamName) -> Option<Hint> {
        let hint = Hint {
            until: self.until,
            state: self.state,
        };
        if seal(stream, hint) == self.seal {
            Some(hint)
        } else {
            None
        }
    }
}

/// Mixes three words so that no other combination gives the same seal by accident. The factors are odd: the fractional
/// parts of the square roots of 2 and 3.
#[inline(always)]
const fn seal(stream: StreamName, hint: Hint) -> u64 {
    (hint.until ^ stream.0.rotate_left(32)).wrapping_mul(0x6a09_e667_f3bc_c909)
        ^ hint.state.0.wrapping_mul(0xbb67_ae85_84ca_a73b)
}

/// An entry of the memory-mapped array `HINTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// Hints by [`Direction`](super::Direction).
    pub ways: [SealedHint; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: u64 = 7 << CONN_CPU_BITS | 1;

    fn hint(until: u64, number: u16, epoch: u32) -> Hint {
        let state = WayState::new(Mode::Head, true).with_number(number).with_epoch(epoch);
        Hint { until, state }
    }

    #[test]
    fn states_keep_their_parts_apart() {
        let state = WayState::new(Mode::Chunk, true)
            .with_number(u16::MAX)
            .with_epoch(u32::MAX);
        assert!(state.is(Mode::Chunk) && state.carries_responses());
        assert_eq!((state.number(), state.epoch()), (u16::MAX, u32::MAX));
        let state = state.with_mode(Mode::Unknown).with_epoch(3).after_message(true);
        assert!(state.is(Mode::Unknown) && state.carries_responses());
        assert_eq!((state.number(), state.epoch()), (0, 3));
        assert_eq!(state.asked_by_head(u16::MAX), Some(true));
    }

    #[test]
    fn methods_are_remembered_for_eight_requests() {
        let mut state = WayState::new(Mode::Head, false).with_number(u16::MAX - 3);
        let is_head = |number: u16| number.is_multiple_of(3);
        for _ in 0..20 {
            state = state.after_message(is_head(state.number()));
        }
        let next = state.number();
        assert_eq!(state.asked_by_head(next), None);
        for back in 1..=WayState::REMEMBERED {
            let number = next.wrapping_sub(back);
            assert_eq!(state.asked_by_head(number), Some(is_head(number)), "{number}");
        }
        assert_eq!(state.asked_by_head(next.wrapping_sub(WayState::REMEMBERED + 1)), None);
        assert_eq!(state.asked_by_head(next.wrapping_add(1)), None);
        assert_eq!(state.with_number(5).after_message(false).asked_by_head(5), Some(false));
    }

    #[test]
    fn hints_of_other_streams_and_halves_of_hints_do_not_open() {
        let wire = StreamName::new(CONN, Layer::Wire);
        let same_slot = StreamName::new((7 + HINT_SLOTS as u64) << CONN_CPU_BITS | 1, Layer::Wire);
        assert_eq!(wire.slot(), same_slot.slot());
        let tls = StreamName::new(CONN, Layer::Tls);
        assert_ne!(wire.slot(), tls.slot());
        assert_eq!(SealedHint::default().open(wire), None);
        let hints = [
            hint(5000, 1, 1),
            hint(5000, 2, 2),
            hint(IGNORED, 0, 3),
            hint(0, 1, 4),
            hint(1, 0, 5),
        ];
        for one in hints {
            let sealed = SealedHint::new(wire, one);
            assert_eq!(sealed.open(wire), Some(one));
            assert_eq!(sealed.open(same_slot), None);
            assert_eq!(sealed.open(tls), None);
            for other in hints.into_iter().filter(|&other| other != one) {
                for stream in [wire, same_slot, tls] {
                    let later = SealedHint::new(stream, other);
                    // Each mix of the words of two writes, as a reader between them may find it.
                    for mix in 1..7u8 {
                        let pick = |bit: u8, old, new| if mix & bit == 0 { old } else { new };
                        let torn = SealedHint {
                            until: pick(1, sealed.until, later.until),
                            state: if mix & 2 == 0 { sealed.state } else { later.state },
                            seal: pick(4, sealed.seal, later.seal),
                        };
                        let whole = torn.until == one.until && torn.state == one.state && torn.seal == sealed.seal
                            || torn.until == other.until && torn.state == other.state && torn.seal == later.seal;
                        assert!(whole || torn.open(wire).is_none(), "{torn:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn connections_of_a_processor_share_no_slots() {
        let taken = |names: &mut dyn Iterator<Item = u64>| {
            let mut taken = [false; HINT_SLOTS as usize];
            names.for_each(|conn| taken[StreamName::new(conn, Layer::Wire).slot() as usize] = true);
            taken.into_iter().filter(|&taken| taken).count()
        };
        let conn = |cpu: u64, number: u64| number << CONN_CPU_BITS | cpu;
        assert_eq!(taken(&mut (0..16_384).map(|number| conn(7, number))), 16_384);
        // The first hundred names of each of 64 processors share no slot either.
        let first = &mut (0..64).flat_map(|cpu| (1..=100).map(move |number| conn(cpu, number)));
        assert_eq!(taken(first), 6_400);
    }
}
