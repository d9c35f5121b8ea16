//! Services on io_uring: at the socket events all their exchanges have spans, at system calls none.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Range,
    process::Command,
    sync::PoisonError,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::Recorder,
    otlp::{Kind, Span},
    services::built,
};

use super::{ONE_AT_A_TIME, Site};

const CONNECTIONS: usize = 8;
const REQUESTS: usize = 60;

/// One request, and the response that the service is asked for.
#[derive(Clone)]
struct Request {
    target: String,
    status: u16,
    /// Size of its body; `None`: it is a GET.
    body: Option<usize>,
    response_body: usize,
}

impl Request {
    /// Returns a request of a connection. Some bodies fill many buffers of the service, and some those of the sockets.
    fn of(connection: usize, number: usize) -> Self {
        const BODIES: [Option<usize>; 5] = [None, Some(10), None, Some(5_000), Some(60_000)];
        const RESPONSES: [usize; 7] = [12, 3_000, 0, 70_000, 500, 3_000_000, 9_000];
        const STATUSES: [u16; 3] = [200, 404, 503];
        let place = connection * REQUESTS + number;
        let (status, response_body) = (STATUSES[place % 3], RESPONSES[place % 7]);
        Self {
            target: format!("/{status}/{response_body}/{connection}-{number}"),
            status,
            body: BODIES[place % 5],
            response_body,
        }
    }

    fn method(&self) -> &'static str {
        if self.body.is_some() { "POST" } else { "GET" }
    }

    fn text(&self) -> Vec<u8> {
        let Self { target, body, .. } = self;
        let mut text = format!("{} {target} HTTP/1.1\r\nHost: ring\r\n", self.method());
        if let Some(bytes) = body {
            text += &format!("Content-Length: {bytes}\r\n");
        }
        text += "\r\n";
        let mut text = text.into_bytes();
        text.resize(text.len() + body.unwrap_or(0), b'q');
        text
    }
}

/// A span, without what no two runs have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    service: String,
    kind: Kind,
    method: String,
    target: String,
    status: u16,
    request_body: Option<u64>,
    response_body: Option<u64>,
}

impl Seen {
    fn expected(service: &str, kind: Kind, request: &Request) -> Self {
        Self {
            service: service.to_owned(),
            kind,
            method: request.method().to_owned(),
            target: request.target.clone(),
            status: request.status,
            request_body: request.body.map(|bytes| bytes as u64),
            response_body: Some(request.response_body as u64),
        }
    }

    fn of(span: &Span) -> Self {
        let size = |which: &str| span.attributes.get(&format!("http.{which}.body.size"))?.as_u64();
        Self {
            service: span.service.clone(),
            kind: span.kind,
            method: span.text("http.request.method").unwrap_or_default().to_owned(),
            target: target(span).to_owned(),
            status: span.status().unwrap_or(0),
            request_body: size("request"),
            response_body: size("response"),
        }
    }
}

fn target(span: &Span) -> &str {
    match span.text("url.full") {
        // `http://AUTHORITY/…`.
        Some(url) => url.match_indices('/').nth(2).map_or("", |(path, _)| &url[path..]),
        None => span.text("url.path").unwrap_or_default(),
    }
}

/// Makes all requests of a connection, most of them one by one.
fn ask(address: SocketAddr, connection: usize) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut number = 0;
    while number < REQUESTS {
        let request = Request::of(connection, number);
        let text = request.text();
        let mut asked = vec![request];
        match number % 4 {
            // In pieces: the service waits within the head.
            0 => {
                let (first, second) = text.split_at(20);
                stream.write_all(first)?;
                std::thread::sleep(PAUSE);
                stream.write_all(second)?;
            }
            // Two at once.
            1 if number + 1 < REQUESTS => {
                let next = Request::of(connection, number + 1);
                stream.write_all(&[text, next.text()].concat())?;
                asked.push(next);
            }
            _ => stream.write_all(&text)?,
        }
        for request in &asked {
            take_response(&mut reader, request).with_context(|| request.target.clone())?;
        }
        number += asked.len();
    }
    Ok(())
}

/// Makes all requests of these connections, which are open at the same time.
fn ask_all(address: SocketAddr, connections: Range<usize>) -> Result<()> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = connections
            .map(|connection| scope.spawn(move || ask(address, connection)))
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("a client does not panic"))
    })
}

fn take_response(reader: &mut BufReader<TcpStream>, request: &Request) -> Result<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the connection ended within {head:?}");
    }
    let expected = format!("HTTP/1.1 {} ", request.status);
    ensure!(head.starts_with(&expected), "the response is {head:?}");
    let mut body = vec![0; request.response_body];
    reader.read_exact(&mut body)?;
    Ok(())
}

