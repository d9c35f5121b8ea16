//! The thin driver around Core: it reads the ring and the clocks, asks about processes, and hands spans on. On the
//! main thread; nothing here waits for anyone but the ring.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_ebpf::abi::Counter;
use anyhow::Context;

use super::{
    losses::BoundLosses,
    shown::{Shown, State},
    signals::{Command, Stop},
    unix_ends::UnixEnds,
};
use crate::{
    config::CoreSettings,
    engine::Core,
    export::Exporter,
    probe::{BUSY_PERIOD, Probe, Waker},
    process::{Peculiarity, ProcRoot, UnixSockets},
    record::{self, Record, Tgid, Unseen},
    tape::{Frame, TapeWriter},
    targets::{
        Decision, Outcome, Reason, Refusal, Registry,
        inspector::{Answer, Inspector, Question},
        reconcile::{Differences, Reconciler, Seen, selected},
        rules::Rules,
    },
};

/// Records that are taken before anything else is looked at. Their exchanges and spans, some 2 KiB each, are there at one
/// time: so few that a burst leaves little memory behind, and the processor's cache holds them.
const BATCH: usize = 1024;

/// Looks at an empty ring before the reader sleeps until it is woken.
const EMPTY_LOOKS: u32 = 4;

/// The agent is ready when it knows what it traces, or after this time: how a call's parent is found depends on it.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// How often the clocks are compared, and the counters shown, while anything happens.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;

/// Where the session's outcome goes.
pub enum Sink {
    /// Spans, to whoever wants them.
    Export(Exporter),
    /// All that Core is fed, to a tape.
    Tape(Box<TapeWriter<BufWriter<File>>>),
}

/// A running agent.
pub struct Session {
    probe: Probe,
    core: Core,
    registry: Registry,
    inspector: Inspector,
    reconciler: Reconciler,
    root: ProcRoot,
    rules: Rules,
    sink: Sink,
    shown: Arc<Shown>,
    /// Only the launched command and its children are targets.
    only_command: bool,
    unix_ends: UnixEnds,
    /// Records taken from the ring, and their bytes.
    records: (u64, u64),
    losses: BoundLosses,
    next_housekeeping_ns: u64,
    /// Why the tape is not whole.
    broken: Option<crate::tape::TapeError>,
}

impl Session {
    /// Nothing is traced before [`Session::begin`].
    pub fn new(
        probe: Probe,
        settings: &CoreSettings,
        root: ProcRoot,
        rules: Rules,
        sink: Sink,
        shown: Arc<Shown>,
        only_command: bool,
    ) -> anyhow::Result<Self> {
        let inspector = Inspector::start(root.clone(), rules.clone(), probe.ring.waker())?;
        shown.pulse.begin(probe.ring.waker());
        let seed = seed().context("cannot draw a seed for trace ids (getrandom)")?;
        let mut session = Self {
            probe,
            core: Core::new(settings, seed),
            registry: Registry::default(),
            inspector,
            reconciler: Reconciler::default(),
            root,
            rules,
            sink,
            shown,
            only_command,
            unix_ends: UnixEnds::default(),
            records: (0, 0),
            losses: BoundLosses::default(),
            next_housekeeping_ns: 0,
            broken: None,
        };
        let json = serde_json::to_string(settings).context("cannot write the settings")?;
        session.tape(&Frame::Config(json.into()));
        session.tape(&Frame::Seed(seed));
        session.housekeeping(monotonic_ns());
        Ok(session)
    }

    /// Ends the reader's sleep.
    pub fn waker(&self) -> Waker {
        self.probe.ring.waker()
    }

    /// Returns how many processes are traced.
    pub fn targets(&self) -> usize {
        self.registry.alive().count()
    }

    /// Selects what runs, and lets the kernel side capture what starts. `command` is a process that is a target whatever
    /// the rules say.
    pub fn begin(&mut self, command: Option<Tgid>) {
        if let Some(tgid) = command {
            self.select(tgid, Reason::Command);
        }
        if self.only_command {
            return;
        }
        for port in self.rules.ports() {
            self.probe.shared.watch_port(port);
        }
        self.probe.shared.capture_new(self.rules.may_match_others());
        // A process that was forked before its parent was a target is found by the next look.
        loop {
            let before = self.registry.alive().count();
            for (tgid, reason) in selected(&self.rules, self.registry.alive().collect(), true) {
                self.select(tgid, reason);
            }
            if self.registry.alive().count() == before {
                break;
            }
        }
        let mut sockets = UnixSockets::new(&self.root);
        if self.registry.alive().any(|tgid| sockets.listens(tgid.0)) {
            self.unix_ends.watch(&mut self.probe);
        }
        self.wait_for_first_facts();
    }

