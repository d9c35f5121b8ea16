//! Bodies that look like heads: none may hide a later message on the connection, in either direction.

use anyhow::{Result, ensure};

use super::{
    expected::End,
    messages::{get, post, response},
    world::{CLIENT, Connection, PROXY, SERVER, Way, World, hex},
};

/// A body of 52 bytes that looks like a request with a body that never ends.
const REQUEST_LIKE: &str = "PUT / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n";
/// A body that looks like such a response.
const RESPONSE_LIKE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n";
/// A head with chunked coding. The bytes behind it are no chunk.
const CHUNKED_LIKE: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED_RESPONSE_LIKE: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// All these bodies.
pub const BODIES: [&str; 4] = [REQUEST_LIKE, RESPONSE_LIKE, CHUNKED_LIKE, CHUNKED_RESPONSE_LIKE];

/// Pauses between a head and its body: before Core can send a hint, about when it does, and long after.
const PAUSES_MS: [u32; 3] = [0, 2, 10];

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

pub fn play(world: &mut World) -> Result<()> {
    for method in [
        "GET", "DELETE", "OPTIONS", "PROPFIND", "HEAD", "get", "POST", "PUT", "PATCH",
    ] {
        world.case(&format!("blind-{method}"), |world, name| requests(world, name, method))?;
    }
    world.case("blind-long-head", long_head)?;
    world.case("blind-pipelined", pipelined)?;
    world.case("blind-first-byte", first_byte)?;
    world.case("blind-answer", answers)?;
    world.case("blind-chunked-request", chunked_requests)?;
    world.case("blind-chunked-answer", chunked_answers)?;
    world.case("blind-until-close", until_close)?;
    world.case("blind-interim", interim)?;
    world.case("blind-relay", relay)?;
    world.case("blind-sizes", sizes)
}

/// Passes ordinary exchanges, all of which both ends must see.
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

/// Returns a request's head that declares that many bytes.
pub fn head(method: &str, target: &str, length: usize) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {length}\r\n\r\n")
}

/// Returns a head of about 3 KiB, with more header lines in front of its last line.
pub fn long(head: &str) -> String {
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    format!(
        "{first}\r\n{}{rest}",
        format!("X-Padding: {}\r\n", "p".repeat(485)).repeat(6)
    )
}

/// Returns the method as spans have it.
fn shown(method: &str) -> &str {
    match method {
        "PROPFIND" | "get" => "_OTHER",
        method => method,
    }
}

fn size(bytes: &str) -> Option<u64> {
    Some(bytes.len() as u64)
}

fn wait(world: &mut World, milliseconds: u32) -> Result<()> {
    world.peers[CLIENT].make(&format!("sleep {milliseconds}"))?;
    Ok(())
}

/// Passes each piece in a write of its own; the receiver reads it whole before the next one.
pub fn pass_all<B: AsRef<[u8]>>(world: &mut World, connection: &Connection, way: Way, pieces: &[B]) -> Result<()> {
    pieces.iter().try_for_each(|piece| world.pass(connection, way, piece))
}

