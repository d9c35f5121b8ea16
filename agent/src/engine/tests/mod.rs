//! Core driven by made-up records, as the programs would write them.

mod executions;
mod fuzzed;
mod gaps;
mod half_close;
mod headers;
mod ignored;
mod layers;
mod limits;
mod lives;
mod loops;
mod nginx;
mod odd;
mod parents;
mod processes;
mod property;
mod redis;
mod secrets;
mod workloads;

use std::{collections::HashMap, sync::Arc, time::Duration};

use agent_ebpf::abi::{
    Connect, Direction, Exit, FAMILY_INET, Header, Kind, Open, Plain, Role, Segment, State, StateChange, TURNED,
    WAITED, WATCHED, bytes_of,
};

use super::Core;
use crate::{
    config::{CoreSettings, SpanNames},
    engine::trace::{Attribute, Resource, Span, SpanKind, Value, sampling::Sampler},
    process::ProcessFacts,
    runtimes::Runtime,
};

const SECOND: u64 = 1_000_000_000;

fn settings() -> CoreSettings {
    CoreSettings {
        span_names: SpanNames::Template,
        routes: vec![],
        ignore: vec![],
        request_headers: vec![],
        response_headers: vec![],
        secrets: crate::engine::trace::redact::SecretNames::default(),
        body_sizes: true,
        known_methods: None,
        include_telemetry: false,
        sampler: Sampler::default(),
        max_connections: 1000,
        hold: Duration::from_secs(10),
        hold_bytes: 16 * 1024 * 1024,
        idle_timeout: Duration::from_secs(900),
    }
}

/// One end of a connection, with how far its two streams are.
#[derive(Clone, Debug)]
struct End {
    conn: u64,
    tgid: u32,
    read: u64,
    written: u64,
}

impl End {
    /// A record of a read or write of all these bytes by a thread; the time is to be filled in.
    fn moved(&mut self, tid: u32, direction: Direction, bytes: &[u8]) -> Record {
        let at = if direction == Direction::Read {
            &mut self.read
        } else {
            &mut self.written
        };
        let offset = *at;
        *at += bytes.len() as u64;
        let mut header = header(Kind::Segment, self.tgid, tid);
        header.direction = direction as u8;
        Record(
            header,
            Body::Segment(
                Segment {
                    header,
                    conn: self.conn,
                    offset,
                    end: offset + bytes.len() as u64,
                    captured: bytes.len() as u32,
                    call_bytes: bytes.len() as u32,
                    ..Segment::default()
                },
                bytes.to_vec(),
            ),
        )
    }

    fn reads(&mut self, tid: u32, bytes: &str) -> Record {
        self.moved(tid, Direction::Read, bytes.as_bytes())
    }

    fn writes(&mut self, tid: u32, bytes: &str) -> Record {
        self.moved(tid, Direction::Write, bytes.as_bytes())
    }

    fn state(&self, change: StateChange, shutdown: u8, error: i32) -> Record {
        const ESTABLISHED: u8 = 1;
        self.state_after(ESTABLISHED, change, shutdown, error)
    }

    /// As the programs tell it that know whether the socket is still open: one of `STATE_*`.
    fn state_of(&self, flags: u8, old: u8, change: StateChange, shutdown: u8) -> Record {
        let Record(header, Body::State(state)) = self.state_after(old, change, shutdown, 0) else {
            unreachable!()
        };
        Record(header, Body::State(State { flags, ..state }))
    }

    /// The end of a socket whose connect did not come to a connection.
    fn never_connected(&self, shutdown: u8, error: i32) -> Record {
        const SYN_SENT: u8 = 2;
        self.state_after(SYN_SENT, StateChange::Closed, shutdown, error)
    }

    fn state_after(&self, old: u8, change: StateChange, shutdown: u8, error: i32) -> Record {
        let header = header(Kind::State, 0, 0);
        Record(
            header,
            Body::State(State {
                header,
                conn: self.conn,
                error,
                state: change as u8,
                old,
                shutdown,
                flags: 0,
            }),
        )
    }
}

/// A record whose time is not said yet.
#[derive(Clone, Debug)]
struct Record(Header, Body);

impl Record {
    /// The thread has waited in epoll since its last record.
    fn waited(self) -> Self {
        self.flagged(WAITED)
    }

