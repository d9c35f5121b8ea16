//! Large amounts: a body of ten gibibytes, a host full of processes, and a ring that is too small.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::{Agent, Recorder},
    otlp::{Kind, Span},
    process::Process,
    raw::{Bulk, CLIENT, Connection, End, Exchange, Peer, Way, World, compare, get, response, target_of},
};

use crate::RAWPEER;

/// Time limit for the agent to show an expected number.
const COUNTING_LIMIT: Duration = Duration::from_secs(30);

/// Passes 10 GiB in chunks of 100,000 bytes, none of which begins or ends with a write or a read: the body's length is
/// exact, only chunk lines come through the ring, and the connection's next exchange is found.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn ten_gibibytes_of_chunks() -> Result<()> {
    const CHUNK: usize = 100_000;
    const CHUNKS: usize = (10_usize << 30).div_ceil(CHUNK);
    let mut world = World::start(RAWPEER.as_ref())?;
    let agent = Recorder::start(&world.selection())?;
    world.case("huge", |world, _| {
        let connection = world.connect()?;
        world.pass(&connection, Way::Request, get("/huge"))?;
        let chunk = format!("{CHUNK:x}\r\n{}\r\n", "x".repeat(CHUNK));
        let bulk = Bulk {
            head: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            unit: chunk.as_bytes(),
            repeat: CHUNKS,
            tail: b"0\r\n\r\n",
            send_piece: 65_521,
            receive_piece: 1 << 20,
            pause_us: 0,
        };
        world.stream(&connection, Way::Response, &bulk)?;
        let bytes = (CHUNK * CHUNKS) as u64;
        world.expect("/huge", End::ok("GET", 200).bodies(None, Some(bytes)));
        world.exchange(&connection, &get("/huge/next"), &response(200, "next"))?;
        world.expect("/huge/next", End::ok("GET", 200).bodies(None, Some(4)));
        world.close(&connection)
    })?;
    let records = counted(&agent.agent, "spoor_ring_records_total")?;
    let (spans, said) = agent.finish()?;
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    println!("{CHUNKS} chunks: {records} records of both ends");
    // A line for each chunk and end, and two if a call's end cuts it. Calls in between make no record.
    let lines = 2 * CHUNKS;
    ensure!(records < 1.01 * lines as f64, "{records} records of {lines} lines");
    Ok(())
}

/// Starts two thousand unrelated processes: the few that are selected by their program are found, with everything that
/// they do.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn among_two_thousand_processes() -> Result<()> {
    const BYSTANDERS: usize = 2_000;
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("for i in $(seq {BYSTANDERS}); do sleep 600 & done; echo started; wait"),
    ]);
    let (stdout, child_stdout) = std::io::pipe()?;
    let bystanders = Process::start_with(
        "the bystanders",
        command,
        Stdio::null(),
        child_stdout.into(),
        Stdio::null(),
    )?;
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said)?;
    ensure!(said == "started\n", "the bystanders said {said:?}");
    let group = bystanders.group()?.len();
    ensure!(group > BYSTANDERS, "{group} processes were started");

    let mut world = World::start(RAWPEER.as_ref())?;
    let agent = Recorder::start(&[format!("--exe={}", env!("CARGO_BIN_EXE_rawpeer"))])?;
    world.case("among", |world, _| {
        for connection_number in 0..8 {
            let connection = world.connect()?;
            for number in 0..32 {
                let target = format!("/among/{connection_number}/{number}");
                world.exchange(&connection, &get(&target), &response(200, "here"))?;
                world.expect(&target, End::ok("GET", 200).bodies(None, Some(4)));
            }
            world.close(&connection)?;
        }
        Ok(())
    })?;
    let (spans, said) = agent.finish()?;
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    Ok(())
}

