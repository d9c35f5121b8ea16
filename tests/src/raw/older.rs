//! Connections older than the agent: each is picked up at its next request, and never lost after that, whatever other
//! connections exist. One whose client always pipelines is picked up behind a silence.

use std::{thread, time::Duration};

use agent_ebpf::abi::HINT_SLOTS;
use anyhow::Result;

use super::{
    blind::{goes_on, head, long, pass_all},
    expected::End,
    messages::{get, response},
    world::{CLIENT, Connection, OTHER, SERVER, Way, World, hex},
};

/// Number of connections that are made before the agent comes.
const CONNECTIONS: usize = 7;
/// Processor of all their processes: the programs name connections by processor, and the names decide the slots of
/// hints.
const PROCESSOR: &str = "first";
/// More than the silence behind which no request is on the way.
const SILENCE: Duration = Duration::from_secs(11);

/// Makes connections with an exchange on each, before the agent starts.
pub fn open_older(world: &mut World) -> Result<()> {
    for number in 0..CONNECTIONS {
        let connection = world.connect()?;
        world.exchange(
            &connection,
            &get(&format!("/before/{number}")),
            &response(200, "before"),
        )?;
        world.older.push(connection);
    }
    Ok(())
}

pub fn play(world: &mut World) -> Result<()> {
    world.case("pipelining-older", |world, name| {
        let Some(connection) = world.older.pop() else {
            return Ok(());
        };
        // Nothing is known of requests before it, so it gives no spans.
        batch(world, &connection, &format!("/{name}/first"))?;
        thread::sleep(SILENCE);
        for round in ["behind-a-silence", "next"] {
            for target in batch(world, &connection, &format!("/{name}/{round}"))? {
                world.expect(&target, End::ok("GET", 200).bodies(None, Some(4)));
            }
        }
        world.close(&connection)
    })?;
    world.case("older", |world, name| {
        let connections = std::mem::take(&mut world.older);
        pin(world, PROCESSOR)?;
        for (number, connection) in connections.iter().enumerate() {
            heads_in_pieces(world, connection, &format!("/{name}/{number}/first"))?;
        }
        others(world, &format!("/{name}/others"))?;
        for (number, connection) in connections.iter().enumerate() {
            heads_in_pieces(world, connection, &format!("/{name}/{number}/again"))?;
            goes_on(world, connection, &format!("/{name}/{number}"))?;
            world.close(connection)?;
        }
        pin(world, "all")
    })
}

/// Passes three requests in one write, then their responses. Returns their targets.
fn batch(world: &mut World, connection: &Connection, prefix: &str) -> Result<Vec<String>> {
    let targets: Vec<_> = (0..3).map(|index| format!("{prefix}/{index}")).collect();
    let requests: String = targets.iter().map(|target| get(target)).collect();
    world.exchange(connection, &requests, &response(200, "body").repeat(targets.len()))?;
    Ok(targets)
}

fn pin(world: &mut World, processors: &str) -> Result<()> {
    for peer in [CLIENT, SERVER, OTHER] {
        world.peers[peer].make(&format!("processors {processors}"))?;
    }
    Ok(())
}

/// Passes exchanges whose heads come in several calls.
fn heads_in_pieces(world: &mut World, connection: &Connection, prefix: &str) -> Result<()> {
    for turn in 0..3 {
        let target = format!("{prefix}/{turn}");
        for (way, head) in [
            (Way::Request, head("POST", &target, 4)),
            (Way::Response, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_owned()),
        ] {
            let head = long(&head);
            let pieces: Vec<&[u8]> = head.as_bytes().chunks(1000).collect();
            pass_all(world, connection, way, &pieces)?;
            let body = if way == Way::Request { "body" } else { "ok" };
            world.pass(connection, way, body)?;
        }
        world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(2)));
    }
    Ok(())
}

/// Makes so many short connections that each slot of hints was another connection's meanwhile. Each gets a hint,
/// because its body comes in a call of its own.
fn others(world: &mut World, prefix: &str) -> Result<()> {
    // Each connection has two ends.
    let count = HINT_SLOTS as usize / 2 + 4 * CONNECTIONS;
    let (listener, address) = world.listen(OTHER, "127.0.0.1:0")?;
    let number = "######";
    let request = head("POST", &format!("{prefix}/{number}"), 4);
    let words = [&request, "body", &response(200, "")].map(|text| hex(text.as_bytes()));
    let [request, body, answer] = words;
    let command = format!("converse {listener} {address} {count} 300 {request} {body} {answer}");
    world.peers[OTHER].move_bytes(&command, count)?;
    for index in 0..count {
        let target = format!("{prefix}/{index:06}");
        world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(0)));
    }
    world.peers[OTHER].make(&format!("close {listener}"))?;
    Ok(())
}
