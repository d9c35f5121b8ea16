//! Streams of events that a kernel could send, with faults on the way: records that are lost, repeated, late, cut, or
//! about unknown objects.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use agent_ebpf::abi::{
    Connect, Direction, Exec, Exit, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, Fork, Header, Kind, Layer, Listen, Open,
    Plain, Segment, Slice, State, UNIX_PATH_BYTES, Unseen, bytes_of,
};
use arbitrary::Unstructured;
use spoor::{
    config::{CoreSettings, SpanNames},
    engine::trace::{Attribute, Resource},
    process::ProcessFacts,
    runtimes::Runtime,
};

use crate::{byte, number, text};

/// Number of connections, and of processes, that a stream names.
pub const CONNECTIONS: u64 = 8;
const PROCESSES: u32 = 4;
/// Upper bound of steps: longer streams find nothing new.
const MOST_STEPS: usize = 400;
/// Result of a connect that has not ended yet.
const EINPROGRESS: i32 = 115;
/// `TCP_SYN_SENT`
const SYN_SENT: u8 = 2;

const MESSAGES: [&str; 24] = [
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "POST /p HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    "POST /p HTTP/1.1\r\nContent-Length: 300000\r\n\r\n",
    "POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HEAD / HTTP/1.1\r\n\r\n",
    "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "GET /t HTTP/1.1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n\r\n",
    "GET /t HTTP/1.1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n\r\n",
    "CONNECT h:443 HTTP/1.1\r\n\r\n",
    "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "POST /v1/traces HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "POST /own HTTP/1.1\r\nUser-Agent: spoor/1\r\n\r\n",
    "GET / HTTP/1.1\r\n folded\r\n\r\n",
    "\r\n",
    "GET /half HTTP/1.1\r\nHo",
];

const RUNTIMES: [Runtime; 7] = [
    Runtime::Unknown,
    Runtime::Nginx,
    Runtime::Go,
    Runtime::Puma,
    Runtime::Python,
    Runtime::Loop,
    Runtime::Jvm,
];

/// An input of Core.
#[derive(Clone, Debug)]
pub enum Step {
    /// A record arrives.
    Record(Vec<u8>),
    /// Time advances to this time of `CLOCK_MONOTONIC`.
    Tick(u64),
    /// The caller takes the spans.
    Drain,
    /// Facts of a process arrive.
    Process(ProcessFacts),
    /// The decision whether a process is selected arrives.
    Selected(u32, bool),
    /// Both clocks are read.
    Clock(u64, u64),
}

/// Returns the settings and the steps of an input.
pub fn stream(input: &mut Unstructured<'_>) -> (CoreSettings, Vec<Step>) {
    let flags = byte(input);
    let settings = CoreSettings {
        span_names: if flags & 1 == 0 {
            SpanNames::Template
        } else {
            SpanNames::Method
        },
        routes: vec!["/a".parse().expect("this is a route")],
        request_headers: vec!["x-a".parse().expect("this is a header's name")],
        response_headers: vec![],
        body_sizes: true,
        ignore: vec!["GET /ignored".parse().expect("this is a rule")],
        known_methods: None,
        include_telemetry: flags & 2 == 0,
        sampler: Default::default(),
        secrets: Default::default(),
        max_connections: u32::from(flags >> 2 & 7) + 2,
        hold: Duration::from_secs(u64::from(flags >> 5) * 5),
        hold_bytes: 1536 * (u64::from(flags >> 4) + 1),
        idle_timeout: Duration::from_secs(60),
    };
    let mut teller = Teller::default();
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < MOST_STEPS {
        teller.tell(input, &mut steps);
    }
    steps.extend(teller.late.drain(..).map(Step::Record));
    steps.extend((0..PROCESSES).map(|place| Step::Process(facts(place, RUNTIMES[0]))));
    // A second without records: no call is in progress when the connections end.
    teller.now_ns += 1_000_000_000;
    steps.push(Step::Tick(teller.now_ns));
    for conn in (1..=CONNECTIONS).chain(teller.others.iter().copied()) {
        steps.push(Step::Record(teller.end(conn)));
    }
    (settings, steps)
}

/// State of a stream.
#[derive(Default)]
struct Teller {
    now_ns: u64,
    /// Stream offsets by connection and direction.
    offsets: [[u64; 2]; CONNECTIONS as usize + 1],
    /// Records that arrive later.
    late: VecDeque<Vec<u8>>,
    delayed: bool,
    /// Connections that records of any bytes may name.
    others: BTreeSet<u64>,
}

