//! Messages: framing, order, and other protocols.

use anyhow::Result;

use super::{
    expected::End,
    world::{CLIENT, Connection, SERVER, Way, World},
};

/// Returns a request without a body.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: raw.test\r\n\r\n")
}

/// Returns a request with a body.
pub fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Returns a response with a body of a known length.
pub fn response(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} Reason\r\nContent-Length: {length}\r\n\r\n{body}")
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One request and one response, each in one write, on a connection of its own.
struct Simple {
    case: &'static str,
    request: &'static str,
    response: &'static str,
    end: End,
}

fn simple() -> Vec<Simple> {
    let ok = |method: &str, status| End::ok(method, status);
    let row = |case, request, response, end| Simple {
        case,
        request,
        response,
        end,
    };
    vec![
        row(
            "head",
            "HEAD /head HTTP/1.1\r\nHost: raw.test\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            ok("HEAD", 200),
        ),
        row(
            "no-content",
            "PUT /no-content HTTP/1.1\r\nHost: raw.test\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            ok("PUT", 204).bodies(Some(0), Some(0)),
        ),
        row(
            "not-modified",
            "GET /not-modified HTTP/1.1\r\nHost: raw.test\r\nIf-None-Match: \"1\"\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
            ok("GET", 304),
        ),
        row(
            "absolute-form",
            "GET http://raw.test/absolute-form HTTP/1.1\r\nHost: raw.test\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ok("GET", 200).bodies(None, Some(2)),
        ),
        row(
            "chunked-request",
            "POST /chunked-request HTTP/1.1\r\nHost: raw.test\r\nTransfer-Encoding: chunked\r\n\r\n\
             4;name=value\r\nabcd\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n",
            "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
            ok("POST", 201).bodies(Some(14), Some(0)),
        ),
        row(
            "chunked-end-in-data",
            "GET /chunked-end-in-data HTTP/1.1\r\nHost: raw.test\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             8\r\nab0\r\n\r\nc\r\n5;x=\"y\"\r\n0\r\n\r\n\r\n00000\r\nTrailer: 0\r\n\r\n",
            ok("GET", 200).bodies(None, Some(13)),
        ),
        row(
            "unknown-method",
            "FETCH /unknown-method HTTP/1.1\r\nHost: raw.test\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ok("_OTHER", 200),
        ),
    ]
}

pub fn play(world: &mut World) -> Result<()> {
    for simple in simple() {
        world.case(simple.case, |world, name| {
            let connection = world.connect()?;
            world.exchange(&connection, simple.request, simple.response)?;
            world.expect(&format!("/{name}"), simple.end.clone());
            world.close(&connection)
        })?;
    }
    world.case("server-error", server_error)?;
    world.case("keep-alive", keep_alive)?;
    for depth in [2, 10, 500] {
        world.case(&format!("pipelining-{depth}"), |world, name| {
            pipelining(world, name, depth)
        })?;
    }
    world.case("merged-responses", merged_responses)?;
    world.case("chunk-writes", chunk_writes)?;
    world.case("close-delimited", close_delimited)?;
    world.case("close-delimited-slowly", |world, name| {
        close_delimited_slowly(world, name, "127.0.0.1:0")
    })?;
    let path = world.unix_path();
    world.case("close-delimited-slowly-unix", |world, name| {
        close_delimited_slowly(world, name, &path)
    })?;
    world.case("http-1-0", http_1_0)?;
    world.case("continue", continue_100)?;
    world.case("early-hints", early_hints)?;
    world.case("early-response", early_response)?;
    world.case("connect-method", connect_method)?;
    world.case("upgrade", upgrade)?;
    world.case("large-heads", large_heads)?;
    world.case("one-byte-at-a-time", one_byte_at_a_time)?;
    world.case("splits", splits)?;
    world.case("not-http", not_http)
}

fn server_error(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for (status, at_client, at_server) in [(404, Some("404"), None), (503, Some("503"), Some("503"))] {
        let target = format!("/{name}/{status}");
        world.exchange(&connection, &get(&target), &response(status, "no"))?;
        let end = |error: Option<&str>| End {
            error: error.map(str::to_owned),
            ..End::ok("GET", status.into()).bodies(None, Some(2))
        };
        world.expect_ends(&target, Some(end(at_client)), Some(end(at_server)));
    }
    world.close(&connection)
}

