//! Core: turns events into spans. It has no clock, makes no system call and takes no lock. Each decision follows from
//! the events so far, in their order, so a tape of them is a test.

pub mod causality;
mod closing;
pub mod context;
pub mod exchange;
mod exchanges;
pub mod execution;
pub mod flow;
mod lifecycle;
pub mod proto;
mod spans;
#[cfg(test)]
mod tests;
pub mod trace;
mod workloads;

pub use workloads::Workload;

use agent_ebpf::abi::{Hint, StreamName};

use self::{
    causality::{Causality, Sight},
    execution::{Author, ByProcess, Executions, ProcessId},
    flow::Flow,
    trace::{Span, conventions::Conventions, sampling::Sampler, span_name::SpanNames},
};
use crate::{
    config::CoreSettings,
    counters::counters,
    process::ProcessFacts,
    record::{Change, ConnectionId, Direction, Layer, Open, Record, Tgid},
};

/// Estimated memory of a held exchange, in bytes: heads, strings and the node itself. Turns `--hold-bytes` into a
/// number of exchanges.
const BYTES_PER_EXCHANGE: u64 = 1536;

/// Time between two searches for idle connections.
const SWEEP_NS: u64 = 10_000_000_000;

/// Time for which the facts of an ended process are kept, besides the time for which its spans are held.
const KEEP_ENDED_NS: u64 = 20_000_000_000;

/// Time after which a process that was not seen to begin is done with its earlier requests: nginx gives an upstream up
/// after 60 s (`proxy_read_timeout`, <https://nginx.org/en/docs/http/ngx_http_proxy_module.html>).
const LONGEST_REQUEST_NS: u64 = 60_000_000_000;

/// Smallest difference between two readings of the clocks that is a step: a reader may be interrupted between the two.
const CLOCK_STEP_NS: u64 = 1_000_000;

counters! {
    /// Counters of what Core gave up.
    pub struct Counters {
        /// Records that this version does not understand.
        malformed_records,
        /// Exchanges that were under way when bytes were lost, or when the agent started.
        missed,
        /// Times that exchanges were given up because bytes that frame a message were not captured.
        missed_gap,
        /// First lines of messages, or chunks, that cannot be read.
        malformed,
        /// Messages that peers may end at different bytes.
        doubtful,
        /// Heads of more than 64 KiB.
        head_too_large,
        /// Responses that no request asked for.
        unsolicited,
        /// Connections with too many requests waiting for responses.
        too_many_pending,
        /// `traceparent` or `tracestate` headers that are not valid.
        invalid_trace_context,
        /// OTLP requests, told by path, content type and body, and the agent's own exports.
        telemetry_ignored,
        /// Exchanges that a rule of `--ignore` names.
        ignored,
        /// Exchanges of processes that turned out not to be selected.
        not_selected,
        /// Exchanges of processes whose facts could not be learned in time.
        unknown_process,
        /// Failed connects to Unix sockets that do not exist: libraries try them at every start.
        unix_connects_ignored,
        /// Connects that were under way when their process ended: no calls that failed.
        connects_abandoned,
        /// Connections that ended with received bytes which their process did not read while spans were held.
        left_unread,
        /// Connections whose last calls were not waited for, because too many had ended at once.
        closed_early,
        /// Targets that set up an io_uring while bytes are seen at system calls: their traffic on it is not visible.
        io_uring,
        /// Exchanges of traces that the caller did not sample.
        not_sampled,
        /// Exchanges of traces that `OTEL_TRACES_SAMPLER` left out.
        left_out,
        /// Exchanges that became spans.
        spans,
        /// Spans that are named by their method alone: their service has too many different paths, or the path is too long.
        names_overflowed,
    }
}

/// Decision on whether a process is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Choice {
    #[default]
    Selected,
    /// Nothing is decided: the spans of the process wait.
    Undecided,
    /// The process is not selected. Records of it may still be on the way.
    Refused,
}

/// Facts about a process that Core has.
#[derive(Debug, Default)]
struct Process {
    facts: Option<ProcessFacts>,
    names: SpanNames,
    choice: Choice,
    /// Set once the facts of the process were asked for.
    asked: bool,
    /// Time until which the process may be busy with unseen requests: they came before it was found, or a record was
    /// lost. 0: it was seen to begin. `None`: it did nothing yet.
    busy_until_ns: Option<u64>,
    /// Time of its last record, by `CLOCK_MONOTONIC`.
    last_ns: u64,
    /// Time at which its last thread ended.
    ended_ns: Option<u64>,
    seen: workloads::Seen,
}