impl Teller {
    fn tell(&mut self, input: &mut Unstructured<'_>, steps: &mut Vec<Step>) {
        let kind = byte(input);
        self.now_ns += 1000;
        let record = match kind {
            0..=149 => self.segment(input),
            150..=169 => self.open(input),
            170..=179 => self.connect(input),
            180..=199 => self.state(input),
            200..=204 => with(
                Exit {
                    header: self.header(Kind::Exit, input),
                    ..Exit::default()
                },
                &[],
            ),
            205..=209 => {
                let header = self.header(Kind::Fork, input);
                with(
                    Fork {
                        header,
                        child: process(byte(input)),
                        pad: 0,
                    },
                    &[],
                )
            }
            210..=214 => self.exec(input),
            215 => with(
                Unseen {
                    header: self.header(Kind::Unseen, input),
                    cause: 1,
                    pad: 0,
                },
                &[],
            ),
            216 => with(
                Listen {
                    header: self.header(Kind::Listen, input),
                    ..Listen::default()
                },
                &[],
            ),
            217..=219 => {
                let record = text(input).to_vec();
                self.others.extend(named_by(&record));
                record
            }
            220..=224 => {
                // The order of two processors' records differs from that of their times.
                self.delayed = true;
                return;
            }
            225..=229 => return steps.extend(self.late.pop_front().map(Step::Record)),
            230..=234 => {
                self.now_ns = self.now_ns.saturating_add(number(input).min(1 << 30) * 1_000_000);
                return steps.push(Step::Tick(self.now_ns));
            }
            235..=241 => return steps.push(Step::Drain),
            242..=246 => {
                let place = u32::from(byte(input)) % PROCESSES;
                let runtime = RUNTIMES[usize::from(byte(input)) % RUNTIMES.len()];
                return steps.push(Step::Process(facts(place, runtime)));
            }
            247..=249 => return steps.push(Step::Selected(process(byte(input)), byte(input) & 1 == 0)),
            _ => return steps.push(Step::Clock(self.now_ns, number(input).saturating_mul(1_000_000_000))),
        };
        if std::mem::take(&mut self.delayed) {
            self.late.push_back(record);
        } else {
            steps.push(Step::Record(record));
        }
    }

    fn header(&self, kind: Kind, input: &mut Unstructured<'_>) -> Header {
        let who = byte(input);
        let tgid = process(who);
        Header {
            kind: kind as u8,
            time_ns: self.now_ns,
            tgid,
            tid: tgid + u32::from(who >> 4 & 3),
            ..Header::default()
        }
    }

    fn segment(&mut self, input: &mut Unstructured<'_>) -> Vec<u8> {
        let mut header = self.header(Kind::Segment, input);
        let (what, which) = (byte(input), byte(input));
        let conn = connection(what);
        let way = if what & 8 == 0 {
            Direction::Read
        } else {
            Direction::Write
        };
        header.direction = way as u8;
        let bytes = match usize::from(which) {
            message if message < MESSAGES.len() => MESSAGES[message].as_bytes(),
            _ => text(input),
        };
        let at = &mut self.offsets[conn as usize][way as usize];
        let (mut offset, mut length) = (*at, bytes.len() as u64);
        let mut captured = bytes.len();
        let mut layer = Layer::Wire;
        let sliced = what >> 4 == 6;
        match what >> 4 {
            // Lost: the next record begins behind it.
            8 => *at = at.saturating_add(number(input)),
            // Repeated, wholly or in part.
            9 => offset = offset.saturating_sub(number(input)),
            10 => offset = number(input),
            6 => length = length.saturating_add(number(input)),
            11 => {
                captured = usize::from(byte(input)).min(captured);
                length = length.saturating_add(number(input));
            }
            12 => header.flags = 1,
            13 => header.flags = 4,
            14 => header.flags = 2,
            15 => header.flags = 8,
            7 => layer = Layer::Tls,
            _ => {}
        }
        let end = offset.saturating_add(length);
        *at = (*at).max(end);
        let segment = Segment {
            header,
            conn,
            offset,
            end,
            captured: captured as u32,
            call_bytes: length as u32,
            layer: layer as u8,
            slices: u8::from(sliced),
            ..Segment::default()
        };
        let mut record = with(segment, &bytes[..captured]);
        if sliced {
            record.resize(record.len().next_multiple_of(8), 0);
            let slice = Slice {
                offset: offset.saturating_add(captured as u64).saturating_add(number(input)),
                bytes: bytes.len() as u32,
                pad: 0,
            };
            record.extend(with(slice, bytes));
        }
        record
    }