/// Traces a service on io_uring that serves each request by a call of another one, and compares all spans with the
/// requests.
fn traced(how: &str) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let site = |name, upstream: Option<SocketAddr>| {
        Site::start(name, |_, _| {
            let mut command = Command::new(built::ring()?);
            command.arg(how).args(upstream.map(|address| address.to_string()));
            Ok(command)
        })
    };
    let back = site("back", None)?;
    let front = site("front", Some(back.address))?;
    let recorder = Recorder::start(&[front.selection()?, back.selection()?].concat())?;
    let at_events = recorder.agent.metrics()?.value("spoor_hooks{family=\"sock\"}") == Some(1.0);
    ask_all(front.address, 0..CONNECTIONS)?;
    // The metrics are a second old at most.
    std::thread::sleep(Duration::from_secs(1));
    let metrics = recorder.agent.metrics()?;
    let gaps = metrics.value("spoor_core_total{cause=\"gap_bytes\"}");
    let (spans, said) = recorder.finish()?;
    if !at_events {
        ensure!(
            spans.is_empty(),
            "{} spans of a service whose bytes no system call moves",
            spans.len()
        );
        ensure!(said.contains("uses io_uring"), "the agent said:\n{said}");
        return Ok(());
    }
    ensure!(!said.contains("uses io_uring"), "the agent said:\n{said}");
    check(&spans).with_context(|| {
        let losses = metrics.losses();
        format!("losses: {losses:?}, {gaps:?} bytes in gaps; the agent said:\n{said}")
    })
}

/// Fails unless the spans are those of all requests, and none has a wrong parent.
fn check(spans: &[Span]) -> Result<()> {
    const ENDS: [(&str, Kind); 3] = [("front", Kind::Server), ("front", Kind::Client), ("back", Kind::Server)];
    let requests = (0..CONNECTIONS).flat_map(|connection| (0..REQUESTS).map(move |number| (connection, number)));
    let expected = requests
        .flat_map(|(connection, number)| {
            let request = Request::of(connection, number);
            ENDS.map(|(service, kind)| Seen::expected(service, kind, &request))
        })
        .collect();
    compare(spans, expected)?;
    check_parents(spans)
}

/// Fails unless the spans are these.
fn compare(spans: &[Span], mut expected: Vec<Seen>) -> Result<()> {
    expected.sort();
    let mut seen: Vec<Seen> = spans.iter().map(Seen::of).collect();
    seen.sort();
    let missing: Vec<_> = expected.iter().filter(|one| seen.binary_search(one).is_err()).collect();
    let extra: Vec<_> = seen.iter().filter(|one| expected.binary_search(one).is_err()).collect();
    ensure!(
        seen == expected,
        "{} spans for {} ends; {} missing: {:?}; {} wrong: {:?}",
        seen.len(),
        expected.len(),
        missing.len(),
        &missing[..missing.len().min(5)],
        extra.len(),
        &extra[..extra.len().min(5)]
    );
    Ok(())
}

fn check_parents(spans: &[Span]) -> Result<()> {
    for span in spans {
        let parent = spans.iter().find(|parent| parent.span_id == span.parent_id);
        let (service, kind) = (span.service.as_str(), span.kind);
        let expected = match (service, kind) {
            ("back", _) => Some(("front", Kind::Client)),
            (_, Kind::Client) => Some(("front", Kind::Server)),
            (_, Kind::Server) => None,
        };
        let found = parent.map(|parent| (parent.service.as_str(), parent.kind));
        let is_same = parent.is_none_or(|parent| target(parent) == target(span));
        // No rule is certain for the calls of a loop.
        let may_be_root = kind == Kind::Client && span.parent_id.is_empty();
        ensure!(
            found == expected && is_same || may_be_root,
            "the parent of {span:?} is {parent:?}"
        );
    }
    Ok(())
}

