//! Cost of a large body: the calls inside it, and its records in the ring.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, ExitCode},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use spoor::probe::reference;
use spoor_tests::{
    net::{free_address, wait_accepting},
    process::Process,
};

use super::{
    Options,
    agent::{Agent, SELECTION_TIME},
    proc,
    report::{Bar, Bound, Table, median, progress},
    rig::{Rig, Side},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bytes of one write(2) of the server.
const WRITE_BYTES: usize = 64 * 1024;
/// Time that the agent may need to count the records in the ring.
const COUNTING_TIME: Duration = Duration::from_millis(1500);

/// Fetches 1 MiB and 1 GiB from a traced server, and 1 GiB from an untraced one. The latter gives the cost of a run
/// that finds no target, which is subtracted for each call of the client.
pub fn run(rig: &Rig, options: Options) -> Result<Vec<Bar>> {
    let _statistics = reference::enable_run_statistics()?;
    let (plain, traced) = (Server::start(rig, Side::Plain)?, Server::start(rig, Side::Traced)?);
    let agent = rig.agent()?;
    sleep(SELECTION_TIME);
    let mut plain_stream = connect(&plain)?;
    let mut traced_stream = connect(&traced)?;

    let (mut call_ns, mut passed_over_call_ns) = (Vec::new(), Vec::new());
    let (mut small, mut large) = (Vec::new(), Vec::new());
    let count = options.rounds(5);
    for round in 0..count {
        progress(round, count);
        let passed_over = fetch(&agent, &plain, &mut plain_stream, GIB)?;
        let passed_over_ns = passed_over.run_ns / passed_over.runs;
        small.push(fetch(&agent, &traced, &mut traced_stream, MIB)?);
        let big = fetch(&agent, &traced, &mut traced_stream, GIB)?;
        call_ns.push((big.run_ns - big.client_calls * passed_over_ns) / big.server_calls);
        passed_over_call_ns.push(passed_over_ns);
        large.push(big);
    }
    agent.finish()?;

    let of = |fetches: &[Fetch], value: fn(&Fetch) -> f64| fetches.iter().map(value).collect::<Vec<_>>();
    let mut table = Table::new(&["", "median", "least", "greatest"]);
    table.series("a run that finds no target, ns", &passed_over_call_ns);
    table.series("a call inside the body, ns", &call_ns);
    for (name, fetches) in [("1 MiB", &small), ("1 GiB", &large)] {
        table.series(
            &format!("{name}: calls of the server"),
            &of(fetches, |fetch| fetch.server_calls),
        );
        table.series(
            &format!("{name}: records in the ring"),
            &of(fetches, |fetch| fetch.records),
        );
        table.series(
            &format!("{name}: bytes in the ring"),
            &of(fetches, |fetch| fetch.ring_bytes),
        );
    }
    println!("{table}");
    let growth = |value: fn(&Fetch) -> f64| median(&of(&large, value)) / median(&of(&small, value));
    Ok(vec![
        Bar::new(
            "kernel --body: ns a call inside a body",
            Bound::AtMost(250.0),
            Bound::AtMost(150.0),
            median(&call_ns),
        ),
        Bar::new(
            "kernel --body: records, 1 GiB / 1 MiB",
            Bound::AtMost(2.0),
            Bound::AtMost(1.1),
            growth(|fetch| fetch.records),
        ),
        Bar::new(
            "kernel --body: ring bytes, 1 GiB / 1 MiB",
            Bound::AtMost(2.0),
            Bound::AtMost(1.1),
            growth(|fetch| fetch.ring_bytes),
        ),
    ])
}

/// Cost of one response.
struct Fetch {
    runs: f64,
    run_ns: f64,
    client_calls: f64,
    server_calls: f64,
    /// Records; NaN if the agent does not report them.
    records: f64,
    /// Bytes in the ring; NaN if the agent does not report them.
    ring_bytes: f64,
}

fn fetch(agent: &Agent, server: &Server, stream: &mut BufReader<TcpStream>, bytes: u64) -> Result<Fetch> {
    let ring = || -> Result<[f64; 2]> {
        let metrics = agent.metrics()?;
        Ok(["spoor_ring_records_total", "spoor_ring_bytes_total"].map(|name| metrics.sum(name).unwrap_or(f64::NAN)))
    };
    let ring_before = ring()?;
    let server_before = proc::read_write_calls(server.process.id())?;
    let before = agent.objects()?;
    let client_calls = request(stream, bytes)?;
    let after = agent.objects()?;
    let server_after = proc::read_write_calls(server.process.id())?;
    sleep(COUNTING_TIME);
    let ring_after = ring()?;
    Ok(Fetch {
        runs: (after.runs - before.runs) as f64,
        run_ns: (after.run_ns - before.run_ns) as f64,
        client_calls: client_calls as f64,
        server_calls: (server_after - server_before) as f64,
        records: ring_after[0] - ring_before[0],
        ring_bytes: ring_after[1] - ring_before[1],
    })
}

/// Requests a body and reads it; returns the number of calls on the socket.
fn request(stream: &mut BufReader<TcpStream>, bytes: u64) -> Result<u64> {
    stream
        .get_mut()
        .write_all(format!("GET /{bytes} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
    // The server writes the head by itself and waits for the client: one read.
    skip_head(stream)?;
    let mut calls = 2;
    let buffered = stream.buffer().len();
    stream.consume(buffered);
    let mut left = bytes - buffered as u64;
    let mut buffer = vec![0; MIB as usize];
    while left > 0 {
        let most = buffer.len().min(left as usize);
        let read = stream.get_mut().read(&mut buffer[..most])?;
        ensure!(read > 0, "the server closed the connection with {left} bytes to come");
        left -= read as u64;
        calls += 1;
    }
    Ok(calls)
}

fn connect(server: &Server) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = BufReader::new(stream);
    // A first response, after which the programs know the connection.
    request(&mut stream, MIB)?;
    Ok(stream)
}

struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(rig: &Rig, side: Side) -> Result<Self> {
        let this = std::env::current_exe().context("cannot tell where this program is")?;
        let program = rig.program(side, "body-server", &this)?;
        let address = free_address();
        let mut command = Command::new(program);
        command.args(["body-server", &address.to_string()]);
        let mut process = Process::start("the server of large bodies", command, &rig.path().join("body.log"))?;
        wait_accepting(address, &mut process)?;
        Ok(Self { process, address })
    }
}

/// Serves a body of N bytes for `GET /N`, by write(2) of 64 KiB each.
pub fn serve(address: SocketAddr) -> Result<ExitCode> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            // Some clients only test whether the server listens, and close.
            if let Err(error) = respond(stream) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn respond(stream: TcpStream) -> Result<()> {
    // A `File` writes by write(2), a stream by sendto(2).
    let mut output = File::from(OwnedFd::from(stream.try_clone()?));
    let mut input = BufReader::new(stream);
    let chunk = vec![b'x'; WRITE_BYTES];
    loop {
        let line = read_line(&mut input)?;
        if line.is_empty() {
            return Ok(());
        }
        let mut left: u64 = requested(&line).with_context(|| format!("no size in {line:?}"))?;
        skip_head(&mut input)?;
        output.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes())?;
        while left > 0 {
            let most = chunk.len().min(usize::try_from(left)?);
            output.write_all(&chunk[..most])?;
            left -= most as u64;
        }
    }
}

fn requested(line: &str) -> Option<u64> {
    line.strip_prefix("GET /")?.split(' ').next()?.parse().ok()
}

fn skip_head(stream: &mut BufReader<TcpStream>) -> Result<()> {
    loop {
        match read_line(stream)?.as_str() {
            "\r\n" => return Ok(()),
            "" => bail!("the connection was closed within a head"),
            _ => {}
        }
    }
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines() {
        assert_eq!(requested("GET /1048576 HTTP/1.1\r\n"), Some(MIB));
        assert_eq!(requested("GET / HTTP/1.1\r\n"), None);
    }

    #[test]
    fn bodies_on_one_connection() {
        let address = free_address();
        std::thread::spawn(move || serve(address));
        let stream = std::iter::repeat_with(|| TcpStream::connect(address)).find_map(Result::ok);
        let mut stream = BufReader::new(stream.unwrap());
        for bytes in [1, MIB + 3, 5] {
            assert!(request(&mut stream, bytes).unwrap() >= 2);
        }
        assert!(stream.buffer().is_empty());
    }
}
