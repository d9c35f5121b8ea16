//! Load from processes of their own: servers and clients of tens of thousands of open connections, clients of short
//! connections, and a process that starts processes. Each is this program in a role.

use std::{
    io::{self, BufRead as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{sleep, spawn as thread},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const REQUEST: &[u8] = b"GET /keep HTTP/1.1\r\nHost: bench\r\nUser-Agent: spoor-bench\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";

/// Upper bound of a message, in bytes.
const MESSAGE_BYTES: usize = 1024;

/// Number of source addresses, used in turn: each has about 28,000 ports, and a closed port rests for a minute.
const SOURCES: u64 = 16;

/// Upper bound of the open connections of the churn. A fast machine has a few at 1,000 new ones a second.
const MOST_AT_A_TIME: u64 = 1000;

/// Interval in which new connections or processes are started.
const BEAT: Duration = Duration::from_millis(10);

/// Arguments of a client whose connections stay open.
#[derive(Clone, Debug, clap::Args)]
pub struct Keep {
    /// Where the server listens
    server: SocketAddr,
    /// Where the connections come from
    source: Ipv4Addr,
    /// How many
    count: usize,
}

/// Arguments of a client that opens a connection for each request.
#[derive(Clone, Debug, clap::Args)]
pub struct Churn {
    /// Where the server listens
    server: SocketAddr,
    /// How many a second
    rate: f64,
}

/// Answers requests on any number of connections; prints `ready` when it listens.
pub fn serve(address: SocketAddr) -> Result<ExitCode> {
    raise_limit()?;
    runtime()?.block_on(async {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        println!("ready");
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept a connection")?;
            tokio::spawn(async move {
                // A client may close its connection at any time.
                let _ = answer(&stream).await;
            });
        }
    })
}

async fn answer(stream: &TcpStream) -> io::Result<()> {
    while read(stream).await? {
        write(stream, RESPONSE).await?;
    }
    Ok(())
}

/// Opens connections, makes one request on each, prints `open`, and keeps them until its input ends.
pub fn keep(keep: &Keep) -> Result<ExitCode> {
    raise_limit()?;
    let source = keep.source.into();
    let runtime = runtime()?;
    let open = runtime.block_on(async {
        let mut open = Vec::with_capacity(keep.count);
        for _ in 0..keep.count {
            open.push(exchange(source, keep.server).await.context("cannot make a request")?);
        }
        anyhow::Ok(open)
    })?;
    println!("open");
    for line in io::stdin().lock().lines() {
        line?;
    }
    drop(open);
    Ok(ExitCode::SUCCESS)
}

/// Makes requests, each on a connection of its own, until its input ends. Prints the numbers of requests and of
/// failures for each line of input.
pub fn churn(churn: &Churn) -> Result<ExitCode> {
    raise_limit()?;
    let Churn { server, rate } = *churn;
    let counts = tell_counts();
    runtime()?.block_on(async {
        let begin = Instant::now();
        let mut begun = 0u64;
        loop {
            tokio::time::sleep(BEAT).await;
            let over = || counts.iter().map(|count| count.load(Relaxed)).sum::<u64>();
            // A machine that is too slow makes fewer requests, not ever more at a time.
            while (begun as f64) < begin.elapsed().as_secs_f64() * rate && begun - over() < MOST_AT_A_TIME {
                let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + (begun % SOURCES) as u32);
                begun += 1;
                let counts = Arc::clone(&counts);
                tokio::spawn(async move {
                    let outcome = exchange(source.into(), server).await;
                    if let Err(error) = &outcome {
                        eprintln!("a connection from {source}: {error:#}");
                    }
                    counts[usize::from(outcome.is_err())].fetch_add(1, Relaxed);
                });
            }
        }
    })
}

/// Starts `true` this often a second, until its input ends. Prints the number of starts for each line of input.
pub fn spawn(rate: f64) -> Result<ExitCode> {
    let counts = tell_counts();
    let begin = Instant::now();
    let mut begun = 0u64;
    loop {
        sleep(BEAT);
        while (begun as f64) < begin.elapsed().as_secs_f64() * rate {
            begun += 1;
            let status = Command::new("true").stdin(Stdio::null()).status();
            counts[usize::from(!status.is_ok_and(|status| status.success()))].fetch_add(1, Relaxed);
        }
    }
}

/// Prints the counts of successes and failures for each line of the input. The process ends with its input.
fn tell_counts() -> Arc<[AtomicU64; 2]> {
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let told = Arc::clone(&counts);
    thread(move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            println!("{} {}", told[0].load(Relaxed), told[1].load(Relaxed));
        }
        std::process::exit(0);
    });
    counts
}

/// Makes one request on a new connection and reads the response.
async fn exchange(source: IpAddr, server: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // A port in TIME_WAIT can be used again.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(source, 0))?;
    let stream = socket.connect(server).await?;
    write(&stream, REQUEST).await?;
    ensure!(read(&stream).await?, "the server closed the connection");
    Ok(stream)
}

/// Reads a whole message. Returns false if the other end has closed.
async fn read(stream: &TcpStream) -> io::Result<bool> {
    loop {
        stream.readable().await?;
        let mut message = [0; MESSAGE_BYTES];
        match stream.try_read(&mut message) {
            Ok(bytes) => return Ok(bytes > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a message, which fits into the socket's empty buffer.
async fn write(stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    loop {
        stream.writable().await?;
        match stream.try_write(message) {
            Ok(bytes) if bytes == message.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

/// Raises the limit of open files to the allowed maximum.
fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}
