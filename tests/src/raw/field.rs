//! Situations in the field that misled agents.

use anyhow::Result;

use super::{
    expected::End,
    messages::{get, post, response},
    world::{Way, World},
};

pub fn play(world: &mut World) -> Result<()> {
    world.case("field-close-unheeded", close_unheeded)?;
    world.case("field-early-answer", early_answer)?;
    world.case("field-tunnel-half-closed", tunnel_half_closed)?;
    world.case("field-last-chunk-cut", last_chunk_cut)?;
    world.case("field-idle-timeout", idle_timeout)
}

/// The client announces a close; neither end closes, and the connection is used again.
fn close_unheeded(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for index in 0..3 {
        let target = format!("/{name}/{index}");
        let request = post(&target, "body").replacen("\r\n", "\r\nConnection: close\r\n", 1);
        world.exchange(&connection, &request, &response(200, "kept"))?;
        world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(4)));
    }
    world.close(&connection)
}

/// The answer comes before the body, which the server drains; then the next request follows.
fn early_answer(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let (early, next) = (format!("/{name}/early"), format!("/{name}/next"));
    let request = post(&early, &"b".repeat(300_000));
    let (head, body) = request.split_at(request.len() - 300_000);
    world.pass(&connection, Way::Request, head)?;
    world.pass(&connection, Way::Response, response(413, "no"))?;
    for part in body.as_bytes().chunks(30_000) {
        world.pass(&connection, Way::Request, part)?;
    }
    world.exchange(&connection, &get(&next), &response(200, ""))?;
    // The exchange ends with its response, before the body was complete.
    let server = End::ok("POST", 413).bodies(None, Some(2));
    let client = End {
        error: Some("413".to_owned()),
        ..server.clone()
    };
    world.expect_ends(&early, Some(client), Some(server));
    world.expect(&next, End::ok("GET", 200));
    world.close(&connection)
}

/// The far end of a tunnel closes first: the tunnel's bytes are no HTTP, whatever they look like.
fn tunnel_half_closed(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("{name}.test:443");
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    world.exchange(&connection, &connect, "HTTP/1.1 200 Established\r\n\r\n")?;
    world.expect(&target, End::ok("CONNECT", 200));
    world.pass(&connection, Way::Request, get("/in-the-tunnel"))?;
    world.at(&connection.server, "shutdown")?;
    world.pass(&connection, Way::Request, get("/behind-the-fin"))?;
    world.at(&connection.client, "shutdown")?;
    world.close(&connection)
}

/// The last chunk arrives without the empty line behind it.
fn last_chunk_cut(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("/{name}");
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    world.exchange(&connection, &get(&target), answer)?;
    world.at(&connection.server, "close")?;
    world.at(&connection.client, "close")?;
    let end = |error| End {
        status: Some(200),
        ..End::failed("GET", error)
    };
    world.expect_ends(&target, Some(end("connection_closed")), Some(end("cancelled")));
    Ok(())
}

/// A server gives up on a client without a request, and closes: there was no exchange.
fn idle_timeout(world: &mut World, _: &str) -> Result<()> {
    let connection = world.connect()?;
    world.pass(&connection, Way::Response, response(408, ""))?;
    world.at(&connection.server, "close")?;
    world.at(&connection.client, "close")
}
