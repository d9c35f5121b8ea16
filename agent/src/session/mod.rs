//! Session: the loop around Core. It reads the ring and the clocks, asks the inspector, and hands spans on.
//!
//! ```text
//! ring ──► registry ──► inspector (questions)
//!   │          ▲            │ answers
//!   ▼          └────────────┤
//! Core ◄────────────────────┘ facts, decisions
//!   ├──► skip hints to the kernel side
//!   └──► spans to the sink: export, or a tape of everything that Core was fed
//! ```
//!
//! The loop runs on the main thread and waits for nothing but the ring. What may take long has a thread of its own:
//! [`crate::targets::inspector`], the search for ended Unix connections, the export.

mod aside;
mod clock;
mod command;
mod heartbeat;
mod housekeeping;
mod losses;
mod lost_ends;
mod on_demand;
mod pace;
mod sink;
mod snapshot;
mod targeting;
mod unix_ends;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;

use self::{
    clock::monotonic_ns, losses::BoundLosses, lost_ends::LostEnds, on_demand::OnDemand, pace::Pace, unix_ends::UnixEnds,
};
pub use self::{
    command::LaunchedCommand,
    sink::{Recorder, Sink},
    snapshot::{Published, Snapshot, register},
};
use crate::{
    config::CoreSettings,
    engine::Core,
    launch::Stop,
    probe::{Family, Probe, Waker},
    process::{Peculiarity, ProcRoot},
    record::{self, Record, Unseen},
    tape::Frame,
    targets::{Registry, inspector::Inspector, reconcile::Reconciler, rules::Rules},
};

/// Records that are taken before anything else is looked at. Their exchanges and spans, some 2 KiB each, exist at the
/// same time: so few that a burst leaves little memory behind, and that the processor's cache holds them.
const BATCH: usize = 1024;

/// Looks at an empty ring before the reader sleeps until it is woken.
const EMPTY_LOOKS: u32 = 4;

/// Longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Running session.
pub struct Session {
    probe: Probe,
    core: Core,
    registry: Registry,
    inspector: Inspector,
    reconciler: Reconciler,
    root: ProcRoot,
    rules: Rules,
    sink: Sink,
    published: Arc<Published>,
    /// Only the launched command and its descendants are targets.
    only_command: bool,
    unix_ends: UnixEnds,
    lost_ends: LostEnds,
    splices: OnDemand,
    pace: Pace,
    requests: OnDemand,
    /// Records taken from the ring, and their bytes.
    records: (u64, u64),
    losses: BoundLosses,
    next_housekeeping_ns: u64,
}

/// Parts that a session is made of.
pub struct Parts<'a> {
    /// The loaded programs.
    pub probe: Probe,
    /// Core's settings.
    pub settings: &'a CoreSettings,
    /// The process file system.
    pub root: ProcRoot,
    /// The user's rules.
    pub rules: Rules,
    /// Destination of the spans, or of everything that Core is fed.
    pub sink: Sink,
    /// Counters and workloads for other threads.
    pub published: Arc<Published>,
    /// Only the launched command and its descendants are targets.
    pub only_command: bool,
}

impl Session {
    /// Prepares a session. It traces nothing before [`Session::begin`].
    ///
    /// # Errors
    /// If the inspector cannot be started, or no seed for ids can be drawn.
    pub fn new(parts: Parts<'_>) -> anyhow::Result<Self> {
        let Parts {
            probe,
            settings,
            root,
            rules,
            sink,
            published,
            only_command,
        } = parts;
        let inspector = Inspector::start(root.clone(), rules.clone(), probe.family, probe.ring.waker())?;
        published.heartbeat.begin(probe.ring.waker());
        let seed = seed().context("cannot draw a seed for trace ids (getrandom)")?;
        let mut session = Self {
            pace: Pace::of(probe.ring.bytes()),
            probe,
            core: Core::new(settings, seed),
            registry: Registry::default(),
            inspector,
            reconciler: Reconciler::default(),
            root,
            rules,
            sink,
            published,
            only_command,
            unix_ends: UnixEnds::default(),
            lost_ends: LostEnds::default(),
            splices: OnDemand::splices(),
            requests: OnDemand::requests(),
            records: (0, 0),
            losses: BoundLosses::default(),
            next_housekeeping_ns: 0,
        };
        let json = serde_json::to_string(settings).context("cannot write the settings")?;
        session.sink.record(&Frame::Config(json.into()));
        session.sink.record(&Frame::Seed(seed));
        session.housekeeping(monotonic_ns());
        Ok(session)
    }

    /// Returns a handle that ends the reader's sleep.
    pub fn waker(&self) -> Waker {
        self.probe.ring.waker()
    }

    /// Returns the family of hooks that the programs are attached to.
    pub fn hooks(&self) -> Family {
        self.probe.family
    }

    /// Works until a signal comes, or the command has ended.
    pub fn work(&mut self, stop: &Stop, command: Option<&LaunchedCommand>) {
        let mut empty_looks = 0;
        loop {
            let taken = self.turn();
            // Records that are left in the ring are taken by `finish`.
            if stop.is_asked() || command.is_some_and(|command| command.exit_code().is_some()) {
                return;
            }
            if taken >= BATCH {
                continue;
            }
            empty_looks = if taken == 0 { empty_looks + 1 } else { 0 };
            if empty_looks < EMPTY_LOOKS {
                self.probe.ring.pause(self.pace.pause());
            } else {
                self.sleep();
            }
        }
    }