/// Passes requests of a method whose body looks like a head.
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
            world.expect(&target, End::ok(shown(method), 200).bodies(size(body), Some(bytes)));
            goes_on(world, &connection, &target)?;
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// Passes a head longer than the programs' scan, in one write and in several.
fn long_head(world: &mut World, name: &str) -> Result<()> {
    for method in ["GET", "POST"] {
        for piece in [1 << 20, 1400, 500] {
            for pause in PAUSES_MS {
                let connection = world.connect()?;
                let target = format!("/{name}/{method}/{piece}/{pause}");
                let head = long(&head(method, &target, REQUEST_LIKE.len()));
                let pieces: Vec<&[u8]> = head.as_bytes().chunks(piece).collect();
                pass_all(world, &connection, Way::Request, &pieces)?;
                wait(world, pause)?;
                world.pass(&connection, Way::Request, REQUEST_LIKE)?;
                world.pass(&connection, Way::Response, response(200, "ok"))?;
                world.expect(&target, End::ok(method, 200).bodies(size(REQUEST_LIKE), Some(2)));
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes a request with a body that begins inside a write.
fn pipelined(world: &mut World, name: &str) -> Result<()> {
    for method in ["GET", "POST"] {
        for (form, body) in [("get", None), ("post", Some("body"))] {
            for pause in PAUSES_MS {
                let connection = world.connect()?;
                let prefix = format!("/{name}/{method}/{form}/{pause}");
                let (first, second) = (format!("{prefix}/first"), format!("{prefix}/second"));
                let before = body.map_or_else(|| get(&first), |body| post(&first, body));
                let heads = before + &head(method, &second, REQUEST_LIKE.len());
                world.pass(&connection, Way::Request, heads)?;
                wait(world, pause)?;
                world.pass(&connection, Way::Request, REQUEST_LIKE)?;
                let first_end = match body {
                    None => End::ok("GET", 200).bodies(None, Some(3)),
                    Some(body) => End::ok("POST", 200).bodies(size(body), Some(3)),
                };
                world.expect(&first, first_end);
                world.expect(&second, End::ok(method, 200).bodies(size(REQUEST_LIKE), Some(2)));
                world.pass(&connection, Way::Response, response(200, "one") + &response(200, "ok"))?;
                goes_on(world, &connection, &prefix)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes the first byte or bytes of the head alone, by the writer's or the reader's choice.
fn first_byte(world: &mut World, name: &str) -> Result<()> {
    for method in ["GET", "POST"] {
        for first in [1, 2, 7] {
            for who in ["writer", "reader"] {
                for pause in PAUSES_MS {
                    let connection = world.connect()?;
                    let target = format!("/{name}/{method}/{first}/{who}/{pause}");
                    let request = head(method, &target, REQUEST_LIKE.len());
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", RESPONSE_LIKE.len());
                    for (way, head, body) in [
                        (Way::Request, &request, REQUEST_LIKE),
                        (Way::Response, &answer, RESPONSE_LIKE),
                    ] {
                        if who == "writer" {
                            let (begin, rest) = head.split_at(first);
                            pass_all(world, &connection, way, &[begin, rest])?;
                        } else {
                            world.send(&connection, way, "write", &[head.as_bytes()])?;
                            let read = world.receive_once(&connection, way, "read", &[first])?;
                            ensure!(read == first, "{read} bytes were read, not {first}");
                            world.receive(&connection, way, "read", head.len() - first)?;
                        }
                        wait(world, pause)?;
                        world.pass(&connection, way, body)?;
                    }
                    world.expect(
                        &target,
                        End::ok(method, 200).bodies(size(REQUEST_LIKE), size(RESPONSE_LIKE)),
                    );
                    goes_on(world, &connection, &target)?;
                    world.close(&connection)?;
                }
            }
        }
    }
    Ok(())
}

/// Passes responses with a body that looks like a head, behind heads of several forms.
fn answers(world: &mut World, name: &str) -> Result<()> {
    for (number, body) in BODIES.into_iter().enumerate() {
        for form in ["whole", "long", "pieces", "split"] {
            for pause in PAUSES_MS {
                let connection = world.connect()?;
                let target = format!("/{name}/{number}/{form}/{pause}");
                world.pass(&connection, Way::Request, get(&target))?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                match form {
                    "long" => world.pass(&connection, Way::Response, long(&head))?,
                    "pieces" => {
                        let head = long(&head);
                        let pieces: Vec<&[u8]> = head.as_bytes().chunks(500).collect();
                        pass_all(world, &connection, Way::Response, &pieces)?;
                    }
                    "split" => {
                        let (begin, rest) = head.split_at(head.len() - 2);
                        pass_all(world, &connection, Way::Response, &[begin, rest])?;
                    }
                    _ => world.pass(&connection, Way::Response, head)?,
                }
                wait(world, pause)?;
                world.pass(&connection, Way::Response, body)?;
                world.expect(&target, End::ok("GET", 200).bodies(None, size(body)));
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Returns a chunk with this body, cut into writes in one of several ways.
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

fn chunked_requests(world: &mut World, name: &str) -> Result<()> {
    for (number, body) in BODIES.into_iter().enumerate() {
        for (cut, chunks) in CUTS {
            for pause in PAUSES_MS {
                let connection = world.connect()?;
                let target = format!("/{name}/{number}/{cut}/{pause}");
                let method = if number % 2 == 0 { "POST" } else { "DELETE" };
                let head =
                    format!("{method} {target} HTTP/1.1\r\nHost: raw.test\r\nTransfer-Encoding: chunked\r\n\r\n");
                world.pass(&connection, Way::Request, head)?;
                for piece in chunk(body, cut) {
                    wait(world, pause)?;
                    world.pass(&connection, Way::Request, piece)?;
                }
                world.pass(&connection, Way::Response, response(200, "ok"))?;
                let bytes = Some((body.len() * chunks) as u64);
                world.expect(&target, End::ok(method, 200).bodies(bytes, Some(2)));
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

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

/// Passes a body that ends with the connection: its size and the exchanges before it are correct.
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

/// Passes interim responses, which have no body whatever they declare.
fn interim(world: &mut World, name: &str) -> Result<()> {
    for (form, lines) in [
        ("plain", ""),
        ("length", "Content-Length: 1000000000000\r\n"),
        ("chunked", "Transfer-Encoding: chunked\r\n"),
    ] {
        for apart in [true, false] {
            for pause in PAUSES_MS {
                let connection = world.connect()?;
                let target = format!("/{name}/{form}/{apart}/{pause}");
                world.pass(&connection, Way::Request, head("GET", &target, REQUEST_LIKE.len()))?;
                let interim = format!("HTTP/1.1 103 Early Hints\r\n{lines}\r\n");
                let last = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", RESPONSE_LIKE.len());
                world.pass(&connection, Way::Response, "HTTP/1.1 100 Continue\r\n\r\n")?;
                wait(world, pause)?;
                world.pass(&connection, Way::Request, REQUEST_LIKE)?;
                if apart {
                    pass_all(world, &connection, Way::Response, &[interim, last])?;
                } else {
                    world.pass(&connection, Way::Response, interim + &last)?;
                }
                wait(world, pause)?;
                world.pass(&connection, Way::Response, RESPONSE_LIKE)?;
                world.expect(
                    &target,
                    End::ok("GET", 200).bodies(size(REQUEST_LIKE), size(RESPONSE_LIKE)),
                );
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Plays a proxy that streams: it passes each piece of a body on at once. One client's body must not hide requests on
/// the server's connection, which all clients share.
fn relay(world: &mut World, name: &str) -> Result<()> {
    let stranger = world.connect_between(CLIENT, PROXY, "127.0.0.1:0")?;
    let other = world.connect_between(CLIENT, PROXY, "127.0.0.1:0")?;
    // No thread rule applies before the agent knows what runs in the process.
    world.peers[PROXY].make("sleep 1500")?;
    let back = world.connect_between(PROXY, SERVER, "127.0.0.1:0")?;
    for (number, body) in BODIES.into_iter().enumerate() {
        for pause in PAUSES_MS {
            let hostile = format!("/{name}/{number}/{pause}/hostile");
            relayed(world, (&stranger, &back), &hostile, "DELETE", Some((body, pause)))?;
            for turn in 0..2 {
                let ordinary = format!("/{name}/{number}/{pause}/ordinary/{turn}");
                relayed(world, (&other, &back), &ordinary, "GET", None)?;
            }
        }
    }
    world.close(&stranger)?;
    world.close(&other)?;
    world.close(&back)
}

/// Passes a request through the proxy, and the answer back: heads, then bodies.
fn relayed(
    world: &mut World,
    (front, back): (&Connection, &Connection),
    target: &str,
    method: &str,
    body: Option<(&str, u32)>,
) -> Result<()> {
    let call = format!("{target}/call");
    let (front_head, back_head) = match body {
        Some((body, _)) => (head(method, target, body.len()), head(method, &call, body.len())),
        None => (get(target), get(&call)),
    };
    world.pass(front, Way::Request, front_head)?;
    world.pass(back, Way::Request, back_head)?;
    let mut through = |way, body: &str, pause| -> Result<()> {
        let hops = match way {
            Way::Request => [front, back],
            Way::Response => [back, front],
        };
        wait(world, pause)?;
        hops.into_iter().try_for_each(|hop| world.pass(hop, way, body))
    };
    let (mut sent, mut answered) = (None, 2);
    if let Some((body, pause)) = body {
        through(Way::Request, body, pause)?;
        through(
            Way::Response,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()),
            0,
        )?;
        through(Way::Response, body, pause)?;
        (sent, answered) = (size(body), body.len() as u64);
    } else {
        through(Way::Response, &response(200, "ok"), 0)?;
    }
    let end = End::ok(method, 200).bodies(sent, Some(answered));
    world.expect(&call, end.clone());
    world.made_for(target);
    world.expect(target, end);
    Ok(())
}

/// Passes bodies of many sizes with a head-like text at each KiB, by calls of every kind, in both directions.
fn sizes(world: &mut World, name: &str) -> Result<()> {
    /// Calls, with the largest number of bytes that each moves.
    const SENDS: [(&str, usize); 5] = [
        ("write", 1 << 20),
        ("write", 1024),
        ("writev", 1 << 20),
        ("sendfile", 1 << 20),
        ("splice", 32 << 10),
    ];
    const RECEIVES: [(&str, usize); 6] = [
        ("read", 1 << 20),
        ("read", 1024),
        ("readv", 1024),
        ("truncate", 1 << 20),
        ("recvmsg-truncate", 1024),
        ("splice", 32 << 10),
    ];
    for bytes in [1, 52, 1023, 1024, 1025, 4096, 65_536, 100_000] {
        let connection = world.connect()?;
        let body: Vec<u8> = BODIES
            .into_iter()
            .cycle()
            .flat_map(|like| format!("{like:x<1024}").into_bytes())
            .take(bytes)
            .collect();
        for (send, send_piece) in SENDS {
            for (receive, receive_piece) in RECEIVES {
                let target = format!("/{name}/{bytes}/{send}-{send_piece}/{receive}-{receive_piece}");
                let method = if receive_piece == 1024 { "GET" } else { "PUT" };
                let heads = [
                    head(method, &target, bytes),
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"),
                ];
                for (way, head) in [Way::Request, Way::Response].into_iter().zip(heads) {
                    world.pass(&connection, way, head)?;
                    let ((sender, from), (receiver, to)) = match way {
                        Way::Request => (&connection.client, &connection.server),
                        Way::Response => (&connection.server, &connection.client),
                    };
                    let sending = format!("send-all {from} {send} {send_piece} 0 {} - -", hex(&body));
                    world.peers[*sender].tell(&sending)?;
                    let receiving = format!("receive-all {to} {receive} {receive_piece} {bytes} 0");
                    world.peers[*receiver].move_bytes(&receiving, bytes)?;
                    let sent = world.peers[*sender].answer()?;
                    ensure!(sent == Ok(bytes.to_string()), "sent {sent:?} of {bytes} bytes");
                }
                let size = Some(bytes as u64);
                world.expect(&target, End::ok(method, 200).bodies(size, size));
            }
            goes_on(world, &connection, &format!("/{name}/{bytes}/{send}-{send_piece}"))?;
        }
        world.close(&connection)?;
    }
    Ok(())
}