fn keep_alive(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for index in 0..20 {
        let target = format!("/{name}/{index}");
        let body = "b".repeat(index * 7);
        if index % 2 == 0 {
            world.exchange(&connection, &get(&target), &response(200, &body))?;
            world.expect(&target, End::ok("GET", 200).bodies(None, Some(body.len() as u64)));
        } else {
            world.exchange(&connection, &post(&target, &body), &response(202, ""))?;
            world.expect(&target, End::ok("POST", 202).bodies(Some(body.len() as u64), Some(0)));
        }
    }
    world.close(&connection)
}

/// Passes all requests in one write, all responses in one.
fn pipelining(world: &mut World, name: &str, depth: usize) -> Result<()> {
    let connection = world.connect()?;
    for round in ["one", "two"] {
        let (mut requests, mut responses) = (String::new(), String::new());
        for index in 0..depth {
            let target = format!("/{name}/{round}/{index}");
            requests += &get(&target);
            responses += &response(200, &"r".repeat(index));
            world.expect(&target, End::ok("GET", 200).bodies(None, Some(index as u64)));
        }
        // At most the size of a call whose responses are copied whole.
        for (way, bytes) in [(Way::Request, requests), (Way::Response, responses)] {
            for piece in bytes.as_bytes().chunks(60_000) {
                world.pass(&connection, way, piece)?;
            }
        }
    }
    world.close(&connection)
}

/// Passes ten responses of 6.5 KiB in one write of nearly 64 KiB.
fn merged_responses(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let (mut requests, mut responses) = (String::new(), String::new());
    for index in 0..10 {
        let target = format!("/{name}/{index}");
        requests += &get(&target);
        responses += &response(200, &"r".repeat(6480 - index));
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(6480 - index as u64)));
    }
    world.exchange(&connection, &requests, &responses)?;
    world.close(&connection)
}

/// Passes writes that end where data looks like the end of the body.
fn chunk_writes(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for index in 0..3 {
        let target = format!("/{name}/{index}");
        world.pass(&connection, Way::Request, get(&target))?;
        let pieces = [
            CHUNKED,
            "c\r\nabc0\r\n\r\n",
            "wxyz\r\n",
            "5\r\n0\r\n\r\n",
            "\r\n",
            "0\r\n",
            "\r\n",
        ];
        for piece in pieces {
            world.pass(&connection, Way::Response, piece)?;
        }
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(17)));
    }
    world.close(&connection)
}

fn close_delimited(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("/{name}");
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    world.exchange(&connection, &get(&target), head)?;
    for _ in 0..3 {
        world.pass(&connection, Way::Response, "until the end")?;
    }
    world.at(&connection.server, "close")?;
    world.receive_once(&connection, Way::Response, "read", &[4096])?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(39)));
    world.at(&connection.client, "close")
}

/// Passes a body until the close, slowly: the agent knows by then that only the end matters.
fn close_delimited_slowly(world: &mut World, name: &str, address: &str) -> Result<()> {
    let connection = world.connect_between(CLIENT, SERVER, address)?;
    let target = format!("/{name}");
    world.exchange(
        &connection,
        &get(&target),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    )?;
    for _ in 0..3 {
        world.peers[SERVER].make("sleep 200")?;
        world.pass(&connection, Way::Response, "until the end")?;
    }
    world.at(&connection.server, "close")?;
    world.receive_once(&connection, Way::Response, "read", &[4096])?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(39)));
    world.at(&connection.client, "close")
}

fn http_1_0(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("/{name}");
    let request = format!("GET {target} HTTP/1.0\r\nHost: raw.test\r\n\r\n");
    world.exchange(&connection, &request, "HTTP/1.0 200 OK\r\n\r\nall")?;
    world.at(&connection.server, "close")?;
    world.receive_once(&connection, Way::Response, "read", &[4096])?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(3)));
    world.at(&connection.client, "close")
}

