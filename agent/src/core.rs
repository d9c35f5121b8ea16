//! Core: from events to spans. It has no clock, makes no system call and takes no lock; all that it decides follows from
//! what it was told, in that order, so a tape of it is a test.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod exchanges;
mod lifecycle;
mod resets;
mod spans;

use std::collections::{HashMap, HashSet, VecDeque};

use agent_ebpf::abi::Role;

use crate::{
    causality::{self, Causality},
    config::{CoreSettings, SpanNames as SpanNamesSetting},
    event::Event,
    flow::{self, Flow},
    process::ProcessFacts,
    proto::http1,
    trace::{
        Span,
        http::{HttpConfig, SpanNameStyle, known_methods},
        span_name::SpanNames,
    },
};

/// What a held exchange takes, roughly: heads, strings and the node itself. Turns `--hold-bytes` into a number.
const BYTES_PER_EXCHANGE: u64 = 1536;

/// How often idle connections are looked for.
const SWEEP_NS: u64 = 10_000_000_000;

/// Facts of a process that has ended are kept so long, for the spans that are still held.
const KEEP_ENDED_NS: u64 = 30_000_000_000;

/// What Core gave up, as counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that are none of this version's.
    pub malformed_records: u64,
    /// Exchanges that were under way when bytes were lost, or when the agent came.
    pub missed: u64,
    /// Of these, because bytes were not captured.
    pub missed_gap: u64,
    /// Heads or chunks that HTTP/1 does not allow.
    pub malformed: u64,
    /// Heads of more than 64 KiB.
    pub head_too_large: u64,
    /// Responses that no request asked for.
    pub unsolicited: u64,
    /// Connections with too many requests that wait.
    pub too_many_pending: u64,
    /// `traceparent` or `tracestate` headers that are not valid.
    pub invalid_trace_context: u64,
    /// Requests to OTLP paths, and the agent's own.
    pub telemetry_ignored: u64,
    /// Exchanges of processes that turned out not to be selected.
    pub not_selected: u64,
    /// Failed connects to Unix sockets that do not exist: libraries try them at every start.
    pub unix_connects_ignored: u64,
    /// Targets that use io_uring: their traffic on it is not visible.
    pub io_uring: u64,
    /// Targets that run 32-bit code: their system calls are not visible.
    pub thirty_two_bit: u64,
    /// Exchanges that became spans.
    pub spans: u64,
}

/// What is known of a process.
#[derive(Debug, Default)]
struct Process {
    facts: Option<ProcessFacts>,
    names: SpanNames,
    /// It is not decided whether it is selected: its spans wait.
    provisional: bool,
}

/// From events to spans.
#[derive(Debug)]
pub struct Core {
    flow: Flow,
    causality: Causality,
    processes: HashMap<u32, Process>,
    /// Processes that have ended, and when.
    ended: VecDeque<(u64, u32)>,
    /// Processes whose facts are wanted.
    wanted: Vec<u32>,
    asked: HashSet<u32>,
    http: HttpConfig,
    parser: http1::Config,
    include_telemetry: bool,
    idle_ns: u64,
    /// From `CLOCK_MONOTONIC` to the Unix epoch.
    unix_offset_ns: i128,
    resets: resets::Resets,
    next_sweep_ns: u64,
    advice: Vec<(u64, [u64; 2])>,
    events: Vec<http1::Event>,
    counters: Counters,
}

