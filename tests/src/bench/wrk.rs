//! The load generator wrk.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use spoor_tests::process::Process;

/// Number of connections of all runs.
const CONNECTIONS: &str = "-c16";

/// A run in progress.
pub struct Wrk {
    process: Process,
    log: PathBuf,
    time: Duration,
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// Number of responses.
    pub responses: u64,
    /// Responses a second.
    pub rate: f64,
    /// Number of responses that are not 2xx or 3xx, and of connections that failed.
    pub errors: u64,
}

impl Wrk {
    /// Starts a run against `/` with 16 connections and 2 threads.
    pub fn start(address: SocketAddr, seconds: u64, directory: &Path) -> Result<Self> {
        let log = directory.join("wrk.log");
        // A log for each run.
        fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("wrk");
        command.args([
            "-t2",
            CONNECTIONS,
            &format!("-d{seconds}s"),
            &format!("http://{address}/"),
        ]);
        Ok(Self {
            process: Process::start("wrk", command, &log)?,
            log,
            time: Duration::from_secs(seconds),
        })
    }

    /// Returns wrk's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the end of the run.
    pub fn finish(mut self) -> Result<Count> {
        let status = self.process.wait(self.time + Duration::from_secs(20))?;
        let text = fs::read_to_string(&self.log).context("cannot read what wrk printed")?;
        ensure!(status.success(), "wrk ended with {status}:\n{text}");
        let count = parse(&text).with_context(|| format!("wrk printed:\n{text}"))?;
        ensure!(count.errors == 0, "wrk saw errors:\n{text}");
        Ok(count)
    }
}

fn parse(text: &str) -> Result<Count> {
    let lines = || text.lines().map(str::trim);
    let responses = lines().find_map(|line| Some(line.split_once(" requests in ")?.0));
    let rate = lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    let refused = lines().find_map(|line| line.strip_prefix("Non-2xx or 3xx responses:"));
    let broken = lines().find_map(|line| line.strip_prefix("Socket errors:"));
    let mut errors = match refused {
        Some(number) => number.trim().parse()?,
        None => 0,
    };
    // Format: `connect 0, read 8, write 0, timeout 0`.
    for number in broken.into_iter().flat_map(|line| line.split(',')) {
        let number = number.split_ascii_whitespace().nth(1).context("no number of errors")?;
        errors += number.parse::<u64>()?;
    }
    Ok(Count {
        responses: responses.context("no number of requests")?.parse()?,
        rate: rate.context("no rate")?.trim().parse()?,
        errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Running 1s test @ http://127.0.0.1:18777/
  2 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.70ms    5.87ms  47.92ms   89.29%
    Req/Sec     1.08k   454.15     1.66k    63.64%
  1192 requests in 1.11s, 398.26KB read
Requests/sec:   1075.90
Transfer/sec:    359.47KB
";

    #[test]
    fn counts() {
        let count = Count {
            responses: 1192,
            rate: 1075.9,
            errors: 0,
        };
        assert_eq!(parse(TEXT).unwrap(), count);
        let failed =
            TEXT.to_owned() + "  Socket errors: connect 1, read 8, write 0, timeout 3\n  Non-2xx or 3xx responses: 5\n";
        assert_eq!(parse(&failed).unwrap(), Count { errors: 17, ..count });
        assert!(parse("unable to connect to 127.0.0.1:18777 Connection refused").is_err());
    }
}
