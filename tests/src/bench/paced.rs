//! Load at a fixed rate, from a process of its own. Each request has a time at which it is to be sent, whatever happened
//! before (an open loop), and its latency counts from that time: a server that stalls delays all requests that are due
//! meanwhile, and they all count. A client that waits for a late response before it takes the next request's time would
//! hide them.

use std::{
    io::{BufRead as _, ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{prctl::set_timerslack, time::TimeSpec},
};
use spoor_tests::http::Client;

use super::{
    report::quantile,
    rig::{Rig, Side},
    role::Role,
    setup::Answered,
};

/// Number of connections, as many as wrk's.
const CONNECTIONS: u32 = 16;
/// Time between the start and the first request.
const LEAD: Duration = Duration::from_millis(20);
/// Time limit of what is left when the time is over: a rate that is too high leaves more.
const LIMIT: Duration = Duration::from_secs(2);

/// A process that makes the load. It is never traced.
pub struct Paced(Role);

/// Result of a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latencies {
    /// Number of responses, those that open the connections included.
    pub made: u64,
    /// Responses a second, from the time at which the first request was due to the last response.
    pub rate: f64,
    /// Median of the latencies, in µs.
    pub p50_us: f64,
    /// Latency that 99 % do not exceed, in µs.
    pub p99_us: f64,
    /// Latency that 99.9 % do not exceed, in µs.
    pub p999_us: f64,
}

impl Answered for Latencies {
    fn responses(&self) -> u64 {
        self.made
    }
}

impl Paced {
    /// Starts the process.
    pub fn start(rig: &Rig) -> Result<Self> {
        Ok(Self(rig.role(Side::Plain, &["paced-client"])?))
    }

    /// Makes this many requests a second for a time, on new connections.
    ///
    /// # Errors
    /// If a response is missing or wrong, or if the server or this machine is too slow for the rate.
    pub fn run(&mut self, address: SocketAddr, rate: f64, time: Duration) -> Result<Latencies> {
        let line = self.0.ask(&format!("{address} {rate} {}", time.as_secs_f64()))?;
        let values: Vec<f64> = line
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [made, rate, p50_us, p99_us, p999_us] = values[..] else {
            anyhow::bail!("the load of {rate}/s failed: {}", line.trim());
        };
        Ok(Latencies {
            made: made as u64,
            rate,
            p50_us,
            p99_us,
            p999_us,
        })
    }
}

/// Runs the process itself: for each line `ADDRESS RATE SECONDS`, it prints the number of responses, their rate, and the
/// latencies.
pub fn play() -> Result<ExitCode> {
    // The kernel's default is to wake a thread up to 50 µs late.
    set_timerslack(1).context("cannot ask for exact timers")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match load(&line) {
            Ok((ns, time)) => {
                let made = ns.len() + CONNECTIONS as usize;
                let rate = ns.len() as f64 / time.as_secs_f64();
                let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| quantile(&ns, share) / 1e3);
                println!("{made} {rate} {p50} {p99} {p999}");
            }
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the load of a line. Returns the latencies in ns, and the time that it took.
fn load(line: &str) -> Result<(Vec<f64>, Duration)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [address, rate, seconds] = words[..] else {
        anyhow::bail!("no load: {line:?}");
    };
    let (address, rate, seconds) = (address.parse()?, rate.parse::<f64>()?, seconds.parse::<f64>()?);
    let connections = (0..CONNECTIONS).map(|number| Connection::open(address, number));
    let mut connections: Vec<Connection> = connections.collect::<Result<_>>()?;
    let schedule = Schedule {
        start: Instant::now() + LEAD,
        rate,
        requests: (rate * seconds) as u32,
    };
    let end = schedule.due(schedule.requests) + LIMIT;
    let mut ns = Vec::with_capacity(schedule.requests as usize);
    let mut buffer = vec![0; 64 * 1024];
    while ns.len() < schedule.requests as usize {
        let now = Instant::now();
        ensure!(
            now < end,
            "{} responses of {} came in time",
            ns.len(),
            schedule.requests
        );
        for connection in &mut connections {
            connection.send(&schedule, now)?;
        }
        let next = connections.iter().filter_map(|connection| connection.next(&schedule));
        for index in wait(&connections, next.min().unwrap_or(end))? {
            let latency = connections[index].receive(&mut buffer)?;
            ns.extend(latency.map(|latency| latency.as_nanos() as f64));
        }
    }
    Ok((ns, schedule.start.elapsed()))
}