impl Core {
    /// A Core that gives its ids from `seed`.
    pub fn new(settings: &CoreSettings, seed: u64) -> Self {
        let hold_ns = u64::try_from(settings.hold.as_nanos()).unwrap_or(u64::MAX);
        let hold_most = usize::try_from(settings.hold_bytes / BYTES_PER_EXCHANGE)
            .unwrap_or(usize::MAX)
            .max(1);
        let methods = settings.known_methods.as_deref().and_then(known_methods);
        Self {
            flow: Flow::new(settings.max_connections as usize),
            causality: Causality::new(seed, hold_ns, hold_most),
            processes: HashMap::new(),
            ended: VecDeque::new(),
            wanted: Vec::new(),
            asked: HashSet::new(),
            http: HttpConfig {
                capture_request: settings.request_headers.clone(),
                capture_response: settings.response_headers.clone(),
                span_names: match settings.span_names {
                    SpanNamesSetting::Template => SpanNameStyle::Template,
                    SpanNamesSetting::Method => SpanNameStyle::Method,
                },
                routes: settings.routes.iter().filter_map(|route| route.parse().ok()).collect(),
                known_methods: methods,
            },
            parser: http1::Config {
                capture_request: settings.request_headers.clone(),
                capture_response: settings.response_headers.clone(),
            },
            include_telemetry: settings.include_telemetry,
            idle_ns: u64::try_from(settings.idle_timeout.as_nanos()).unwrap_or(u64::MAX),
            unix_offset_ns: 0,
            resets: resets::Resets::default(),
            next_sweep_ns: 0,
            advice: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a record of the ring buffer.
    pub fn record(&mut self, record: &[u8]) {
        match Event::decode(record) {
            Some(event) => self.event(&event),
            None => self.counters.malformed_records += 1,
        }
    }

    /// Takes an event.
    pub fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Segment(segment, bytes) => {
                let segment = self.resets.place(segment);
                self.segment(&segment, bytes);
            }
            Event::Open(open) => {
                self.want(open.header.execution.tgid);
                if !self.resets.resume(open) {
                    self.flow.open(open);
                }
            }
            Event::Connect(connect) => self.connect(connect),
            Event::State(state) => self.state(state),
            Event::Exit(exit) => self.exit(exit),
            Event::Exec(exec, _) => {
                let tgid = exec.header.execution.tgid;
                self.causality.forget_process(tgid);
                // Asked about by whoever feeds Core; its facts come.
                self.asked.insert(tgid);
                if exec.provisional == 1 {
                    self.processes.entry(tgid).or_default().provisional = true;
                }
            }
            Event::Unseen(unseen) => self.unseen(unseen),
            Event::Fork(_) | Event::Listen(_) => {}
        }
    }

    /// The clocks: this time of `CLOCK_MONOTONIC` is that time since the Unix epoch. To be told again now and then: the
    /// wall clock may be set.
    pub fn clock(&mut self, monotonic_ns: u64, unix_ns: u64) {
        self.unix_offset_ns = unix_ns as i128 - monotonic_ns as i128;
    }

    /// A process is this. Spans of processes of which nothing was told wait.
    pub fn process(&mut self, facts: ProcessFacts) {
        self.causality.set_runtime(facts.tgid, facts.runtime);
        self.asked.insert(facts.tgid);
        self.ended.retain(|&(_, tgid)| tgid != facts.tgid);
        let process = self.processes.entry(facts.tgid).or_default();
        process.facts = Some(facts);
    }

    /// Whether a process is selected that was captured provisionally since its exec: its spans wait for this. What a
    /// process did that is not selected is forgotten.
    pub fn selected(&mut self, tgid: u32, selected: bool) {
        if let Some(process) = self.processes.get_mut(&tgid) {
            process.provisional = false;
        }
        if selected {
            return;
        }
        for id in self.flow.of_process(tgid) {
            if let Some(connection) = self.flow.close(id) {
                for (_, node) in connection.exchanges {
                    self.counters.not_selected += 1;
                    self.causality.lose(node);
                }
            }
        }
        self.causality.lose_process(tgid);
        self.processes.remove(&tgid);
    }

