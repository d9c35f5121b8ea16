//! Responses without a body in spite of their heads: the next message begins right behind the head, however the
//! programs saw the request or the response.

use anyhow::{Result, ensure};

use super::{
    blind::{goes_on, head, long, pass_all},
    expected::End,
    messages::{get, post, response},
    world::{Connection, Way, World},
};

/// Declared lengths: about a MB, and a TiB.
const LENGTHS: [u64; 2] = [1_000_000, 1 << 40];

pub fn play(world: &mut World) -> Result<()> {
    world.case("head-pipelined", pipelined)?;
    world.case("head-behind-post", behind_post)?;
    world.case("head-behind-proxy-line", behind_proxy_line)?;
    world.case("head-first-byte", first_byte)?;
    world.case("head-behind-odd-things", behind_odd_things)?;
    world.case("head-answers", head_answers)?;
    world.case("head-lower-case", lower_case)?;
    world.case("no-body-statuses", no_body_statuses)?;
    world.case("interim-lengths", interim_lengths)?;
    world.case("connect-lengths", connect_lengths)?;
    world.case("upgrade-lengths", upgrade_lengths)?;
    world.case("early-413", early_413)
}

fn head_request(target: &str) -> String {
    format!("HEAD {target} HTTP/1.1\r\nHost: raw.test\r\n\r\n")
}

/// Returns a response's head that declares a body which does not follow.
fn says(status: &str, length: u64) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")
}

