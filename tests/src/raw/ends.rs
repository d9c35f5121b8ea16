//! Exchanges that end without a whole response, and connects that fail.

use anyhow::{Result, ensure};

use super::{
    expected::End,
    messages::{get, response},
    namespaces::ADDRESSES,
    world::{CLIENT, Connection, OTHER, SERVER, VICTIMS, Way, World},
};

/// Beginning of a response whose rest never comes.
const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789";

pub fn play(world: &mut World) -> Result<()> {
    world.case("reset-mid-response", reset_mid_response)?;
    world.case("closed-mid-response", closed_mid_response)?;
    world.case("closed-without-answer", closed_without_answer)?;
    world.case("client-gone", client_gone)?;
    world.case("client-gone-answered", client_gone_answered)?;
    world.case("client-time-limit", client_time_limit)?;
    world.case("half-closed", half_closed)?;
    world.case("race-closed", race_closed)?;
    world.case("race-reset", race_reset)?;
    world.case("killed-server", |world, name| {
        killed_server(world, name, VICTIMS[0], "127.0.0.1:0")
    })?;
    world.case("killed-client", |world, name| {
        killed_client(world, name, VICTIMS[1], "127.0.0.1:0")
    })?;
    world.case("killed-server-unix", |world, name| {
        let path = world.unix_path();
        killed_server(world, name, VICTIMS[2], &path)
    })?;
    world.case("killed-client-unix", |world, name| {
        let path = world.unix_path();
        killed_client(world, name, VICTIMS[3], &path)
    })?;
    world.case("refused", |world, _| refused(world, ""))?;
    world.case("refused-mptcp", |world, name| {
        if world.has_multipath(name)? {
            refused(world, "mptcp:")?;
        }
        Ok(())
    })?;
    world.case("refused-unix", refused_unix)?;
    world.case("unreachable", unreachable)?;
    world.case("no-local-port", no_local_port)?;
    world.case("listener-full", listener_full)
}

fn fail(end: End, error: &str) -> End {
    End {
        error: Some(error.to_owned()),
        ..end
    }
}

/// Expects both ends to fail with these errors, with a status if the head was sent.
fn expect_failure(world: &mut World, target: &str, status: Option<u64>, client: &str, server: &str) {
    let end = |error| End {
        status,
        ..End::failed("GET", error)
    };
    world.expect_ends(target, Some(end(client)), Some(end(server)));
}

/// Reads until the client gets an error or the end.
fn read_to_the_end(world: &mut World, connection: &Connection) -> Result<()> {
    let (client, name) = &connection.client;
    let answer = world.peers[*client].ask(&format!("receive {name} read 4096"))?;
    ensure!(
        matches!(&answer, Ok(bytes) if bytes == "0") || matches!(answer, Err(libc::ECONNRESET | libc::EPIPE)),
        "the client read {answer:?}"
    );
    world.at(&connection.client, "close")
}

fn reset_mid_response(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    world.exchange(&connection, &get(&format!("/{name}")), BEGUN)?;
    world.at(&connection.server, "reset-on-close")?;
    world.at(&connection.server, "close")?;
    read_to_the_end(world, &connection)?;
    expect_failure(world, &format!("/{name}"), Some(200), "connection_reset", "cancelled");
    Ok(())
}

fn closed_mid_response(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    world.exchange(&connection, &get(&format!("/{name}")), BEGUN)?;
    world.at(&connection.server, "close")?;
    read_to_the_end(world, &connection)?;
    expect_failure(world, &format!("/{name}"), Some(200), "connection_closed", "cancelled");
    Ok(())
}

fn closed_without_answer(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    world.pass(&connection, Way::Request, get(&format!("/{name}")))?;
    world.at(&connection.server, "close")?;
    read_to_the_end(world, &connection)?;
    expect_failure(world, &format!("/{name}"), None, "connection_closed", "cancelled");
    Ok(())
}

fn client_gone(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    world.pass(&connection, Way::Request, get(&format!("/{name}")))?;
    world.at(&connection.client, "close")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.at(&connection.server, "close")?;
    expect_failure(world, &format!("/{name}"), None, "cancelled", "connection_closed");
    Ok(())
}

