//! Cost of a span in the export, from Core's span to a request: run it under callgrind.
//!
//! ```text
//! exportcost protobuf|json SPANS write     writes the spans into requests
//! exportcost protobuf|json SPANS prepare   makes the spans and nothing else: subtracted from `write`
//! ```
//! The spans are those of an HTTP/1 request at both of its ends.

use std::{env, hint::black_box, process::ExitCode, sync::Arc};

use spoor::{
    engine::trace::{Attribute, ParentMethod, Resource, Span, SpanId, SpanKind, Status, TraceId},
    export::{
        config::Encoding,
        encode::{Batch, Encoder},
    },
};

/// The allocator of the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Spans that are handed over at once: what Core gives in some 10 ms.
const PUSH: usize = 256;
/// Spans of a request, as the default is.
const BATCH: usize = 2048;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let parsed = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [format, spans, what] if matches!(format, "protobuf" | "json") && matches!(what, "write" | "prepare") => spans
            .parse::<usize>()
            .ok()
            .map(|spans| (format == "json", spans, what == "write")),
        _ => None,
    };
    let Some((is_json, spans, writes)) = parsed else {
        eprintln!("usage: exportcost protobuf|json SPANS write|prepare");
        return ExitCode::FAILURE;
    };
    let spans_of_push = exchange_spans(PUSH);
    let mut bytes = 0;
    let mut encoder = Encoder::new(if is_json { Encoding::Json } else { Encoding::Protobuf });
    let mut batch = Batch::default();
    let mut buf = bytes::BytesMut::new();
    for _ in 0..spans / PUSH {
        let spans = black_box(&spans_of_push);
        if !writes {
            continue;
        }
        for span in encoder.encode(spans) {
            batch.add(span);
        }
        if batch.len() >= BATCH {
            bytes += batch.to_request(&mut buf).len();
            batch = Batch::default();
        }
    }
    println!("{} bytes a span", bytes / spans.max(1));
    ExitCode::SUCCESS
}

fn exchange_spans(count: usize) -> Vec<Span> {
    let resources = ["client", "server"].map(|name| {
        Arc::new(Resource {
            service_name: name.to_owned(),
            attributes: vec![
                Attribute::str("service.name", name.to_owned()),
                Attribute::str("process.executable.name", name.to_owned()),
                Attribute::int("process.pid", 4711),
            ],
        })
    });
    let [client, server] = &resources;
    (0..count)
        .map(|index| exchange_span(index, if index % 2 == 0 { client } else { server }))
        .collect()
}

fn exchange_span(index: usize, resource: &Arc<Resource>) -> Span {
    let is_client = index % 2 == 0;
    let exchange = index as u64 / 2 + 1;
    let id = |number: u64| SpanId::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let mut trace_id = [7; 16];
    trace_id[8..].copy_from_slice(&exchange.to_be_bytes());
    let mut attributes = vec![
        Attribute::str("http.request.method", "GET"),
        Attribute::int("http.response.status_code", 200),
        Attribute::str("network.protocol.version", "1.1"),
        Attribute::str("network.peer.address", "127.0.0.1".to_owned()),
        Attribute::int("network.peer.port", 40_000 + exchange as i64),
        Attribute::str("server.address", "shop.example".to_owned()),
        Attribute::int("server.port", 8080),
    ];
    if is_client {
        attributes.push(Attribute::str(
            "url.full",
            "http://shop.example:8080/users/7?page=2".to_owned(),
        ));
    } else {
        attributes.push(Attribute::str("url.path", "/users/7".to_owned()));
        attributes.push(Attribute::str("url.query", "page=2".to_owned()));
        attributes.push(Attribute::str("url.scheme", "http"));
        attributes.push(Attribute::str("client.address", "127.0.0.1".to_owned()));
        attributes.push(Attribute::str("user_agent.original", "wrk/4.1".to_owned()));
    }
    Span {
        trace_id: TraceId::new(trace_id).unwrap(),
        span_id: id(2 * exchange + !is_client as u64).unwrap(),
        parent: if is_client {
            None
        } else {
            id(2 * exchange).map(|id| (id, ParentMethod::SameHost))
        },
        parent_is_remote: !is_client,
        trace_state: None,
        trace_flags: 1,
        kind: if is_client { SpanKind::Client } else { SpanKind::Server },
        name: "GET /users/{id}".into(),
        start_unix_ns: 1_767_323_045_678_000_001 + exchange,
        end_unix_ns: 1_767_323_045_678_900_002 + exchange,
        attributes,
        status: Status::Unset,
        links: Vec::new(),
        resource: resource.clone(),
    }
}
