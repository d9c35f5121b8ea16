//! Cost of an agent that has nothing to do.

use std::{thread::sleep, time::Instant};

use anyhow::Result;

use super::{
    Options,
    agent::SELECTION_TIME,
    proc,
    report::{Bar, Bound, Table, figure},
    rig::{Rig, Side},
};

/// Measures an agent whose only target is an nginx without requests. The host does its usual work.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let _nginx = rig.nginx(Side::Traced)?;
    let agent = rig.agent()?;
    // Waits for the work after the start to end.
    sleep(SELECTION_TIME * 4);
    let (cpu_before, sleeps_before, start) = (
        proc::usage(agent.id())?.cpu_ns,
        proc::sleeps(agent.id())?,
        Instant::now(),
    );
    sleep(options.time(30));
    let (cpu, sleeps) = (
        proc::usage(agent.id())?.cpu_ns - cpu_before,
        proc::sleeps(agent.id())? - sleeps_before,
    );
    let seconds = start.elapsed().as_secs_f64();
    agent.finish()?;

    let (percent, rate) = (cpu as f64 / 1e9 / seconds * 100.0, sleeps as f64 / seconds);
    let mut table = Table::new(&["", ""]);
    table.row(["seconds".to_owned(), figure(seconds)]);
    table.row(["CPU, ms".to_owned(), figure(cpu as f64 / 1e6)]);
    table.row(["wake-ups of all threads".to_owned(), sleeps.to_string()]);
    println!("{table}");
    let bar = |what: &str, must, aim, value| Bar::new(what, Bound::AtMost(must), Bound::AtMost(aim), value);
    Ok(vec![
        bar("idle: CPU, % of a core", 0.2, 0.05, percent),
        bar("idle: wake-ups/s", 10.0, 2.0, rate),
    ])
}
