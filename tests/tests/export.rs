//! Spans at a real OpenTelemetry Collector: by each protocol, over TLS, and after it moved to another address.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use spoor_tests::{
    agent::{self, Agent, Tape},
    collector::{Authority, Collector, plain_spans},
    compare::{Expectation, compare},
    net, otlp,
    services::{Server, Service},
    truth::Event,
};

const REQUESTS: usize = 50;

fn ask(service: &Service, first: usize, count: usize) -> Result<()> {
    for number in first..first + count {
        let id = format!("export-{number}");
        let status = net::get(service.address, &format!("/item/{number}"), &[("x-request-id", &id)])?;
        ensure!(status == 200, "status {status}");
    }
    Ok(())
}

/// Waits until all answered requests are logged: nginx logs a little later.
fn logged(services: &[&Service], count: usize) -> Result<Vec<Event>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut events = Vec::new();
        for service in services {
            events.extend(service.truth()?);
        }
        if events.len() >= count || Instant::now() > deadline {
            ensure!(events.len() == count, "{} of {count} ends were logged", events.len());
            return Ok(events);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Compares the spans of one tape in the agent's file with the Collector's output, field by field: by gRPC with a
/// client certificate and by HTTP as protobuf and as JSON, all over TLS with gzip.
#[test]
#[ignore = "needs root, the services and the Collector"]
fn a_collector_gets_every_field_of_every_span() -> Result<()> {
    let back = Service::start(Server::NginxStatic, "back", &[])?;
    let upstream = back.address;
    let front = Service::start(
        Server::NginxProxy {
            upstream,
            keepalive: false,
        },
        "front",
        &[],
    )?;
    let selection = [front.selection()?, back.selection()?].concat();
    let tape = Tape::record(&selection)?;
    ask(&front, 0, REQUESTS)?;
    logged(&[&front, &back], 3 * REQUESTS)?;
    let (tape, said) = tape.finish()?;
    let (written, spans) = tape.replay()?;
    ensure!(
        spans.len() == 3 * REQUESTS,
        "{} spans; the agent said:\n{said}",
        spans.len()
    );
    ensure!(
        spans.iter().filter(|span| span.parent_id.is_empty()).count() == REQUESTS,
        "a parent is missing"
    );
    let expected = plain_spans(std::str::from_utf8(&written)?)?;

    let authority = Authority::new(&["localhost"])?;
    let ports = (net::free_address().port(), net::free_address().port());
    let collector = Collector::start(Ipv4Addr::LOCALHOST.into(), ports, &authority)?;
    for (protocol, port, trusted) in [
        ("grpc", collector.grpc.port(), "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        (
            "http/protobuf",
            collector.http.port(),
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        ),
        // The certificates that the system trusts.
        ("http/json", collector.http.port(), "SSL_CERT_FILE"),
    ] {
        let said = tape.export(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("https://localhost:{port}")),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            (trusted, &authority.file("ca.pem")),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &authority.file("agent.pem")),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &authority.file("agent.key")),
        ])?;
        let got = plain_spans(&collector.take_written()?)?;
        ensure!(
            got.len() == expected.len(),
            "{protocol}: {} spans; the agent said:\n{said}",
            got.len()
        );
        for (got, expected) in got.iter().zip(&expected) {
            ensure!(got == expected, "{protocol}:\n{got:#}\nis not\n{expected:#}");
        }
    }
    Ok(())
}

