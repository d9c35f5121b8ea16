//! Bodies that look like heads: none of them may hide a message that comes later on the connection, in either direction.

use anyhow::Result;

use super::{
    expected::End,
    messages::{get, post, response},
    world::{CLIENT, Connection, Way, World},
};

/// A body of 52 bytes that looks like a request with a body that never ends.
const REQUEST_LIKE: &str = "PUT / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n";
/// The same of a response.
const RESPONSE_LIKE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n";
/// A head of chunks: what follows is no chunk.
const CHUNKED_LIKE: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED_RESPONSE_LIKE: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// All of them.
pub const BODIES: [&str; 4] = [REQUEST_LIKE, RESPONSE_LIKE, CHUNKED_LIKE, CHUNKED_RESPONSE_LIKE];

/// Between a head and its body: before Core can have said anything, about when it does, and long after.
const PAUSES_MS: [u32; 3] = [0, 2, 10];

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

pub fn play(world: &mut World) -> Result<()> {
    for method in ["HEAD", "POST", "PUT", "PATCH"] {
        world.case(&format!("blind-{method}"), |world, name| requests(world, name, method))?;
    }
    world.case("blind-chunked-answer", chunked_answers)?;
    world.case("blind-until-close", until_close)
}

/// Ordinary exchanges, all of which must be seen at both ends.
pub fn goes_on(world: &mut World, connection: &Connection, prefix: &str) -> Result<()> {
    for turn in 0..2 {
        let target = format!("{prefix}/next/{turn}/get");
        world.exchange(connection, &get(&target), &response(200, "next"))?;
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(4)));
        let target = format!("{prefix}/next/{turn}/post");
        world.exchange(connection, &post(&target, "body"), &response(201, ""))?;
        world.expect(&target, End::ok("POST", 201).bodies(Some(4), Some(0)));
    }
    Ok(())
}

/// A request's head that is followed by so many bytes.
pub fn head(method: &str, target: &str, length: usize) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {length}\r\n\r\n")
}

/// A head with header lines in front of its last line, so that it has some 3 KiB.
pub fn long(head: &str) -> String {
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    format!(
        "{first}\r\n{}{rest}",
        format!("X-Padding: {}\r\n", "p".repeat(485)).repeat(6)
    )
}

fn size(bytes: &str) -> Option<u64> {
    Some(bytes.len() as u64)
}

fn wait(world: &mut World, milliseconds: u32) -> Result<()> {
    world.peers[CLIENT].make(&format!("sleep {milliseconds}"))?;
    Ok(())
}

/// Each piece in a write of its own, read whole before the next one.
pub fn pass_all<B: AsRef<[u8]>>(world: &mut World, connection: &Connection, way: Way, pieces: &[B]) -> Result<()> {
    pieces.iter().try_for_each(|piece| world.pass(connection, way, piece))
}

/// A request of a method whose body looks like a head.
fn requests(world: &mut World, name: &str, method: &str) -> Result<()> {
    for (number, body) in BODIES.into_iter().enumerate() {
        for pause in PAUSES_MS {
            let connection = world.connect()?;
            let target = format!("/{name}/{number}/{pause}");
            world.pass(&connection, Way::Request, head(method, &target, body.len()))?;
            wait(world, pause)?;
            world.pass(&connection, Way::Request, body)?;
            let (answer, bytes) = match method {
                "HEAD" => ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_owned(), 0),
                _ => (response(200, "ok"), 2),
            };
            world.pass(&connection, Way::Response, answer)?;
            world.expect(&target, End::ok(method, 200).bodies(size(body), Some(bytes)));
            goes_on(world, &connection, &target)?;
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// Ways to cut a chunk whose data is a body: writes of their own for its line, its data and its end.
fn chunk(body: &str, cut: &str) -> Vec<String> {
    let line = format!("{:x}\r\n", body.len());
    match cut {
        "line" => vec![line, format!("{body}\r\n"), "0\r\n\r\n".to_owned()],
        "data" => vec![line, body.to_owned(), "\r\n0\r\n\r\n".to_owned()],
        "line-and-data" => vec![format!("{line}{body}"), "\r\n0\r\n\r\n".to_owned()],
        // Two chunks: the second one's data begins a write that ends with the line of a third.
        _ => vec![
            format!("{line}{body}\r\n{line}"),
            format!("{body}\r\n{line}"),
            format!("{body}\r\n0\r\n\r\n"),
        ],
    }
}

const CUTS: [(&str, usize); 4] = [("line", 1), ("data", 1), ("line-and-data", 1), ("next-line", 3)];

fn chunked_answers(world: &mut World, name: &str) -> Result<()> {
    for (number, body) in BODIES.into_iter().enumerate() {
        for (cut, chunks) in CUTS {
            for pause in PAUSES_MS {
                let connection = world.connect()?;
                let target = format!("/{name}/{number}/{cut}/{pause}");
                world.exchange(&connection, &get(&target), CHUNKED)?;
                for piece in chunk(body, cut) {
                    wait(world, pause)?;
                    world.pass(&connection, Way::Response, piece)?;
                }
                let bytes = Some((body.len() * chunks) as u64);
                world.expect(&target, End::ok("GET", 200).bodies(None, bytes));
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// A body that the end of the connection ends: its size is right, and so are the exchanges before it.
fn until_close(world: &mut World, name: &str) -> Result<()> {
    for (number, body) in BODIES.into_iter().enumerate() {
        for pause in PAUSES_MS {
            let connection = world.connect()?;
            let target = format!("/{name}/{number}/{pause}");
            goes_on(world, &connection, &target)?;
            world.exchange(
                &connection,
                &get(&target),
                "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            )?;
            for _ in 0..3 {
                wait(world, pause)?;
                world.pass(&connection, Way::Response, body)?;
            }
            world.at(&connection.server, "close")?;
            world.receive_once(&connection, Way::Response, "read", &[4096])?;
            world.expect(&target, End::ok("GET", 200).bodies(None, Some(3 * body.len() as u64)));
            world.at(&connection.client, "close")?;
        }
    }
    Ok(())
}
