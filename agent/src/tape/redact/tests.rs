//! Nothing that was said is left, and replaying gives the same tree.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_ebpf::abi::{self, FAMILY_INET, Header, Kind};
use proptest::prelude::*;

use super::*;
use crate::{
    cmd,
    config::{Command, Invocation},
    engine::trace::{Attribute, Resource, Span, Value},
    process::ProcessFacts,
    runtimes::Runtime,
    tape::{TapeReader, TapeWriter},
};

/// A tape in memory: its frames, encoded one by one.
fn write(frames: &[Frame<'_>], redacted: bool) -> Vec<u8> {
    let mut tape = if redacted {
        TapeWriter::redacted(Vec::new())
    } else {
        TapeWriter::new(Vec::new())
    }
    .unwrap();
    for frame in frames {
        tape.write(frame).unwrap();
    }
    tape.finish().unwrap()
}

fn spans(tape: &[u8]) -> Vec<Span> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tape");
    std::fs::write(&path, tape).unwrap();
    let mut spans = Vec::new();
    cmd::replay::play(&path, |some| spans.extend(some)).unwrap();
    spans
}

/// All that a tape's spans say but the values: ids are numbered as they come, of texts only the length counts.
fn outline(spans: &[Span]) -> Vec<String> {
    let mut numbers: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut number = |id: &[u8]| {
        let next = numbers.len();
        *numbers.entry(id.to_vec()).or_insert(next)
    };
    let attribute = |Attribute { key, value }: &Attribute| {
        let value = match value {
            // Ports and addresses have stand-ins of other lengths.
            _ if key.ends_with(".port") || key.ends_with(".address") => "…".to_owned(),
            Value::Str(text) => format!("{} bytes", text.len()),
            Value::Strs(texts) => format!("{:?} bytes", texts.iter().map(String::len).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        };
        format!("{key}={value}")
    };
    let span = |span: &Span| {
        let trace = number(&span.trace_id.to_bytes());
        let id = number(&span.span_id.to_bytes());
        let parent = span
            .parent
            .map(|(id, method)| (number(&id.to_bytes()), method.name().to_owned()));
        let attributes: Vec<_> = span.attributes.iter().map(attribute).collect();
        format!(
            "{trace} {id} {parent:?} {} {:?} {} {:?} {} bytes, {}..{} {:?} {} links, {} {attributes:?}",
            span.parent_is_remote,
            span.trace_state.as_ref().map(|state| state.len()),
            span.trace_flags,
            span.kind,
            span.name.len(),
            span.start_unix_ns,
            span.end_unix_ns,
            span.status,
            span.links.len(),
            span.resource.service_name,
        )
    };
    spans.iter().map(span).collect()
}

fn golden_tapes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tapes");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "tape"))
        .collect()
}

#[test]
fn recorded_tapes_give_the_same_tree() {
    let tapes = golden_tapes();
    assert!(!tapes.is_empty());
    for path in tapes {
        let original = std::fs::read(&path).unwrap();
        let mut reader = TapeReader::new(original.as_slice()).unwrap();
        let mut writer = TapeWriter::redacted(Vec::new()).unwrap();
        while let Some(frame) = reader.next_frame().unwrap() {
            writer.write(&frame).unwrap();
        }
        let redacted = writer.finish().unwrap();
        let (before, after) = (outline(&spans(&original)), outline(&spans(&redacted)));
        assert!(!before.is_empty(), "{}", path.display());
        assert_eq!(before, after, "{}", path.display());
    }
}

/// A server's and its client's conversation, as the kernel tells it.
#[derive(Default)]
struct Tape {
    records: Vec<Vec<u8>>,
    offsets: HashMap<(u64, u8), u64>,
    now_ns: u64,
    /// The bytes are the plaintext of a TLS library.
    tls: bool,
    /// Records have two slices, and end with an identity.
    sliced: bool,
}

/// Addresses in the memory of a service.
const IDENTITY: abi::Identity = abi::Identity {
    word: 0x00c0_5448_4557_4f52,
    parent: 0x00c0_5448_4550_4152,
    generation: 3,
    source: 1,
};

const TGID: u32 = 10;

impl Tape {
    fn header(&mut self, kind: Kind, direction: Direction) -> Header {
        self.now_ns += 1000;
        Header {
            kind: kind as u8,
            direction: direction as u8,
            time_ns: self.now_ns,
            tgid: TGID,
            tid: TGID,
            ..Header::default()
        }
    }