fn continue_100(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for index in 0..2 {
        let target = format!("/{name}/{index}");
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: raw.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        world.exchange(&connection, &head, "HTTP/1.1 100 Continue\r\n\r\n")?;
        world.exchange(&connection, "12345", &response(200, "done"))?;
        world.expect(&target, End::ok("POST", 200).bodies(Some(5), Some(4)));
    }
    world.close(&connection)
}

fn early_hints(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    let apart = format!("/{name}/apart");
    world.exchange(&connection, &get(&apart), hints)?;
    world.pass(&connection, Way::Response, response(200, "page"))?;
    world.expect(&apart, End::ok("GET", 200).bodies(None, Some(4)));
    let together = format!("/{name}/together");
    world.exchange(
        &connection,
        &get(&together),
        &format!("{hints}{}", response(200, "page")),
    )?;
    world.expect(&together, End::ok("GET", 200).bodies(None, Some(4)));
    world.close(&connection)
}

/// Passes the response before the request's end. The span ends with the response, so it has no size of the body. The
/// connection continues behind the rest of the body.
fn early_response(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let early = format!("/{name}/early");
    let head = format!("POST {early} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: 1000\r\n\r\n0123456789");
    world.exchange(&connection, &head, &response(200, "enough"))?;
    world.expect(&early, End::ok("POST", 200).bodies(None, Some(6)));
    world.pass(&connection, Way::Request, "r".repeat(990))?;
    let next = format!("/{name}/next");
    world.exchange(&connection, &get(&next), &response(200, ""))?;
    world.expect(&next, End::ok("GET", 200));
    world.close(&connection)
}

fn connect_method(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("{name}.test:443");
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    world.exchange(&connection, &request, "HTTP/1.1 200 Connection established\r\n\r\n")?;
    world.expect(&target, End::ok("CONNECT", 200));
    opaque(world, &connection, name)
}

fn upgrade(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("/{name}");
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: raw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    world.exchange(&connection, &request, switch)?;
    world.expect(&target, End::ok("GET", 101));
    opaque(world, &connection, name)
}

/// Passes other bytes on a connection of another protocol: they are never HTTP, whatever they look like.
fn opaque(world: &mut World, connection: &Connection, name: &str) -> Result<()> {
    world.pass(connection, Way::Request, [0x81, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 9])?;
    world.pass(connection, Way::Response, [0x81, 0x02, b'o', b'k'])?;
    let inside = format!("/{name}/never");
    world.exchange(connection, &get(&inside), &response(200, "never"))?;
    world.close(connection)
}

/// Passes heads of up to nearly 64 KiB, in one segment and in many.
fn large_heads(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for bytes in [1000, 2000, 9000, 20_000, 60_000] {
        for piece in [usize::MAX, 1448] {
            let target = format!(
                "/{name}/{bytes}/{}",
                if piece == usize::MAX { "whole" } else { "pieces" }
            );
            let padding = format!("X-Padding: {}\r\n", "p".repeat(400)).repeat(bytes / 420);
            let request = format!("GET {target} HTTP/1.1\r\nHost: raw.test\r\n{padding}Content-Length: 3\r\n\r\nabc");
            let response = format!("HTTP/1.1 200 OK\r\n{padding}Content-Length: 2\r\n\r\nok");
            for (way, bytes) in [(Way::Request, request), (Way::Response, response)] {
                for piece in bytes.as_bytes().chunks(piece) {
                    world.pass(&connection, way, piece)?;
                }
            }
            world.expect(&target, End::ok("GET", 200).bodies(Some(3), Some(2)));
        }
    }
    world.close(&connection)
}

/// Returns three conversations: bodies of known length, chunked ones with an interim response, and none.
fn conversations(target: &str) -> [(String, String, End); 3] {
    let chunked_request = format!(
        "POST {target} HTTP/1.1\r\nHost: raw.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n"
    );
    let chunked_response = format!("HTTP/1.1 103 Early Hints\r\n\r\n{CHUNKED}7\r\n0\r\n\r\nab\r\n0\r\n\r\n");
    [
        (
            post(target, "body of it"),
            response(200, "answer"),
            End::ok("POST", 200).bodies(Some(10), Some(6)),
        ),
        (
            chunked_request,
            chunked_response,
            End::ok("POST", 200).bodies(Some(3), Some(7)),
        ),
        (
            format!("DELETE {target} HTTP/1.1\r\nHost: raw.test\r\n\r\n"),
            "HTTP/1.1 204 No Content\r\nServer: raw\r\n\r\n".to_owned(),
            End::ok("DELETE", 204),
        ),
    ]
}