/// Fills the smallest ring while the agent is stopped: lost bytes are counted exactly, no span is wrong, and after the
/// agent continues each connection has all spans from its second exchange on. The first one shows where the next
/// message begins; whether its response answers an earlier request cannot be known.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn a_ring_that_is_full() -> Result<()> {
    const CONNECTIONS: usize = 8;
    /// Length of both messages of each exchange, so that each lost record loses that many bytes.
    const MESSAGE_BYTES: usize = 256;
    let mut world = World::start(RAWPEER.as_ref())?;
    let mut selection = world.selection();
    selection.push("--ring-bytes=64KiB".to_owned());
    let recorder = Recorder::start(&selection)?;
    let agent = &recorder.agent;

    let mut connections = Vec::new();
    let exchange = |world: &mut World, connection: &Connection, target: &str| -> Result<()> {
        let fill = |head: &str| {
            let filled = MESSAGE_BYTES - head.len() - "X-Fill: \r\n\r\n".len();
            format!("{head}X-Fill: {}\r\n\r\n", "x".repeat(filled))
        };
        let request = fill(&format!("GET {target} HTTP/1.1\r\nHost: raw.test\r\n"));
        world.exchange(connection, &request, &fill("HTTP/1.1 204 No Content\r\n"))?;
        world.expect(target, End::ok("GET", 204));
        Ok(())
    };
    world.case("full", |world, _| {
        for number in 0..CONNECTIONS {
            let connection = world.connect()?;
            exchange(world, &connection, &format!("/full/{number}/first"))?;
            connections.push(connection);
        }
        Ok(())
    })?;
    // The agent has read the description of every connection: from here on only segments can be lost.
    wait_for(agent, "connections of both ends", |agent| {
        Ok(counted(agent, "spoor_connections")? == 2.0 * CONNECTIONS as f64)
    })?;
    ensure!(
        lost(agent)? == 0.0,
        "the ring was too small for {CONNECTIONS} exchanges"
    );
    world.case("stopped", |world, _| {
        agent.while_stopped(|| {
            for number in 0..1_000 {
                let connection = &connections[number % CONNECTIONS];
                exchange(world, connection, &format!("/stopped/{number}"))?;
            }
            Ok(())
        })
    })?;
    // The agent shows lost records after it has read the ring, so it has caught up now.
    wait_for(agent, "lost records", |agent| Ok(lost(agent)? > 0.0))?;
    world.case("boundary", |world, _| {
        for (number, connection) in connections.iter().enumerate() {
            exchange(world, connection, &format!("/boundary/{number}"))?;
        }
        Ok(())
    })?;
    world.case("again", |world, _| {
        let mut number = 0;
        let mut again = |world: &mut World| -> Result<()> {
            for connection in &connections {
                exchange(world, connection, &format!("/again/{number}"))?;
                number += 1;
            }
            Ok(())
        };
        // The agent shows the programs' counters and Core's once a second, and when it becomes quiet.
        let counted_all = wait_for(agent, "a gap for each lost record", |agent| {
            again(world)?;
            Ok(counted(agent, "spoor_core_total{cause=\"gap_bytes\"}")? == lost(agent)? * MESSAGE_BYTES as f64)
        });
        counted_all.with_context(|| {
            let gaps = counted(agent, "spoor_core_total{cause=\"gap_bytes\"}");
            format!("{:?} records lost, {gaps:?} bytes missed", lost(agent))
        })
    })?;
    let records_lost = lost(agent)?;
    for connection in &connections {
        world.close(connection)?;
    }
    let (spans, said) = recorder.finish()?;

    let missing = forgive_missing(&mut world.expected, &spans, "stopped");
    let boundaries = forgive_missing(&mut world.expected, &spans, "boundary");
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    println!(
        "full ring: {records_lost} records lost, {missing} spans missing of 2000 and {boundaries} of {}, the others right",
        2 * CONNECTIONS
    );
    let missing = missing as f64;
    ensure!(
        missing <= records_lost && records_lost <= 2.0 * missing,
        "{records_lost} lost records cannot be the cause of {missing} missing spans"
    );
    Ok(())
}

/// Fills the ring several times over while the agent reads it: a record that goes round the ring's end is whole.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn records_that_go_round_the_end() -> Result<()> {
    const RING_BYTES: usize = 4 << 20;
    /// Exchanges until the agent has taken all records: their heads take far less than the ring.
    const BATCH: usize = 64;
    /// Both ends report both heads.
    const RECORDS_EACH: usize = 4;
    let mut world = World::start(RAWPEER.as_ref())?;
    let mut selection = world.selection();
    selection.push(format!("--ring-bytes={RING_BYTES}"));
    let recorder = Recorder::start(&selection)?;
    let agent = &recorder.agent;
    world.case("round", |world, _| {
        let connection = world.connect()?;
        let mut number = 0;
        let mut bytes = 0;
        while bytes < 4 * RING_BYTES {
            for _ in 0..BATCH {
                // Lengths that have no common factor with the ring's size.
                let fill = "x".repeat(4000 + number * 7 % 3001);
                let target = format!("/round/{number}");
                let request = format!("GET {target} HTTP/1.1\r\nHost: raw.test\r\nX-Fill: {fill}\r\n\r\n");
                let response = format!("HTTP/1.1 204 No Content\r\nX-Fill: {fill}\r\n\r\n");
                world.exchange(&connection, &request, &response)?;
                world.expect(&target, End::ok("GET", 204));
                bytes += RECORDS_EACH * fill.len();
                number += 1;
            }
            wait_for(agent, "all records", |agent| {
                Ok(counted(agent, "spoor_ring_records_total")? >= (RECORDS_EACH * number) as f64)
            })?;
        }
        world.close(&connection)
    })?;
    ensure!(lost(agent)? == 0.0, "the ring had no room for a batch");
    let (spans, said) = recorder.finish()?;
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    Ok(())
}

