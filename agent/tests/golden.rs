//! Golden tapes: recordings of real traffic, each with the spans that come of it (`tapes/NAME.tape`, `tapes/NAME.json`).
//!
//! A difference is a change of what users see. If it is meant, write the spans anew and read what changed:
//! `SPOOR_BLESS=1 cargo test -p spoor --test golden`. A new tape, or a new recording after a change of the records' layout,
//! is recorded from cases of the raw-socket test, as root, and taken in without what it says of the machine:
//! ```text
//! SPOOR_RAW_CASE=keep-alive SPOOR_RAW_TAPE=/tmp/keep-alive.tape \
//!     cargo test -p spoor-tests --test raw -- --ignored through_tapes
//! SPOOR_BLESS=1 SPOOR_TAPE=/tmp/keep-alive.tape cargo test -p spoor --test golden
//! ```

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{BufReader, BufWriter},
    mem::offset_of,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_ebpf::abi::Open;
use serde_json::{Value as Json, json};
use spoor::{
    cmd,
    engine::trace::{Attribute, Resource, Span, Value},
    process::ProcessFacts,
    record::{Base, Record},
    tape::{Frame, TapeReader, TapeWriter},
};

/// Largest tape that is kept in the repository.
const TAPE_BYTES: u64 = 64 * 1024;

#[test]
fn tapes_give_their_spans() {
    let bless = std::env::var_os("SPOOR_BLESS").is_some();
    if let Some(tape) = std::env::var_os("SPOOR_TAPE").filter(|_| bless) {
        take_in(tape.as_ref());
    }
    let tapes = tapes();
    assert!(!tapes.is_empty(), "there are no tapes");
    for tape in tapes {
        let spans = serde_json::to_string_pretty(&spans(&tape)).unwrap() + "\n";
        let golden = tape.with_extension("json");
        if bless {
            std::fs::write(&golden, &spans).unwrap();
            continue;
        }
        let expected = std::fs::read_to_string(&golden).unwrap();
        assert!(
            spans == expected,
            "{} is different, first at line {}",
            golden.display(),
            1 + spans.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count()
        );
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tapes")
}

fn tapes() -> Vec<PathBuf> {
    let mut tapes: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some(OsStr::new("tape")))
        .collect();
    tapes.sort();
    tapes
}

fn spans(tape: &Path) -> Vec<Json> {
    let mut spans = Vec::new();
    cmd::replay::play(tape, |some| spans.extend(some.iter().map(to_json))).unwrap();
    spans
}

/// All that a span says.
fn to_json(span: &Span) -> Json {
    let Span {
        trace_id,
        span_id,
        parent,
        parent_is_remote,
        trace_state,
        trace_flags,
        kind,
        name,
        start_unix_ns,
        end_unix_ns,
        attributes,
        status,
        links,
        resource,
    } = span;
    let attributes: BTreeMap<_, _> = attributes
        .iter()
        .map(|Attribute { key, value }| {
            let value = match value {
                Value::Str(text) => json!(text),
                Value::Int(number) => json!(number),
                Value::Bool(truth) => json!(truth),
                Value::Strs(texts) => json!(texts),
            };
            (key, value)
        })
        .collect();
    json!({
        "trace": hex(&trace_id.to_bytes()),
        "span": hex(&span_id.to_bytes()),
        "parent": parent.map(|(id, method)| [hex(&id.to_bytes()), method.name().to_owned()]),
        "parent_is_remote": parent_is_remote,
        "trace_state": trace_state,
        "trace_flags": trace_flags,
        "kind": format!("{kind:?}"),
        "name": name,
        "start_unix_ns": start_unix_ns,
        "end_unix_ns": end_unix_ns,
        "attributes": attributes,
        "status": format!("{status:?}"),
        "links": links.iter().map(|link| format!("{link:?}")).collect::<Vec<_>>(),
        "service": resource.service_name,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies a tape into the repository, without what it says of the machine that it was made on: of processes only the
/// service's name is left, of sockets not their addresses in the kernel.
fn take_in(recorded: &Path) {
    let to = directory().join(recorded.file_name().unwrap());
    let mut tape = TapeReader::new(BufReader::new(File::open(recorded).unwrap())).unwrap();
    let mut neutral = TapeWriter::new(BufWriter::new(File::create(&to).unwrap())).unwrap();
    while let Some(frame) = tape.next_frame().unwrap() {
        match frame {
            Frame::Process(facts) => neutral.write(&Frame::Process(Cow::Owned(named_only(&facts)))),
            Frame::Record(record) => neutral.write(&Frame::Record(&without_addresses(record))),
            frame => neutral.write(&frame),
        }
        .unwrap();
    }
    neutral.finish().unwrap();
    let bytes = std::fs::metadata(&to).unwrap().len();
    assert!(bytes < TAPE_BYTES, "{} has {bytes} bytes: record less", to.display());
}

fn named_only(facts: &ProcessFacts) -> ProcessFacts {
    let service_name = facts.resource.service_name.clone();
    let attributes = vec![Attribute {
        key: Cow::Borrowed("service.name"),
        value: Value::Str(service_name.as_str().into()),
    }];
    ProcessFacts {
        resource: Arc::new(Resource {
            service_name,
            attributes,
        }),
        ..facts.clone()
    }
}

fn without_addresses(record: &[u8]) -> Vec<u8> {
    let mut record = record.to_vec();
    match Record::decode(&record) {
        // A command line tells paths.
        None | Some(Record::Exec(_)) => panic!("only tapes of processes that ran before the agent are taken in"),
        Some(Record::Open(open)) => {
            let is_unix = matches!(open.base, Base::Unix(_));
            assert!(!is_unix, "the ends of Unix sockets find each other by their addresses");
            record[offset_of!(Open, sock)..][..size_of::<u64>()].fill(0);
        }
        Some(_) => {}
    }
    record
}