    /// The thread has slept or received from another socket since its last record.
    fn turned(self) -> Self {
        self.flagged(TURNED)
    }

    /// An epoll set watches the socket.
    fn watched(self) -> Self {
        self.flagged(WATCHED)
    }

    fn flagged(self, flag: u16) -> Self {
        let flags = self.0.flags | flag;
        Self(Header { flags, ..self.0 }, self.1)
    }
}

#[derive(Clone, Debug)]
enum Body {
    Open(Open),
    Connect(Connect),
    Segment(Segment, Vec<u8>),
    State(State),
    Exit(Exit),
}

fn header(kind: Kind, tgid: u32, tid: u32) -> Header {
    Header {
        kind: kind as u8,
        tgid,
        tid,
        ..Header::default()
    }
}

impl Record {
    fn at(self, time_ns: u64) -> Vec<u8> {
        let header = Header { time_ns, ..self.0 };
        fn with<T: Plain>(record: T, rest: &[u8]) -> Vec<u8> {
            [bytes_of(&record), rest].concat()
        }
        match self.1 {
            Body::Open(open) => with(Open { header, ..open }, &[]),
            Body::Connect(connect) => with(Connect { header, ..connect }, &[]),
            Body::Segment(segment, bytes) => with(Segment { header, ..segment }, &bytes),
            Body::State(state) => with(State { header, ..state }, &[]),
            Body::Exit(exit) => with(Exit { header, ..exit }, &[]),
        }
    }
}

fn open(conn: u64, tgid: u32, tid: u32, role: Role) -> Open {
    let client = role == Role::Client;
    // Ports and addresses of connection pair (n, n + 1): the client's is even.
    let port = 40_000 + (conn / 2) as u16;
    let (local_port, remote_port) = if client { (port, 80) } else { (80, port) };
    let mut loopback = [0; 16];
    loopback[..4].copy_from_slice(&[127, 0, 0, 1]);
    let (ours, theirs) = ((conn as u32) * 1000, (conn as u32 ^ 1) * 1000);
    Open {
        header: header(Kind::Open, tgid, tid),
        conn,
        local_port,
        remote_port,
        local: loopback,
        remote: loopback,
        // The connecting side counts its SYN.
        sent_base: ours.wrapping_sub(client as u32),
        received_base: theirs,
        family: FAMILY_INET,
        role: role as u8,
        from_birth: 1,
        ..Open::default()
    }
}

struct World {
    core: Core,
    now_ns: u64,
    connections: u64,
    names: HashMap<u32, String>,
}

impl World {
    fn new() -> Self {
        Self::with(&settings())
    }

    fn with(settings: &CoreSettings) -> Self {
        Self {
            core: Core::new(settings, 7),
            now_ns: SECOND,
            connections: 0,
            names: HashMap::new(),
        }
    }

    fn process(&mut self, tgid: u32, name: &str, runtime: Runtime) {
        self.names.insert(tgid, name.to_owned());
        self.core.process(facts(tgid, name, runtime));
    }

    /// Feeds a record, 1 µs after the last one.
    fn feed(&mut self, record: Record) {
        self.now_ns += 1000;
        self.core.raw_record(&record.at(self.now_ns));
    }

    fn pass(&mut self, ns: u64) {
        self.now_ns += ns;
        self.core.tick(self.now_ns);
    }

    fn open(&mut self, open: Open) -> End {
        let end = End {
            conn: open.conn,
            tgid: open.header.tgid,
            read: open.read,
            written: open.written,
        };
        self.feed(Record(open.header, Body::Open(open)));
        end
    }

    fn connect(&mut self, conn: u64, tgid: u32, tid: u32, result: i32) {
        let connected = self.connected(conn, tgid, tid, result);
        self.feed(connected);
    }

    fn connected(&self, conn: u64, tgid: u32, tid: u32, result: i32) -> Record {
        let header = header(Kind::Connect, tgid, tid);
        let mut remote = [0; 16];
        remote[..4].copy_from_slice(&[127, 0, 0, 1]);
        let connect = Connect {
            header,
            conn,
            start_ns: self.now_ns,
            result,
            family: FAMILY_INET,
            remote_port: 80,
            remote,
            path_bytes: 0,
        };
        Record(header, Body::Connect(connect))
    }

