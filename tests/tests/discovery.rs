//! Discovery of processes: files that never answer stop only their own process, and services that restart under load
//! leave no gap.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::{Agent, Recorder, binary},
    http, net,
    otlp::{Kind, Span},
    process::Process,
};
use tempfile::TempDir;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const LIMIT: Duration = Duration::from_secs(30);

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted file system with a server of its own. On drop, all processes that wait for it continue.
struct Hanging {
    server: Process,
    directory: TempDir,
}

impl Hanging {
    fn mount() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("spoor-hangs-").tempdir()?;
        fs::create_dir(directory.path().join("mnt"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_hangs"));
        command.arg(directory.path().join("mnt")).arg("/usr/bin/python3");
        let mut server = Process::start_with("hangs", command, Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        let stdout = server.take_stdout().context("it has no output")?;
        let mounted = Self { server, directory };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "mounted\n", "it said {line:?}");
        // Reads everything into the page cache, so that a process that runs the file needs no answers.
        let mut content = Vec::new();
        File::open(mounted.program())?.read_to_end(&mut content)?;
        Ok(mounted)
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("mnt/app")
    }

    fn hang(&mut self) -> Result<std::process::ChildStdin> {
        let mut stdin = self.server.take_stdin().context("it has no input")?;
        stdin.write_all(b"hang\n")?;
        Ok(stdin)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // The server's end closes the file system's connection, so that waiting calls get an error.
        let _ = self.server.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = self.server.wait(LIMIT);
        let target = self.directory.path().join("mnt");
        // The file system may have unmounted itself.
        let _ = Command::new("umount")
            .arg("-lq")
            .arg(&target)
            .stderr(Stdio::null())
            .status();
    }
}

/// Starts Python's own file server.
fn service(program: &Path, name: &str, directory: &Path) -> Result<(Process, SocketAddr)> {
    let address = net::free_address();
    Ok((service_at(program, name, directory, address)?, address))
}

fn service_at(program: &Path, name: &str, directory: &Path, address: SocketAddr) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &address.port().to_string()]);
    command
        .current_dir(directory)
        .env("PYTHONHOME", "/usr")
        .env("OTEL_SERVICE_NAME", name);
    let mut process = Process::start_with(name, command, Stdio::null(), Stdio::null(), Stdio::null())?;
    net::wait_accepting(address, &mut process)?;
    Ok(process)
}

fn served<'a>(spans: &'a [Span], service: &str) -> Vec<&'a Span> {
    let of_service = spans.iter().filter(|span| span.service == service);
    of_service.filter(|span| span.kind == Kind::Server).collect()
}

fn health(agent: &Agent) -> Result<String> {
    http::get(agent.metrics_address().context("it serves none")?, "/healthz")
}

fn wait_for_health(agent: &Agent, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let health = health(agent)?;
        if wanted(&health) {
            return Ok(health);
        }
        ensure!(
            Instant::now() < deadline,
            "health is still {health:?}; the agent said:\n{}",
            agent.said()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn an_executable_on_a_file_system_that_hangs() -> Result<()> {
    let _alone = alone();
    let empty = tempfile::tempdir()?;
    let mut hanging = Hanging::mount()?;
    let (victim, victim_address) = service(&hanging.program(), "victim", empty.path())?;
    let _hangs = hanging.hang()?;
    let port = |address: SocketAddr| format!("--port={}", address.port());
    let selection = [port(victim_address), "--exe=python3*".to_owned()];

    let recorder = Recorder::start(&selection)?;
    let agent = &recorder.agent;
    // Started while the victim's executable is being read.
    let (later, later_address) = service(Path::new("/usr/bin/python3"), "later", empty.path())?;
    for _ in 0..3 {
        ensure!(net::get(later_address, "/", &[])? == 200);
        ensure!(net::get(victim_address, "/", &[])? == 200);
    }
    let health = wait_for_health(agent, |health| health.starts_with("degraded\n"))?;
    ensure!(
        health.contains(&format!("the executable of process {} does not end", victim.id())),
        "{health}"
    );
    let metrics = agent.metrics()?;
    ensure!(metrics.value("spoor_processes_unreadable") == Some(1.0));
    ensure!(metrics.value("spoor_readers_abandoned") == Some(1.0));
    ensure!(metrics.value("spoor_facts_lost_total{cause=\"unanswered\"}") >= Some(1.0));

    let begun = Instant::now();
    let mut ps = Command::new(binary()?);
    let listing = ps.args(["ps", "--json", "--control", "off", &selection[0]]).output()?;
    ensure!(begun.elapsed() < LIMIT / 2, "spoor ps took {:?}", begun.elapsed());
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    ensure!(listing.contains("files that do not answer"), "{listing}");

    // The agent ends within its limit although one of its reads does not.
    let (spans, said) = recorder.finish()?;
    let warned = said.lines().filter(|line| line.contains("does not end")).count();
    ensure!(warned == 1, "{warned} warnings:\n{said}");
    for name in ["later", "victim"] {
        ensure!(served(&spans, name).len() == 3, "spans of {name}: {spans:#?}\n{said}");
    }
    drop((later, victim));
    Ok(())
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn a_file_system_that_answers_again() -> Result<()> {
    let _alone = alone();
    let empty = tempfile::tempdir()?;
    let mut hanging = Hanging::mount()?;
    let (_victim, address) = service(&hanging.program(), "victim", empty.path())?;
    let _hangs = hanging.hang()?;
    let recorder = Recorder::start(&[format!("--port={}", address.port())])?;
    wait_for_health(&recorder.agent, |health| health.starts_with("degraded\n"))?;
    drop(hanging);
    wait_for_health(&recorder.agent, |health| health == "ok\n")?;
    ensure!(recorder.agent.metrics()?.value("spoor_readers_abandoned") == Some(0.0));
    recorder.finish()?;
    Ok(())
}

/// Sends requests until it is told to stop. Returns how many were answered.
fn ask_all_the_time(address: SocketAddr, stop: &AtomicBool) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        // No server listens during a restart.
        answered += usize::from(net::get(address, "/", &[]).is_ok_and(|status| status == 200));
        std::thread::sleep(Duration::from_millis(2));
    }
    answered
}

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn a_service_that_restarts_under_load_leaves_no_gap() -> Result<()> {
    const RESTARTS: usize = 5;
    let _alone = alone();
    let empty = tempfile::tempdir()?;
    let recorder = Recorder::start(&["--exe=python3*".to_owned()])?;
    let (mut process, address) = service(Path::new("/usr/bin/python3"), "shop", empty.path())?;
    let stop = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| -> Result<usize> {
        let client = scope.spawn(|| ask_all_the_time(address, &stop));
        let restarted = (0..RESTARTS).try_for_each(|_| -> Result<()> {
            std::thread::sleep(Duration::from_millis(300));
            process.signal(nix::sys::signal::Signal::SIGTERM)?;
            process.wait(LIMIT)?;
            process = service_at(Path::new("/usr/bin/python3"), "shop", empty.path(), address)?;
            Ok(())
        });
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        restarted?;
        client.join().map_err(|_| anyhow::anyhow!("the client panicked"))
    })?;
    let (spans, said) = recorder.finish()?;
    let spans = served(&spans, "shop");
    let whole = spans.iter().filter(|span| span.status() == Some(200)).count();
    // Each life must have served requests, or the test shows nothing.
    ensure!(answered > 20 * RESTARTS, "only {answered} requests were answered");
    ensure!(
        whole == answered,
        "{whole} spans of {answered} requests; the agent said:\n{said}"
    );
    Ok(())
}
