//! Identity of connections: any descriptors, processes, families and namespaces.

use anyhow::{Context, Result, ensure};

use super::{
    expected::End,
    messages::{get, response},
    namespaces::ADDRESSES,
    world::{CLIENT, Connection, OTHER, PROXY, SERVER, Way, World, hex},
};

pub fn play(world: &mut World) -> Result<()> {
    for how in ["dup", "dup2", "dup3", "fcntl"] {
        world.case(&format!("duplicate-{how}"), |world, name| duplicate(world, name, how))?;
    }
    world.case("same-number", same_number)?;
    world.case("close-range", close_range)?;
    world.case("fork-after-accept", fork_after_accept)?;
    world.case("fork-answers", fork_answers)?;
    world.case("passed-descriptor", passed_descriptor)?;
    world.case("late-accept", late_accept)?;
    world.case("one-process", one_process)?;
    world.case("unix", over_unix)?;
    world.case("ipv6", |world, name| family(world, name, "[::1]:0", "[::1]:"))?;
    world.case("v4-mapped-server", |world, name| {
        family(world, name, "[::]:0", "127.0.0.1:")
    })?;
    world.case("v4-mapped-client", |world, name| {
        family(world, name, "127.0.0.1:0", "[::ffff:127.0.0.1]:")
    })?;
    world.case("proxy", proxy)?;
    world.case("namespaces", namespaces)
}

/// Passes exchanges over a Unix socket.
pub fn over_unix(world: &mut World, name: &str) -> Result<()> {
    let path = world.unix_path();
    family(world, name, &path, &path)
}

/// Passes exchanges on a connection, the last of them with a body.
fn serve(world: &mut World, connection: &Connection, prefix: &str, count: usize) -> Result<()> {
    for index in 0..count {
        let target = format!("{prefix}/{index}");
        world.exchange(connection, &get(&target), &response(200, "answer"))?;
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(6)));
    }
    Ok(())
}

/// One descriptor reads the request, another writes the response, and the first one is closed.
fn duplicate(world: &mut World, name: &str, how: &str) -> Result<()> {
    let first = world.connect()?;
    serve(world, &first, &format!("/{name}/before"), 1)?;
    let target = format!("/{name}/between");
    world.pass(&first, Way::Request, get(&target))?;
    let mut second = first.clone();
    for end in [&mut second.client, &mut second.server] {
        let new = world.name();
        world.peers[end.0].make(&format!("duplicate {how} {} {new}", end.1))?;
        end.1 = new;
    }
    world.pass(&second, Way::Response, response(200, ""))?;
    world.expect(&target, End::ok("GET", 200));
    world.close(&first)?;
    serve(world, &second, &format!("/{name}/after"), 2)?;
    world.close(&second)
}

/// Makes one connection after another, all with the same descriptor and address.
fn same_number(world: &mut World, name: &str) -> Result<()> {
    let (listener, address) = world.listen(SERVER, "127.0.0.1:0")?;
    for index in 0..50 {
        let connection = world.connect_to(CLIENT, SERVER, &listener, &address)?;
        serve(world, &connection, &format!("/{name}/{index}"), 2)?;
        world.close(&connection)?;
    }
    world.peers[SERVER].make(&format!("close {listener}"))?;
    Ok(())
}

fn close_range(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    serve(world, &connection, &format!("/{name}"), 1)?;
    let waiting = format!("/{name}/waiting");
    world.pass(&connection, Way::Request, get(&waiting))?;
    world.at(&connection.client, "close-range")?;
    world.at(&connection.server, "close-range")?;
    let (client, server) = (End::failed("GET", "cancelled"), End::failed("GET", "connection_closed"));
    world.expect_ends(&waiting, Some(client), Some(server));
    Ok(())
}

/// The parent accepts, a child serves.
fn fork_after_accept(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let (server, socket) = connection.server.clone();
    let (target, answer) = (format!("/{name}"), response(200, "from the child"));
    let bytes = get(&target).len();
    let script = format!(
        "receive-all {socket} read 4096 {bytes} 0;send {socket} write {};close {socket}",
        hex(answer.as_bytes())
    );
    let child = world.peers[server].make(&format!("fork {script}"))?;
    world.at(&connection.server, "close")?;
    world.send(&connection, Way::Request, "write", &[get(&target).as_bytes()])?;
    world.receive(&connection, Way::Response, "read", answer.len())?;
    reap(world, server, &child)?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(14)));
    world.at(&connection.client, "close")
}

/// The parent reads, a child answers, and the parent continues with the connection.
fn fork_answers(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let (server, socket) = connection.server.clone();
    for turn in 0..3 {
        let (target, answer) = (format!("/{name}/{turn}/child"), response(200, "from the child"));
        world.pass(&connection, Way::Request, get(&target))?;
        let script = format!("send {socket} write {}", hex(answer.as_bytes()));
        let child = world.peers[server].make(&format!("fork {script}"))?;
        world.receive(&connection, Way::Response, "read", answer.len())?;
        reap(world, server, &child)?;
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(14)));
        serve(world, &connection, &format!("/{name}/{turn}/parent"), 1)?;
    }
    world.close(&connection)
}

pub fn reap(world: &mut World, parent: usize, child: &str) -> Result<()> {
    let status = world.peers[parent].make(&format!("reap {child}"))?;
    ensure!(status == "0", "the child ended with {status}");
    Ok(())
}

