//! The thin driver around Core: it reads the ring and the clocks, asks about processes, and hands spans on. On the
//! main thread; nothing here waits for anyone but the ring.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, BufWriter},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_ebpf::abi::{Counter, Header, Kind, State as StateRecord, StateChange, bytes_of};
use anyhow::Context;

use super::{
    facts::{Answer, Facts, Question},
    losses::BoundLosses,
    second_look::{SecondLook, Seen, Verdict, selected},
    shown::{Shown, State},
    signals::{Command, Stop},
    undecided::Undecided,
    unix_ends::UnixEnds,
    whys::{Why, Whys},
};
use crate::{
    config::CoreSettings,
    engine::Core,
    probe::{BUSY_PERIOD, Probe, Waker},
    process::{ExecHint, ProcRoot, Selection, UnixSockets},
    record::Event,
    sink::SpanSink,
    tape::{Frame, TapeWriter},
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
    Export(SpanSink),
    /// All that Core is fed, to a tape.
    Tape(Box<TapeWriter<BufWriter<File>>>),
}

/// A running agent.
pub struct Session {
    probe: Probe,
    core: Core,
    facts: Facts,
    root: ProcRoot,
    selection: Selection,
    sink: Sink,
    shown: Arc<Shown>,
    only_command: bool,
    /// Processes that are targets now, and by whom they were forked.
    alive: BTreeSet<u32>,
    parents: HashMap<u32, u32>,
    whys: Whys,
    undecided: Undecided,
    second_look: SecondLook,
    unix_ends: UnixEnds,
    records: (u64, u64),
    losses: BoundLosses,
    /// Processes that were asked about at the start.
    first_look: BTreeSet<u32>,
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
        selection: Selection,
        sink: Sink,
        shown: Arc<Shown>,
        only_command: bool,
    ) -> anyhow::Result<Self> {
        let facts = Facts::start(root.clone(), selection.clone(), probe.ring.waker())?;
        shown.pulse.begin(probe.ring.waker());
        let seed = seed().context("cannot draw a seed for trace ids (getrandom)")?;
        let mut session = Self {
            probe,
            core: Core::new(settings, seed),
            facts,
            root,
            selection,
            sink,
            shown,
            only_command,
            alive: BTreeSet::new(),
            parents: HashMap::new(),
            whys: Whys::default(),
            undecided: Undecided::default(),
            second_look: SecondLook::default(),
            unix_ends: UnixEnds::default(),
            records: (0, 0),
            losses: BoundLosses::default(),
            first_look: BTreeSet::new(),
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

    /// How many processes are traced.
    pub fn targets(&self) -> usize {
        self.alive.len()
    }

    /// Selects what runs, and lets what starts be found. `command`: a process that is selected in any case.
    pub fn begin(&mut self, command: Option<u32>) {
        if let Some(pid) = command {
            self.select(pid, Why::Command);
        }
        if self.only_command {
            return;
        }
        for port in self.selection.ports() {
            self.probe.shared.watch_port(port);
        }
        self.probe.shared.capture_new(self.selection.may_match_others());
        // What a process forks before it is a target is found by the next look.
        loop {
            let before = self.alive.len();
            for (tgid, why) in selected(&self.selection, self.alive.clone(), true) {
                self.select(tgid, why);
            }
            if self.alive.len() == before {
                break;
            }
        }
        let mut sockets = UnixSockets::new(&self.root);
        if self.alive.iter().any(|&tgid| sockets.listens(tgid)) {
            self.unix_ends.watch(&mut self.probe);
        }
        self.first_look = self.alive.clone();
        let until = monotonic_ns() + FIRST_LOOK.as_nanos() as u64;
        while !self.first_look.is_empty() && monotonic_ns() < until {
            self.turn();
            self.probe.ring.pause(Duration::from_millis(1));
        }
    }

    fn select(&mut self, tgid: u32, why: Why) {
        if self.alive.insert(tgid) {
            if let Why::Child(parent) = why {
                self.parents.insert(tgid, parent);
            }
            self.whys.note(tgid, why);
            self.decided(vec![(tgid, true)]);
            let parent = self.parents.get(&tgid).copied();
            self.facts.ask(Question::Facts { tgid, parent });
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
        let deadlines = [self.core.next_deadline_ns(), self.second_look.next_deadline_ns()];
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
                facts,
                sink,
                alive,
                parents,
                whys,
                undecided,
                records,
                broken,
                ..
            } = self;
            let many = probe.ring.drain(BATCH - taken, |record| {
                records.0 += 1;
                records.1 += record.len() as u64;
                write(sink, broken, &Frame::Record(record));
                match Event::decode(record) {
                    Some(event) => {
                        whys.notice(&event, alive);
                        notice(&event, facts, alive, parents, undecided);
                        core.event(&event);
                    }
                    None => core.record(record),
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
        self.shown
            .desk
            .serve(|| self.whys.workloads(&self.alive, self.core.workloads()));
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
            self.probe.shared.hint(conn, hints);
        }
    }

    /// Has the ends of Unix connections told once they matter, and tells those that were before.
    fn end_unix(&mut self, now_ns: u64) {
        let gone = self.unix_ends.turn(&self.core, &mut self.probe);
        for conn in gone {
            let record = StateRecord {
                header: Header {
                    kind: Kind::State as u8,
                    time_ns: now_ns,
                    ..Header::default()
                },
                conn,
                state: StateChange::Gone as u8,
                ..StateRecord::default()
            };
            let record = bytes_of(&record);
            self.tape(&Frame::Record(record));
            self.core.record(record);
        }
    }

    /// Takes what was learned about processes, and asks what is wanted.
    fn learn(&mut self) {
        while let Some(answer) = self.facts.answer() {
            match answer {
                Answer::Facts(facts) => {
                    self.first_look.remove(&facts.tgid);
                    self.tape(&Frame::Process(std::borrow::Cow::Borrowed(&facts)));
                    self.core.process(facts);
                }
                Answer::Selected(tgid, reason) => {
                    let decided = self.undecided.answered(tgid, reason.is_some());
                    self.whys.decide(tgid, reason);
                    self.decided(decided);
                }
                Answer::Late(tgid, reason) => self.select(tgid, Why::Rule(reason)),
                Answer::Seen(seen) => self.looked(seen),
            }
        }
        let decided = self.undecided.decide_left();
        self.decided(decided);
        for tgid in self.core.take_wanted() {
            let parent = self.parents.get(&tgid).copied();
            self.facts.ask(Question::Facts { tgid, parent });
        }
    }

    /// Mends what lost records of starts and ends have left.
    fn looked(&mut self, seen: Seen) {
        let is_captured = |tgid| self.probe.shared.is_target(tgid);
        let Verdict {
            begun,
            strangers,
            ended,
        } = self.second_look.judge(seen, &self.alive, is_captured);
        if !begun.is_empty() {
            tracing::info!(
                "{} processes that began while the ring was full are traced from now on",
                begun.len()
            );
        }
        for (tgid, why) in begun {
            self.select(tgid, why);
        }
        self.decided(strangers.into_iter().map(|tgid| (tgid, false)).collect());
        for tgid in ended {
            self.let_go(tgid);
        }
    }

    /// A process is no target any more, and nothing will tell its end.
    fn let_go(&mut self, tgid: u32) {
        self.probe.shared.set_target(tgid, false);
        self.alive.remove(&tgid);
        self.whys.forget(tgid);
        self.parents.remove(&tgid);
        self.facts.ask(Question::Ended(tgid));
    }

    fn decided(&mut self, decided: Vec<(u32, bool)>) {
        for (tgid, selected) in decided {
            if !selected {
                self.let_go(tgid);
            } else if self.alive.contains(&tgid) && !self.probe.shared.is_target(tgid) {
                self.probe.shared.set_target(tgid, true);
            }
            self.tape(&Frame::Selected { tgid, selected });
            self.core.selected(tgid, selected);
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

    /// Looks at what runs, if the ring or the questions had no room lately. `lost`: how many records found none so far.
    fn look_again(&mut self, lost: u64, now_ns: u64) {
        let lost = lost + self.facts.refused();
        if self.second_look.is_due(lost, now_ns) {
            let decided = |tgid: &&u32| !self.undecided.contains(**tgid);
            self.facts.ask(Question::Look {
                targets: self.alive.iter().filter(decided).copied().collect(),
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
            facts: self.facts.counters().to_vec(),
            lost: self.probe.lost.iter().map(|lost| lost.feature.to_owned()).collect(),
        });
        lost
    }

    fn tape(&mut self, frame: &Frame<'_>) {
        write(&mut self.sink, &mut self.broken, frame);
    }

    /// Processes that were traced and have not ended.
    pub fn descendants(&self) -> Vec<u32> {
        self.alive.iter().copied().collect()
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

/// Asks about processes that begin, and notes those that end.
fn notice(
    event: &Event<'_>,
    facts: &mut Facts,
    alive: &mut BTreeSet<u32>,
    parents: &mut HashMap<u32, u32>,
    undecided: &mut Undecided,
) {
    match event {
        Event::Fork(fork) => {
            let parent = fork.header.execution.tgid;
            undecided.fork(parent, fork.child, alive.contains(&parent));
            alive.insert(fork.child);
            parents.insert(fork.child, parent);
            facts.ask(Question::Facts {
                tgid: fork.child,
                parent: Some(parent),
            });
        }
        Event::Exec(exec, strings) => {
            let (cmdline, environ) = strings.split_at(strings.len().min(exec.cmdline_len as usize));
            let tgid = exec.header.execution.tgid;
            // One that was let go a moment ago was a target still when this was told.
            let provisional = alive.insert(tgid) || exec.provisional == 1;
            let comm = exec.comm.split(|&byte| byte == 0).next().unwrap_or_default();
            facts.ask(Question::Exec {
                tgid,
                hint: ExecHint {
                    comm: String::from_utf8_lossy(comm).into_owned(),
                    cmdline: cmdline.to_vec(),
                    environ: environ.to_vec(),
                },
                provisional: undecided.exec(tgid, provisional),
            });
        }
        Event::Exit(exit) => {
            let tgid = exit.header.execution.tgid;
            alive.remove(&tgid);
            parents.remove(&tgid);
            facts.ask(Question::Ended(tgid));
        }
        Event::Listen(listen) => {
            let tgid = listen.header.execution.tgid;
            undecided.listens(tgid);
            if alive.insert(tgid) {
                facts.ask(Question::Facts { tgid, parent: None });
            }
        }
        Event::Unseen(unseen) => {
            tracing::warn!(
                pid = unseen.header.execution.tgid,
                "this workload uses io_uring: its traffic on it is not visible"
            );
        }
        Event::Open(_) | Event::Connect(..) | Event::Segment(..) | Event::State(_) => {}
    }
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