    fn open(&mut self, conn: u64, role: Role) {
        let open = Open {
            header: self.header(Kind::Open, Direction::Read),
            conn,
            sock: 0xffff_8881_0000_0000 + conn * 64,
            inode: conn,
            local_port: 8080,
            remote_port: 40_000 + conn as u16,
            local: address([192, 0, 2, 77]),
            remote: address([203, 0, 113, 9]),
            family: FAMILY_INET,
            role: role as u8,
            from_birth: 1,
            ..Open::default()
        };
        self.records.push(abi::bytes_of(&open).to_vec());
    }

    /// A call that moves these bytes; `kept` of them are captured.
    fn moves(&mut self, conn: u64, direction: Direction, bytes: &[u8], kept: usize) {
        let offset = *self.offsets.entry((conn, direction as u8)).or_default();
        let kept = kept.min(bytes.len());
        let segment = Segment {
            header: self.header(Kind::Segment, direction),
            conn,
            offset,
            end: offset + bytes.len() as u64,
            captured: kept as u32,
            call_bytes: bytes.len() as u32,
            layer: if self.tls { Layer::Tls } else { Layer::Wire } as u8,
            ..Segment::default()
        };
        let mut record;
        if self.sliced {
            // Padding follows on the first slice, so that no window of the tape has bytes of it and of the next struct.
            let cut = kept / 3;
            let cut = if cut.is_multiple_of(8) {
                cut.saturating_sub(1)
            } else {
                cut
            };
            let (one, other) = bytes[..kept].split_at(cut);
            let mut first = Segment {
                captured: one.len() as u32,
                slices: 1,
                ..segment
            };
            first.header.flags |= abi::IDENTITY;
            let second = Slice {
                offset: offset + one.len() as u64,
                bytes: other.len() as u32,
                pad: 0,
            };
            record = [abi::bytes_of(&first), one].concat();
            record.resize(record.len().next_multiple_of(8), b'S');
            record.extend([abi::bytes_of(&second), other].concat());
        } else {
            record = [abi::bytes_of(&segment), &bytes[..kept]].concat();
        }
        // What lay in the ring before.
        record.extend_from_slice(b"SECRETOFOTHERS");
        if self.sliced {
            record.extend_from_slice(abi::bytes_of(&IDENTITY));
        }
        self.records.push(record);
        self.offsets.insert((conn, direction as u8), segment.end);
    }

    fn frames(&self) -> Vec<Frame<'_>> {
        let invocation = Invocation::new(
            [
                "spoor",
                "run",
                "--route",
                "/users/{id}",
                "--capture-request-header",
                "x-own",
            ]
            .map(Into::into),
            |_| None,
        );
        let Command::Run(settings) = invocation.unwrap().command else {
            unreachable!("this is spoor run");
        };
        let json = serde_json::to_string(&settings.trace.core).unwrap();
        let attribute = |key: &'static str, value: &'static str| Attribute::str(key, value);
        let facts = ProcessFacts {
            tgid: TGID,
            runtime: Runtime::Python,
            resource: Arc::new(Resource {
                service_name: "shop".to_owned(),
                attributes: vec![
                    attribute("service.name", "shop"),
                    attribute("host.name", "HOSTOFTHESECRET"),
                    attribute("team.secret", "NAMEOFTHETEAM"),
                ],
            }),
        };
        let mut frames = vec![
            Frame::Config(json.into()),
            Frame::Seed(7),
            Frame::Clock {
                monotonic_ns: 0,
                unix_ns: 1_700_000_000_000_000_000,
            },
            Frame::Process(Cow::Owned(facts)),
        ];
        frames.extend(self.records.iter().map(|record| Frame::Record(record)));
        frames.push(Frame::Tick {
            now_ns: self.now_ns + 60_000_000_000,
        });
        frames
    }
}

fn address(octets: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&octets);
    address
}

/// Parts of a request or response. Secrets begin with `Q` and are upper case and digits.
#[derive(Clone, Debug)]
struct Exchange {
    path: String,
    secrets: Vec<String>,
    body: String,
    chunked: bool,
    /// Sizes of calls.
    calls: Vec<usize>,
    /// Bytes of the last call of the response that are captured.
    kept: usize,
    status: u16,
    parent: Option<(u128, u64)>,
}

fn secret() -> impl Strategy<Value = String> {
    "Q[A-Z0-9]{11,20}"
}