/// Waits until a response comes, or until this time. Returns the connections that have something to read.
fn wait(connections: &[Connection], until: Instant) -> Result<Vec<usize>> {
    let (waiting, mut sockets): (Vec<usize>, Vec<PollFd>) = connections
        .iter()
        .enumerate()
        .filter(|(_, connection)| connection.intended.is_some())
        .map(|(index, connection)| (index, PollFd::new(connection.client.stream.as_fd(), PollFlags::POLLIN)))
        .unzip();
    let time = until.saturating_duration_since(Instant::now());
    ppoll(&mut sockets, Some(TimeSpec::from_duration(time)), None).context("cannot wait")?;
    let is_ready = |socket: &PollFd| socket.any().unwrap_or(false);
    let ready = waiting.into_iter().zip(&sockets).filter(|(_, socket)| is_ready(socket));
    Ok(ready.map(|(index, _)| index).collect())
}

/// Times at which requests are to be sent: evenly, and of each connection in turn.
struct Schedule {
    start: Instant,
    /// Requests a second.
    rate: f64,
    /// Number of requests.
    requests: u32,
}

impl Schedule {
    fn due(&self, request: u32) -> Instant {
        self.start + Duration::from_secs_f64(f64::from(request) / self.rate)
    }
}

/// A connection with at most one open request.
struct Connection {
    client: Client,
    /// Number of its next request.
    next: u32,
    /// Time at which the open request was to be sent, if there is one.
    intended: Option<Instant>,
    /// Bytes of its response that were read.
    read: usize,
}

impl Connection {
    fn open(address: SocketAddr, number: u32) -> Result<Self> {
        let client = Client::connect(address, "/")?;
        client.stream.set_nonblocking(true)?;
        Ok(Self {
            client,
            next: number,
            intended: None,
            read: 0,
        })
    }

    /// Returns the time of its next request. With an open one, the response decides.
    fn next(&self, schedule: &Schedule) -> Option<Instant> {
        let is_idle = self.intended.is_none() && self.next < schedule.requests;
        is_idle.then(|| schedule.due(self.next))
    }

    /// Sends the next request if it is due.
    fn send(&mut self, schedule: &Schedule, now: Instant) -> Result<()> {
        let Some(due) = self.next(schedule).filter(|due| *due <= now) else {
            return Ok(());
        };
        let sent = self
            .client
            .stream
            .write(&self.client.request)
            .context("cannot send a request")?;
        // The socket's buffer is empty, so a small request has room.
        ensure!(sent == self.client.request.len(), "sent {sent} bytes of a request");
        self.intended = Some(due);
        self.next += CONNECTIONS;
        Ok(())
    }

    /// Reads what has come. Returns the latency of a response that is complete.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Duration>> {
        let Some(intended) = self.intended else {
            return Ok(None);
        };
        let read = match self.client.stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            read => read.context("cannot read a response")?,
        };
        ensure!(read > 0, "the server closed a connection");
        ensure!(
            self.read > 0 || buffer.starts_with(b"HTTP/1.1 200 "),
            "a response that is not 200: {:?}",
            String::from_utf8_lossy(&buffer[..read.min(80)])
        );
        self.read += read;
        let wanted = self.client.response_bytes;
        ensure!(self.read <= wanted, "{} bytes of a response of {wanted}", self.read);
        if self.read < wanted {
            return Ok(None);
        }
        self.read = 0;
        self.intended = None;
        Ok(Some(intended.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Serves each connection of a listener in a thread: a response for each request.
    fn serve(listener: TcpListener, delay: Duration) {
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                        thread::sleep(delay);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                });
            }
        });
    }

    #[test]
    fn requests_that_are_late_count_from_their_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, Duration::from_millis(20));
        // Each connection has a request every 10 ms, and a response takes 20: the last of five is 60 ms late.
        let (ns, time) = load(&format!("{address} 1600 0.05")).unwrap();
        assert_eq!(ns.len(), 80);
        assert!(time >= Duration::from_millis(98), "{time:?}");
        assert!(quantile(&ns, 0.01) >= 20e6 && quantile(&ns, 1.0) >= 58e6, "{ns:?}");
    }
}
