//! Cost of an HTTP/1 request in Core: the program that `cargo xtask bench core` runs, by the clock and under callgrind.
//!
//! ```text
//! corecost ENDS REQUESTS time      prints the ns of each request: median of the batches, and the least
//! corecost ENDS REQUESTS feed      feeds Core, prints nothing
//! corecost ENDS REQUESTS prepare   makes the records and nothing else: subtracted from `feed`
//! ```
//! ENDS is `server` for a span a request, with untraced clients, or `both` for two joined spans a request.

use std::{
    env,
    hint::black_box,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_ebpf::abi::{Direction, FAMILY_INET, Header, Kind, Open, Plain, Role, Segment, bytes_of};
use spoor::{
    allocator::Allocator,
    config::{CoreSettings, SpanNames},
    engine::{
        Core,
        trace::{Attribute, Resource},
    },
    process::ProcessFacts,
    record::Record,
    runtimes::Runtime,
};

/// The allocator of the agent.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Connections that stay open, used in turn.
const CONNECTIONS: usize = 16;
/// Requests between two drains: as many as come within 10 ms at 25,000/s.
const BATCH: usize = 250;
/// Process ids.
const CLIENT: u32 = 20;
const SERVER: u32 = 10;

const REQUEST: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: wrk/4.1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Sat, 21 Nov 2026 14:00:00 GMT\r\n\
    Content-Type: text/html\r\nContent-Length: 1024\r\nLast-Modified: Sat, 21 Nov 2026 13:00:00 GMT\r\n\
    Connection: keep-alive\r\nETag: \"6740\"\r\nAccept-Ranges: bytes\r\n\r\n";
const BODY: [u8; 1024] = [b'x'; 1024];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let parsed = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [ends, requests, what] => requests
            .parse::<usize>()
            .ok()
            .filter(|_| matches!(ends, "server" | "both") && matches!(what, "time" | "feed" | "prepare"))
            .map(|requests| (ends == "both", requests, what)),
        _ => None,
    };
    let Some((both, requests, what)) = parsed else {
        eprintln!("usage: corecost server|both REQUESTS time|feed|prepare");
        return ExitCode::FAILURE;
    };
    let mut traffic = Traffic::new(both);
    let mut core = Core::new(&settings(), 7);
    for process in [(SERVER, "server"), (CLIENT, "client")] {
        core.process(facts(process.0, process.1));
    }
    feed(&mut core, &traffic.opens());
    let mut spans = 0;
    let mut batch_ns = Vec::with_capacity(requests / BATCH);
    for _ in 0..requests / BATCH {
        let records = black_box(traffic.batch());
        if what == "prepare" {
            continue;
        }
        let begin = Instant::now();
        spans += feed(&mut core, &records);
        core.tick(traffic.now_ns);
        batch_ns.push(begin.elapsed().as_nanos() / BATCH as u128);
    }
    let expected = if what == "prepare" {
        0
    } else {
        requests / BATCH * BATCH * if both { 2 } else { 1 }
    };
    if spans != expected {
        eprintln!("{spans} spans instead of {expected}: {:?}", core.counters());
        return ExitCode::FAILURE;
    }
    if what == "time" {
        batch_ns.sort_unstable();
        let (Some(least), Some(median)) = (batch_ns.first(), batch_ns.get(batch_ns.len() / 2)) else {
            eprintln!("at least {BATCH} requests are needed");
            return ExitCode::FAILURE;
        };
        println!("{median} {least}");
    }
    ExitCode::SUCCESS
}

/// Feeds Core as the agent does with records from the ring.
fn feed(core: &mut Core, records: &[Vec<u8>]) -> usize {
    for record in records {
        if let Some(record) = &Record::decode(record) {
            core.record(record);
        }
    }
    black_box(core.take_hints());
    black_box(core.drain()).len()
}

fn settings() -> CoreSettings {
    CoreSettings {
        span_names: SpanNames::Template,
        routes: Vec::new(),
        ignore: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        secrets: spoor::engine::trace::redact::SecretNames::default(),
        body_sizes: false,
        known_methods: None,
        include_telemetry: false,
        sampler: spoor::engine::trace::sampling::Sampler::default(),
        max_connections: 1000,
        hold: Duration::from_secs(10),
        hold_bytes: 16 * 1024 * 1024,
        idle_timeout: Duration::from_secs(900),
    }
}

