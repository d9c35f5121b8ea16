//! The exporter as a whole, with its thread.

mod certificates;
mod collector;
mod faults;

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    process, thread,
};

use super::{
    config::{Compression, Encoding, Endpoint},
    thread::Unsent,
    *,
};
use crate::engine::trace::{Attribute, Resource, SpanId, SpanKind, Status, TraceId};

/// A root span.
pub fn span(id: u64) -> Span {
    Span {
        trace_id: TraceId::new([7; 16]).unwrap(),
        span_id: SpanId::new(id.to_be_bytes()).unwrap(),
        parent: None,
        parent_is_remote: false,
        trace_state: None,
        trace_flags: 1,
        kind: SpanKind::Server,
        name: "GET /".into(),
        start_unix_ns: 1,
        end_unix_ns: 2,
        attributes: vec![Attribute::int("http.response.status_code", 200)],
        status: Status::Unset,
        links: vec![],
        resource: Arc::new(Resource::default()),
    }
}

#[test]
fn spans_reach_the_file_by_the_end() {
    let path = env::temp_dir().join(format!("spoor-export-{}.jsonl", process::id()));
    let metrics = Arc::new(Metrics::default());
    let config = ExportConfig::new(Target::JsonLines(Some(path.clone())));
    let exporter = Exporter::start(config, Unread::Log, metrics.clone()).unwrap();
    exporter.push(&[span(1), span(2)]);
    exporter.push(&[span(3)]);
    exporter.shutdown(Duration::from_secs(5));
    let written = fs::read_to_string(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    fs::remove_file(&path).unwrap();
    let ids: Vec<&str> = written.split("\"spanId\":\"").skip(1).map(|rest| &rest[..16]).collect();
    assert_eq!(ids, ["0000000000000001", "0000000000000002", "0000000000000003"]);
    assert_eq!((metrics.export.exported.get(), mode & 0o777), (3, 0o600));
}

#[test]
fn spans_that_a_blocked_pipe_keeps_are_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    // Both ends, so that neither open waits.
    let mut pipe = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let metrics = Arc::new(Metrics::default());
    let mut config = ExportConfig::new(Target::JsonLines(Some(path)));
    config.schedule_delay = Duration::ZERO;
    let exporter = Exporter::start(config, Unread::Log, metrics.clone()).unwrap();
    // Longer than a pipe holds.
    exporter.push(&(1..=1000).map(span).collect::<Vec<_>>());
    while metrics.export.queue_spans.get() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    exporter.push(&(1..=7).map(span).collect::<Vec<_>>());
    let queue = exporter.queue.clone();
    exporter.shutdown(Duration::from_millis(50));
    let counts = || (metrics.export.exported.get(), metrics.export.dropped.shutdown.get());
    assert_eq!((counts(), metrics.export.lost()), ((0, 1007), 1007));
    assert_eq!(metrics.export.queue_spans.get(), 0);
    // The reader comes too late: nothing is counted twice.
    while Arc::strong_count(&queue) > 1 {
        let readable = rustix::io::ioctl_fionread(&pipe).unwrap();
        pipe.read_exact(&mut vec![0; readable as usize]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((counts(), metrics.export.lost()), ((0, 1007), 1007));
    let unsent = Unsent {
        waiting: 7,
        in_flight: 1000,
    };
    assert_eq!(
        unsent.warning("stdout", Duration::from_millis(5100)),
        "the export to stdout has not ended within 5100 ms, 1007 spans are lost (7 waiting, 1000 in a write); is its \
         output blocked?"
    );
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let config = ExportConfig::new(Target::JsonLines(Some("/nowhere/spans".into())));
    let error = Exporter::start(config, Unread::Log, Arc::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open /nowhere/spans for appending spans: No such file or directory (os error 2); \
         name a file in a writable directory"
    );
}

#[test]
fn an_idle_exporter_wakes_when_spans_come_and_ends_when_told() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let metrics = Arc::new(Metrics::default());
    let endpoint = Endpoint {
        url: url.parse().unwrap(),
        headers: Default::default(),
        tls: None,
        compression: Compression::None,
    };
    let mut config = ExportConfig::new(Target::Http(Box::new(endpoint), Encoding::Protobuf));
    config.schedule_delay = Duration::from_millis(10);
    let exporter = Exporter::start(config, Unread::Log, metrics.clone()).unwrap();
    thread::sleep(Duration::from_millis(50));
    exporter.push(&[span(1)]);
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"POST /v1/traces");
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    // The second request gets no answer: it is what is given up.
    while metrics.export.exported.get() < 1 {
        thread::sleep(Duration::from_millis(1));
    }
    exporter.push(&[span(2), span(3)]);
    thread::sleep(Duration::from_millis(100));
    let begun = std::time::Instant::now();
    exporter.shutdown(Duration::from_millis(200));
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (metrics.export.exported.get(), metrics.export.dropped.shutdown.get()),
        (1, 2)
    );
}