    /// A client's end whose other end is not traced.
    fn client(&mut self, tgid: u32, tid: u32) -> End {
        self.connections += 2;
        let conn = self.connections;
        let end = self.open(open(conn, tgid, tid, Role::Client));
        self.connect(conn, tgid, tid, 0);
        end
    }

    /// A client's end that its process keeps open: a call was made on it before, which is nobody's.
    fn kept(&mut self, tgid: u32, tid: u32) -> End {
        let mut end = self.client(tgid, tid);
        self.feed(end.writes(tid, &get("/before")));
        self.feed(end.reads(tid, OK));
        assert_eq!(self.tree().len(), 1);
        end
    }

    /// A server's end whose other end is not traced.
    fn server(&mut self, tgid: u32) -> End {
        self.connections += 2;
        self.open(open(self.connections + 1, tgid, tgid, Role::Server))
    }

    /// Both ends of a connection.
    fn pair(&mut self, client: (u32, u32), server: u32) -> (End, End) {
        let client = self.client(client.0, client.1);
        let server = self.open(open(client.conn + 1, server, server, Role::Server));
        (client, server)
    }

    fn exit(&mut self, tgid: u32) {
        self.exit_flagged(tgid, 0);
    }

    fn exit_flagged(&mut self, tgid: u32, flags: u16) {
        let header = Header {
            flags,
            ..header(Kind::Exit, tgid, tgid)
        };
        self.feed(Record(
            header,
            Body::Exit(Exit {
                header,
                exit_code: 9,
                pad: 0,
            }),
        ));
    }

    fn spans(&mut self) -> Vec<Span> {
        self.core.drain()
    }

    fn tree(&mut self) -> Vec<String> {
        tree(&self.spans())
    }

    fn counter(&self, name: &str) -> u64 {
        self.core
            .counters()
            .into_iter()
            .find(|&(known, _)| known == name)
            .unwrap()
            .1
    }
}

fn facts(tgid: u32, name: &str, runtime: Runtime) -> ProcessFacts {
    ProcessFacts {
        tgid,
        runtime,
        resource: Arc::new(Resource {
            service_name: name.to_owned(),
            attributes: vec![Attribute::str("service.name", name.to_owned())],
        }),
    }
}

fn label(span: &Span) -> String {
    let kind = match span.kind {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
    };
    let error = attribute(span, "error.type").map_or(String::new(), |error| format!(" !{error}"));
    format!("{} {kind} {}{error}", span.resource.service_name, span.name)
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = &span.attributes.iter().find(|attribute| attribute.key == key)?.value;
    Some(match value {
        Value::Str(text) => text.to_string(),
        other => format!("{other:?}"),
    })
}

/// All spans, each with its parent and how that was found, sorted. Checks what holds for all: one trace above and
/// below, no time before another, no id twice.
fn tree(spans: &[Span]) -> Vec<String> {
    let by_id: HashMap<_, _> = spans.iter().map(|span| (span.span_id, span)).collect();
    assert_eq!(by_id.len(), spans.len(), "an id was given twice");
    let mut lines: Vec<String> = spans
        .iter()
        .map(|span| {
            assert!(span.start_unix_ns <= span.end_unix_ns, "{span:?}");
            let parent = match span.parent {
                None => "root".to_owned(),
                Some((id, method)) => match by_id.get(&id) {
                    Some(parent) => {
                        assert_eq!(parent.trace_id, span.trace_id, "{span:?}");
                        if span.kind == SpanKind::Server && parent.attribute_ok() {
                            assert!(parent.start_unix_ns <= span.start_unix_ns, "{parent:?} {span:?}");
                            assert!(parent.end_unix_ns >= span.end_unix_ns, "{parent:?} {span:?}");
                        }
                        format!("{} ({})", label(parent), method.name())
                    }
                    None => format!("{id} ({}, remote {})", method.name(), span.parent_is_remote),
                },
            };
            format!("{} <- {parent}", label(span))
        })
        .collect();
    lines.sort();
    lines
}

impl Span {
    fn attribute_ok(&self) -> bool {
        attribute(self, "error.type").is_none()
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn get_with(target: &str, traceparent: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\ntraceparent: {traceparent}\r\n\r\n")
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PARENT_ID: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// `front` (10), of this kind, and `back` (20).
fn two_services(runtime: Runtime) -> World {
    let mut world = World::new();
    world.process(10, "front", runtime);
    world.process(20, "back", Runtime::Unknown);
    world
}
