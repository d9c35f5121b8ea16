//! Lines as they are written, and the outcome of a line that cannot be written.

use std::sync::{Arc, mpsc};

use serde_json::{Value as Json, json};

use super::*;
use crate::{
    engine::trace::{Attribute, ParentMethod, Resource, Span, SpanId, SpanKind, Status, TraceId, Value},
    export::{
        config::Encoding,
        encode::{Batch, Encoder},
    },
};

fn request() -> Payload {
    let span = Span {
        trace_id: TraceId::new([0xab; 16]).unwrap(),
        span_id: SpanId::new([1; 8]).unwrap(),
        parent: Some((SpanId::new([2; 8]).unwrap(), ParentMethod::Header)),
        parent_is_remote: true,
        trace_state: None,
        trace_flags: 1,
        kind: SpanKind::Server,
        name: "GET /".into(),
        start_unix_ns: 1_767_323_045_678_000_001,
        end_unix_ns: 1_767_323_045_678_000_002,
        attributes: vec![
            Attribute::int("http.response.status_code", 500),
            Attribute {
                key: "http.request.header.x".into(),
                value: Value::Strs(vec!["a\"b".to_owned()]),
            },
        ],
        status: Status::Error("".into()),
        links: vec![],
        resource: Arc::new(Resource {
            service_name: "shop".to_owned(),
            attributes: vec![Attribute::str("service.name", "shop")],
        }),
    };
    let mut batch = Batch::default();
    for span in Encoder::new(Encoding::Json).encode(&[span]) {
        batch.add(span);
    }
    batch.to_request(&mut bytes::BytesMut::new())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn one_request_a_line_by_the_mapping_of_otlp() {
    let mut lines = Vec::new();
    let mut transport = JsonTransport::new(&mut lines, Unread::Log);
    for _ in 0..2 {
        let taken = Outcome::Taken {
            rejected: 0,
            message: String::new(),
        };
        assert_eq!(run(transport.send(request())), taken);
    }
    let lines = String::from_utf8(lines).unwrap();
    assert_eq!(lines.lines().count(), 2);
    let schema = opentelemetry_semantic_conventions::SCHEMA_URL;
    let string = |text: &str| json!({ "stringValue": text });
    let expected = json!({ "resourceSpans": [{
        "resource": {
            "attributes": [{ "key": "service.name", "value": string("shop") }],
            "droppedAttributesCount": 0,
            "entityRefs": [],
        },
        "scopeSpans": [{
            "scope": {
                "name": "spoor",
                "version": env!("CARGO_PKG_VERSION"),
                "attributes": [],
                "droppedAttributesCount": 0,
            },
            "spans": [{
                "traceId": "abababababababababababababababab",
                "spanId": "0101010101010101",
                "traceState": "",
                "parentSpanId": "0202020202020202",
                "flags": 0x301,
                "name": "GET /",
                "kind": 2,
                "startTimeUnixNano": "1767323045678000001",
                "endTimeUnixNano": "1767323045678000002",
                "attributes": [
                    { "key": "http.response.status_code", "value": { "intValue": "500" } },
                    { "key": "http.request.header.x", "value": { "arrayValue": { "values": [string("a\"b")] } } },
                    { "key": "spoor.parent.method", "value": string("header") },
                ],
                "droppedAttributesCount": 0,
                "events": [],
                "droppedEventsCount": 0,
                "links": [],
                "droppedLinksCount": 0,
                "status": { "message": "", "code": 2 },
            }],
            "schemaUrl": schema,
        }],
        "schemaUrl": schema,
    }]});
    for line in lines.lines() {
        assert_eq!(serde_json::from_str::<Json>(line).unwrap(), expected);
    }
}

/// Takes some bytes, fails once, then takes all.
struct FullOnce {
    written: Vec<u8>,
    room: usize,
}

impl Write for FullOnce {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            self.room = usize::MAX;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.written.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_torn_line_does_not_spoil_the_next() {
    let full_once = FullOnce {
        written: Vec::new(),
        room: 10,
    };
    let mut transport = JsonTransport::new(full_once, Unread::Log);
    assert_eq!(
        run(transport.send(request())),
        Outcome::NotWritten {
            reason: "no storage space".to_owned()
        }
    );
    run(transport.send(request()));
    let written = String::from_utf8(transport.writer.written).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, r#"{"resource"#));
    assert!(serde_json::from_str::<Json>(lines[1]).is_ok());
}

#[test]
fn a_stream_that_nobody_reads_ends_the_session() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let (sender, ends) = mpsc::channel();
    let end = Unread::End(Box::new(move || sender.send(()).unwrap()));
    let mut transport = JsonTransport::new(writer.try_clone().unwrap(), end);
    assert_eq!(run(transport.send(request())), Outcome::Unread);
    assert_eq!(ends.try_iter().count(), 1);

    let mut transport = JsonTransport::new(writer, Unread::Log);
    assert!(matches!(run(transport.send(request())), Outcome::NotWritten { .. }));
}