fn facts(tgid: u32, name: &str) -> ProcessFacts {
    ProcessFacts {
        tgid,
        runtime: Runtime::Unknown,
        resource: Arc::new(Resource {
            service_name: name.to_owned(),
            attributes: vec![Attribute::str("service.name", name.to_owned())],
        }),
    }
}

/// Traffic on connections that stay open, one request after the other.
struct Traffic {
    both: bool,
    now_ns: u64,
    next: usize,
    /// Bytes of requests and of responses so far, by connection.
    moved: [[u64; 2]; CONNECTIONS],
    response: Vec<u8>,
}

impl Traffic {
    fn new(both: bool) -> Self {
        Self {
            both,
            now_ns: 1_000_000_000,
            next: 0,
            moved: [[0; 2]; CONNECTIONS],
            response: [RESPONSE, &BODY].concat(),
        }
    }

    fn header(&mut self, kind: Kind, tgid: u32, direction: Direction) -> Header {
        self.now_ns += 1000;
        Header {
            kind: kind as u8,
            direction: direction as u8,
            time_ns: self.now_ns,
            tgid,
            tid: tgid,
            ..Header::default()
        }
    }

    fn opens(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for index in 0..CONNECTIONS {
            if self.both {
                records.push(self.open(index, Role::Client));
            }
            records.push(self.open(index, Role::Server));
        }
        records
    }

    fn open(&mut self, index: usize, role: Role) -> Vec<u8> {
        let client = role == Role::Client;
        let port = 40_000 + index as u16;
        let bases = [index as u32 * 1000 + 1_000_000, index as u32 * 1000 + 2_000_000];
        let [own, other] = if client {
            [bases[0], bases[1]]
        } else {
            [bases[1], bases[0]]
        };
        let (local_port, remote_port) = if client { (port, 8080) } else { (8080, port) };
        let mut loopback = [0; 16];
        loopback[..4].copy_from_slice(&[127, 0, 0, 1]);
        record(
            &Open {
                header: self.header(Kind::Open, if client { CLIENT } else { SERVER }, Direction::Read),
                conn: conn(index, role),
                local_port,
                remote_port,
                local: loopback,
                remote: loopback,
                // The connecting side counts its SYN.
                sent_base: own.wrapping_sub(client as u32),
                received_base: other,
                family: FAMILY_INET,
                role: role as u8,
                from_birth: 1,
                ..Open::default()
            },
            &[],
        )
    }

    fn batch(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::with_capacity(4 * BATCH);
        for _ in 0..BATCH {
            let index = self.next % CONNECTIONS;
            self.next += 1;
            if self.both {
                records.push(self.segment(index, Role::Client, Direction::Write));
            }
            records.push(self.segment(index, Role::Server, Direction::Read));
            self.moved[index][0] += REQUEST.len() as u64;
            records.push(self.segment(index, Role::Server, Direction::Write));
            if self.both {
                records.push(self.segment(index, Role::Client, Direction::Read));
            }
            self.moved[index][1] += self.response.len() as u64;
        }
        records
    }

    fn segment(&mut self, index: usize, role: Role, direction: Direction) -> Vec<u8> {
        let client = role == Role::Client;
        let header = self.header(Kind::Segment, if client { CLIENT } else { SERVER }, direction);
        let is_request = client == (direction == Direction::Write);
        let bytes = if is_request { REQUEST } else { &self.response };
        let offset = self.moved[index][!is_request as usize];
        record(
            &Segment {
                header,
                conn: conn(index, role),
                offset,
                end: offset + bytes.len() as u64,
                captured: bytes.len() as u32,
                call_bytes: bytes.len() as u32,
                ..Segment::default()
            },
            bytes,
        )
    }
}

/// Returns a connection's name in the form that the programs give.
fn conn(index: usize, role: Role) -> u64 {
    (2 * index as u64 + 1 + (role == Role::Client) as u64) << 12
}

fn record<T: Plain>(fixed: &T, payload: &[u8]) -> Vec<u8> {
    [bytes_of(fixed), payload].concat()
}
