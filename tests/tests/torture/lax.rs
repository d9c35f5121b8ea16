//! Messages that HTTP does not allow, at real servers and clients: a span has each status that was on the wire.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::Recorder,
    clients::{Client, Load, Prepared},
    otlp::{Kind, Span},
    services::{Server, Service, route},
    truth::Outcome,
};

use crate::statuses;

/// Longest silence of an end. A server that is silent for longer waits for the rest of a request; a client that is
/// fails the test.
const SILENCE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);

/// Requests for each server. All but garbage ask for `/a`.
const REQUESTS: &[(&str, &str)] = &[
    ("usual", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
    (
        "folded",
        "GET /a HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
    ),
    ("http-1-2", "GET /a HTTP/1.2\r\nHost: h\r\nConnection: close\r\n\r\n"),
    (
        "control",
        "GET /a HTTP/1.1\r\nHost: h\r\nX: a\x01b\r\nConnection: close\r\n\r\n",
    ),
    (
        "delete",
        "GET /a HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\nConnection: close\r\n\r\n",
    ),
    (
        "odd-name",
        "GET /a HTTP/1.1\r\nHost: h\r\nX-Foo[1]: a\r\nConnection: close\r\n\r\n",
    ),
    (
        "slash-in-name",
        "GET /a HTTP/1.1\r\nHost: h\r\nX/Foo: a\r\nConnection: close\r\n\r\n",
    ),
    (
        "utf-8-name",
        "GET /a HTTP/1.1\r\nHost: h\r\nX-\u{fc}: a\r\nConnection: close\r\n\r\n",
    ),
    (
        "no-colon",
        "GET /a HTTP/1.1\r\nHost: h\r\nFoo\r\nConnection: close\r\n\r\n",
    ),
    (
        "space-before-colon",
        "GET /a HTTP/1.1\r\nHost: h\r\nX : a\r\nConnection: close\r\n\r\n",
    ),
    (
        "space-behind-version",
        "GET /a HTTP/1.1 \r\nHost: h\r\nConnection: close\r\n\r\n",
    ),
    ("bare-lf", "GET /a HTTP/1.1\nHost: h\nConnection: close\n\n"),
    (
        "two-spaces",
        "GET  /a  HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ),
    (
        "chunks-bare-lf",
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\nhello\n0\n\n",
    ),
    (
        "trailer-bare-lf",
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nT: u\n\r\n",
    ),
    (
        "plus-length",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "empty-length",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length:\r\nConnection: close\r\n\r\n",
    ),
    (
        "negative-length",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
    ),
    (
        "spaced-length",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "folded-coding",
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
    ),
    (
        "two-lengths",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "nul",
        "GET /a HTTP/1.1\r\nHost: h\r\nX: a\0b\r\nConnection: close\r\n\r\n",
    ),
    (
        "head-request",
        "HEAD /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ),
    ("http-1-0", "GET /a HTTP/1.0\r\nHost: h\r\n\r\n"),
    (
        "absolute",
        "GET http://h/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ),
    // No request lines: a server may refuse them, or accept them in some way.
    ("no-request", "GET\r\n\r\n"),
    (
        "four-words",
        "GET /a b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ),
    ("words", "hello there\r\n\r\n"),
    ("http-3", "GET /a HTTP/3.0\r\nHost: h\r\nConnection: close\r\n\r\n"),
    ("http-0-9", "GET /a\r\n"),
    // A TLS client at a port without TLS: RFC 8446 section 5.1.
    (
        "tls-hello",
        "\x16\x03\x01\0\x31\x01\0\0\x2d\x03\x03abcdefghijklmnopqrstuvwxyz012345\0\0\x02\x13\x01\x01\0\0\x02\0\0",
    ),
    ("binary", "\0\x01\x02\x03\u{ff}\u{fe}\r\n\r\n"),
];

/// Cases whose first line is no HTTP/1: only a refusal shows that the server speaks HTTP.
const UNREADABLE: &[&str] = &[
    "no-request",
    "four-words",
    "words",
    "http-3",
    "http-0-9",
    "tls-hello",
    "binary",
];

/// Responses for each client, one on each connection.
const RESPONSES: &[(&str, &str)] = &[
    (
        "usual",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "folded",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "http-1-2",
        "HTTP/1.2 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "control",
        "HTTP/1.1 200 OK\r\nX: a\x01\x7fb\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "odd-name",
        "HTTP/1.1 200 OK\r\nX[1]: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "space-in-name",
        "HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "no-colon",
        "HTTP/1.1 200 OK\r\nFoo\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "space-before-colon",
        "HTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "odd-reason",
        "HTTP/1.1 404 N\x01t\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "two-spaces",
        "HTTP/1.1  200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "no-reason",
        "HTTP/1.1 200\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "chunks-bare-lf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\nhello\n0\n\n",
    ),
    (
        "trailer-bare-lf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nT: u\n\n",
    ),
    (
        "empty-length",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "negative-length",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "plus-length",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\nConnection: close\r\n\r\nhello",
    ),
    (
        "spaced-length",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\nConnection: close\r\n\r\nhello",
    ),
    ("until-close", "HTTP/1.0 200 OK\r\n\r\nhello"),
];

/// A server's answer to a case of [`REQUESTS`], on a connection from this port.
struct Answered {
    case: &'static str,
    port: u16,
    statuses: Vec<u16>,
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn lax_servers() -> Result<()> {
    let leaf = Service::start(Server::NginxStatic, "lax-leaf", &[])?;
    let upstream = leaf.address;
    let routes = [route("/a", 200, 0, &[])];
    let servers = [
        ("lax-nginx", Server::NginxStatic),
        ("lax-apache", Server::ApacheEvent { upstream }),
        ("lax-lighttpd", Server::Lighttpd { upstream }),
        ("lax-caddy", Server::Caddy { upstream }),
        ("lax-haproxy", Server::HaProxy { upstream }),
        ("lax-node", Server::Node),
        ("lax-go", Server::Go),
        ("lax-php", Server::Php),
        ("lax-http-server", Server::PythonHttp),
        ("lax-gunicorn", Server::GunicornSync),
        ("lax-uvicorn", Server::Uvicorn),
        ("lax-jdk", Server::Jdk),
        ("lax-puma", Server::Puma { reactor: true }),
    ];
    let services = servers
        .iter()
        .map(|&(name, server)| Service::start(server, name, &routes))
        .collect::<Result<Vec<_>>>()?;
    let selection = services
        .iter()
        .map(Service::selection)
        .collect::<Result<Vec<_>>>()?
        .concat();
    let agent = Recorder::start(&selection)?;
    // Servers in parallel, because some wait for the rest of an invalid request.
    let answered = thread::scope(|scope| {
        let asking: Vec<_> = services
            .iter()
            .map(|service| scope.spawn(|| ask_all(service).with_context(|| service.name.clone())))
            .collect();
        let joined = asking.into_iter().map(|asking| asking.join().expect("no panic"));
        joined.collect::<Result<Vec<_>>>()
    })?;
    let (spans, said) = agent.finish()?;
    let mut wrong = Vec::new();
    for (service, answered) in services.iter().zip(&answered) {
        let mut taken = Vec::new();
        for Answered { case, port, statuses } in answered {
            // Connections to two servers may have the same source port.
            let at_service = |span: &&Span| match span.request_id() {
                Some(asked) => asked == service.name,
                None => port_of(span, "server.port") == Some(service.address.port()),
            };
            let seen: Vec<&Span> = spans
                .iter()
                .filter(|span| span.kind == Kind::Server && port_of(span, "network.peer.port") == Some(*port))
                .filter(at_service)
                .collect();
            let in_spans: Vec<u16> = seen.iter().filter_map(|span| span.status()).collect();
            if statuses == &[200] {
                taken.push(*case);
            }
            let readable = seen.iter().all(|span| {
                let path = span.text("url.path");
                path == Some("/a") || path.is_none() && span.name == "HTTP" && span.status() != Some(200)
            });
            let is_refusal = |status: &u16| matches!(status, 400..=499 | 501 | 505);
            let is_read = !UNREADABLE.contains(case);
            let expected: Vec<u16> = statuses
                .iter()
                .copied()
                .filter(|status| is_read || is_refusal(status))
                .collect();
            if in_spans != expected || !readable {
                wrong.push(format!(
                    "{} {case}: answered {statuses:?}, in spans {seen:?}",
                    service.name
                ));
            }
        }
        println!("{} took {taken:?}", service.name);
        ensure!(taken.contains(&"usual"), "{} does not serve /a", service.name);
    }
    ensure!(wrong.is_empty(), "{}\nthe agent said:\n{said}", wrong.join("\n"));
    Ok(())
}

fn port_of(span: &Span, attribute: &str) -> Option<u16> {
    span.attributes.get(attribute)?.as_u64()?.try_into().ok()
}

/// Sends each request on a connection of its own, with the service's name as its id.
fn ask_all(server: &Service) -> Result<Vec<Answered>> {
    let identified = format!("Host: h\r\nX-Request-Id: {}", server.name);
    let ask = |&(case, text): &(&'static str, &str)| {
        let mut socket = TcpStream::connect(server.address)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let port = socket.local_addr()?.port();
        // Each character of these texts is one byte.
        let text = text.replacen("Host: h", &identified, 1);
        socket.write_all(&text.chars().map(|character| character as u8).collect::<Vec<_>>())?;
        let mut received = Vec::new();
        // A server that waits for more answers once the client has ended its half.
        for _ in 0..2 {
            match socket.read_to_end(&mut received) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.shutdown(Shutdown::Write)?,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
        }
        // An answer without a head is no HTTP/1.
        let statuses = if received.starts_with(b"HTTP/1.") {
            statuses(&received)
        } else {
            Vec::new()
        };
        let _ = socket.shutdown(Shutdown::Both);
        Ok(Answered { case, port, statuses })
    };
    REQUESTS.iter().map(ask).collect()
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn lax_clients() -> Result<()> {
    let clients = [
        ("lax-curl", Client::Curl),
        ("lax-requests", Client::PythonConnections),
        ("lax-aiohttp", Client::Aiohttp),
        ("lax-fetch", Client::NodeFetch),
        ("lax-node", Client::NodeHttp),
        ("lax-go", Client::Go),
        ("lax-java", Client::JavaHttpClient),
        ("lax-ruby", Client::RubyNetHttp),
        ("lax-php", Client::PhpCurl),
    ];
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/a", listener.local_addr()?);
    // A process for each response, because some clients end at the first one that they refuse.
    let mut prepared = Vec::new();
    for (name, client) in clients {
        let of_each = (0..RESPONSES.len()).map(|number| {
            let prefix = format!("{name}-{number}");
            let load = Load {
                url: &url,
                count: 1,
                in_flight: 1,
                prefix: &prefix,
            };
            client.prepare(&prefix, load)
        });
        prepared.push(of_each.collect::<Result<Vec<_>>>()?);
    }
    let selection: Vec<String> = prepared.iter().flatten().map(Prepared::selection).collect();
    let agent = Recorder::start(&selection)?;
    thread::spawn(move || serve(&listener));
    let run_each = |each: Vec<Prepared>| {
        let outcomes = each.into_iter().map(|client| client.run_to_any_end(LIMIT));
        outcomes.collect::<Result<Vec<_>>>()
    };
    let outcomes = thread::scope(|scope| {
        let running: Vec<_> = prepared
            .into_iter()
            .map(|each| scope.spawn(move || run_each(each)))
            .collect();
        let joined = running.into_iter().map(|running| running.join().expect("no panic"));
        joined.collect::<Result<Vec<_>>>()
    })?;
    let (spans, said) = agent.finish()?;
    let mut wrong = Vec::new();
    let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ((name, _), outcomes) in clients.iter().zip(outcomes) {
        for (number, ((case, text), truth)) in RESPONSES.iter().zip(outcomes).enumerate() {
            let id = format!("{name}-{number}-0");
            let seen: Vec<_> = spans.iter().filter(|span| span.request_id() == Some(&id)).collect();
            let statuses: Vec<_> = seen.iter().map(|span| span.status()).collect();
            let sent: Option<u16> = text
                .split_ascii_whitespace()
                .nth(1)
                .and_then(|status| status.parse().ok());
            match truth.first().map(|event| event.outcome) {
                // aiohttp takes the second blank for the status, and reports 0.
                Some(Outcome::Status(status))
                    if Some(status) == sent || (*name, *case) == ("lax-aiohttp", "two-spaces") =>
                {
                    if statuses != [sent] {
                        wrong.push(format!("{name} {case}: answered {sent:?}, in spans {seen:?}"));
                    }
                }
                // curl reports 0 if it read no valid status.
                Some(Outcome::NoAnswer | Outcome::Status(0)) | None => {
                    // A client that refuses a response may ask again; its status was on the wire nevertheless.
                    if seen.is_empty() || statuses.iter().any(|status| *status != sent) {
                        wrong.push(format!("{name} {case}: refused, in spans {seen:?}"));
                    }
                    refused.entry(name).or_default().push(case);
                }
                outcome => wrong.push(format!("{name} {case}: {outcome:?}")),
            }
        }
    }
    println!("refused: {refused:?}");
    ensure!(wrong.is_empty(), "{}\nthe agent said:\n{said}", wrong.join("\n"));
    Ok(())
}

/// Answers each request by the number in its id, each connection in a thread of its own.
fn serve(listener: &TcpListener) {
    for socket in listener.incoming().map_while(Result::ok) {
        // A client may close its connection at any point.
        thread::spawn(|| answer(socket));
    }
}

fn answer(mut socket: TcpStream) -> Result<()> {
    socket.set_read_timeout(Some(SILENCE))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let count = socket.read(&mut piece)?;
        ensure!(count > 0, "no request");
        head.extend_from_slice(&piece[..count]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let id = head
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id:"))
        .context("no id")?;
    let number: usize = id.trim().rsplit('-').nth(1).context("no number")?.parse()?;
    let (_, text) = RESPONSES.get(number).context("no such case")?;
    socket.write_all(&text.chars().map(|character| character as u8).collect::<Vec<_>>())?;
    Ok(socket.shutdown(Shutdown::Write)?)
}
