//! Hostile HTTP/1 over real sockets: the ground truth is the understanding of a strict server and a strict client
//! (hyper, Node's llhttp).
//!
//! The agent may report less (a malformed message gives no span, and is counted), but nothing else: no request that the
//! server did not see, no other method, target, status or size. And it finds the messages behind again.

mod cases;
mod lax;
mod strict;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use cases::SMUGGLED;
use serde_json::Value;
use spoor_tests::{
    agent::{Recorded, Tape},
    otlp::{Kind, Span},
};
use strict::{PARSERS, Strict};

/// Longest silence of an end. It decides nothing: a test that waits so long fails.
const LIMIT: Duration = Duration::from_secs(20);

/// Statuses of the answers, by the case's path.
type Played = BTreeMap<String, Vec<u16>>;

/// A request in the server's log: method, path, bytes of the body.
type Exchange = (String, String, u64);

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn servers() -> Result<()> {
    let mut servers = PARSERS.map(|parser| Strict::start(parser, "server"));
    for server in &mut servers {
        let server = server.as_mut().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        server.port = server.line()?.parse().context("the server's port")?;
    }
    let mut servers: Vec<Strict> = servers.into_iter().collect::<Result<_>>()?;
    let agent = Tape::record(&strict::selection(&servers))?;
    let cases = cases::requests();
    let mut played = BTreeMap::new();
    for server in &mut servers {
        for case in &cases {
            for split in 0..=cases::SPLITS {
                let path = format!("/{}/{}-{split}", server.name, case.name);
                let statuses = ask(server.port, &case.bytes(&path), split)
                    .with_context(|| format!("{path}: the server does not end"))?;
                played.insert(path, statuses);
            }
        }
        survive(server)?;
    }
    let handled = servers
        .iter_mut()
        .map(Strict::handled)
        .collect::<Result<Vec<_>>>()?
        .concat();
    let (tape, said) = agent.finish()?;
    let (_, spans) = tape.replay()?;
    let given_up = given_up(&tape)?;
    judge_servers(&played, &handled, &spans, given_up).with_context(|| format!("the agent said:\n{said}"))
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn clients() -> Result<()> {
    let mut clients = PARSERS
        .map(|parser| Strict::start(parser, "client"))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let agent = Tape::record(&strict::selection(&clients))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let mut played = BTreeMap::new();
    let mut sent = BTreeMap::new();
    for client in &mut clients {
        for case in &cases::responses() {
            for split in 0..=cases::SPLITS {
                let path = format!("/{}/{}-{split}", client.name, case.name);
                client.tell(&format!("{} http://127.0.0.1:{port}{path}", case.method))?;
                let (socket, _) = listener.accept()?;
                respond(&socket, &case.bytes(&path), split)?;
                sent.insert(path.clone(), statuses(&case.bytes(&path)));
                played.insert(path, (case.method, client.line()?));
            }
        }
    }
    let (tape, said) = agent.finish()?;
    let (_, spans) = tape.replay()?;
    let given_up = given_up(&tape)?;
    judge_clients(&played, &sent, &spans, given_up).with_context(|| format!("the agent said:\n{said}"))
}

/// Returns the number of exchanges and messages that the agent gave up and counted.
fn given_up(tape: &Recorded) -> Result<u64> {
    let counters = tape.counters()?;
    println!(
        "counters: {:?}",
        counters.iter().filter(|(_, count)| **count > 0).collect::<Vec<_>>()
    );
    let given_up = [
        "malformed",
        "doubtful",
        "head_too_large",
        "unsolicited",
        "missed",
        "opaque",
    ];
    Ok(given_up.iter().filter_map(|name| counters.get(name)).sum())
}

/// Sends bytes in two writes; returns the statuses of all answers until the server closes.
fn ask(port: u16, bytes: &[u8], split: usize) -> Result<Vec<u16>> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(LIMIT))?;
    let received = send(&socket, bytes, split)?;
    Ok(statuses(&received))
}

/// Sends bytes in two writes and returns all answers. A server may close while a large request is being sent: earlier
/// answers are read nevertheless.
fn send(mut socket: &TcpStream, bytes: &[u8], split: usize) -> Result<Vec<u8>> {
    socket.set_nodelay(true)?;
    let (first, rest) = bytes.split_at(bytes.len() * split / (cases::SPLITS + 1));
    for part in [first, rest] {
        match socket.write_all(part) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => bail!(error),
            _ => {}
        }
    }
    let _ = socket.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    match socket.read_to_end(&mut received) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => bail!(error),
        _ => Ok(received),
    }
}