/// The client is gone before the server answers: the server has sent its response.
fn client_gone_answered(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    world.pass(&connection, Way::Request, get(&format!("/{name}")))?;
    world.at(&connection.client, "close")?;
    world.send(&connection, Way::Response, "write", &[response(200, "late").as_bytes()])?;
    world.at(&connection.server, "close")?;
    let server = End::ok("GET", 200).bodies(None, Some(4));
    world.expect_ends(&format!("/{name}"), Some(End::failed("GET", "cancelled")), Some(server));
    Ok(())
}

/// The client waits a while for an answer, then gives up.
fn client_time_limit(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    world.pass(&connection, Way::Request, get(&format!("/{name}")))?;
    let (client, socket) = &connection.client;
    for _ in 0..3 {
        let answer = world.peers[*client].ask(&format!("receive {socket} dontwait 4096"))?;
        ensure!(answer == Err(libc::EAGAIN), "the client read {answer:?}");
        world.peers[*client].make("sleep 20")?;
    }
    world.at(&connection.client, "close")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.at(&connection.server, "close")?;
    expect_failure(world, &format!("/{name}"), None, "cancelled", "connection_closed");
    Ok(())
}

/// The client shuts down sending, which ends nothing: the response arrives.
fn half_closed(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("/{name}");
    world.pass(&connection, Way::Request, get(&target))?;
    world.at(&connection.client, "shutdown")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.pass(&connection, Way::Response, response(200, "still"))?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(5)));
    world.close(&connection)
}

/// The server closes an idle connection; the client does not know yet and sends.
fn race_closed(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let first = format!("/{name}/first");
    world.exchange(&connection, &get(&first), &response(200, ""))?;
    world.expect(&first, End::ok("GET", 200));
    world.at(&connection.server, "close")?;
    let second = format!("/{name}/second");
    world.send(&connection, Way::Request, "write", &[get(&second).as_bytes()])?;
    world.expect_ends(&second, Some(End::failed("GET", "connection_reset")), None);
    read_to_the_end(world, &connection)
}

/// The server closes without having read the request that has arrived.
fn race_reset(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let first = format!("/{name}/first");
    world.exchange(&connection, &get(&first), &response(200, ""))?;
    world.expect(&first, End::ok("GET", 200));
    let second = format!("/{name}/second");
    world.send(&connection, Way::Request, "write", &[get(&second).as_bytes()])?;
    world.at(&connection.server, "close")?;
    world.expect_ends(&second, Some(End::failed("GET", "connection_reset")), None);
    read_to_the_end(world, &connection)
}

/// Kills the server while one exchange waits and the response to another has begun.
fn killed_server(world: &mut World, name: &str, victim: usize, address: &str) -> Result<()> {
    let waiting = world.connect_between(CLIENT, victim, address)?;
    let begun_address = if address.starts_with("unix:") {
        world.unix_path()
    } else {
        address.to_owned()
    };
    let begun = world.connect_between(CLIENT, victim, &begun_address)?;
    world.pass(&waiting, Way::Request, get(&format!("/{name}/waiting")))?;
    world.exchange(&begun, &get(&format!("/{name}/begun")), BEGUN)?;
    world.peers[victim].kill()?;
    read_to_the_end(world, &waiting)?;
    read_to_the_end(world, &begun)?;
    for (target, status) in [("waiting", None), ("begun", Some(200))] {
        let target = format!("/{name}/{target}");
        expect_failure(world, &target, status, "connection_closed", "process_exit");
    }
    Ok(())
}

fn killed_client(world: &mut World, name: &str, victim: usize, address: &str) -> Result<()> {
    let connection = world.connect_between(victim, SERVER, address)?;
    world.pass(&connection, Way::Request, get(&format!("/{name}")))?;
    world.peers[victim].kill()?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.at(&connection.server, "close")?;
    expect_failure(world, &format!("/{name}"), None, "process_exit", "connection_closed");
    Ok(())
}

/// Connects to a port without a listener, blocking and not.
fn refused(world: &mut World, by: &str) -> Result<()> {
    for command in ["connect", "connect-nonblocking"] {
        let (listener, address) = world.listen(OTHER, "127.0.0.1:0")?;
        world.peers[OTHER].make(&format!("close {listener}"))?;
        let name = world.name();
        let answer = world.peers[CLIENT].ask(&format!("{command} {name} {by}{address}"))?;
        ensure!(
            matches!(answer, Err(libc::ECONNREFUSED | libc::EINPROGRESS)),
            "the connect said {answer:?}"
        );
        world.peers[CLIENT].make("sleep 10")?;
        world.peers[CLIENT].make(&format!("close {name}"))?;
        world.expect_ends(&address, Some(End::failed("connect", "connection_refused")), None);
    }
    Ok(())
}

