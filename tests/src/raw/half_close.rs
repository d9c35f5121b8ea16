//! Connections whose directions end at different times, at every point of an exchange, and sockets that are read after
//! their connection's end.

use anyhow::{Result, ensure};

use super::{
    expected::End,
    messages::{get, post, response},
    world::{CLIENT, Connection, SERVER, Way, World},
};

/// Beginning of a response whose rest never comes.
const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789";

/// Command that leaves the bytes unread for a while.
const LATE: &str = "sleep 100";

type Case = (&'static str, fn(&mut World, &str, &str) -> Result<()>);

/// Cases that hold for TCP and Unix sockets.
const CASES: [Case; 12] = [
    ("after-request", after_request),
    ("in-request", in_request),
    ("in-response", in_response),
    ("pipelined", pipelined),
    ("until-close", until_close),
    ("behind-the-other", behind_the_other),
    ("then-closed", then_closed),
    ("both-when-answered", both_when_answered),
    ("both-unanswered", both_unanswered),
    ("server-in-response", server_in_response),
    ("given-up-in-backlog", given_up_in_backlog),
    ("closed-unread", closed_unread),
];

pub fn play(world: &mut World) -> Result<()> {
    for (case, run) in CASES {
        world.case(&format!("half-close-{case}"), |world, name| {
            run(world, name, "127.0.0.1:0")
        })?;
        world.case(&format!("half-close-{case}-unix"), |world, name| {
            let path = world.unix_path();
            run(world, name, &path)
        })?;
    }
    world.case("half-close-read", shut_read)?;
    world.case("half-close-answered-and-reset", answered_and_reset)
}

/// Returns a connection whose client has sent its request.
fn asked(world: &mut World, address: &str, request: &str) -> Result<Connection> {
    let connection = world.connect_between(CLIENT, SERVER, address)?;
    world.send(&connection, Way::Request, "write", &[request.as_bytes()])?;
    Ok(connection)
}

/// Lets the server answer and close; the client reads later and closes later still.
fn answer_and_close(world: &mut World, connection: &Connection, answer: &str) -> Result<()> {
    world.send(connection, Way::Response, "write", &[answer.as_bytes()])?;
    world.at(&connection.server, "close")?;
    world.peers[CLIENT].make(LATE)?;
    // Two reads: each finds the socket anew.
    let (first, rest) = (answer.len() / 2, answer.len() - answer.len() / 2);
    world.receive(connection, Way::Response, "read", first)?;
    world.receive(connection, Way::Response, "read", rest)?;
    world.at(&connection.client, "close")
}

fn after_request(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.at(&connection.client, "shutdown")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    answer_and_close(world, &connection, &response(200, "late"))?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(4)));
    Ok(())
}

/// The client shuts down sending before the request is complete.
fn in_request(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let request = post(&target, "0123456789");
    let connection = asked(world, address, &request[..request.len() - 5])?;
    world.at(&connection.client, "shutdown")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    answer_and_close(world, &connection, &response(400, "cut"))?;
    let server = End::ok("POST", 400).bodies(None, Some(3));
    let client = End {
        error: Some("400".to_owned()),
        ..server.clone()
    };
    world.expect_ends(&target, Some(client), Some(server));
    Ok(())
}

fn in_response(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.pass(&connection, Way::Response, BEGUN)?;
    world.at(&connection.client, "shutdown")?;
    answer_and_close(world, &connection, &"x".repeat(90))?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(100)));
    Ok(())
}

fn pipelined(world: &mut World, name: &str, address: &str) -> Result<()> {
    let targets: Vec<String> = (0..3).map(|index| format!("/{name}/{index}")).collect();
    let requests: String = targets.iter().map(|target| get(target)).collect();
    let connection = asked(world, address, &requests)?;
    world.at(&connection.client, "shutdown")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    answer_and_close(world, &connection, &response(200, "three").repeat(3))?;
    for target in &targets {
        world.expect(target, End::ok("GET", 200).bodies(None, Some(5)));
    }
    Ok(())
}

fn until_close(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.at(&connection.client, "shutdown")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    answer_and_close(world, &connection, "HTTP/1.1 200 OK\r\n\r\nall there is")?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(12)));
    Ok(())
}

/// The client shuts down sending after the server has answered and closed.
fn behind_the_other(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    let answer = response(200, "before");
    world.send(&connection, Way::Response, "write", &[answer.as_bytes()])?;
    world.at(&connection.server, "close")?;
    world.at(&connection.client, "shutdown")?;
    world.peers[CLIENT].make(LATE)?;
    world.receive(&connection, Way::Response, "read", answer.len())?;
    world.at(&connection.client, "close")?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(6)));
    Ok(())
}

fn then_closed(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.at(&connection.client, "shutdown")?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.at(&connection.client, "close")?;
    world.at(&connection.server, "close")?;
    fails(world, &target, None, "cancelled", "connection_closed");
    Ok(())
}

