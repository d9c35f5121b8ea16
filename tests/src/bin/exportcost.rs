//! Cost of a span in the export, from Core's span to the pieces of a request: by the clock and under callgrind.
//!
//! ```text
//! exportcost protobuf|json SPANS time      prints the ns of each span: median of the requests, and the least
//! exportcost protobuf|json SPANS write     writes the spans into requests, prints the bytes of each
//! exportcost protobuf|json SPANS prepare   makes the spans and nothing else: subtracted from `write`
//! ```
//! The spans are those of HTTP/1 requests, both ends of each. Built as the release binary is:
//! ```text
//! cargo build --profile dist --package spoor-tests --no-default-features --features agent \
//!     --target x86_64-unknown-linux-musl --bin exportcost
//! ```

use std::{env, hint::black_box, process::ExitCode, sync::Arc, time::Instant};

use bytes::{Buf as _, BytesMut};
use spoor::{
    allocator::Allocator,
    engine::trace::{Attribute, ParentMethod, Resource, Span, SpanId, SpanKind, Status, TraceId},
    export::{
        config::Encoding,
        encode::{Batch, Encoder},
    },
};

/// The allocator of the agent.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Spans that are handed over at once: what Core gives in some 10 ms.
const PUSH: usize = 256;
/// Pushes of a request, which has 2048 spans as by default.
const PUSHES: usize = 8;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let parsed = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [format, spans, what @ ("time" | "write" | "prepare")] => {
            let encoding = match format {
                "protobuf" => Some(Encoding::Protobuf),
                "json" => Some(Encoding::Json),
                _ => None,
            };
            encoding.zip(spans.parse::<usize>().ok()).map(|known| (known, what))
        }
        _ => None,
    };
    let Some(((encoding, spans), what)) = parsed else {
        eprintln!("usage: exportcost protobuf|json SPANS time|write|prepare");
        return ExitCode::FAILURE;
    };
    let spans_of_push = exchange_spans(PUSH);
    let mut encoder = Encoder::new(encoding);
    let mut buf = BytesMut::new();
    let mut bytes = 0;
    let mut request_ns = Vec::new();
    for _ in 0..spans / (PUSH * PUSHES) {
        if what == "prepare" {
            continue;
        }
        let begin = Instant::now();
        let mut batch = Batch::default();
        for _ in 0..PUSHES {
            for span in encoder.encode(black_box(&spans_of_push)) {
                batch.add(span);
            }
        }
        bytes = black_box(batch.to_request(&mut buf)).remaining();
        drop(batch);
        request_ns.push(begin.elapsed().as_nanos());
    }
    request_ns.sort_unstable();
    let of_span = |ns: &u128| ns / (PUSH * PUSHES) as u128;
    match (what, request_ns.first(), request_ns.get(request_ns.len() / 2)) {
        ("time", Some(least), Some(median)) => println!("{} {}", of_span(median), of_span(least)),
        ("write", ..) => println!("{}", bytes / (PUSH * PUSHES)),
        ("prepare", ..) => {}
        _ => {
            eprintln!("at least {} spans are needed", PUSH * PUSHES);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Returns the spans of so many ends of exchanges between two processes.
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
        .map(|index| exchange_span(index, if index.is_multiple_of(2) { client } else { server }))
        .collect()
}

/// Returns the span of one end.
fn exchange_span(index: usize, resource: &Arc<Resource>) -> Span {
    let is_client = index.is_multiple_of(2);
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
