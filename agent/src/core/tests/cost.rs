//! What an exchange costs.

use super::*;
use std::time::Instant;

const EXCHANGES: usize = 200_000;
const CONNECTIONS: usize = 16;

/// `cargo test --release -p spoor -- --ignored core_cost --nocapture`
#[test]
#[ignore = "a measurement: it says something only in a release build"]
fn core_cost() {
    let mut world = World::new();
    world.process(10, "nginx", Runtime::Nginx);
    let mut ends: Vec<End> = (0..CONNECTIONS).map(|_| world.server(10)).collect();
    let request = "GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: wrk/4.1\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Sat, 21 Nov 2026 14:00:00 GMT\r\n\
                    Content-Type: text/html\r\nContent-Length: 1024\r\n\
                    Last-Modified: Sat, 21 Nov 2026 13:00:00 GMT\r\nConnection: keep-alive\r\n\
                    ETag: \"6740\"\r\nAccept-Ranges: bytes\r\n\r\n";
    let response = response.to_owned() + &"x".repeat(1024);
    let mut records = Vec::with_capacity(2 * EXCHANGES);
    for index in 0..EXCHANGES {
        let end = &mut ends[index % CONNECTIONS];
        for record in [end.reads(10, request), end.writes(10, &response)] {
            world.now_ns += 1000;
            records.push(record.at(world.now_ns));
        }
    }
    let mut core = world.core;
    let begin = Instant::now();
    let mut spans = 0;
    for batch in records.chunks(512) {
        for record in batch {
            core.record(record);
        }
        spans += core.drain().len();
    }
    let took = begin.elapsed();
    assert_eq!(spans, EXCHANGES);
    println!("{} ns for each exchange", took.as_nanos() / EXCHANGES as u128);
}