/// The client shuts down both directions after the response has arrived, and reads it.
fn both_when_answered(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    let answer = response(200, "there");
    world.send(&connection, Way::Response, "write", &[answer.as_bytes()])?;
    world.at(&connection.client, "shutdown-both")?;
    world.receive(&connection, Way::Response, "read", answer.len())?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(5)));
    world.close(&connection)
}

fn both_unanswered(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.at(&connection.client, "shutdown-both")?;
    world.close(&connection)?;
    fails(world, &target, None, "cancelled", "connection_closed");
    Ok(())
}

/// The server shuts down sending within the response, and keeps its socket.
fn server_in_response(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.pass(&connection, Way::Response, BEGUN)?;
    world.at(&connection.server, "shutdown")?;
    let (client, socket) = &connection.client;
    let answer = world.peers[*client].ask(&format!("receive {socket} read 4096"))?;
    ensure!(answer == Ok("0".to_owned()), "the client read {answer:?}");
    world.close(&connection)?;
    fails(world, &target, Some(200), "connection_closed", "cancelled");
    Ok(())
}

/// The client is gone before the server accepts its connection: the server's span is its child nevertheless.
fn given_up_in_backlog(world: &mut World, name: &str, address: &str) -> Result<()> {
    let (listener, address) = world.listen(SERVER, address)?;
    for answered in [false, true] {
        let target = format!("/{name}/{answered}");
        let connection = Connection {
            client: (CLIENT, world.name()),
            server: (SERVER, world.name()),
        };
        world.peers[CLIENT].make(&format!("connect {} {address}", connection.client.1))?;
        world.send(&connection, Way::Request, "write", &[get(&target).as_bytes()])?;
        world.peers[CLIENT].make(LATE)?;
        world.at(&connection.client, "close")?;
        // The client's span has left by now.
        world.peers[SERVER].make("sleep 500")?;
        world.peers[SERVER].make(&format!("accept {} {listener} accept4", connection.server.1))?;
        world.receive(&connection, Way::Request, "read", get(&target).len())?;
        let mut server = End::failed("GET", "connection_closed");
        if address.starts_with("unix:") {
            // A write fails without the other end, and only a read reports that it has gone.
            let end = world.receive_once(&connection, Way::Request, "read", &[4096])?;
            ensure!(end == 0, "the server read {end} bytes more");
        } else if answered {
            world.send(&connection, Way::Response, "write", &[response(200, "").as_bytes()])?;
            server = End::ok("GET", 200);
        }
        world.at(&connection.server, "close")?;
        world.expect_ends(&target, Some(End::failed("GET", "cancelled")), Some(server));
    }
    world.peers[SERVER].make(&format!("close {listener}"))?;
    Ok(())
}

/// The client closes without having read the response that has arrived.
fn closed_unread(world: &mut World, name: &str, address: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, address, &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.send(&connection, Way::Response, "write", &[response(200, "").as_bytes()])?;
    world.close(&connection)?;
    let client = End::failed("GET", "cancelled");
    world.expect_ends(&target, Some(client), Some(End::ok("GET", 200)));
    Ok(())
}

/// The client shuts down receiving, after which TCP continues to receive.
fn shut_read(world: &mut World, name: &str) -> Result<()> {
    let target = format!("/{name}");
    let connection = asked(world, "127.0.0.1:0", &get(&target))?;
    world.receive_once(&connection, Way::Request, "read", &[4096])?;
    world.at(&connection.client, "shutdown-read")?;
    world.pass(&connection, Way::Response, response(200, "all the same"))?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(12)));
    world.close(&connection)
}

/// The server answers early and closes with an unread body, which resets the connection; the client reads the answer
/// later.
fn answered_and_reset(world: &mut World, name: &str) -> Result<()> {
    let target = format!("/{name}");
    let request = post(&target, &"b".repeat(5000));
    let connection = asked(world, "127.0.0.1:0", &request)?;
    world.receive(&connection, Way::Request, "read", 200)?;
    let answer = response(413, "no");
    world.send(&connection, Way::Response, "write", &[answer.as_bytes()])?;
    world.at(&connection.server, "close")?;
    world.peers[CLIENT].make(LATE)?;
    world.receive(&connection, Way::Response, "read", answer.len())?;
    world.at(&connection.client, "close")?;
    let server = End::ok("POST", 413).bodies(None, Some(2));
    let client = End {
        error: Some("413".to_owned()),
        request_bytes: Some(5000),
        ..server.clone()
    };
    world.expect_ends(&target, Some(client), Some(server));
    Ok(())
}

/// Expects both ends to fail with these errors, with a status if the head was sent.
fn fails(world: &mut World, target: &str, status: Option<u64>, client: &str, server: &str) {
    let end = |error| End {
        status,
        ..End::failed("GET", error)
    };
    world.expect_ends(target, Some(end(client)), Some(end(server)));
}