/// The agent sees requests once it knows that a target makes them. Before that, spans may be missing, and none is wrong.
#[test]
#[ignore = "needs root, the agent and io_uring"]
fn a_ring_is_made_while_the_agent_runs() -> Result<()> {
    const FIRST: usize = 4;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut recorder = None;
    let back = Site::start("back", |address, _| {
        recorder = Some(Recorder::start(&[
            format!("--port={}", address.port()),
            "--log-level=debug".to_owned(),
        ])?);
        let mut command = Command::new(built::ring()?);
        command.arg("receive");
        Ok(command)
    })?;
    let recorder = recorder.context("no agent was started")?;
    let at_events = recorder.agent.metrics()?.value("spoor_hooks{family=\"sock\"}") == Some(1.0);
    ask_all(back.address, 0..FIRST)?;
    if at_events {
        let limit = Duration::from_secs(60);
        recorder
            .agent
            .wait_until_said("requests of io_urings are seen from now on", limit)?;
    }
    ask_all(back.address, FIRST..CONNECTIONS)?;
    // The metrics are a second old at most.
    std::thread::sleep(Duration::from_secs(1));
    let metrics = recorder.agent.metrics()?;
    let (spans, said) = recorder.finish()?;
    let expected = |connections: Range<usize>| -> BTreeSet<Seen> {
        let requests = connections.flat_map(|connection| (0..REQUESTS).map(move |number| (connection, number)));
        let seen = |(connection, number)| Seen::expected("back", Kind::Server, &Request::of(connection, number));
        requests.map(seen).collect()
    };
    let seen: BTreeSet<Seen> = spans.iter().map(Seen::of).collect();
    ensure!(seen.len() == spans.len(), "a request has two spans");
    let wrong: Vec<_> = seen.difference(&expected(0..CONNECTIONS)).cloned().collect();
    ensure!(wrong.is_empty(), "wrong: {wrong:?}; the agent said:\n{said}");
    let later = if at_events {
        expected(FIRST..CONNECTIONS)
    } else {
        BTreeSet::new()
    };
    let missing: Vec<_> = later.difference(&seen).cloned().collect();
    ensure!(
        missing.is_empty(),
        "{} spans; losses: {:?}; missing: {missing:?}; the agent said:\n{said}",
        spans.len(),
        metrics.losses()
    );
    Ok(())
}

/// Sends a GET request.
fn send_get(mut stream: &TcpStream, target: String) -> Result<Request> {
    let request = Request {
        target,
        status: 200,
        body: None,
        response_body: 12,
    };
    stream.write_all(&request.text())?;
    Ok(request)
}

/// A service waits for the next request of idle connections, while it serves more others than the kernel side has room for
/// requests that wait.
#[test]
#[ignore = "needs root, the agent and io_uring"]
fn connections_are_idle_while_many_others_pass() -> Result<()> {
    const IDLE: usize = 50;
    const OTHERS: usize = 20_000;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let back = Site::start("back", |_, _| {
        let mut command = Command::new(built::ring()?);
        command.arg("receive");
        Ok(command)
    })?;
    let recorder = Recorder::start(&back.selection()?)?;
    let at_events = recorder.agent.metrics()?.value("spoor_hooks{family=\"sock\"}") == Some(1.0);
    let mut asked = Vec::new();
    let mut idle = Vec::new();
    for number in 0..IDLE {
        let mut stream = BufReader::new(TcpStream::connect(back.address)?);
        let request = send_get(stream.get_ref(), format!("/200/12/first-{number}"))?;
        take_response(&mut stream, &request)?;
        asked.push(request);
        idle.push(stream);
    }
    for number in 0..OTHERS {
        let stream = TcpStream::connect(back.address)?;
        asked.push(send_get(&stream, format!("/200/12/other-{number}"))?);
        // What is not read resets the connection, so that its local port is free again.
        stream.peek(&mut [0])?;
    }
    for (number, mut stream) in idle.into_iter().enumerate() {
        let request = send_get(stream.get_ref(), format!("/200/12/second-{number}"))?;
        take_response(&mut stream, &request)?;
        asked.push(request);
    }
    // The metrics are a second old at most.
    std::thread::sleep(Duration::from_secs(1));
    let metrics = recorder.agent.metrics()?;
    let (spans, said) = recorder.finish()?;
    if !at_events {
        asked.clear();
    }
    let seen = |request| Seen::expected("back", Kind::Server, request);
    compare(&spans, asked.iter().map(seen).collect())
        .with_context(|| format!("losses: {:?}; the agent said:\n{said}", metrics.losses()))
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn receives_and_sends() -> Result<()> {
    traced("receive")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn receives_after_waiting() -> Result<()> {
    traced("poll-first")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn a_thread_of_the_kernel_submits() -> Result<()> {
    traced("polled")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn reads_and_writes() -> Result<()> {
    traced("read")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn receives_into_provided_buffers() -> Result<()> {
    traced("multishot")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn reads_into_provided_buffers() -> Result<()> {
    traced("multishot-read")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn requests_are_linked() -> Result<()> {
    traced("linked")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn workers_carry_requests_out() -> Result<()> {
    traced("worker")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn requests_are_carried_out_behind_calls_on_the_same_socket() -> Result<()> {
    traced("peeking")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn requests_are_carried_out_behind_interrupts() -> Result<()> {
    traced("computing")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn requests_beside_others_are_cancelled() -> Result<()> {
    traced("cancelling")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn requests_end_without_a_completion() -> Result<()> {
    traced("silent")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn sends_messages_without_a_copy() -> Result<()> {
    traced("zero-copy")
}

#[test]
#[ignore = "needs root, the agent and io_uring"]
fn tokio_uring() -> Result<()> {
    traced("tokio")
}
