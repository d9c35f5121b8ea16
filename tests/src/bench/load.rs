//! Load that takes processes of its own: servers and clients of tens of thousands of connections that stay open, clients
//! whose connections do not, and somebody who starts processes. Each is this program in a role.

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

/// Longest message.
const MESSAGE_BYTES: usize = 1024;

/// Addresses that connections come from in turn: each has some 28,000 ports, and a port rests for a minute.
const SOURCES: u64 = 16;

/// Connections of the churn at one time: with 1,000 a second, a machine that keeps up has a few.
const MOST_AT_A_TIME: u64 = 1000;

/// How often more connections are begun, or processes.
const BEAT: Duration = Duration::from_millis(10);

/// Connections that stay open.
#[derive(Clone, Debug, clap::Args)]
pub struct Keep {
    /// Where the server listens
    server: SocketAddr,
    /// Where the connections come from
    source: Ipv4Addr,
    /// How many
    count: usize,
}

/// Connections that are opened, used for one request, and closed.
#[derive(Clone, Debug, clap::Args)]
pub struct Churn {
    /// Where the server listens
    server: SocketAddr,
    /// How many a second
    rate: f64,
}

/// Answers requests on any number of connections; says `ready` when it listens.
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
                // A client that goes away ends its connection as it likes.
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

/// Opens connections, makes one request on each, says `open`, and keeps them until its input ends.
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

/// Makes requests, each on a connection of its own, until its input ends; tells how many it made, and how many failed, when
/// it is asked.
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
            // A machine that is too slow makes fewer, not ever more at a time.
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

/// Starts `true` this often in a second, until its input ends; tells how often when it is asked.
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

/// What was done and what failed so far, told for each line of the input. The process ends with its input.
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

/// One request and its response on a new connection.
async fn exchange(source: IpAddr, server: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // A port of a connection that has ended is as good.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(source, 0))?;
    let stream = socket.connect(server).await?;
    write(&stream, REQUEST).await?;
    ensure!(read(&stream).await?, "the server closed the connection");
    Ok(stream)
}

/// Reads a message, which comes whole; false: the other end has closed.
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

/// Writes a message: the socket's buffer is empty, and larger.
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

/// As many open files as are allowed.
fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}
