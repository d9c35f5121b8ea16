//! Cost of system calls in a process: it makes them in a loop and prints the time of each.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    io::{BufRead as _, Read as _, Seek as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

use super::{
    rig::{Rig, Side},
    role::Role,
};

/// Number of batches for one question.
const BATCHES: usize = 40;
/// Calls between two readings of the clock.
const CALLS: usize = 10_000;
/// Pairs of send and receive between two readings of the clock: one takes as long as dozens of short calls.
const PAIRS: usize = 1_000;
/// Size of each read and write of the file, in bytes.
const BLOCK_BYTES: usize = 4096;
/// Size of what is sent, in bytes.
const MESSAGE_BYTES: usize = 64;
/// Length of the file in blocks. It stays in the page cache.
const BLOCKS: usize = 1024;

/// Time of one call by kind, in ns: CPU time of the thread. The least of several batches, because that is the cost
/// without disturbance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// read(2) of one byte of /dev/zero, which is hooked.
    pub read: f64,
    /// getppid(2), which is not hooked.
    pub other: f64,
    /// A send(2) and the recv(2) of its bytes, on the two ends of a TCP connection.
    pub pair: f64,
    /// read(2) of 4 KiB of a file in the page cache.
    pub file_read: f64,
    /// write(2) of 4 KiB to a file.
    pub file_write: f64,
}

/// A process that makes calls on request.
pub struct Caller(Role);

impl Caller {
    /// Starts the process.
    pub fn start(rig: &Rig, side: Side) -> Result<Self> {
        let file = rig.path().join(format!("{side:?}.blocks"));
        let file = file.to_str().context("the folder's name is no UTF-8")?;
        Ok(Self(rig.role(side, &["calls", file])?))
    }

    /// Measures the current cost of its calls.
    pub fn cost(&mut self) -> Result<Cost> {
        let line = self.0.ask("go")?;
        let mut values = line.split_ascii_whitespace().map(str::parse::<f64>);
        let mut next = || {
            values
                .next()
                .with_context(|| format!("it said {line:?}"))?
                .context("no number")
        };
        Ok(Cost {
            read: next()?,
            other: next()?,
            pair: next()?,
            file_read: next()?,
            file_write: next()?,
        })
    }
}

/// Runs the process itself.
pub fn run(path: &Path) -> Result<ExitCode> {
    let mut zero = File::open("/dev/zero").context("cannot open /dev/zero")?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    let mut block = [0; BLOCK_BYTES];
    for _ in 0..BLOCKS {
        file.write_all(&block)?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_nodelay(true)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let read = least(CALLS, |_| Ok(zero.read_exact(&mut [0])?))?;
        let other = least(CALLS, |_| {
            black_box(std::os::unix::process::parent_id());
            Ok(())
        })?;
        let pair = least(PAIRS, |_| {
            sender.write_all(&[0; MESSAGE_BYTES])?;
            Ok(receiver.read_exact(&mut [0; MESSAGE_BYTES])?)
        })?;
        let file_read = least(CALLS, |call| {
            if call % BLOCKS == 0 {
                file.rewind()?;
            }
            Ok(file.read_exact(&mut block)?)
        })?;
        let file_write = least(CALLS, |call| {
            if call % BLOCKS == 0 {
                file.rewind()?;
            }
            Ok(file.write_all(&block)?)
        })?;
        println!("{read} {other} {pair} {file_read} {file_write}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the least time of a call over all batches, in ns.
fn least(calls: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..BATCHES {
        let begin = cpu_ns()?;
        for index in 0..calls {
            call(index)?;
        }
        least = least.min((cpu_ns()? - begin) as f64 / calls as f64);
    }
    Ok(least)
}

/// Returns the CPU time of this thread, in ns.
pub fn cpu_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the thread's CPU time")?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
