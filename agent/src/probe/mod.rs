//! The kernel side, as the agent handles it: loading, attaching, shared memory, and the ring of records.
//!
//! Nothing outside of this folder uses aya.

mod btf;
mod calibrate;
mod connections;
mod error;
mod family;
mod load;
mod lost;
mod mapped;
mod offsets;
mod plan;
mod records;
pub mod reference;
mod ring;
mod skipped;
mod start;
mod survey;

#[cfg(feature = "fuzzing")]
pub use btf::Btf;
pub use connections::Connections;
pub use error::ProbeError;
pub use family::{Family, Obstacle};
pub use load::{Later, Settings};
pub use lost::{Lost, Withheld};
pub use offsets::{Feature, fields};
pub use plan::{Attachment, Hook, When, plan};
pub use ring::{Ring, Waker};
pub use start::give_back_memory;
pub use survey::{Survey, Trial, survey};

use std::{
    mem::offset_of,
    sync::{Arc, Mutex},
};

use agent_ebpf::abi::{COUNTER_COLUMNS, Control, Counter, Hint, Hints, MARKS, SealedHint, StreamName};
use mapped::Mapped;
use skipped::Skipped;

/// Programs that are loaded and attached. Dropping this detaches them. Nothing is pinned: a killed agent leaves nothing.
pub struct Probe {
    /// Records that the programs submit.
    pub ring: Ring,
    /// Other memory that is shared with the programs.
    pub shared: Shared,
    /// Programs and fields that this kernel does not have or refuses, and why.
    pub lost: Vec<Lost>,
    /// Family of hooks that the programs are attached to.
    pub family: Family,
    programs: Arc<Mutex<aya::Ebpf>>,
    skipped: Skipped,
    /// Holds the reporter, which the programs that see bytes move end in.
    _next: aya::maps::ProgramArray<aya::maps::MapData>,
}

impl Probe {
    /// Returns a handle that attaches the remaining programs, on another thread.
    pub fn later(&self) -> Later {
        Later {
            programs: Arc::clone(&self.programs),
            family: self.family,
        }
    }

    /// Returns a handle that reads the table of connections, on another thread.
    pub fn connections(&self) -> Connections {
        Connections {
            programs: Arc::clone(&self.programs),
        }
    }

    /// Reads the kernel's own counts, which [`Probe::counters`] returns then.
    pub fn look_at_skipped(&self) {
        self.skipped.look();
    }

    /// Returns the counters of the programs, and the kernel's own.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        let mut counters = self.shared.counters();
        let own = counters.iter_mut().filter(|(counter, _)| *counter == Counter::Skipped);
        own.for_each(|(_, count)| *count = self.skipped.count());
        counters
    }
}

/// Memory that the agent shares with the programs.
pub struct Shared {
    targets: Mapped<[u8; MARKS]>,
    ports: Mapped<[u8; MARKS]>,
    control: Mapped<Control>,
    hints: Mapped<Hints>,
    counters: Mapped<[u64; COUNTER_COLUMNS]>,
}

impl Shared {
    /// Makes a process a target, or none any more. Returns false for an id that no kernel gives
    /// ([`agent_ebpf::abi::PID_LIMIT`]).
    pub fn set_target(&self, tgid: u32, on: bool) -> bool {
        let tgid = tgid as usize;
        self.targets.set(tgid / MARKS, tgid % MARKS, u8::from(on))
    }

    /// Returns whether a process is a target.
    pub fn is_target(&self, tgid: u32) -> bool {
        let tgid = tgid as usize;
        let marks = self.targets.get(tgid / MARKS);
        marks.is_some_and(|marks| marks.get(tgid % MARKS).is_some_and(|&mark| mark != 0))
    }

    /// Makes every process that listens on the port from now on a target.
    pub fn watch_port(&self, port: u16) {
        let port = usize::from(port);
        self.ports.set(port / MARKS, port % MARKS, 1u8);
    }

    /// Switches whether programs that are started become (provisional) targets.
    pub fn capture_new(&self, on: bool) {
        self.control.set(0, offset_of!(Control, capture_new), u32::from(on));
    }

    /// Gives the programs Core's hints for the directions of a stream.
    ///
    /// Each word is written by itself: a program that reads between two writes finds that the seal does not fit, and has no
    /// hint.
    pub fn hint(&self, stream: StreamName, hints: [Hint; 2]) {
        let slot = stream.slot() as usize;
        for (way, hint) in hints.into_iter().enumerate() {
            let SealedHint { until, state, seal } = SealedHint::new(stream, hint);
            let at = offset_of!(Hints, ways) + way * size_of::<SealedHint>();
            self.hints.set(slot, at + offset_of!(SealedHint, until), until);
            self.hints.set(slot, at + offset_of!(SealedHint, state), state);
            self.hints.set(slot, at + offset_of!(SealedHint, seal), seal);
        }
    }

    /// Says that the reader sleeps, or works.
    fn reader_sleeps(&self, on: bool) {
        self.control.set(0, offset_of!(Control, reader_sleeps), u32::from(on));
    }

    /// Returns the counters of the programs, summed over processors.
    fn counters(&self) -> Vec<(Counter, u64)> {
        let mut sums = [0u64; COUNTER_COLUMNS];
        for cpu in 0..self.counters.len() {
            for (sum, count) in sums.iter_mut().zip(self.counters.get(cpu).unwrap_or_default()) {
                *sum = sum.wrapping_add(count);
            }
        }
        let sum = |counter: Counter| sums.get(counter as usize).copied().unwrap_or_default();
        Counter::ALL.iter().map(|&counter| (counter, sum(counter))).collect()
    }
}