/// Kills the Collector while requests continue, and starts another one at another address of the same name: each span
/// arrives at exactly one of the two.
#[test]
#[ignore = "needs root, the services and the Collector"]
fn a_collector_that_comes_back_at_another_address_gets_the_rest() -> Result<()> {
    const NAME: &str = "collector.test";
    let authority = Authority::new(&[NAME])?;
    let (grpc, http) = (net::free_address().port(), net::free_address().port());
    let [before, after] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)].map(IpAddr::V4);
    let directory = tempfile::tempdir()?;
    let hosts = directory.path().join("hosts");
    let service = Service::start(Server::NginxStatic, "leaf", &[])?;

    for (protocol, port) in [("grpc", grpc), ("http/protobuf", http)] {
        let events_before = service.truth()?.len();
        let first = Collector::start(before, (grpc, http), &authority)?;
        fs::write(&hosts, format!("{before} {NAME}\n"))?;
        let mut command = with_hosts(&hosts)?;
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://{NAME}:{port}"))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.file("ca.pem"))
            .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", authority.file("agent.pem"))
            .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", authority.file("agent.key"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "100");
        let agent = Agent::start_as(command, &service.selection()?, "otlp", Stdio::null())?;
        ask(&service, 0, REQUESTS)?;
        wait_until("the first spans", || Ok(first.spans()? == REQUESTS))?;
        let (kept, first) = first.kill();

        ask(&service, REQUESTS, REQUESTS)?;
        wait_until("the agent to miss it", || Ok(agent.said().contains("cannot be sent")))?;
        // Written in place: a mount shows the same file.
        fs::write(&hosts, format!("{after} {NAME}\n"))?;
        let second = Collector::start(after, (grpc, http), &authority)?;
        ask(&service, 2 * REQUESTS, REQUESTS)?;
        wait_until("the other spans", || Ok(second.spans()? >= 2 * REQUESTS))?;
        let metrics = agent.metrics()?;
        let exported = metrics.value("spoor_spans_exported_total");
        ensure!(
            exported == Some(3.0 * REQUESTS as f64),
            "{protocol}: {exported:?} exported"
        );
        let said = agent.finish()?;
        let (also_kept, second) = second.kill();

        let events = logged(&[&service], events_before + 3 * REQUESTS)?.split_off(events_before);
        let spans = [otlp::read(&first)?, otlp::read(&second)?].concat();
        let report = compare(
            &events,
            &spans,
            &Expectation {
                titled: ["leaf".to_owned()].into(),
                ..Expectation::default()
            },
        );
        ensure!(
            report.differences.is_empty(),
            "{protocol}: {report}\nthe agent said:\n{said}"
        );
        drop((kept, also_kept));
    }
    Ok(())
}

/// Sends hundreds of spans to a collector that accepts ten a second: the oldest are dropped and counted, and the log
/// has exactly two lines, at the beginning and at the end.
#[test]
#[ignore = "needs root, and the services"]
fn a_collector_that_is_too_slow_is_told_twice() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    // Ends with the test's process: it waits for a connection that does not come.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The agent may end its connections in any way.
            drop(take_slowly(stream));
        }
    });
    let service = Service::start(Server::NginxStatic, "leaf", &[])?;
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "20"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
    ];
    let agent = Agent::start(&service.selection()?, "otlp", &environment, Stdio::null())?;
    ask(&service, 0, 6 * REQUESTS)?;
    let value = |name: &str| Ok::<_, anyhow::Error>(agent.metrics()?.value(name).unwrap_or_default());
    wait_until("the queue to be empty", || {
        let told = value("spoor_spans_exported_total")? + value("spoor_spans_dropped_total{cause=\"queue_spans\"}")?;
        Ok(told == 6.0 * REQUESTS as f64)
    })?;
    let dropped = value("spoor_spans_dropped_total{cause=\"queue_spans\"}")?;
    ensure!(dropped > 0.0, "nothing was dropped");
    let said = agent.finish()?;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("WARN")).collect();
    let [begins, ends] = lines[..] else {
        anyhow::bail!("{} warnings instead of two:\n{said}", lines.len());
    };
    ensure!(
        begins.contains("spans are dropped, the oldest first: the queue is full (20 spans, ")
            && begins.contains("mend that, or raise"),
        "{begins}"
    );
    ensure!(
        ends.contains(&format!("dropping is over: {dropped} spans were lost within ")),
        "{dropped} were dropped: {ends}"
    );
    Ok(())
}

/// Answers each request after a second.
fn take_slowly(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut body_bytes = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("content-length:") {
                body_bytes = bytes.trim().parse().map_err(std::io::Error::other)?;
            }
            if line.is_empty() {
                break;
            }
        }
        std::io::copy(&mut (&mut reader).take(body_bytes), &mut std::io::sink())?;
        std::thread::sleep(Duration::from_secs(1));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// Returns the command of an agent with `hosts` in place of `/etc/hosts`.
fn with_hosts(hosts: &Path) -> Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    command.arg(hosts).arg(agent::binary()?);
    Ok(command)
}

fn wait_until(what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !there()? {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