/// Returns the statuses of final responses. Neither server answers with a body that looks like one.
fn statuses(received: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(received);
    let heads = text
        .match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    heads.filter(|status| *status >= 200).collect()
}

fn respond(mut socket: &TcpStream, bytes: &[u8], split: usize) -> Result<()> {
    socket.set_read_timeout(Some(LIMIT))?;
    let mut head = Vec::new();
    let mut byte = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let count = socket.read(&mut byte)?;
        ensure!(count > 0, "the client sent no request");
        head.extend_from_slice(&byte[..count]);
    }
    send(socket, bytes, split)?;
    Ok(())
}

/// Sends requests that the server accepts and the agent does not, then ordinary ones on the same connection, which the
/// agent must find.
fn survive(server: &Strict) -> Result<()> {
    for (name, hostile) in cases::survivors(server.name) {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_nodelay(true)?;
        let path = format!("/{}/survive-{name}", server.name);
        let mut all = vec![hostile(&format!("{path}/hostile"))];
        all.extend((1..=3).map(|n| format!("GET {path}/after-{n} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()));
        for request in all {
            socket.write_all(&request)?;
            let mut received = Vec::new();
            while !received.ends_with(b"ok") {
                let mut piece = [0; 4096];
                let count = socket.read(&mut piece)?;
                ensure!(count > 0, "{path}: the server has closed: {}", received.escape_ascii());
                received.extend_from_slice(&piece[..count]);
            }
        }
    }
    Ok(())
}

fn judge_servers(played: &Played, handled: &[Exchange], spans: &[Span], given_up: u64) -> Result<()> {
    let mut wrong = Vec::new();
    let mut left: Vec<&Exchange> = handled.iter().collect();
    let mut spoken = 0;
    let mut unread = 0;
    for span in spans {
        ensure!(span.kind == Kind::Server, "a span that is no server's: {span:?}");
        // An unreadable request has no path: only its refusal is known.
        if span.text("url.path").is_none() {
            unread += 1;
            ensure!(
                span.name == "HTTP" && matches!(span.status(), Some(400..=499 | 501 | 505)),
                "no refusal: {span:?}"
            );
            continue;
        }
        let path = path_of(span);
        let bytes = span.attributes.get("http.request.body.size").and_then(Value::as_u64);
        let original = span.text("http.request.method_original");
        let method = original.or(span.text("http.request.method")).unwrap_or_default();
        let statuses = played.iter().find(|(case, _)| path.starts_with(case.as_str()));
        let statuses = statuses.map_or(&[200][..], |(_, statuses)| statuses.as_slice());
        // A server may refuse the following bytes before its handler answers, so the answers on the wire count.
        let answered = match span.status() {
            Some(status) => statuses.contains(&status),
            None => span.text("error.type").is_some(),
        };
        let same = |exchange: &&Exchange| {
            exchange.0 == method && exchange.1 == path && (span.status().is_none() || exchange.2 == bytes.unwrap_or(0))
        };
        if let Some(at) = left.iter().position(same).filter(|_| answered) {
            left.swap_remove(at);
            spoken += 1;
            continue;
        }
        // The refused part: the first request that is none, answered with an error or by closing.
        let refused = answered && span.status().is_none_or(|status| status >= 400);
        if !refused || path.contains(SMUGGLED) || handled.iter().any(|exchange| exchange.1 == path) {
            wrong.push(format!(
                "{method} {path} {:?} {bytes:?}, the server: {statuses:?}",
                span.status()
            ));
        }
    }
    // Handled, but the connection closed before the handler's answer: no end saw it.
    let mut silent: BTreeMap<&str, usize> = BTreeMap::new();
    for exchange in &left {
        let (answers, all) = counts(played, handled, &exchange.1);
        if answers >= all {
            *silent.entry(case_of(&exchange.1)).or_default() += 1;
        }
    }
    println!(
        "servers: {} requests sent in {} ways, {} handled, {spoken} of them in spans, {unread} refused unread, \
         {given_up} given up and counted",
        played.len(),
        cases::SPLITS + 1,
        handled.len(),
    );
    println!("handled by a server, and malformed to the agent: {silent:?}");
    ensure!(
        wrong.is_empty(),
        "{} spans of what was not:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let missing: usize = silent.values().sum();
    ensure!(
        missing as u64 <= given_up,
        "{missing} are missing, {given_up} counted: {left:?}"
    );
    for case in silent.keys() {
        ensure!(
            cases::MALFORMED.contains(case),
            "{case}: the agent missed what a server handled: {left:?}"
        );
    }
    Ok(())
}

/// Returns the numbers of answers and of handled requests in the case of a path.
fn counts(played: &Played, handled: &[Exchange], path: &str) -> (usize, usize) {
    let Some((case, statuses)) = played.iter().find(|(case, _)| path.starts_with(case.as_str())) else {
        return (1, 1);
    };
    let good = statuses.iter().filter(|status| **status == 200).count();
    (
        good,
        handled
            .iter()
            .filter(|exchange| exchange.1.starts_with(case.as_str()))
            .count(),
    )
}

fn judge_clients(
    played: &BTreeMap<String, (&str, String)>,
    sent: &Played,
    spans: &[Span],
    given_up: u64,
) -> Result<()> {
    let mut wrong = Vec::new();
    let mut silent: BTreeMap<&str, usize> = BTreeMap::new();
    let mut refused = 0;
    let mut by_path: BTreeMap<String, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        ensure!(span.kind == Kind::Client, "a span that is no client's: {span:?}");
        by_path.entry(path_of(span)).or_default().push(span);
    }
    for (path, (method, truth)) in played {
        let these = by_path.remove(path).unwrap_or_default();
        let [span] = these.as_slice() else {
            if these.is_empty() && truth == "error" {
                refused += 1;
            } else if these.is_empty() {
                *silent.entry(case_of(path)).or_default() += 1;
            } else {
                wrong.push(format!("{path}: {} spans", these.len()));
            }
            continue;
        };
        let bytes = span.attributes.get("http.response.body.size").and_then(Value::as_u64);
        let says = span.status().map(|status| format!("{status} {}", bytes.unwrap_or(0)));
        // Its end is in doubt: all clients that accept it read the same status.
        let doubtful = bytes.is_none() && span.text("error.type").is_none();
        // These clients refuse it, others accept it: the status was on the wire.
        let on_the_wire = span
            .status()
            .is_some_and(|status| sent.get(path).is_some_and(|sent| sent.contains(&status)));
        let agrees = match &says {
            Some(says) if doubtful && truth != "error" => truth.split(' ').next() == says.split(' ').next(),
            Some(says) if span.text("error.type").is_none_or(|error| error.parse::<u16>().is_ok()) => {
                says == truth || truth == "error" && on_the_wire
            }
            _ => truth == "error",
        };
        if !agrees || span.text("http.request.method") != Some(*method) {
            wrong.push(format!(
                "{path}: the client says {truth}, the span {says:?} {:?}",
                span.text("error.type")
            ));
        }
    }
    wrong.extend(by_path.keys().map(|path| format!("{path}: never asked for")));
    let good_but_silent: Vec<_> = silent.keys().filter(|case| !cases::MALFORMED.contains(*case)).collect();
    println!(
        "clients: {} responses, {} spans, {given_up} given up and counted",
        played.len(),
        spans.len()
    );
    println!("without a span: {refused} that the client refused, too, and {silent:?}");
    ensure!(
        wrong.is_empty(),
        "{} spans are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    ensure!(
        (refused + silent.values().sum::<usize>()) as u64 <= given_up,
        "missing, and not counted: {silent:?}"
    );
    ensure!(good_but_silent.is_empty(), "the agent missed: {good_but_silent:?}");
    Ok(())
}

fn path_of(span: &Span) -> String {
    let url = span.text("url.path").or(span.text("url.full")).unwrap_or_default();
    let path = url
        .split_once("://")
        .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    // hyper's handlers do not see a fragment.
    path.unwrap_or(url).split('#').next().unwrap_or_default().to_owned()
}

/// Returns `bare-lf` for `/hyper/bare-lf-3/…`.
fn case_of(path: &str) -> &str {
    let name = path.split('/').nth(2).unwrap_or_default();
    match name.rsplit_once('-') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    }
}