    fn open(&mut self, input: &mut Unstructured<'_>) -> Vec<u8> {
        let header = self.header(Kind::Open, input);
        let (what, how) = (byte(input), byte(input));
        let conn = connection(what);
        let family = match what >> 3 & 3 {
            0 => FAMILY_UNIX,
            1 => FAMILY_INET6,
            _ => FAMILY_INET,
        };
        let from_birth = how >> 2 & 3 != 3;
        let (read, written) = if from_birth {
            (0, 0)
        } else {
            (number(input), number(input))
        };
        self.offsets[conn as usize] = [read, written];
        // Connections n and n ^ 1 are the two ends of one.
        let (ours, theirs) = (conn as u32 * 1000, (conn as u32 ^ 1) * 1000);
        let role = how & 3;
        let open = Open {
            header,
            conn,
            sock: conn,
            peer: conn ^ 1,
            inode: u64::from(how >> 6),
            written,
            read,
            sent_base: ours.wrapping_sub(u32::from(role == 1)),
            received_base: theirs,
            local_port: 1000 + conn as u16,
            remote_port: 1000 + (conn ^ 1) as u16,
            family,
            role,
            counted: u8::from(family == FAMILY_UNIX) | how >> 4 & 1,
            from_birth: u8::from(from_birth),
            ..Open::default()
        };
        with(open, &[])
    }

    fn connect(&mut self, input: &mut Unstructured<'_>) -> Vec<u8> {
        let header = self.header(Kind::Connect, input);
        let (what, result) = (byte(input), byte(input));
        let (family, path) = if what & 8 == 0 {
            (FAMILY_INET, &b""[..])
        } else {
            (FAMILY_UNIX, text(input))
        };
        let path = &path[..path.len().min(UNIX_PATH_BYTES)];
        let connect = Connect {
            header,
            conn: connection(what),
            start_ns: self.now_ns.saturating_sub(number(input)),
            result: match result & 7 {
                0..=3 => 0,
                4 => -EINPROGRESS,
                _ => -i32::from(result),
            },
            family,
            remote_port: 80,
            path_bytes: path.len() as u8,
            ..Connect::default()
        };
        with(connect, path)
    }

    fn state(&mut self, input: &mut Unstructured<'_>) -> Vec<u8> {
        let header = self.header(Kind::State, input);
        let (what, how) = (byte(input), byte(input));
        let state = State {
            header,
            conn: connection(what),
            error: if how & 8 == 0 { 0 } else { i32::from(how) },
            state: how & 3 | how >> 4 & 4,
            old: if how & 4 == 0 { 1 } else { SYN_SENT },
            shutdown: how >> 4 & 3,
            flags: what >> 6,
        };
        with(state, &[])
    }

    fn exec(&mut self, input: &mut Unstructured<'_>) -> Vec<u8> {
        let header = self.header(Kind::Exec, input);
        let strings = text(input);
        let exec = Exec {
            header,
            strings_len: strings.len() as u32,
            cmdline_len: u32::from(byte(input)),
            provisional: u32::from(byte(input) & 1),
            pad: 0,
            comm: [b'x'; 16],
        };
        with(exec, strings)
    }

    /// Returns the record that ends a connection.
    fn end(&self, conn: u64) -> Vec<u8> {
        let mut header = Header {
            time_ns: self.now_ns,
            ..Header::default()
        };
        header.kind = Kind::State as u8;
        with(
            State {
                header,
                conn,
                state: 3,
                old: 1,
                ..State::default()
            },
            &[],
        )
    }
}

/// Returns the connection that a record names, if its kind has one: the name is behind the header.
fn named_by(record: &[u8]) -> Option<u64> {
    let name = record.get(size_of::<Header>()..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*name))
}

fn with<T: Plain>(record: T, rest: &[u8]) -> Vec<u8> {
    [bytes_of(&record), rest].concat()
}

fn connection(byte: u8) -> u64 {
    u64::from(byte) % CONNECTIONS + 1
}

fn process(byte: u8) -> u32 {
    10 * (u32::from(byte) % PROCESSES + 1)
}

fn facts(place: u32, runtime: Runtime) -> ProcessFacts {
    ProcessFacts {
        tgid: 10 * (place + 1),
        runtime,
        resource: Arc::new(Resource {
            service_name: "s".to_owned(),
            attributes: vec![Attribute::str("service.name", "s")],
        }),
    }
}