    /// Processes of which something was seen and nothing is known: [`Core::process`] should tell.
    pub fn take_wanted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.wanted)
    }

    /// Words for the programs, see [`agent_ebpf::abi::Follow`].
    pub fn take_advice(&mut self) -> Vec<(u64, [u64; 2])> {
        std::mem::take(&mut self.advice)
    }

    fn want(&mut self, tgid: u32) {
        if self.asked.insert(tgid) {
            self.wanted.push(tgid);
        }
    }

    /// Time passes. `now_ns`: `CLOCK_MONOTONIC`.
    pub fn tick(&mut self, now_ns: u64) {
        self.settle_resets(now_ns);
        self.causality.tick(now_ns);
        if now_ns < self.next_sweep_ns {
            return;
        }
        self.next_sweep_ns = now_ns + SWEEP_NS;
        for id in self.flow.idle(now_ns.saturating_sub(self.idle_ns)) {
            self.flow.counters.idle_forgotten += 1;
            if let Some(connection) = self.flow.close(id) {
                self.missed(connection.exchanges.into_iter().map(|(_, node)| node));
            }
        }
        while let Some(&(when, tgid)) = self.ended.front()
            && when + KEEP_ENDED_NS < now_ns
        {
            self.ended.pop_front();
            self.processes.remove(&tgid);
            self.causality.forget_process(tgid);
            self.asked.remove(&tgid);
        }
    }

    /// When [`Core::tick`] should be called, if nothing else happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let sweep = (!self.flow.is_empty() || !self.ended.is_empty()).then_some(self.next_sweep_ns);
        [sweep, self.resets.next_deadline_ns(), self.causality.next_deadline_ns()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Spans that are finished.
    pub fn drain(&mut self) -> Vec<Span> {
        self.finished_spans()
    }

    /// Everything that is over leaves now, with what is known: the agent ends.
    pub fn flush(&mut self) -> Vec<Span> {
        self.settle_resets(u64::MAX);
        self.causality.tick(u64::MAX);
        self.finished_spans()
    }

    /// Whether spans wait only for what their process is.
    pub fn waits_for_facts(&self) -> bool {
        self.causality.has_ready()
    }

    /// How many connections and exchanges are under way.
    pub fn under_way(&self) -> (usize, usize) {
        (self.flow.len(), self.causality.len())
    }

    /// All counters, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let Counters {
            malformed_records,
            missed,
            missed_gap,
            malformed,
            head_too_large,
            unsolicited,
            too_many_pending,
            invalid_trace_context,
            telemetry_ignored,
            not_selected,
            unix_connects_ignored,
            io_uring,
            thirty_two_bit,
            spans,
        } = self.counters;
        let flow::Counters {
            connections_refused,
            unknown_connection,
            gap_bytes,
            repeated_records,
            idle_forgotten,
            opaque,
        } = self.flow.counters;
        let causality::Counters {
            calls_not_certain,
            held_too_long,
            held_too_many,
            not_sampled,
        } = self.causality.counters;
        vec![
            ("malformed_records", malformed_records),
            ("missed", missed),
            ("missed_gap", missed_gap),
            ("malformed", malformed),
            ("head_too_large", head_too_large),
            ("unsolicited", unsolicited),
            ("too_many_pending", too_many_pending),
            ("invalid_trace_context", invalid_trace_context),
            ("telemetry_ignored", telemetry_ignored),
            ("not_selected", not_selected),
            ("unix_connects_ignored", unix_connects_ignored),
            ("io_uring", io_uring),
            ("thirty_two_bit", thirty_two_bit),
            ("spans", spans),
            ("connections_refused", connections_refused),
            ("unknown_connection", unknown_connection),
            ("gap_bytes", gap_bytes),
            ("repeated_records", repeated_records),
            ("idle_forgotten", idle_forgotten),
            ("opaque", opaque),
            ("calls_not_certain", calls_not_certain),
            ("held_too_long", held_too_long),
            ("held_too_many", held_too_many),
            ("not_sampled", not_sampled),
        ]
    }

    fn is_server(&self, connection: u64) -> bool {
        self.flow
            .get(connection)
            .is_some_and(|connection| connection.role() == Role::Server)
    }
}
