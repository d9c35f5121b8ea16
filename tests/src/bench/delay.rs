//! Delay from a response to its span.

use std::{
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};

use spoor_tests::http;

use super::{
    Options,
    agent::Agent,
    paced::Paced,
    report::{Bar, Bound, Table, figure, quantile},
    rig::{Rig, Side},
    sink::Arrival,
};

/// Number of requests on the connection that is idle between them.
const EXCHANGES: u32 = 100;
/// Time after which a missing span counts as lost: other agents need 8 to 23 s.
const LIMIT: Duration = Duration::from_secs(30);
/// Requests a second of the steady load.
const RATE: f64 = 1000.0;

/// Measures from outside, with an exporter that sends at once (a batch waits for 1 ms). The result includes the way to
/// the sink.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let nginx = rig.nginx(Side::Traced)?;
    let mut paced = Paced::start(rig)?;
    let mut launch = rig.launch()?;
    launch.environment.push(("OTEL_BSP_SCHEDULE_DELAY", "1"));
    let agent = Agent::start(&launch)?;
    rig.sink.keep();

    // On one connection, the next request waits for the span of the last: each request is the last one on an idle
    // connection.
    let mut client = http::Client::connect(nginx.address, "/")?;
    wait(rig)?;
    let mut idle_ms = Vec::new();
    for exchange in 0..if options.quick { EXCHANGES / 5 } else { EXCHANGES } {
        // Varied, so that no timer runs in step.
        sleep(Duration::from_millis(u64::from(50 + exchange * 37 % 101)));
        let answered = client.request()?;
        idle_ms.push(ms_between(answered, wait(rig)?.at));
    }

    // Spans of a steady load, each measured from its own end.
    let time = options.time(5);
    let before = rig.sink.spans();
    let made = paced.run(nginx.address, RATE, time)?.made;
    rig.sink.settle(before + made, LIMIT);
    let arrivals = rig.sink.take();
    agent.finish()?;
    ensure!(
        arrivals.len() as u64 >= made,
        "{} spans came for {made} requests",
        arrivals.len()
    );
    let end = |arrival: &Arrival| UNIX_EPOCH + Duration::from_nanos(arrival.end_unix_ns);
    let steady_ms: Vec<f64> = arrivals
        .iter()
        .map(|arrival| ms_between(end(arrival), arrival.at))
        .collect();

    let mut table = Table::new(&["ms from the response to the span's arrival", "p50", "p99", "greatest"]);
    for (name, values) in [
        ("the last request on an idle connection", &idle_ms),
        ("steady load, 1,000 requests/s", &steady_ms),
    ] {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| figure(quantile(values, share)));
        table.row([name.to_owned(), p50, p99, most]);
    }
    println!("{table}");
    let bar =
        |what: &str, values: &[f64]| Bar::new(what, Bound::AtMost(200.0), Bound::AtMost(100.0), quantile(values, 0.99));
    Ok(vec![
        bar("delay: last request on an idle connection, p99, ms", &idle_ms),
        bar("delay: steady load, p99, ms", &steady_ms),
    ])
}

/// Waits for the next span.
fn wait(rig: &Rig) -> Result<Arrival> {
    let start = Instant::now();
    loop {
        let arrivals = rig.sink.take();
        ensure!(arrivals.len() <= 1, "one request gave {} spans", arrivals.len());
        if let Some(&arrival) = arrivals.first() {
            return Ok(arrival);
        }
        ensure!(start.elapsed() < LIMIT, "no span came within {LIMIT:?} of a response");
        sleep(Duration::from_millis(1));
    }
}

/// Returns a negative value if `second` came first: the client may read the response's end after the span has left.
fn ms_between(first: SystemTime, second: SystemTime) -> f64 {
    match second.duration_since(first) {
        Ok(time) => time.as_secs_f64() * 1e3,
        Err(error) => -error.duration().as_secs_f64() * 1e3,
    }
}
