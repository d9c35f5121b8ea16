//! Number of spans for a million requests.

use std::time::Duration;

use anyhow::Result;

use super::{
    report::{Bar, Bound, Table, figure},
    rig::{Rig, Side},
    wrk::Wrk,
};

/// Seconds of one run of wrk.
const RUN_SECONDS: u64 = 5;
/// Time without a new span after which none is expected.
const PATIENCE: Duration = Duration::from_secs(5);

/// Saturates nginx until it has answered `requests`.
///
/// wrk abandons its open requests when its time is over: nginx reads and answers such a request, which gives a span,
/// but wrk does not count the response. So the spans are compared with nginx's own count of requests. It may exceed
/// wrk's by up to 16 for each run, and the query for it is a request, too.
pub fn run(rig: &Rig, requests: u64) -> Result<Vec<Bar>> {
    let nginx = rig.nginx(Side::Traced)?;
    let before = rig.sink.spans();
    let agent = rig.agent()?;
    let (mut responses, mut runs) = (0, 0);
    while responses < requests {
        responses += Wrk::start(nginx.address, RUN_SECONDS, rig.path())?.finish()?.responses;
        runs += 1;
    }
    let served = nginx.requests()?;
    rig.sink.settle(before + served, PATIENCE);
    let metrics = agent.metrics()?;
    agent.finish()?;
    let spans = rig.sink.spans() - before;

    let mut table = Table::new(&["", "count"]);
    table.row([
        format!("responses that wrk counted, {runs} runs"),
        responses.to_string(),
    ]);
    table.row([
        "cut off at the end of a run, and our question".to_owned(),
        served.saturating_sub(responses).to_string(),
    ]);
    table.row(["requests that nginx counted".to_owned(), served.to_string()]);
    table.row(["spans that arrived".to_owned(), spans.to_string()]);
    let losses = metrics.losses();
    for (series, value) in &losses {
        table.row([(*series).to_owned(), figure(*value)]);
    }
    println!("{table}");
    let drops = losses.iter().fold(0.0, |sum, (_, value)| sum + value);
    Ok(vec![
        Bar::new(
            "coverage: spans / requests",
            Bound::Exactly(1.0),
            Bound::Exactly(1.0),
            spans as f64 / served as f64,
        ),
        Bar::new("coverage: drops", Bound::Exactly(0.0), Bound::Exactly(0.0), drops),
    ])
}