fn one_byte_at_a_time(world: &mut World, name: &str) -> Result<()> {
    for index in 0..3 {
        let connection = world.connect()?;
        for turn in 0..2 {
            let target = format!("/{name}/{index}/{turn}");
            let (request, response, end) = conversations(&target)[index].clone();
            for (way, bytes) in [(Way::Request, request), (Way::Response, response)] {
                for byte in bytes.as_bytes() {
                    world.pass(&connection, way, [*byte])?;
                }
            }
            world.expect(&target, end);
        }
        world.close(&connection)?;
    }
    Ok(())
}

/// Splits a request, and a response, at every byte into two segments, each on a connection of its own, with a whole
/// exchange behind.
fn splits(world: &mut World, name: &str) -> Result<()> {
    for index in 0..3 {
        let (request, response, _) = conversations(&format!("/{name}/0/request/000"))[index].clone();
        for (split_way, length) in [(Way::Request, request.len()), (Way::Response, response.len())] {
            for at in 1..length {
                let connection = world.connect()?;
                let target = format!(
                    "/{name}/{index}/{}/{at:03}",
                    if split_way == Way::Request { "request" } else { "answer" }
                );
                let (request, response, end) = conversations(&target)[index].clone();
                for (way, bytes) in [(Way::Request, request), (Way::Response, response)] {
                    if way == split_way {
                        let (first, second) = bytes.split_at(at.min(bytes.len() - 1));
                        world.pass(&connection, way, first)?;
                        world.pass(&connection, way, second)?;
                    } else {
                        world.pass(&connection, way, bytes)?;
                    }
                }
                world.expect(&target, end);
                let next = format!("{target}/next");
                world.exchange(&connection, &get(&next), &self::response(200, ""))?;
                world.expect(&next, End::ok("GET", 200));
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes other protocols, and bytes that begin like HTTP.
fn not_http(world: &mut World, name: &str) -> Result<()> {
    let hello = [
        &[0x16, 3, 1, 0, 0x31, 1, 0, 0, 0x2d, 3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0, 0, 2, 0, 0],
    ]
    .concat();
    let client_first: [(&[u8], &[u8]); 6] = [
        (&hello, &[0x15, 3, 3, 0, 2, 2, 40]),
        (b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test", b"\x20\x02\0\0"),
        (b"GET key\r\n", b"VALUE key 0 1\r\n1\r\nEND\r\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0]),
        (&[0; 64], &[0xff; 64]),
        (b"GE", &[0, 1, 2]),
    ];
    for (request, response) in client_first {
        let connection = world.connect()?;
        world.pass(&connection, Way::Request, request)?;
        world.pass(&connection, Way::Response, response)?;
        world.pass(&connection, Way::Request, request)?;
        world.pass(&connection, Way::Response, response)?;
        world.close(&connection)?;
    }
    for banner in ["SSH-2.0-raw\r\n", "220 raw.test ESMTP\r\n", "\x4a\0\0\0\x0a8.0.0\0"] {
        let connection = world.connect()?;
        world.pass(&connection, Way::Response, banner)?;
        world.pass(&connection, Way::Request, "SSH-2.0-raw\r\n")?;
        world.pass(&connection, Way::Response, "250 fine\r\n")?;
        world.close(&connection)?;
    }
    // Another protocol with HTTP inside: a mail, or a log line.
    let connection = world.connect()?;
    world.exchange(&connection, "log 1\r\n", "ok\r\n")?;
    for _ in 0..3 {
        world.exchange(
            &connection,
            &format!("log {}", get(&format!("/{name}/never"))),
            "ok\r\n",
        )?;
    }
    world.close(&connection)
}