/// Passes two requests in one write, at least one of them HEAD; the responses in one write, and apart.
fn pipelined(world: &mut World, name: &str) -> Result<()> {
    for length in LENGTHS {
        for order in ["get-head", "head-get", "head-head", "get-get-head-get"] {
            for apart in [true, false] {
                let connection = world.connect()?;
                let prefix = format!("/{name}/{length}/{order}/{apart}");
                let (mut requests, mut answers) = (String::new(), Vec::new());
                for (index, method) in order.split('-').enumerate() {
                    let target = format!("{prefix}/{index}");
                    if method == "head" {
                        requests += &head_request(&target);
                        answers.push(says("200 OK", length));
                        world.expect(&target, End::ok("HEAD", 200));
                    } else {
                        requests += &get(&target);
                        answers.push(response(200, "ok"));
                        world.expect(&target, End::ok("GET", 200).bodies(None, Some(2)));
                    }
                }
                world.pass(&connection, Way::Request, requests)?;
                if apart {
                    pass_all(world, &connection, Way::Response, &answers)?;
                } else {
                    world.pass(&connection, Way::Response, answers.concat())?;
                }
                goes_on(world, &connection, &prefix)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes HEAD right behind the body of a POST, in the same write as the head, as the body, or alone.
fn behind_post(world: &mut World, name: &str) -> Result<()> {
    for length in LENGTHS {
        for (form, cuts) in [("whole", 0), ("body-and-head", 1), ("apart", 2)] {
            for body in ["body".to_owned(), "b".repeat(3000)] {
                let connection = world.connect()?;
                let prefix = format!("/{name}/{length}/{form}/{}", body.len());
                let (first, second) = (format!("{prefix}/post"), format!("{prefix}/head"));
                let post_head = head("POST", &first, body.len());
                let head = head_request(&second);
                let pieces = match cuts {
                    0 => vec![format!("{post_head}{body}{head}")],
                    1 => vec![post_head, format!("{body}{head}")],
                    _ => vec![post_head, body.clone(), head],
                };
                pass_all(world, &connection, Way::Request, &pieces)?;
                let answers = [response(200, "ok"), says("200 OK", length)];
                pass_all(world, &connection, Way::Response, &answers)?;
                world.expect(&first, End::ok("POST", 200).bodies(Some(body.len() as u64), Some(2)));
                world.expect(&second, End::ok("HEAD", 200));
                goes_on(world, &connection, &prefix)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes HEAD behind a proxy's header, in the same write and in the next one.
fn behind_proxy_line(world: &mut World, name: &str) -> Result<()> {
    let text = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\0".to_vec();
    let addresses = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x01\xbb".to_vec();
    for (number, line) in [text, local, addresses].iter().enumerate() {
        for length in LENGTHS {
            for apart in [true, false] {
                let connection = world.connect()?;
                let target = format!("/{name}/{number}/{length}/{apart}");
                let request = head_request(&target);
                if apart {
                    pass_all(world, &connection, Way::Request, &[line.as_slice(), request.as_bytes()])?;
                } else {
                    world.pass(&connection, Way::Request, [line, request.as_bytes()].concat())?;
                }
                world.pass(&connection, Way::Response, says("200 OK", length))?;
                world.expect(&target, End::ok("HEAD", 200));
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes the method's first bytes alone, by the writer's or the reader's choice.
fn first_byte(world: &mut World, name: &str) -> Result<()> {
    for length in LENGTHS {
        for first in [1, 2, 4] {
            for who in ["writer", "reader"] {
                let connection = world.connect()?;
                let target = format!("/{name}/{length}/{first}/{who}");
                // A later request, and the first one too.
                for target in [target.clone(), format!("{target}/again")] {
                    split_first(world, &connection, Way::Request, &head_request(&target), first, who)?;
                    world.pass(&connection, Way::Response, says("200 OK", length))?;
                    world.expect(&target, End::ok("HEAD", 200));
                }
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes a message whose first bytes are written or read alone.
fn split_first(
    world: &mut World,
    connection: &Connection,
    way: Way,
    message: &str,
    first: usize,
    who: &str,
) -> Result<()> {
    if who == "writer" {
        let (begin, rest) = message.split_at(first);
        return pass_all(world, connection, way, &[begin, rest]);
    }
    world.send(connection, way, "write", &[message.as_bytes()])?;
    let read = world.receive_once(connection, way, "read", &[first])?;
    ensure!(read == first, "{read} bytes were read, not {first}");
    world.receive(connection, way, "read", message.len() - first)
}

/// Passes HEAD behind an unregistered method, behind empty lines, and with a long head.
fn behind_odd_things(world: &mut World, name: &str) -> Result<()> {
    for length in LENGTHS {
        for form in ["odd-together", "odd-before", "empty-lines", "long", "long-pieces"] {
            let connection = world.connect()?;
            let target = format!("/{name}/{length}/{form}");
            let (odd, request) = (format!("{target}/odd"), head_request(&target));
            let odd_request = format!("VERSION-CONTROL {odd} HTTP/1.1\r\nHost: raw.test\r\n\r\n");
            let odd_end = End::ok("_OTHER", 200).bodies(None, Some(3));
            match form {
                "odd-together" => {
                    world.pass(&connection, Way::Request, odd_request + &request)?;
                    world.pass(&connection, Way::Response, response(200, "odd"))?;
                    world.expect(&odd, odd_end);
                }
                "odd-before" => {
                    world.exchange(&connection, &odd_request, &response(200, "odd"))?;
                    world.expect(&odd, odd_end);
                    world.pass(&connection, Way::Request, request)?;
                }
                "empty-lines" => world.pass(&connection, Way::Request, format!("\r\n\r\n{request}"))?,
                "long" => world.pass(&connection, Way::Request, long(&request))?,
                _ => {
                    let request = long(&request);
                    let pieces: Vec<&[u8]> = request.as_bytes().chunks(500).collect();
                    pass_all(world, &connection, Way::Request, &pieces)?;
                }
            }
            world.pass(&connection, Way::Response, says("200 OK", length))?;
            world.expect(&target, End::ok("HEAD", 200));
            goes_on(world, &connection, &target)?;
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// Passes answers to HEAD of all forms.
fn head_answers(world: &mut World, name: &str) -> Result<()> {
    let forms = [
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            200,
        ),
        ("until-close", "HTTP/1.1 200 OK\r\nServer: raw\r\n\r\n".to_owned(), 200),
        ("partial", says("206 Partial Content", 1 << 40), 206),
        ("long", long(&says("200 OK", 1 << 40)), 200),
    ];
    for (form, answer, status) in forms {
        for piece in [1 << 20, 1000, 1] {
            let connection = world.connect()?;
            let target = format!("/{name}/{form}/{piece}");
            // A long head takes too long one byte at a time.
            let piece = if form == "long" { piece.max(50) } else { piece };
            world.pass(&connection, Way::Request, head_request(&target))?;
            let pieces: Vec<&[u8]> = answer.as_bytes().chunks(piece).collect();
            pass_all(world, &connection, Way::Response, &pieces)?;
            world.expect(&target, End::ok("HEAD", status));
            goes_on(world, &connection, &target)?;
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// Passes `head`, which is not HEAD (RFC 9110 section 9.1): its answer has the declared body.
fn lower_case(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for bytes in [5, 3000, 100_000] {
        let target = format!("/{name}/{bytes}");
        let request = format!("head {target} HTTP/1.1\r\nHost: raw.test\r\n\r\n");
        world.exchange(&connection, &request, &response(200, &"h".repeat(bytes)))?;
        world.expect(&target, End::ok("_OTHER", 200).bodies(None, Some(bytes as u64)));
        goes_on(world, &connection, &target)?;
    }
    world.close(&connection)
}

/// Passes 204 and 304, which have no body (RFC 9112 section 6.3), also with a status that is not at the beginning of a
/// call.
fn no_body_statuses(world: &mut World, name: &str) -> Result<()> {
    for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified")] {
        for length in LENGTHS {
            for form in [
                "whole",
                "first-byte",
                "first-byte-read",
                "pieces",
                "long",
                "behind-another",
            ] {
                let connection = world.connect()?;
                let target = format!("/{name}/{status}/{length}/{form}");
                let answer = says(line, length);
                let mut request = get(&target);
                if form == "behind-another" {
                    let first = format!("{target}/first");
                    request = get(&first) + &request;
                    world.expect(&first, End::ok("GET", 200).bodies(None, Some(2)));
                }
                world.pass(&connection, Way::Request, request)?;
                match form {
                    "first-byte" => split_first(world, &connection, Way::Response, &answer, 1, "writer")?,
                    "first-byte-read" => split_first(world, &connection, Way::Response, &answer, 1, "reader")?,
                    "pieces" => {
                        let pieces: Vec<&[u8]> = answer.as_bytes().chunks(9).collect();
                        pass_all(world, &connection, Way::Response, &pieces)?;
                    }
                    "long" => world.pass(&connection, Way::Response, long(&answer))?,
                    "behind-another" => world.pass(&connection, Way::Response, response(200, "ok") + &answer)?,
                    _ => world.pass(&connection, Way::Response, answer)?,
                }
                world.expect(&target, End::ok("GET", status));
                goes_on(world, &connection, &target)?;
                world.close(&connection)?;
            }
        }
    }
    Ok(())
}

/// Passes interim responses that declare a body.
fn interim_lengths(world: &mut World, name: &str) -> Result<()> {
    for line in ["100 Continue", "102 Processing", "103 Early Hints"] {
        for form in ["apart", "together", "first-byte", "first-byte-read"] {
            let connection = world.connect()?;
            let target = format!("/{name}/{}/{form}", &line[..3]);
            world.pass(&connection, Way::Request, head("POST", &target, 4))?;
            let (interim, last) = (says(line, 1 << 40), response(200, "ok"));
            let together = form == "together";
            match form {
                "apart" => world.pass(&connection, Way::Response, interim)?,
                "first-byte" => split_first(world, &connection, Way::Response, &interim, 1, "writer")?,
                "first-byte-read" => split_first(world, &connection, Way::Response, &interim, 1, "reader")?,
                _ => world.pass(&connection, Way::Request, "body")?,
            }
            if together {
                world.pass(&connection, Way::Response, says(line, 1 << 40) + &last)?;
            } else {
                world.exchange(&connection, "body", &last)?;
            }
            world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(2)));
            goes_on(world, &connection, &target)?;
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// Passes tunnels, whose bytes are never HTTP, whatever length the answer declares and whatever they look like. A
/// refused tunnel has a body, and its connection continues.
fn connect_lengths(world: &mut World, name: &str) -> Result<()> {
    for length in [0_u64, 52, 1 << 40] {
        let connection = world.connect()?;
        let target = format!("{name}.test:{}", 443 + length % 1000);
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        world.exchange(&connection, &request, &says("200 Connection established", length))?;
        world.expect(&target, End::ok("CONNECT", 200));
        world.exchange(&connection, &get(&format!("/{name}/never")), &response(200, "never"))?;
        world.close(&connection)?;
    }
    let connection = world.connect()?;
    let target = format!("{name}.test:1");
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    world.exchange(&connection, &request, &response(407, "who are you?"))?;
    let end = |error: Option<&str>| End {
        error: error.map(str::to_owned),
        ..End::ok("CONNECT", 407).bodies(None, Some(12))
    };
    world.expect_ends(&target, Some(end(Some("407"))), Some(end(None)));
    goes_on(world, &connection, &format!("/{name}/refused"))?;
    world.close(&connection)
}

/// Passes 101, which ends the exchange at its head, whatever length it declares.
fn upgrade_lengths(world: &mut World, name: &str) -> Result<()> {
    for length in [0_u64, 52, 1 << 40] {
        let connection = world.connect()?;
        let target = format!("/{name}/{length}");
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: raw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        world.exchange(&connection, &request, &switch)?;
        world.expect(&target, End::ok("GET", 101));
        world.exchange(&connection, &get(&format!("/{name}/never")), &response(200, "never"))?;
        world.close(&connection)?;
    }
    Ok(())
}

/// Passes a refusal before the body has arrived. The server drains the rest of the body, which looks like heads, and
/// the connection continues.
fn early_413(world: &mut World, name: &str) -> Result<()> {
    let like = post("/", "body").repeat(1000);
    for method in ["POST", "DELETE"] {
        for piece in [1 << 20, 1 << 14, 1448] {
            let connection = world.connect()?;
            let target = format!("/{name}/{method}/{piece}");
            world.pass(&connection, Way::Request, head(method, &target, like.len()))?;
            let (before, after) = like.split_at(10_000);
            world.pass(&connection, Way::Request, before)?;
            world.pass(&connection, Way::Response, response(413, "too much"))?;
            let pieces: Vec<&[u8]> = after.as_bytes().chunks(piece).collect();
            pass_all(world, &connection, Way::Request, &pieces)?;
            let end = |error: Option<&str>| End {
                error: error.map(str::to_owned),
                ..End::ok(method, 413).bodies(None, Some(8))
            };
            world.expect_ends(&target, Some(end(Some("413"))), Some(end(None)));
            goes_on(world, &connection, &target)?;
            world.close(&connection)?;
        }
    }
    Ok(())
}
