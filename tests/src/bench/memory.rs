//! Memory of the agent and of its objects in the kernel: under a steady load, with very many connections, and while
//! connections and processes come and go.

use std::{
    net::SocketAddr,
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use spoor_tests::net::free_address;

use super::{
    Options,
    agent::{Agent, SELECTION_TIME},
    paced::Paced,
    proc,
    report::{Bar, Bound, Table, figure, median},
    rig::{Rig, Side},
    role::Role,
};

/// Connections that stay open, divided among several processes on either side: on many machines one process may have
/// 20,000 open files, and one address has 28,000 ports.
const OPEN: usize = 100_000;
const OPEN_PROCESSES: usize = 10;
/// Limit of connections of the agent, above that number.
const MOST_CONNECTIONS: usize = 131_072;

/// New connections a second, and process starts a second.
const CHURN: (f64, f64) = (1000.0, 200.0);
/// Time of churn after which the agent's memory is stable: it keeps what it knows of an ended process for half a
/// minute.
const WARM_UP: Duration = Duration::from_secs(60);
/// Time over which the median of resident memory is taken.
const WINDOW: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);

/// Requests of the load, a second.
const RATE: f64 = 10_000.0;
const MIB: f64 = (1 << 20) as f64;

/// Measures the maximum of resident memory, sampled ten times a second. Pages of the ring that the agent has mapped
/// count in both figures.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let nginx = rig.nginx(Side::Traced)?;
    let mut paced = Paced::start(rig)?;
    let agent = rig.agent()?;
    let at_rest = proc::resident_bytes(agent.id())?;
    let before = rig.sink.spans();
    let time = options.time(15);
    let (made, most) = scope(|scope| -> Result<(u64, u64)> {
        let load = scope.spawn(|| paced.run(nginx.address, RATE, time));
        let mut most = 0;
        while !load.is_finished() {
            most = most.max(proc::resident_bytes(agent.id())?);
            sleep(Duration::from_millis(100));
        }
        Ok((load.join().expect("the load does not panic")?.made, most))
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
        bar("memory: resident at 10,000 requests/s, MiB", 40.0, 30.0, most),
        bar("memory: kernel, ring and maps, MiB", 48.0, 24.0, objects.map_bytes),
    ])
}

/// Measures the maximum of resident memory while 100,000 connections are opened, each with a request, and kept.
pub fn connections(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let each = OPEN / OPEN_PROCESSES / if options.quick { 10 } else { 1 };
    let servers = keep_servers(rig)?;
    let mut launch = rig.launch()?;
    launch
        .options
        .extend(["--max-connections".into(), MOST_CONNECTIONS.to_string().into()]);
    let agent = Agent::start(&launch)?;
    let at_rest = proc::resident_bytes(agent.id())?;
    let before = rig.sink.spans();
    let opened = each * OPEN_PROCESSES;
    let (most, settled) = while_opened(rig, options, &agent, &servers, each)?;
    let objects = agent.objects()?;
    agent.finish()?;
    rig.sink.settle(before + opened as u64, Duration::from_secs(3));

    let mut table = Table::new(&["", ""]);
    table.row(["connections, with a request each".to_owned(), opened.to_string()]);
    let spans = rig.sink.spans() - before;
    table.row(["spans".to_owned(), spans.to_string()]);
    for (what, bytes) in [
        ("resident at rest, MiB", at_rest),
        ("resident while they are opened, greatest, MiB", most),
        ("resident when they are open, MiB", settled),
        ("kernel memory of the maps, MiB", objects.map_bytes),
    ] {
        table.row([what.to_owned(), figure(bytes as f64 / MIB)]);
    }
    println!("{table}");
    Ok(vec![
        Bar::new(
            format!("memory: resident with {opened} open connections, MiB"),
            Bound::AtMost(110.0),
            Bound::AtMost(90.0),
            most as f64 / MIB,
        ),
        // The clients start while Spoor runs, so Spoor captures them until it refuses them: they have no connections in
        // its tables.
        Bar::new(
            "memory: spans / requests of the servers",
            Bound::Exactly(1.0),
            Bound::Exactly(1.0),
            spans as f64 / opened as f64,
        ),
    ])
}

/// Starts servers whose connections stay open.
fn keep_servers(rig: &Rig) -> Result<Vec<(Role, SocketAddr)>> {
    let mut servers = Vec::new();
    for _ in 0..OPEN_PROCESSES {
        let address = free_address();
        let mut server = rig.role(Side::Traced, &["keep-server", &address.to_string()])?;
        server.line()?;
        servers.push((server, address));
    }
    Ok(servers)
}

