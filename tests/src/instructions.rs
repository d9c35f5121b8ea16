//! Instructions of Core for a request, counted by callgrind. The number does not move with the machine's load, so it is
//! in the repository, and a test fails when it grows.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Variable with the path of the program `corecost`, built as the release binary is.
pub const CORE_COST: &str = "SPOOR_CORE_COST";

/// Traced ends of the connections, as the program calls them.
pub const ENDS: [&str; 2] = ["server", "both"];

/// Growth that the test accepts.
pub const TOLERANCE: f64 = 0.05;

/// Number of requests of a run: enough to hide one-time work.
const REQUESTS: &str = "20000";

/// Returns the path of the program.
pub fn program() -> Result<PathBuf> {
    let path = env::var_os(CORE_COST);
    path.map(PathBuf::from)
        .with_context(|| format!("{CORE_COST} does not name the program: run this by cargo xtask"))
}

/// Returns the number of instructions of one request.
pub fn per_request(program: &Path, ends: &str) -> Result<f64> {
    let feed = collected(program, ends, "feed")?;
    let prepare = collected(program, ends, "prepare")?;
    Ok((feed - prepare) / REQUESTS.parse::<f64>()?)
}

fn collected(program: &Path, ends: &str, what: &str) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([ends, REQUESTS, what])
        .output()
        .context("cannot run valgrind: is it installed? `cargo xtask setup` does it")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "valgrind ended with {}:\n{text}",
        output.status
    );
    parse(&text).with_context(|| format!("valgrind printed:\n{text}"))
}

/// Parses `==7== Collected : 168465118`.
fn parse(text: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

/// Returns the numbers in the repository, in the order of [`ENDS`].
pub fn announced() -> Result<[f64; 2]> {
    let text = fs::read_to_string(file()).with_context(|| format!("cannot read {}", file().display()))?;
    parse_announced(&text).with_context(|| format!("{} does not hold a number for each end", file().display()))
}

/// Writes these numbers into the repository.
pub fn announce(numbers: [f64; 2]) -> Result<()> {
    let lines = ENDS
        .iter()
        .zip(numbers)
        .map(|(ends, number)| format!("{ends} {number:.0}\n"));
    fs::write(file(), lines.collect::<String>()).with_context(|| format!("cannot write {}", file().display()))
}

fn parse_announced(text: &str) -> Option<[f64; 2]> {
    let number = |ends: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(ends)?.trim().parse::<f64>().ok())
    };
    Some([number(ENDS[0])?, number(ENDS[1])?])
}

/// Returns the path of the file with the numbers.
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/core.instructions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_valgrind_prints() {
        let text = "==7== Callgrind\n==7== \n==7== Events    : Ir\n==7== Collected : 168465118\n";
        assert_eq!(parse(text), Some(168_465_118.0));
        assert_eq!(parse("==7== Callgrind\n"), None);
    }

    #[test]
    fn the_numbers_in_the_repository() {
        assert_eq!(parse_announced("server 1200\nboth 2500\n"), Some([1200.0, 2500.0]));
        assert_eq!(parse_announced("server 1200\n"), None);
        assert!(announced().unwrap().iter().all(|&number| number > 100.0));
    }
}