/// A target accepts and reads; another one gets the socket over a Unix socket, and answers.
fn passed_descriptor(world: &mut World, name: &str) -> Result<()> {
    let path = world.unix_path();
    let via = world.connect_between(OTHER, SERVER, &path)?;
    let connection = world.connect()?;
    serve(world, &connection, &format!("/{name}/before"), 1)?;
    let target = format!("/{name}/passed");
    world.pass(&connection, Way::Request, get(&target))?;
    world.peers[SERVER].make(&format!("send-fd {} {}", connection.server.1, via.server.1))?;
    let received = world.name();
    world.peers[OTHER].make(&format!("receive-fd {received} {}", via.client.1))?;
    world.at(&connection.server, "close")?;
    let passed = Connection {
        server: (OTHER, received),
        ..connection
    };
    world.pass(&passed, Way::Response, response(200, "from the other"))?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(14)));
    serve(world, &passed, &format!("/{name}/after"), 2)?;
    world.close(&passed)?;
    world.close(&via)
}

/// The request arrives before the server accepts.
fn late_accept(world: &mut World, name: &str) -> Result<()> {
    let (listener, address) = world.listen(SERVER, "127.0.0.1:0")?;
    for (index, call) in ["accept", "accept4"].into_iter().enumerate() {
        let connection = Connection {
            client: (CLIENT, world.name()),
            server: (SERVER, world.name()),
        };
        let target = format!("/{name}/{index}");
        world.peers[CLIENT].make(&format!("connect {} {address}", connection.client.1))?;
        world.send(&connection, Way::Request, "write", &[get(&target).as_bytes()])?;
        world.peers[SERVER].make(&format!("accept {} {listener} {call}", connection.server.1))?;
        world.receive(&connection, Way::Request, "read", get(&target).len())?;
        world.pass(&connection, Way::Response, response(200, ""))?;
        world.expect(&target, End::ok("GET", 200));
        world.close(&connection)?;
    }
    world.peers[SERVER].make(&format!("close {listener}"))?;
    Ok(())
}

/// One thread serves each request by a call over a connection that it keeps.
fn proxy(world: &mut World, name: &str) -> Result<()> {
    let front = world.connect_between(CLIENT, PROXY, "127.0.0.1:0")?;
    serve(world, &front, &format!("/{name}/first"), 1)?;
    // No thread rule applies before the agent knows what runs in the process.
    world.peers[PROXY].make("sleep 1500")?;
    let mut back = None;
    for index in 0..3 {
        let (target, call) = (format!("/{name}/{index}/front"), format!("/{name}/{index}/back"));
        world.pass(&front, Way::Request, get(&target))?;
        let back = match &back {
            Some(back) => back,
            None => back.insert(world.connect_between(PROXY, SERVER, "127.0.0.1:0")?),
        };
        world.exchange(back, &get(&call), &response(200, "from the back"))?;
        world.pass(&front, Way::Response, response(200, "handed on"))?;
        world.expect(&call, End::ok("GET", 200).bodies(None, Some(13)));
        world.made_for(&target);
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(9)));
    }
    world.close(&front)?;
    back.map_or(Ok(()), |back| world.close(&back))
}

/// One process, even one thread, has both ends.
fn one_process(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect_between(OTHER, OTHER, "127.0.0.1:0")?;
    serve(world, &connection, &format!("/{name}"), 3)?;
    world.close(&connection)
}

/// Passes exchanges over a family of addresses. The chosen port completes `to`.
fn family(world: &mut World, name: &str, address: &str, to: &str) -> Result<()> {
    let (listener, bound) = world.listen(SERVER, address)?;
    let port = bound.rsplit_once(':').map_or("", |(_, port)| port);
    let to = if to.ends_with(':') {
        format!("{to}{port}")
    } else {
        to.to_owned()
    };
    // All are open at once, and must not be mixed up. They open before the first byte: an agent at the socket events sees
    // Unix connections open only after that.
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(world.connect_to(CLIENT, SERVER, &listener, &to)?);
    }
    for (index, connection) in connections.iter().enumerate() {
        serve(world, connection, &format!("/{name}/{index}"), 3)?;
    }
    for (index, connection) in connections.iter().enumerate() {
        serve(world, connection, &format!("/{name}/{index}/again"), 1)?;
    }
    for connection in &connections {
        world.close(connection)?;
    }
    world.peers[SERVER].make(&format!("close {listener}"))?;
    Ok(())
}

/// Makes two connections with the same addresses and ports at both ends, at the same time.
fn namespaces(world: &mut World, name: &str) -> Result<()> {
    let Some(pairs) = world.namespaces.as_ref().map(|namespaces| namespaces.pairs) else {
        world.skip(name, "there is no ip command");
        return Ok(());
    };
    let [from, to] = ADDRESSES.map(|address| format!("{address}:8080"));
    let mut connections = Vec::new();
    for (client, server) in pairs {
        let listener = world.name();
        world.peers[server].make(&format!("listen {listener} {to} 16"))?;
        let connection = Connection {
            client: (client, world.name()),
            server: (server, world.name()),
        };
        let connect = format!("connect-from {} {to} {from}", connection.client.1);
        world.peers[client].make(&connect).context("through the veth pair")?;
        world.peers[server].make(&format!("accept {} {listener} accept4", connection.server.1))?;
        connections.push(connection);
    }
    for index in 0..3 {
        for (pair, connection) in connections.iter().enumerate() {
            world.pass(connection, Way::Request, get(&format!("/{name}/{pair}/{index}")))?;
        }
        for (pair, connection) in connections.iter().enumerate() {
            let target = format!("/{name}/{pair}/{index}");
            world.pass(connection, Way::Response, response(200, &"r".repeat(pair)))?;
            world.expect(&target, End::ok("GET", 200).bodies(None, Some(pair as u64)));
        }
    }
    for connection in &connections {
        world.close(connection)?;
    }
    Ok(())
}