prop_compose! {
    fn exchange()(
        path in prop_oneof![
            secret().prop_map(|secret| format!("/users/{secret}")),
            (secret(), secret()).prop_map(|(a, b)| format!("/{a}/b?{b}={a}&c")),
            "[0-9]{12}".prop_map(|id| format!("/v1/things/{id}")),
            Just("/users/550e8400-e29b-41d4-a716-446655440000".to_owned()),
            Just("/a%20b/ann%40example.com/2026-11-21T10:00:00Z;x=1".to_owned()),
        ],
        secrets in proptest::collection::vec(secret(), 3),
        body in "(Q[A-Z0-9]{12}){0,40}",
        chunked in any::<bool>(),
        calls in proptest::collection::vec(1usize..200, 1..6),
        kept in prop_oneof![Just(usize::MAX), 0usize..100],
        status in prop_oneof![Just(200u16), Just(404), Just(503), Just(204)],
        parent in proptest::option::of((1u128.., 1u64..)),
    ) -> Exchange {
        Exchange { path, secrets, body, chunked, calls, kept, status, parent }
    }
}

impl Exchange {
    fn framed(&self, body: &str) -> (String, String) {
        if self.chunked {
            let half = body.len() / 2;
            let chunk = |data: &str| match data {
                "" => String::new(),
                data => format!("{:x};ext={}\r\n{data}\r\n", data.len(), self.secrets[0]),
            };
            let (one, other) = body.split_at(half);
            let body = format!(
                "{}{}0\r\nTrailer: {}\r\n\r\n",
                chunk(one),
                chunk(other),
                self.secrets[0]
            );
            ("Transfer-Encoding: gzip, chunked\r\n".to_owned(), body)
        } else {
            (format!("Content-Length: {}\r\n", body.len()), body.to_owned())
        }
    }

    fn request(&self) -> Vec<u8> {
        let [a, b, c] = &self.secrets[..] else { unreachable!() };
        let (framing, body) = self.framed(&self.body);
        let parent = self.parent.map_or_else(String::new, |(trace, span)| {
            format!(
                "traceparent: 00-{trace:032x}-{span:016x}-01\r\ntracestate: vendor={}\r\n",
                a.to_lowercase()
            )
        });
        format!(
            "POST {} HTTP/1.1\r\nHost: {a}.example:8080\r\nUser-Agent: {b}\r\nx-own: {c}\r\nX-{c}: 1\r\n\
             Authorization: Basic {b}\r\nX-Forwarded-For: 198.51.100.23\r\n{parent}{framing}\r\n{body}",
            self.path
        )
        .into_bytes()
    }

    fn response(&self) -> Vec<u8> {
        if self.status == 204 {
            return format!(
                "HTTP/1.1 204 {}\r\nSet-Cookie: {}\r\n\r\n",
                self.secrets[0], self.secrets[1]
            )
            .into_bytes();
        }
        let (framing, body) = self.framed(&self.body);
        format!(
            "HTTP/1.1 {} {}\r\nServer: {}\r\n{framing}\r\n{body}",
            self.status, self.secrets[0], self.secrets[1]
        )
        .into_bytes()
    }

    fn tell(&self, tape: &mut Tape) {
        let split = |tape: &mut Tape, conn, direction, bytes: &[u8], kept: usize| {
            let mut rest = bytes;
            for &size in self.calls.iter().cycle() {
                let (call, behind) = rest.split_at(size.min(rest.len()));
                rest = behind;
                let kept = if rest.is_empty() { kept } else { usize::MAX };
                tape.moves(conn, direction, call, kept);
                if rest.is_empty() {
                    break;
                }
            }
        };
        let (request, response) = (self.request(), self.response());
        split(tape, 1, Direction::Read, &request, usize::MAX);
        // Its call has the same target, as a proxy's.
        split(tape, 2, Direction::Write, &request, usize::MAX);
        split(tape, 2, Direction::Read, &response, self.kept);
        split(tape, 1, Direction::Write, &response, self.kept);
    }
}