/// Unix connection, as /proc knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixConnection {
    /// Name of the connection.
    pub conn: ConnectionId,
    /// Process that used it last.
    pub tgid: Tgid,
    /// Inode number of its socket.
    pub inode: u64,
}

/// Core: turns events into spans.
#[derive(Debug)]
pub struct Core {
    flow: Flow,
    causality: Causality,
    executions: Executions,
    processes: ByProcess<Process>,
    /// Processes whose facts are to be asked for.
    wanted: Vec<Tgid>,
    conventions: Conventions,
    parser: proto::Config,
    sampler: Sampler,
    idle_ns: u64,
    /// Offset from `CLOCK_MONOTONIC` to the Unix epoch.
    unix_offset_ns: i64,
    closing: closing::Closing,
    /// Time of the latest tick.
    now_ns: u64,
    /// Time of the record that is being processed.
    record_ns: u64,
    hold_ns: u64,
    keep_ended_ns: u64,
    next_sweep_ns: u64,
    hints: Vec<(StreamName, [Hint; 2])>,
    events: Vec<proto::Event>,
    /// Spans of programs that were replaced by others since.
    done: Vec<Span>,
    counters: Counters,
}

impl Core {
    /// Creates a Core that derives its ids from `seed`.
    pub fn new(settings: &CoreSettings, seed: u128) -> Self {
        let hold_ns = u64::try_from(settings.hold.as_nanos()).unwrap_or(u64::MAX);
        let hold_most = usize::try_from(settings.hold_bytes / BYTES_PER_EXCHANGE)
            .unwrap_or(usize::MAX)
            .max(1);
        Self {
            flow: Flow::new(settings.max_connections as usize),
            causality: Causality::new(seed, hold_ns, hold_most),
            executions: Executions::default(),
            processes: ByProcess::default(),
            wanted: Vec::new(),
            conventions: Conventions::new(settings),
            parser: proto::Config {
                http1: proto::http1::Config::new(
                    &settings.request_headers,
                    &settings.response_headers,
                    settings.include_telemetry,
                ),
            },
            sampler: settings.sampler,
            idle_ns: u64::try_from(settings.idle_timeout.as_nanos()).unwrap_or(u64::MAX),
            unix_offset_ns: 0,
            closing: closing::Closing::default(),
            now_ns: 0,
            record_ns: 0,
            hold_ns,
            keep_ended_ns: hold_ns.saturating_add(KEEP_ENDED_NS),
            next_sweep_ns: 0,
            hints: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a record as the ring buffer has it.
    pub fn raw_record(&mut self, bytes: &[u8]) {
        // By reference: a record is large.
        match &Record::decode(bytes) {
            Some(record) => self.record(record),
            None => self.counters.malformed_records += 1,
        }
    }

    /// Takes a record.
    pub fn record(&mut self, record: &Record<'_>) {
        if self.executions.are_crowded() {
            self.sweep_executions();
        }
        match record {
            Record::Segment(segment) => {
                self.seen_at(segment.conn, segment.stamp.time_ns);
                // A socket that TCP has closed is reported under a new name: see `closing`.
                match self.closing.place(segment) {
                    None => self.segment(segment),
                    Some(renamed) => self.segment(&renamed),
                }
            }
            Record::EndOfStream(end) => {
                self.seen_at(end.conn, end.stamp.time_ns);
                self.end_of_stream(end);
            }
            Record::Open(open) => self.open(open),
            Record::Connect(connect) => self.connect(connect),
            Record::State(state) => {
                if state.change != Change::Gone {
                    self.seen_at(state.conn, state.stamp.time_ns);
                }
                self.state(state);
            }
            Record::Exit(exit) => self.exit(exit),
            Record::Exec(exec) => {
                let process = self.executions.process(exec.stamp.execution.tgid);
                let choice = match exec.provisional {
                    true => Choice::Undecided,
                    false => self.choice_after(process),
                };
                self.begin_life(process);
                self.told_elsewhere(process, exec.stamp.time_ns).choice = choice;
            }
            Record::Fork(fork) => {
                let parent = self.executions.process(fork.stamp.execution.tgid);
                let choice = self.choice_after(parent);
                let child = self.executions.process(fork.child);
                self.begin_life(child);
                self.told_elsewhere(child, fork.stamp.time_ns).choice = choice;
            }
            Record::Unseen(stamp, unseen) => {
                let process = self.executions.process(stamp.execution.tgid);
                self.unseen(process, *unseen);
            }
            // The process listens on a port of a rule. Programs that it forks from now on are selected with it.
            Record::Listen(listen) => self.selected(listen.stamp.execution.tgid, true),
            // No rule reads them, and no program reports them yet.
            Record::Begun(_) | Record::Context(_) => {}
        }
    }

    fn open(&mut self, open: &Open) {
        let author = self.executions.resolve(&open.stamp);
        if !self.want(&author) {
            return self.turn_away(open.conn);
        }
        let flow = &self.flow;
        let read_to = |id| Some(flow.get(id)?.reached(Direction::Read));
        if !self.closing.resume(open, read_to) {
            self.make_room(open.conn);
            self.flow.open(open, author.execution.process);
        }
    }

    /// Takes a reading of the clocks: this time of `CLOCK_MONOTONIC` is that time since the Unix epoch.
    ///
    /// To be called now and then, because the wall clock may be set.
    pub fn clock(&mut self, monotonic_ns: u64, unix_ns: u64) {
        self.now_ns = self.now_ns.max(monotonic_ns);
        let offset_ns = unix_ns.wrapping_sub(monotonic_ns).cast_signed();
        // Small differences are noise: following them would shift spans of one trace against each other.
        if offset_ns.abs_diff(self.unix_offset_ns) >= CLOCK_STEP_NS {
            self.unix_offset_ns = offset_ns;
        }
    }

    /// Takes the facts of a process, for which its spans wait.
    pub fn process(&mut self, facts: ProcessFacts) {
        let process = self.executions.process(Tgid(facts.tgid));
        self.causality.set_runtime(process, facts.runtime);
        let process = self.processes.get_or_default(process);
        process.asked = true;
        process.last_ns = process.last_ns.max(self.now_ns);
        process.facts = Some(facts);
    }

    /// Takes the decision on a process that was captured provisionally since its exec, and whose spans wait for it.
    ///
    /// If the process is not selected, its exchanges are forgotten, and so are its later records.
    pub fn selected(&mut self, tgid: Tgid, selected: bool) {
        let process = self.executions.process(tgid);
        if selected {
            if let Some(process) = self.processes.get_mut(process) {
                process.choice = Choice::Selected;
            }
            return;
        }
        for id in self.flow.of_process(process) {
            self.turn_away(id);
        }
        self.counters.not_selected += self.causality.lose_process(process) as u64;
        let refused = Process {
            choice: Choice::Refused,
            asked: true,
            last_ns: self.now_ns,
            ..Process::default()
        };
        self.processes.insert(process, refused);
    }

    /// Turns away a connection of a process that is not selected.
    fn turn_away(&mut self, conn: ConnectionId) {
        let (is_new, connection) = self.flow.let_go(conn);
        if is_new {
            // Later bytes on it are not reported, and count as no loss.
            self.hints.push((StreamName::new(conn.0, Layer::Wire), flow::IGNORE));
        }
        for (_, node) in connection.into_iter().flat_map(|connection| connection.exchanges) {
            self.counters.not_selected += 1;
            self.causality.lose(node);
        }
    }

    /// Returns the choice for a program that this process begins, or for its child: the next program of a refused
    /// process may be selected.
    fn choice_after(&self, process: ProcessId) -> Choice {
        match self.processes.get(process).map(|process| process.choice) {
            Some(Choice::Undecided | Choice::Refused) => Choice::Undecided,
            Some(Choice::Selected) | None => Choice::Selected,
        }
    }

    /// Returns the processes that were seen and whose facts are missing: [`Core::process`] should be called for them.
    pub fn take_wanted(&mut self) -> Vec<Tgid> {
        std::mem::take(&mut self.wanted)
    }

    /// Takes the hints for the programs: docs/dev/kernel-contract.md.
    pub fn take_hints(&mut self) -> Vec<(StreamName, [Hint; 2])> {
        std::mem::take(&mut self.hints)
    }

    /// Returns whether the ends of Unix connections should be reported from now on.
    pub fn needs_unix_ends(&self) -> bool {
        self.flow.needs_unix_ends()
    }

    /// Returns the Unix connections that are not known to have ended.
    pub fn unix_connections(&self) -> Vec<UnixConnection> {
        let unix = self.flow.unix_connections().into_iter();
        unix.filter_map(|connection| {
            Some(UnixConnection {
                conn: connection.id,
                tgid: self.executions.tgid(connection.process),
                inode: connection.described()?.socket.inode,
            })
        })
        .collect()
    }

    /// Returns the connections without a record since `before_ns`, a time of `CLOCK_MONOTONIC`, whose ends were not
    /// reported.
    pub fn quiet_connections(&self, before_ns: u64) -> Vec<ConnectionId> {
        let mut quiet = self.flow.idle(before_ns);
        quiet.retain(|&id| !self.closing.contains(id));
        quiet
    }

    /// Notes that a process does something. Returns false if it is not selected.
    fn want(&mut self, author: &Author) -> bool {
        let (id, now_ns) = (author.execution.process, author.time_ns);
        let mut process = self.processes.get_or_default(id);
        if process.ended_ns.is_some_and(|ended_ns| ended_ns < now_ns) {
            // The process id is used again, and the record of its new process was lost: without this, the old process's
            // facts would name the new one's spans.
            self.begin_life(id);
            process = self.processes.get_or_default(id);
        }
        process.last_ns = now_ns;
        process
            .busy_until_ns
            .get_or_insert(now_ns.saturating_add(LONGEST_REQUEST_NS));
        if !process.asked {
            process.asked = true;
            self.wanted.push(self.executions.tgid(id));
        }
        process.choice != Choice::Refused
    }

    /// Notes that a process may be busy from now on with a request that was not seen.
    fn be_busy(&mut self, process: ProcessId, now_ns: u64) {
        if let Some(process) = self.processes.get_mut(process) {
            let until_ns = now_ns.saturating_add(LONGEST_REQUEST_NS);
            process.busy_until_ns = process.busy_until_ns.max(Some(until_ns));
        }
    }

    /// Registers a process that was seen from birth. Its facts have been asked for already.
    fn told_elsewhere(&mut self, process: ProcessId, now_ns: u64) -> &mut Process {
        let process = self.processes.get_or_default(process);
        process.asked = true;
        // No request can be older than the process.
        process.busy_until_ns = Some(0);
        process.last_ns = now_ns;
        process
    }

    /// Takes the time, `now_ns` of `CLOCK_MONOTONIC`: releases and forgets what has waited long enough.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.settle_due(now_ns);
        self.causality.tick(now_ns);
        self.flow.forget_left_behind(now_ns.saturating_sub(self.hold_ns));
        if now_ns < self.next_sweep_ns {
            return;
        }
        self.next_sweep_ns = now_ns.saturating_add(SWEEP_NS);
        for id in self.flow.idle(now_ns.saturating_sub(self.idle_ns)) {
            self.flow.counters.idle_forgotten += 1;
            if let Some(connection) = self.flow.close(id) {
                self.missed(connection.exchanges.into_iter().map(|(_, node)| node));
            }
        }
        self.forget_processes(now_ns);
        self.sweep_executions();
    }

    /// Returns the time at which [`Core::tick`] should be called, if nothing else happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let sweeps = !self.flow.is_empty() || !self.processes.is_empty() || self.causality.has_ready();
        let sweep = sweeps.then_some(self.next_sweep_ns);
        let others = [self.closing.next_deadline_ns(), self.causality.next_deadline_ns()];
        others.into_iter().chain([sweep]).flatten().min()
    }

