//! The kernel side, as the agent handles it: loading, attaching, shared memory, and the ring of records. All use of aya
//! is here.

mod btf;
mod load;
mod lost;
mod mapped;
mod offsets;
mod plan;
pub mod reference;
mod ring;
mod skipped;
mod survey;

#[cfg(feature = "fuzzing")]
pub use btf::Btf;
pub use load::{Later, ProbeError, REPORTER, Settings, give_back_memory};
pub use lost::{Lost, Withheld};
pub use offsets::{Feature, fields};
pub use plan::{Attachment, Hook, PLAN, When};
pub use ring::{Ring, Waker};
pub use survey::{Survey, Trial, survey};

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agent_ebpf::abi::{COUNTER_COLUMNS, Control, Counter, Hint, Hints, MARKS, SealedHint, hint_slot};
use mapped::Mapped;
use skipped::Skipped;

/// The loaded and attached programs. Dropping it detaches them; nothing is pinned, so that a killed agent leaves
/// nothing.
pub struct Probe {
    /// The records.
    pub ring: Ring,
    /// What else is shared.
    pub shared: Shared,
    /// What this kernel does not have or refuses, programs and fields, and why.
    pub lost: Vec<Lost>,
    programs: Arc<Mutex<aya::Ebpf>>,
    skipped: Skipped,
    /// The programs hold their way into the reporter by this.
    _next: aya::maps::ProgramArray<aya::maps::MapData>,
}

impl Probe {
    /// The programs that are attached later, to be attached on another thread.
    pub fn later(&self) -> Later {
        Later(Arc::clone(&self.programs))
    }

    /// Takes over the kernel's own counts into [`Probe::counters`].
    pub fn look_at_skipped(&self) {
        self.skipped.look();
    }

    /// The counters of the kernel side, and the kernel's own.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        let mut counters = self.shared.counters();
        let own = counters.iter_mut().filter(|(counter, _)| *counter == Counter::Skipped);
        own.for_each(|(_, count)| *count = self.skipped.count());
        counters
    }
}

/// The memory that is shared with the programs.
pub struct Shared {
    targets: Mapped<[u8; MARKS]>,
    ports: Mapped<[u8; MARKS]>,
    control: Mapped<Control>,
    hints: Mapped<Hints>,
    counters: Mapped<[u64; COUNTER_COLUMNS]>,
}

impl Shared {
    /// Makes a process a target, or none any more. False for an id that no kernel gives
    /// ([`agent_ebpf::abi::PID_LIMIT`]).
    pub fn set_target(&self, tgid: u32, on: bool) -> bool {
        let place = tgid as usize % MARKS;
        // SAFETY: the index is within the entry.
        self.targets.set(
            tgid as usize / MARKS,
            |entry| unsafe { (&raw mut *entry).cast::<u8>().add(place) },
            on as u8,
        )
    }

    /// Whether a process is a target.
    pub fn is_target(&self, tgid: u32) -> bool {
        self.targets
            .get(tgid as usize / MARKS)
            .is_some_and(|entry| entry[tgid as usize % MARKS] != 0)
    }

    /// Makes every process that listens on the port from now on a target.
    pub fn watch_port(&self, port: u16) {
        let place = port as usize % MARKS;
        // SAFETY: the index is within the entry.
        self.ports.set(
            port as usize / MARKS,
            |entry| unsafe { (&raw mut *entry).cast::<u8>().add(place) },
            1,
        );
    }

    /// Whether programs that are started become (provisional) targets.
    pub fn capture_new(&self, on: bool) {
        // SAFETY: a field of the entry.
        self.control
            .set(0, |entry| unsafe { (&raw mut (*entry).capture_new).cast() }, on as u32);
    }

    /// Gives the programs Core's hints for the directions of a connection. Each word is written by itself: a program
    /// that reads between two writes finds that the seal does not fit, and has no hint.
    pub fn hint(&self, conn: u64, hints: [Hint; 2]) {
        let slot = hint_slot(conn) as usize;
        for (way, hint) in hints.into_iter().enumerate() {
            let SealedHint { until, state, seal } = SealedHint::new(conn, hint);
            // SAFETY: fields of the entry.
            self.hints
                .set(slot, |entry| unsafe { &raw mut (*entry).ways[way & 1].until }, until);
            // SAFETY: as above.
            self.hints
                .set(slot, |entry| unsafe { &raw mut (*entry).ways[way & 1].state }, state);
            // SAFETY: as above.
            self.hints
                .set(slot, |entry| unsafe { &raw mut (*entry).ways[way & 1].seal }, seal);
        }
    }

    /// Says that the reader sleeps, or works.
    fn reader_sleeps(&self, on: bool) {
        // SAFETY: a field of the entry.
        self.control.set(
            0,
            |entry| unsafe { (&raw mut (*entry).reader_sleeps).cast() },
            on as u32,
        );
    }

    /// The counters of the programs, summed over processors.
    fn counters(&self) -> Vec<(Counter, u64)> {
        let mut sums = [0u64; COUNTER_COLUMNS];
        for cpu in 0..self.counters.len() {
            for (sum, count) in sums.iter_mut().zip(self.counters.get(cpu).unwrap_or_default()) {
                *sum = sum.wrapping_add(count);
            }
        }
        Counter::ALL
            .iter()
            .map(|&counter| (counter, sums[counter as usize]))
            .collect()
    }
}

/// How long the reader sleeps between two looks while records come.
pub const BUSY_PERIOD: Duration = Duration::from_millis(10);
