//! Memory of the agent, and of what it holds in the kernel, under a steady load.

use std::{
    thread::{scope, sleep},
    time::Duration,
};

use anyhow::Result;

use spoor_tests::http;

use super::{
    Options, proc,
    report::{Bar, Bound, Table, figure},
    rig::{Rig, Side},
};

/// Requests a second.
const RATE: f64 = 10_000.0;
/// Connections of the load.
const CONNECTIONS: u32 = 16;
const MIB: f64 = (1 << 20) as f64;

/// The greatest of what is resident, looked at ten times a second. Pages of the ring that the agent has mapped are counted in
/// both figures.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let nginx = rig.nginx(Side::Traced)?;
    let agent = rig.agent(&[])?;
    let at_rest = proc::resident_bytes(agent.id())?;
    let before = rig.sink.spans();
    let time = options.time(15);
    let (made, most) = scope(|scope| -> Result<(u64, u64)> {
        let load = scope.spawn(|| http::steady(nginx.address, "/", CONNECTIONS, RATE, time));
        let mut most = 0;
        while !load.is_finished() {
            most = most.max(proc::resident_bytes(agent.id())?);
            sleep(Duration::from_millis(100));
        }
        Ok((load.join().expect("the load does not panic")?, most))
    })?;
    rig.sink.settle(before + made, Duration::from_secs(3));
    let objects = agent.objects()?;
    agent.finish()?;

    let mut table = Table::new(&["", ""]);
    table.row([
        "requests/s".to_owned(),
        figure((made as f64 / time.as_secs_f64()).round()),
    ]);
    table.row([
        "spans / requests".to_owned(),
        figure((rig.sink.spans() - before) as f64 / made as f64),
    ]);
    table.row(["resident at rest, MiB".to_owned(), figure(at_rest as f64 / MIB)]);
    table.row([
        "resident under load, greatest, MiB".to_owned(),
        figure(most as f64 / MIB),
    ]);
    table.row(["maps".to_owned(), objects.maps.to_string()]);
    table.row([
        "kernel memory of the maps, MiB".to_owned(),
        figure(objects.map_bytes as f64 / MIB),
    ]);
    println!("{table}");
    let bar =
        |what: &str, must, aim, bytes: u64| Bar::new(what, Bound::AtMost(must), Bound::AtMost(aim), bytes as f64 / MIB);
    Ok(vec![
        bar("memory: resident at 10,000 requests/s, MiB", 64.0, 40.0, most),
        bar("memory: kernel, ring and maps, MiB", 48.0, 24.0, objects.map_bytes),
    ])
}