/// Opens `each` connections to every server. Returns the greatest resident size of the agent meanwhile, and the size once
/// they are open.
fn while_opened(
    rig: &Rig,
    options: Options,
    agent: &Agent,
    servers: &[(Role, SocketAddr)],
    each: usize,
) -> Result<(u64, u64)> {
    let clients: Vec<Role> = servers
        .iter()
        .enumerate()
        .map(|(index, (_, address))| {
            let source = format!("127.0.0.{}", index + 2);
            rig.role(
                Side::Plain,
                &["keep-client", &address.to_string(), &source, &each.to_string()],
            )
        })
        .collect::<Result<_>>()?;
    scope(|scope| {
        let opening = scope.spawn(|| -> Result<Vec<Role>> {
            let mut clients = clients;
            for client in &mut clients {
                client.line()?;
            }
            // They stay open until this value is dropped.
            Ok(clients)
        });
        let mut most = 0;
        while !opening.is_finished() {
            most = most.max(proc::resident_bytes(agent.id())?);
            sleep(LOOK);
        }
        let _clients = opening.join().expect("waiting does not panic")?;
        let until = Instant::now() + options.time(6);
        let mut settled = 0;
        while Instant::now() < until {
            settled = proc::resident_bytes(agent.id())?;
            most = most.max(settled);
            sleep(LOOK);
        }
        let known = agent
            .metrics()?
            .sum("spoor_connections")
            .context("no spoor_connections")?;
        let opened = each * OPEN_PROCESSES;
        ensure!(
            known >= opened as f64 * 0.99,
            "the agent knows {known} connections of {opened}"
        );
        Ok((most, settled))
    })
}

/// Measures by how much resident memory grows over a time of churn.
pub fn churn(rig: &Rig, _: Options, minutes: f64) -> Result<Vec<Bar>> {
    let time = Duration::from_secs_f64(minutes * 60.0);
    ensure!(
        time >= WARM_UP + 2 * WINDOW,
        "{minutes} minutes are too short: at least 1.5"
    );
    let address = free_address();
    let mut server = rig.role(Side::Traced, &["keep-server", &address.to_string()])?;
    server.line()?;
    let agent = rig.agent()?;
    sleep(SELECTION_TIME);
    let (connections, processes) = CHURN;
    let mut client = rig.role(
        Side::Plain,
        &["churn-client", &address.to_string(), &connections.to_string()],
    )?;
    // Children of a target are targets.
    let mut spawner = rig.role(Side::Traced, &["spawner", &processes.to_string()])?;
    let begin = Instant::now();
    let mut resident = Vec::new();
    while begin.elapsed() < time {
        resident.push(proc::resident_bytes(agent.id())? as f64);
        sleep(LOOK);
    }
    let begin_to_end = begin.elapsed();
    let rates = [&mut client, &mut spawner].map(|role| -> Result<(f64, f64)> {
        let line = role.ask("count")?;
        let (made, failed) = line.trim().split_once(' ').context("no two counts")?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok((made.parse::<f64>()? / seconds, failed.parse::<f64>()?))
    });
    let metrics = agent.metrics()?;
    agent.finish()?;

    let mut table = Table::new(&["", ""]);
    for (what, rate) in ["connections/s", "processes/s"].into_iter().zip(rates) {
        let (rate, failed) = rate?;
        table.row([what.to_owned(), figure(rate)]);
        ensure!(failed == 0.0, "{failed} of the {what} failed");
    }
    let samples = |time: Duration| resident.len() * time.as_millis() as usize / begin_to_end.as_millis() as usize;
    let (begin, window) = (samples(WARM_UP), samples(WINDOW));
    let warm = median(&resident[begin..begin + window]);
    let end = median(&resident[resident.len() - window..]);
    for (what, bytes) in [
        ("resident after the first minute, MiB", warm),
        ("resident at the end, MiB", end),
        ("resident, greatest, MiB", resident.iter().copied().fold(0.0, f64::max)),
    ] {
        table.row([what.to_owned(), figure(bytes / MIB)]);
    }
    println!("{table}");
    for (series, count) in metrics.losses() {
        println!("{series} {count}");
    }
    Ok(vec![Bar::new(
        format!("memory: growth over {minutes} min of churn, MiB"),
        Bound::AtMost(2.0),
        Bound::AtMost(0.0),
        (end - warm) / MIB,
    )])
}