/// Windows of four bytes of a secret, where they lie in a tape.
fn survivors(original: &[u8], redacted: &[u8]) -> Vec<String> {
    let is_secret = |window: &[u8]| {
        window
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && window.iter().any(u8::is_ascii_uppercase)
    };
    let windows = original.windows(4).zip(redacted.windows(4));
    windows
        .filter(|(before, after)| before == after && is_secret(before))
        .map(|(before, _)| String::from_utf8_lossy(before).into_owned())
        .filter(|window| {
            ![
                "POST", "HTTP", "PROX", "ROXY", "TCP4", "UNKN", "NKNO", "KNOW", "NOWN", "QUIT",
            ]
            .contains(&window.as_str())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn nothing_said_is_left_and_the_tree_is_the_same(
        exchanges in proptest::collection::vec(exchange(), 1..5), proxy in 0..4usize, at in 1..12usize,
        tls in any::<bool>(), sliced in any::<bool>(),
    ) {
        let mut tape = Tape { tls, sliced, ..Tape::default() };
        tape.open(1, Role::Server);
        tape.open(2, Role::Client);
        // What a proxy may begin the connection with: nothing, a line, or the binary header, with a name in it.
        let proxies: [&[u8]; 4] = [
            b"",
            b"PROXY TCP4 203.0.113.199 192.0.2.77 56324 443\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x18\xcb\0\x71\xc7\xc0\0\x02\x4d\xdc\x04\x01\xbb\x02\0\x09QTHENAMEX",
        ];
        let (begin, rest) = proxies[proxy].split_at(at.min(proxies[proxy].len()));
        for part in [begin, rest].into_iter().filter(|part| !part.is_empty()) {
            tape.moves(1, Direction::Read, part, usize::MAX);
        }
        for exchange in &exchanges {
            exchange.tell(&mut tape);
        }
        let frames = tape.frames();
        let (original, redacted) = (write(&frames, false), write(&frames, true));

        let mut redactor = Redactor::default();
        for frame in &frames {
            if let (Frame::Record(before), Frame::Record(after)) = (frame, redactor.redact(frame)) {
                prop_assert_eq!(before.len(), after.len());
                prop_assert_eq!(survivors(before, after), Vec::<String>::new());
            }
        }
        for word in [IDENTITY.word, IDENTITY.parent] {
            prop_assert!(memchr::memmem::find(&redacted, &word.to_ne_bytes()).is_none());
        }
        let contains = |text: &str| memchr::memmem::find(&redacted, text.as_bytes()).is_some();
        let secrets = exchanges.iter().flat_map(|exchange| &exchange.secrets).map(String::as_str);
        let others = ["SECRETOFOTHERS", "HOSTOFTHESECRET", "NAMEOFTHETEAM", "team.secret", "550e8400", "ann%40", "203.0.113", "QTHENAMEX"];
        for text in secrets.chain(others) {
            prop_assert!(!contains(text), "{text}");
        }
        for (trace, span) in exchanges.iter().filter_map(|exchange| exchange.parent) {
            let both = [format!("{trace:032x}"), format!("{span:016x}")];
            prop_assert!(both.iter().all(|id| id.starts_with("00000000") || !contains(id)));
        }

        let (before, after) = (spans(&original), spans(&redacted));
        // With gaps in heads, exchanges are lost, and nothing may be left.
        if exchanges.iter().all(|exchange| exchange.kept == usize::MAX) {
            prop_assert_eq!(before.len(), 2 * exchanges.len());
        }
        prop_assert_eq!(outline(&before), outline(&after));
    }

    #[test]
    fn an_inserted_context_has_the_stand_in_of_its_header(trace in 1u128.., span in 1u64..) {
        let mut redactor = Redactor::default();
        let mut tape = Tape::default();
        tape.open(1, Role::Client);
        let head = format!("GET / HTTP/1.1\r\ntraceparent: 00-{trace:032x}-{span:016x}-01\r\n\r\n");
        tape.moves(1, Direction::Write, head.as_bytes(), usize::MAX);
        let context = Context {
            header: tape.header(Kind::Context, Direction::Write),
            conn: 1,
            trace_id: trace.to_be_bytes(),
            span_id: span.to_be_bytes(),
            trace_flags: 1,
            pad: *b"ABCDE",
            ..Context::default()
        };
        tape.records.push(abi::bytes_of(&context).to_vec());
        let redacted: Vec<Vec<u8>> = tape.records.iter().map(|record| {
            match redactor.redact(&Frame::Record(record)) {
                Frame::Record(record) => record.to_vec(),
                other => panic!("{other:?}"),
            }
        }).collect();
        let (context, _) = abi::split::<Context>(&redacted[2]).unwrap();
        prop_assert_ne!(context.trace_id, trace.to_be_bytes());
        prop_assert_eq!(context.pad, [0; 5]);
        let ids = format!(
            "00-{:032x}-{:016x}-01", u128::from_be_bytes(context.trace_id), u64::from_be_bytes(context.span_id),
        );
        prop_assert!(memchr::memmem::find(&redacted[1], ids.as_bytes()).is_some());
    }

    #[test]
    fn what_core_refuses_moves_no_stream(refused in 0..3) {
        let mut tape = Tape::default();
        tape.open(1, Role::Server);
        let mut record = Vec::new();
        tape.sliced = refused > 0;
        tape.moves(1, Direction::Read, b"GET /refused HTTP/1.1\r\n\r\n", usize::MAX);
        std::mem::swap(&mut record, tape.records.last_mut().unwrap());
        let (mut segment, rest) = abi::split::<Segment>(&record).unwrap();
        let mut rest = rest.to_vec();
        let at = rest.len() - size_of::<abi::Identity>();
        match refused {
            // An unknown layer, too few slices, an identity without a name.
            0 => segment.layer = 9,
            1 => segment.slices = 200,
            _ => rest[at..at + 8].fill(0),
        }
        *tape.records.last_mut().unwrap() = [abi::bytes_of(&segment), &rest].concat();
        tape.sliced = false;
        tape.offsets.clear();
        tape.moves(1, Direction::Read, b"GET /read HTTP/1.1\r\n\r\n", usize::MAX);
        tape.moves(1, Direction::Write, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", usize::MAX);
        let frames = tape.frames();
        let (before, after) = (spans(&write(&frames, false)), spans(&write(&frames, true)));
        prop_assert_eq!(before.len(), 1);
        prop_assert_eq!(outline(&before), outline(&after));
    }

    #[test]
    fn whatever_is_recorded_it_stays_silent(records in proptest::collection::vec(
        (any::<bool>(), 0u64..3, proptest::collection::vec(any::<u8>(), 0..80), 0usize..90), 1..20,
    )) {
        let mut tape = Tape::default();
        tape.open(1, Role::Unknown);
        tape.open(2, Role::Server);
        for (reads, conn, bytes, kept) in records {
            tape.moves(conn, if reads { Direction::Read } else { Direction::Write }, &bytes, kept);
        }
        let mut redactor = Redactor::default();
        for frame in tape.frames() {
            if let (Frame::Record(before), Frame::Record(after)) = (&frame, redactor.redact(&frame)) {
                prop_assert_eq!(before.len(), after.len());
            }
        }
    }
}

#[test]
fn telemetry_of_others_gives_no_spans_when_it_is_replayed() {
    let mut tape = Tape::default();
    tape.open(1, Role::Client);
    for (content_type, body) in [
        ("application/x-protobuf", "\x0a\x07S3CR3T!"),
        ("application/json", "{\"resourceSpans\":[\"S3CR3T!\"]}"),
        ("application/json", "{\"S3CR3T!\":1}"),
    ] {
        let length = body.len();
        let export = format!(
            "POST /v1/traces HTTP/1.1\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        tape.moves(1, Direction::Write, export.as_bytes(), usize::MAX);
        let done = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        tape.moves(1, Direction::Read, done.as_bytes(), usize::MAX);
    }
    let [plain, redacted] = [false, true].map(|redacted| write(&tape.frames(), redacted));
    assert_eq!((spans(&plain).len(), spans(&redacted).len()), (1, 1));
    assert!(!redacted.windows(6).any(|window| window == b"S3CR3T"));
}

#[test]
fn a_record_that_is_none_leaves_nothing() {
    let mut redactor = Redactor::default();
    let record = [0xee; 64];
    let frame = Frame::Record(&record);
    let Frame::Record(after) = redactor.redact(&frame) else {
        panic!("a record becomes a record");
    };
    assert_eq!(after, [0; 64]);
}

#[test]
fn addresses_are_numbered_but_for_loopback() {
    let mut redactor = Redactor::default();
    let [first, other] = [[203, 0, 113, 9], [198, 51, 100, 1]].map(address);
    let mapped = Ipv4Addr::new(203, 0, 113, 9).to_ipv6_mapped().octets();
    assert_eq!(redactor.address(FAMILY_INET, first), address([10, 0, 0, 1]));
    assert_eq!(redactor.address(FAMILY_INET, other), address([10, 0, 0, 2]));
    let again = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
    assert_eq!(redactor.address(FAMILY_INET6, mapped), again);
    let loopback = address([127, 0, 0, 1]);
    assert_eq!(redactor.address(FAMILY_INET, loopback), loopback);
    let six = "2001:db8::5".parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(
        Ipv6Addr::from(redactor.address(FAMILY_INET6, six)).to_string(),
        "fd00::3"
    );
}