    /// Works until the facts of those that are targets now have come, or [`FIRST_LOOK`] is over.
    fn wait_for_first_facts(&mut self) {
        let mut awaited: Vec<Tgid> = self.registry.alive().collect();
        let until = monotonic_ns() + FIRST_LOOK.as_nanos() as u64;
        while !awaited.is_empty() && monotonic_ns() < until {
            self.turn();
            awaited.retain(|&tgid| self.registry.awaits_facts(tgid));
            self.probe.ring.pause(Duration::from_millis(1));
        }
    }

    /// Makes a process a target that was found by looking at what runs.
    fn select(&mut self, tgid: Tgid, reason: Reason) {
        if let Some(question) = self.registry.select(tgid, reason) {
            self.carry_out(vec![Decision {
                tgid,
                outcome: Outcome::Target,
            }]);
            self.inspector.ask(question);
        }
    }

    /// Works until a signal comes, or the command has ended.
    pub fn work(&mut self, stop: &Stop, command: Option<&Command>) {
        hurry();
        let mut empty_looks = 0;
        loop {
            let taken = self.turn();
            // What is in the ring still is taken at the end.
            if stop.is_asked() || command.is_some_and(|command| command.exit_code().is_some()) {
                return;
            }
            if taken >= BATCH {
                continue;
            }
            empty_looks = if taken == 0 { empty_looks + 1 } else { 0 };
            if empty_looks < EMPTY_LOOKS {
                self.probe.ring.pause(BUSY_PERIOD);
            } else {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let lost = self.show();
        let now_ns = monotonic_ns();
        self.look_again(lost, now_ns);
        let deadlines = [self.core.next_deadline_ns(), self.reconciler.next_deadline_ns()];
        let losses_over = self.losses.over_at();
        let longest = deadlines
            .into_iter()
            .flatten()
            .min()
            .map_or(LONGEST_SLEEP, |deadline| {
                Duration::from_nanos(deadline.saturating_sub(now_ns))
            })
            .min(losses_over.map_or(LONGEST_SLEEP, |over_at| {
                over_at.saturating_duration_since(Instant::now())
            }))
            .clamp(Duration::from_millis(1), LONGEST_SLEEP);
        // Records are left in the ring for the next turn.
        self.probe.ring.sleep(&self.probe.shared, longest);
    }

    /// Takes what is there, and passes on what came of it. Returns how many records there were.
    fn turn(&mut self) -> usize {
        let mut taken = 0;
        while taken < BATCH {
            let Self {
                probe,
                core,
                registry,
                inspector,
                sink,
                records,
                broken,
                ..
            } = self;
            let many = probe.ring.drain(BATCH - taken, |record| {
                records.0 += 1;
                records.1 += record.len() as u64;
                write(sink, broken, &Frame::Record(record));
                match Record::decode(record) {
                    Some(record) => {
                        if let Some(question) = registry.notice(&record) {
                            inspector.ask(question);
                        }
                        if let Record::Unseen(stamp, Unseen::IoUring) = record {
                            warn_of_io_uring(stamp.execution.tgid);
                        }
                        core.record(&record);
                    }
                    None => core.raw_record(record),
                }
            });
            if many == 0 {
                break;
            }
            taken += many;
            self.advise();
        }
        self.learn();
        self.advise();
        self.shown.pulse.beat();
        self.shown.desk.serve(|| self.registry.workloads(self.core.workloads()));
        let now_ns = monotonic_ns();
        if taken < BATCH {
            self.end_unix(now_ns);
        }
        if taken > 0 || self.core.next_deadline_ns().is_some_and(|deadline| deadline <= now_ns) {
            self.tape(&Frame::Tick { now_ns });
            self.core.tick(now_ns);
        }
        if now_ns >= self.next_housekeeping_ns {
            self.housekeeping(now_ns);
        }
        let spans = self.core.drain();
        if let Sink::Export(exporter) = &self.sink {
            exporter.push(spans);
        }
        taken
    }

    /// Tells the programs what Core wants to know of connections.
    fn advise(&mut self) {
        for (conn, hints) in self.core.take_hints() {
            self.probe.shared.hint(conn.0, hints);
        }
    }

    /// Has the ends of Unix connections told once they matter, and tells those that were before.
    fn end_unix(&mut self, now_ns: u64) {
        let gone = self.unix_ends.turn(&self.core, &mut self.probe);
        for conn in gone {
            let record = record::gone(conn, now_ns);
            self.tape(&Frame::Record(&record));
            self.core.raw_record(&record);
        }
    }

    /// Takes what the inspector has learned, carries out what follows, and asks what Core wants to know.
    fn learn(&mut self) {
        while let Some(answer) = self.inspector.answer() {
            match answer {
                Answer::Facts(facts) => {
                    self.registry.described(Tgid(facts.tgid));
                    self.tape(&Frame::Process(Cow::Borrowed(&facts)));
                    self.core.process(facts);
                }
                Answer::Matched(tgid, rule) => {
                    let decisions = self.registry.answered(tgid, rule);
                    self.carry_out(decisions);
                }
                Answer::Late(tgid, rule) => self.select(tgid, Reason::Rule(rule)),
                Answer::Seen(seen) => self.reconcile(seen),
            }
        }
        let decisions = self.registry.take_decisions();
        self.carry_out(decisions);
        for tgid in self.core.take_wanted() {
            let parent = self.registry.parent(tgid);
            self.inspector.ask(Question::Facts { tgid, parent });
        }
    }

    /// Mends the registry after records of starts and ends were lost.
    fn reconcile(&mut self, seen: Seen) {
        let is_captured = |tgid: Tgid| self.probe.shared.is_target(tgid.0);
        let Differences { begun, strays, ended } = self.reconciler.compare(seen, &self.registry, is_captured);
        if !begun.is_empty() {
            tracing::info!(
                "{} processes that began while the ring was full are traced from now on",
                begun.len()
            );
        }
        for (tgid, reason) in begun {
            self.select(tgid, reason);
        }
        let strays = strays.into_iter().map(|tgid| Decision {
            tgid,
            outcome: Outcome::Refused(Refusal::Stray),
        });
        self.carry_out(strays.collect());
        for tgid in ended {
            self.registry.exit(tgid);
            self.let_go(tgid);
        }
    }

    /// Ends the capture of a process whose end the kernel side will not report.
    fn let_go(&mut self, tgid: Tgid) {
        self.probe.shared.set_target(tgid.0, false);
        self.inspector.ask(Question::Ended(tgid));
    }

    /// Tells the kernel side, the tape and Core what was decided.
    fn carry_out(&mut self, decisions: Vec<Decision>) {
        for Decision { tgid, outcome } in decisions {
            match outcome {
                Outcome::Refused(refusal) => {
                    tracing::trace!(pid = tgid.0, ?refusal, "not a target");
                    self.let_go(tgid);
                }
                Outcome::Target => {
                    if self.registry.is_alive(tgid) && !self.probe.shared.is_target(tgid.0) {
                        self.probe.shared.set_target(tgid.0, true);
                    }
                }
            }
            let (tgid, selected) = (tgid.0, outcome == Outcome::Target);
            self.tape(&Frame::Selected { tgid, selected });
            self.core.selected(Tgid(tgid), selected);
        }
    }

    /// Compares the clocks and shows the counters.
    fn housekeeping(&mut self, now_ns: u64) {
        self.next_housekeeping_ns = now_ns + HOUSEKEEPING_NS;
        let (monotonic_ns, unix_ns) = (monotonic_ns(), unix_ns());
        self.tape(&Frame::Clock { monotonic_ns, unix_ns });
        self.core.clock(monotonic_ns, unix_ns);
        self.probe.look_at_skipped();
        let lost = self.show();
        self.look_again(lost, now_ns);
    }

    /// Looks at everything that runs, if the ring or the inspector had no room lately. `lost` counts the records that
    /// found no room in the ring so far.
    fn look_again(&mut self, lost: u64, now_ns: u64) {
        let lost = lost + self.inspector.refused();
        if self.reconciler.is_due(lost, now_ns) {
            self.inspector.ask(Question::Look {
                targets: self.registry.targets().collect(),
                rules: !self.only_command,
            });
        }
    }

    /// Shows the counters, and logs the losses that begin and end. Returns how many records found no room in the ring.
    fn show(&mut self) -> u64 {
        let kernel = self.probe.counters();
        let ring_full = kernel.iter().find(|(cause, _)| *cause == Counter::RingFull);
        let lost = ring_full.map_or(0, |&(_, count)| count);
        let now = Instant::now();
        self.shown.pulse.ring(now, lost, self.records.0);
        let kernel: Vec<_> = kernel.into_iter().map(|(cause, count)| (cause.name(), count)).collect();
        let core = self.core.counters();
        for line in self.losses.look(now, kernel.iter().chain(&core)) {
            tracing::warn!("{line}");
        }
        self.shown.set(State {
            kernel,
            core,
            records: self.records,
            under_way: self.core.under_way(),
            talking: self.core.talking(),
            facts: self.inspector.counters().to_vec(),
            lost: self.probe.lost.iter().map(|lost| lost.feature.to_owned()).collect(),
        });
        lost
    }

    fn tape(&mut self, frame: &Frame<'_>) {
        write(&mut self.sink, &mut self.broken, frame);
    }

    /// Returns the processes that were traced and have not ended.
    pub fn descendants(&self) -> Vec<Tgid> {
        self.registry.alive().collect()
    }

    /// Ends: what is over leaves, within this time.
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
        self.show();
        for line in self.losses.finish() {
            tracing::warn!("{line}");
        }
        let counters = self.probe.counters();
        let mut counters: Vec<_> = counters.into_iter().filter(|&(_, count)| count > 0).collect();
        if counters.iter().any(|(cause, _)| cause.is_loss()) {
            // What the kernel skipped is no loss by itself, but may be why there is one.
            counters.retain(|&(cause, _)| cause.is_loss() || cause == Counter::Skipped);
            let lost: Vec<String> = counters
                .iter()
                .map(|(cause, count)| format!("{} {count}", cause.name()))
                .collect();
            tracing::warn!("the kernel side lost records or bytes: {}", lost.join(", "));
        }
        match self.sink {
            Sink::Export(exporter) => {
                exporter.push(spans);
                exporter.shutdown(within);
            }
            Sink::Tape(tape) => {
                if let Some(error) = self.broken {
                    return Err(error).context("the tape is not whole");
                }
                tape.finish().context("cannot end the tape")?;
            }
        }
        Ok(())
    }

    /// Spans of processes that just began wait for what these are.
    fn wait_for_facts(&mut self, within: Duration) {
        let until = monotonic_ns() + within.as_nanos() as u64;
        while self.core.waits_for_facts() && monotonic_ns() < until {
            self.probe.ring.pause(BUSY_PERIOD);
            self.turn();
        }
    }
}

fn write(sink: &mut Sink, broken: &mut Option<crate::tape::TapeError>, frame: &Frame<'_>) {
    if let Sink::Tape(tape) = sink
        && broken.is_none()
        && let Err(error) = tape.write(frame)
    {
        tracing::error!("cannot write the tape: {error}");
        *broken = Some(error);
    }
}

fn warn_of_io_uring(tgid: Tgid) {
    tracing::warn!(pid = tgid.0, "{}", Peculiarity::IoUring.message());
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is writable; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn unix_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// A seed for ids that no other agent has: from the kernel, for the clocks of two hosts of one image may agree.
fn seed() -> io::Result<u128> {
    let mut bytes = [0; size_of::<u128>()];
    // So few bytes come in one call, once the kernel has collected enough (random(7)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes))
}

/// The reader goes before others on a machine that is saturated: it needs little, and what it is late for is lost. Where
/// that is not allowed, it goes with them.
fn hurry() {
    const NICE: libc::c_int = -10;
    // SAFETY: 0 is the calling thread; nothing else is touched.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        tracing::debug!(
            "the reader runs at normal priority: {}",
            std::io::Error::last_os_error()
        );
    }
}