    /// Sleeps until there are records, or something is due.
    fn sleep(&mut self) {
        let lost = self.publish();
        let now_ns = monotonic_ns();
        self.look_again(lost, now_ns);
        let deadlines = [
            self.core.next_deadline_ns(),
            self.reconciler.next_deadline_ns(),
            self.lost_ends.next_deadline_ns(),
        ];
        let deadlines = deadlines.into_iter().flatten();
        let until_deadlines = deadlines.map(|deadline_ns| Duration::from_nanos(deadline_ns.saturating_sub(now_ns)));
        let losses_over = self.losses.over_at();
        let until_over = losses_over.map(|over_at| over_at.saturating_duration_since(Instant::now()));
        let longest = until_deadlines.chain(until_over).min().unwrap_or(LONGEST_SLEEP);
        // Records are left in the ring for the next turn.
        self.probe.ring.sleep(
            &self.probe.shared,
            longest.clamp(Duration::from_millis(1), LONGEST_SLEEP),
        );
    }

    /// Takes the waiting records, at most a batch, and passes their results on. Returns the number of records.
    fn turn(&mut self) -> usize {
        let bytes_before = self.records.1;
        let taken = self.take_records();
        self.pace.took(self.records.1 - bytes_before);
        self.learn();
        self.write_hints();
        self.published.heartbeat.beat();
        let workloads = || self.registry.workloads(self.core.workloads());
        self.published.desk.serve(workloads);
        let now_ns = monotonic_ns();
        if taken < BATCH {
            self.end_unix(now_ns);
            self.end_lost(now_ns);
        }
        if taken > 0
            || self
                .core
                .next_deadline_ns()
                .is_some_and(|deadline_ns| deadline_ns <= now_ns)
        {
            self.sink.record(&Frame::Tick { now_ns });
            self.core.tick(now_ns);
        }
        if now_ns >= self.next_housekeeping_ns {
            self.housekeeping(now_ns);
        }
        let spans = self.core.drain();
        self.sink.export(spans);
        taken
    }

    /// Takes at most a batch of records from the ring.
    fn take_records(&mut self) -> usize {
        let mut taken = 0;
        while taken < BATCH {
            let Self {
                probe,
                core,
                registry,
                inspector,
                requests,
                sink,
                records: (records, bytes),
                ..
            } = self;
            let mut has_ring = false;
            let many = probe.ring.drain(BATCH - taken, |record| {
                *records += 1;
                *bytes += record.len() as u64;
                sink.record(&Frame::Record(record));
                // By reference: a decoded record is large.
                let Some(decoded) = &Record::decode(record) else {
                    // Core counts it.
                    return core.raw_record(record);
                };
                if let Some(question) = registry.notice(decoded) {
                    inspector.ask(question);
                }
                match decoded {
                    Record::Unseen(stamp, Unseen::IoUring) => {
                        let pid = stamp.execution.tgid.0;
                        tracing::warn!(pid, "{}", Peculiarity::IoUring.message());
                    }
                    Record::Unseen(_, Unseen::Requests) => has_ring = true,
                    _ => {}
                }
                core.record(decoded);
            });
            if has_ring {
                requests.demand(probe);
            }
            if many == 0 {
                break;
            }
            taken += many;
            // Hints go before the next records: the earlier a hint is written, the less is copied.
            self.write_hints();
        }
        taken
    }

    /// Writes Core's skip hints for the kernel side.
    fn write_hints(&mut self) {
        for (stream, hints) in self.core.take_hints() {
            self.probe.shared.hint(stream, hints);
        }
    }

    /// Has the ends of Unix connections reported once they matter. Tells Core of ends without a record.
    fn end_unix(&mut self, now_ns: u64) {
        let gone = self.unix_ends.turn(&self.core, &mut self.probe);
        for conn in gone {
            let record = record::gone(conn, now_ns);
            self.sink.record(&Frame::Record(&record));
            self.core.raw_record(&record);
        }
    }

    /// Tells Core of connections that have ended while records were lost.
    fn end_lost(&mut self, now_ns: u64) {
        for conn in self.lost_ends.turn(&self.core, &self.probe, now_ns) {
            let record = record::lost_end(conn, now_ns);
            self.sink.record(&Frame::Record(&record));
            self.core.raw_record(&record);
        }
    }

    /// Ends the session: takes the remaining records and hands on finished spans, within this time.
    ///
    /// # Errors
    /// If the tape is not whole.
    pub fn finish(mut self, within: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + within / 2;
        // While targets go on, there may always be more.
        while self.turn() > 0 {
            if Instant::now() > until {
                tracing::warn!(
                    "the ring was not read to its end, its last records are lost: more came than could be taken; select fewer \
                     processes, or give Spoor CPU time"
                );
                break;
            }
        }
        self.wait_for_facts(within / 2);
        let spans = self.core.flush();
        self.probe.look_at_skipped();
        self.publish();
        for line in self.losses.finish() {
            tracing::warn!("{line}");
        }
        self.warn_of_kernel_losses();
        self.sink.finish(spans, within)
    }

    /// Waits for the facts of processes that just began: their spans wait for these.
    fn wait_for_facts(&mut self, within: Duration) {
        let until = monotonic_ns() + within.as_nanos() as u64;
        while self.core.waits_for_facts() && monotonic_ns() < until {
            self.probe.ring.pause(pace::SHORTEST);
            self.turn();
        }
    }
}

/// Draws a seed for ids that no other agent has: from the kernel, for the clocks of two hosts of one image may agree.
fn seed() -> io::Result<u128> {
    let mut bytes = [0; size_of::<u128>()];
    // A call returns so few bytes at once, if the kernel has collected enough entropy (random(7)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes))
}