    /// Returns the finished spans.
    pub fn drain(&mut self) -> Vec<Span> {
        self.finished_spans()
    }

    /// Releases everything that is over, with the facts known now: the agent ends.
    pub fn flush(&mut self) -> Vec<Span> {
        self.settle_due(u64::MAX);
        self.causality.tick(u64::MAX);
        self.now_ns = u64::MAX;
        let spans = self.finished_spans();
        self.counters.missed += self.causality.len() as u64;
        spans
    }

    /// Returns whether spans wait only for the facts of their process.
    pub fn waits_for_facts(&self) -> bool {
        self.causality.has_ready()
    }

    /// Returns the numbers of connections and exchanges under way.
    pub fn under_way(&self) -> (usize, usize) {
        (self.flow.len(), self.causality.len())
    }

    /// Lists all counters, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let of_rooms = self.flow.counters.named().chain(self.causality.counters.named());
        let mut all: Vec<_> = self.counters.named().chain(of_rooms).collect();
        // Requests of calls that were given up are kept at two places, and missed alike.
        let left_behind = self.flow.counters.left_behind_too_many;
        all.retain_mut(|(name, count)| {
            if *name == "given_up_too_many" {
                *count = count.saturating_add(left_behind);
            }
            *name != "left_behind_too_many"
        });
        all
    }
}

/// Returns whether all requests that a process is busy with were seen.
fn sight(processes: &ByProcess<Process>, process: ProcessId, now_ns: u64) -> Sight {
    let busy_until_ns = processes.get(process).and_then(|process| process.busy_until_ns);
    match busy_until_ns {
        Some(until_ns) if now_ns < until_ns => Sight::Partial,
        _ => Sight::Whole,
    }
}