/// Connects to a path without a listener.
fn refused_unix(world: &mut World, _: &str) -> Result<()> {
    let path = world.unix_path();
    let (listener, _) = world.listen(OTHER, &path)?;
    world.peers[OTHER].make(&format!("close {listener}"))?;
    let name = world.name();
    let answer = world.peers[CLIENT].ask(&format!("connect {name} {path}"))?;
    ensure!(answer == Err(libc::ECONNREFUSED), "the connect said {answer:?}");
    world.peers[CLIENT].make(&format!("close {name}"))?;
    let target = format!("{}:", path.trim_start_matches("unix:"));
    world.expect_ends(&target, Some(End::failed("connect", "connection_refused")), None);
    Ok(())
}

/// Connects to a broadcast address, which TCP refuses.
fn unreachable(world: &mut World, _: &str) -> Result<()> {
    let name = world.name();
    let address = "255.255.255.255:7";
    let answer = world.peers[CLIENT].ask(&format!("connect {name} {address}"))?;
    ensure!(answer == Err(libc::ENETUNREACH), "the connect said {answer:?}");
    world.peers[CLIENT].make(&format!("close {name}"))?;
    // The socket has not begun to connect, so it has no event.
    if !world.events {
        world.expect_ends(address, Some(End::failed("connect", "network_unreachable")), None);
    }
    Ok(())
}

/// Connects once more than there are local ports for a server.
fn no_local_port(world: &mut World, name: &str) -> Result<()> {
    const RANGE: &str = "net/ipv4/ip_local_port_range";
    let Some(namespaces) = &world.namespaces else {
        world.skip(name, "there is no ip command");
        return Ok(());
    };
    namespaces.set(0, RANGE, "40000 40001")?;
    let (client, server) = namespaces.pairs[0];
    for (command, port) in [("connect", 8082), ("connect-nonblocking", 8083)] {
        let (listener, address) = (world.name(), format!("{}:{port}", ADDRESSES[1]));
        world.peers[server].make(&format!("listen {listener} {address} 16"))?;
        let connections = [(); 2].map(|()| world.connect_to(client, server, &listener, &address));
        let late = world.name();
        let answer = world.peers[client].ask(&format!("{command} {late} {address}"))?;
        ensure!(answer == Err(libc::EADDRNOTAVAIL), "the connect said {answer:?}");
        world.peers[client].make(&format!("close {late}"))?;
        world.expect_ends(&address, Some(End::failed("connect", "address_not_available")), None);
        for connection in connections {
            world.close(&connection?)?;
        }
        world.peers[server].make(&format!("close {listener}"))?;
    }
    if let Some(namespaces) = &world.namespaces {
        namespaces.set(0, RANGE, "32768 60999")?;
    }
    Ok(())
}

/// Connects to a listener whose queue is full, which drops connections; the client gives up.
fn listener_full(world: &mut World, name: &str) -> Result<()> {
    let listener = world.name();
    let address = world.peers[SERVER].make(&format!("listen {listener} 127.0.0.1:0 0"))?;
    let connection = world.connect_to(CLIENT, SERVER, &listener, &address)?;
    let filler = world.name();
    world.peers[CLIENT].make(&format!("connect {filler} {address}"))?;
    let late = world.name();
    let answer = world.peers[CLIENT].ask(&format!("connect-nonblocking {late} {address}"))?;
    ensure!(answer == Err(libc::EINPROGRESS), "the connect said {answer:?}");
    world.peers[CLIENT].make("sleep 50")?;
    world.peers[CLIENT].make(&format!("close {late}"))?;
    world.expect_ends(&address, Some(fail(End::failed("connect", ""), "cancelled")), None);
    // The accepted connection works.
    let target = format!("/{name}");
    world.exchange(&connection, &get(&target), &response(200, ""))?;
    world.expect(&target, End::ok("GET", 200));
    world.close(&connection)?;
    world.peers[CLIENT].make(&format!("close {filler}"))?;
    world.peers[SERVER].make(&format!("close {listener}"))?;
    Ok(())
}