/// Ends connections whose ends fit into the ring and whose last messages did not: the result of these exchanges is
/// unknown, and no failure.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn ends_behind_lost_records() -> Result<()> {
    let mut world = World::start(RAWPEER.as_ref())?;
    let mut selection = world.selection();
    selection.push("--ring-bytes=64KiB".to_owned());
    let recorder = Recorder::start(&selection)?;
    let agent = &recorder.agent;
    world.case("ended", |world, _| {
        let connections = (0..8).map(|_| world.connect()).collect::<Result<Vec<_>>>()?;
        agent.while_stopped(|| {
            for number in 0..400 {
                let target = format!("/ended/{number}");
                let connection = &connections[number % connections.len()];
                world.exchange(connection, &get(&target), &response(200, "here"))?;
                world.expect(&target, End::ok("GET", 200).bodies(None, Some(4)));
            }
            connections.iter().try_for_each(|connection| world.close(connection))
        })
    })?;
    wait_for(agent, "lost records", |agent| Ok(lost(agent)? > 0.0))?;
    let (mut spans, said) = recorder.finish()?;
    let missing = forgive_missing(&mut world.expected, &spans, "ended");
    ensure!(missing < 800, "no span came");
    // A server's span may leave before its caller's response is lost: its parent then has no span.
    let targets: Vec<String> = spans.iter().map(target_of).collect();
    for (span, target) in spans.iter_mut().zip(&targets) {
        if targets.iter().filter(|other| *other == target).count() == 1 {
            span.parent_id.clear();
        }
    }
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    Ok(())
}

/// Starts programs while the ring has no room for their records: those that a rule names are traced once there is room,
/// and no others.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn programs_that_start_without_room() -> Result<()> {
    /// Number of programs, each of which takes 4 KiB of the ring.
    const PROGRAMS: usize = 64;
    let folder = tempfile::tempdir()?;
    let named = folder.path().join("named");
    std::fs::copy(RAWPEER, &named)?;
    let recorder = Recorder::start(&[format!("--exe={}", named.display()), "--ring-bytes=64KiB".to_owned()])?;
    let agent = &recorder.agent;
    let mut world = agent.while_stopped(|| {
        for _ in 0..PROGRAMS {
            let status = Command::new("true").status()?;
            ensure!(status.success(), "true says {status}");
        }
        let mut world = World::start(&named)?;
        world.peers.push(Peer::start(RAWPEER.as_ref(), "stranger", None)?);
        Ok(world)
    })?;
    agent.wait_until_said("began while the ring was full are traced from now on", COUNTING_LIMIT)?;
    ensure!(lost(agent)? > 0.0, "the ring had room for {PROGRAMS} programs");
    let stranger = world.peers.len() - 1;
    world.case("started", |world, _| {
        let both = world.connect()?;
        let one = world.connect_between(CLIENT, stranger, "127.0.0.1:0")?;
        for number in 0..8 {
            let (target, strange) = (format!("/started/{number}"), format!("/started/{number}/stranger"));
            let end = End::ok("GET", 200).bodies(None, Some(4));
            world.exchange(&both, &get(&target), &response(200, "here"))?;
            world.expect(&target, end.clone());
            world.exchange(&one, &get(&strange), &response(200, "here"))?;
            world.expect_ends(&strange, Some(end), None);
        }
        world.close(&both)?;
        world.close(&one)
    })?;
    let (spans, said) = recorder.finish()?;
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    Ok(())
}

/// Removes the exchanges of one case that have no span from the expected ones; returns their number.
fn forgive_missing(expected: &mut [Exchange], spans: &[Span], case: &str) -> usize {
    let seen: std::collections::BTreeSet<(Kind, String)> =
        spans.iter().map(|span| (span.kind, target_of(span))).collect();
    let mut missing = 0;
    for exchange in expected.iter_mut().filter(|exchange| exchange.case == case) {
        for (kind, end) in [
            (Kind::Client, &mut exchange.client),
            (Kind::Server, &mut exchange.server),
        ] {
            if !seen.contains(&(kind, exchange.target.clone())) && end.take().is_some() {
                missing += 1;
            }
        }
    }
    missing
}

fn lost(agent: &Agent) -> Result<f64> {
    counted(agent, "spoor_kernel_lost_total{cause=\"ring_full\"}")
}

fn counted(agent: &Agent, series: &str) -> Result<f64> {
    let value = agent.metrics()?.value(series);
    value.with_context(|| format!("the agent has no metric {series}"))
}

/// Waits until the condition holds.
fn wait_for(agent: &Agent, what: &str, mut is_so: impl FnMut(&Agent) -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + COUNTING_LIMIT;
    while !is_so(agent)? {
        ensure!(Instant::now() < deadline, "not shown within {COUNTING_LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
