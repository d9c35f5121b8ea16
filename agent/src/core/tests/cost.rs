//! What an exchange costs.

use super::*;
use std::time::Instant;

const EXCHANGES: usize = 200_000;
const CONNECTIONS: usize = 16;

/// Exchanges between two drains. Their records are made before the clock runs.
const BATCH: usize = 250;

/// The product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let mut spans = 0;
    let mut batches: Vec<_> = (0..EXCHANGES / BATCH)
        .map(|_| {
            let mut records = Vec::with_capacity(2 * BATCH);
            for index in 0..BATCH {
                let end = &mut ends[index % CONNECTIONS];
                for record in [end.reads(10, request), end.writes(10, &response)] {
                    world.now_ns += 1000;
                    records.push(record.at(world.now_ns));
                }
            }
            let begin = Instant::now();
            for record in &records {
                world.core.record(record);
            }
            spans += world.core.drain().len();
            begin.elapsed().as_nanos() / BATCH as u128
        })
        .collect();
    batches.sort_unstable();
    assert_eq!(spans, EXCHANGES);
    let (least, median) = (batches[0], batches[batches.len() / 2]);
    println!("{median} ns for each exchange (median of batches; least {least})");
}
