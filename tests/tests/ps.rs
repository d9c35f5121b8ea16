//! `spoor ps` with and without a running agent, agents that know each other, and ignored requests.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use spoor_tests::{
    agent::{Agent, binary},
    net, otlp,
    process::Process,
    services::{Server, Service},
};

/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(20);

fn ps(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    Ok(command.arg("ps").args(arguments).stdin(Stdio::null()).output()?)
}

fn listing(arguments: &[&str]) -> Result<Value> {
    let output = ps(&[&["--json"], arguments].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "spoor ps failed: {said}");
    serde_json::from_slice(&output.stdout).context("spoor ps --json gave no JSON")
}

/// Returns the rows of these processes.
fn rows<'a>(listing: &'a Value, pids: &[u64]) -> Vec<&'a Value> {
    let rows = listing["workloads"].as_array().into_iter().flatten();
    rows.filter(|row| row["pid"].as_u64().is_some_and(|pid| pids.contains(&pid)))
        .collect()
}

fn pids(service: &Service) -> Result<Vec<u64>> {
    Ok(service.processes()?.into_iter().map(u64::from).collect())
}

/// Returns whether exactly one process of the service is selected by this rule, and its children by their parent.
fn is_selected(rows: &[&Value], rule: &str) -> bool {
    let head = rule.strip_prefix("--pid=").and_then(|pid| pid.parse::<u64>().ok());
    let of_head = format!("child of {}", head.unwrap_or_default());
    rows.iter().all(|row| {
        let is_head = row["pid"].as_u64() == head;
        row["selected"] == true && row["why"] == if is_head { "--pid" } else { of_head.as_str() }
    })
}

/// Returns the lines of a table that begin with this process id.
fn rows_of(table: &str, pid: u32) -> Vec<&str> {
    let begins = |line: &&str| line.split_whitespace().next() == Some(pid.to_string().as_str());
    table.lines().filter(begins).collect()
}

fn sum(rows: &[&Value], key: &str) -> u64 {
    rows.iter().filter_map(|row| row[key].as_u64()).sum()
}

/// Repeats the command until its output is right: the agent shows its latest numbers with the next look.
fn until(what: &str, arguments: &[&str], is_there: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + LIMIT;
    loop {
        let listing = listing(arguments)?;
        if is_there(&listing) {
            return Ok(listing);
        }
        ensure!(Instant::now() < until, "{what}: it is not so, but\n{listing:#}");
    }
}

/// Starts a program that sends the first bytes of three protocols to `port`, and stays.
fn speaker(port: u16, log: &Path) -> Result<Process> {
    let openings = [
        r"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        r"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00",
    ];
    let lines: String = openings
        .iter()
        .map(|opening| format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{opening}' >&3; exec 3>&-;"))
        .collect();
    let mut command = Command::new("bash");
    // It waits for a line, which the test sends once the agent runs.
    command.args([
        "-c",
        &format!(
            "until [ -e {0}.go ]; do read -t 0.05 < <(:); done; {lines} read -t 60 < <(sleep 60)",
            log.display()
        ),
    ]);
    Process::start("a program that speaks", command, log)
}

/// Returns the protocols that a listing names for these processes, with their counts.
fn unseen(listing: &Value, pids: &[u64]) -> Vec<(String, u64)> {
    let row = rows(listing, pids);
    let unseen = row
        .first()
        .and_then(|row| row["unseen"].as_array())
        .into_iter()
        .flatten();
    unseen
        .filter_map(|unseen| Some((unseen["what"].as_str()?.to_owned(), unseen["count"].as_u64()?)))
        .collect()
}

/// Checks the rows of a traced nginx.
fn check_traced(rows: &[&Value], processes: usize, rule: &str, port: u16) -> Result<()> {
    // nginx writes its title over the name in its environment.
    let is_nginx = |row: &&Value| row["runtime"] == "nginx" && row["service"] == "nginx";
    ensure!(
        rows.len() == processes
            && is_selected(rows, rule)
            && rows.iter().all(is_nginx)
            && sum(rows, "missed") == 0
            && rows.iter().any(|row| row["listens"] == serde_json::json!([port])),
        "{rows:#?}"
    );
    Ok(())
}

/// Checks that `spoor ps --watch` draws until its reader closes.
fn watches(control: [&str; 2], agent: u32) -> Result<()> {
    let mut watch = Command::new(binary()?);
    watch.args(["ps", "--watch", "--json"]).args(control);
    let (reader, writer) = std::io::pipe()?;
    let mut watch = Process::start_with(
        "spoor ps --watch",
        watch,
        Stdio::null(),
        writer.into(),
        Stdio::inherit(),
    )?;
    let mut lines = BufReader::new(reader).lines();
    for _ in 0..2 {
        let line = lines.next().context("it has ended")??;
        ensure!(serde_json::from_str::<Value>(&line)?["agent"]["pid"] == agent);
    }
    drop(lines);
    let status = watch.wait(LIMIT)?;
    ensure!(status.success(), "its reader went away, and it ended with {status}");
    Ok(())
}

#[test]
#[ignore = "needs root, the agent, nginx and bash"]
fn it_says_what_is_traced_and_why_and_what_is_not_visible() -> Result<()> {
    const REQUESTS: u64 = 5;
    let directory = tempfile::tempdir()?;
    let traced = Service::start(Server::NginxStatic, "traced", &[])?;
    let other = Service::start(Server::NginxStatic, "other", &[])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let log = directory.path().join("speaker");
    let speaker = speaker(listener.local_addr()?.port(), &log)?;
    let socket = directory.path().join("control.sock").display().to_string();
    let spans = format!("otlp-json={}", directory.path().join("spans").display());

    let mut selection = traced.selection()?;
    let of_head = selection.concat();
    selection.push(format!("--pid={}", speaker.id()));
    let rules = selection.clone();
    selection.push(format!("--control={socket}"));
    let agent = Agent::start(&selection, &spans, &[], Stdio::null())?;
    for _ in 0..REQUESTS {
        ensure!(net::get(traced.address, "/leaf", &[])? == 200);
    }
    std::fs::write(log.with_extension("go"), "")?;
    let mut taken = Vec::new();
    for _ in 0..3 {
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(LIMIT))?;
        connection.read_to_end(&mut taken)?;
    }

    let control = ["--control", socket.as_str()];
    let of_traced = pids(&traced)?;
    let speaking = [u64::from(speaker.id())];
    let names = |listing: &Value| unseen(listing, &speaking);
    let listing = until("all is counted", &control, |listing| {
        sum(&rows(listing, &of_traced), "requests") == REQUESTS && names(listing).len() == 3
    })?;
    ensure!(listing["agent"]["pid"] == agent.id(), "{listing:#}");
    let told: Vec<String> = rules.iter().map(|rule| rule.replace('=', " ")).collect();
    ensure!(listing["agent"]["rules"] == serde_json::json!(told), "{listing:#}");
    let expected = ["TLS", "HTTP/2", "FastCGI"].map(|name| (name.to_owned(), 1));
    ensure!(names(&listing) == expected, "{:?}", names(&listing));
    check_traced(
        &rows(&listing, &of_traced),
        of_traced.len(),
        &of_head,
        traced.address.port(),
    )?;
    let of_other = pids(&other)?;
    let other_rows = rows(&listing, &of_other);
    ensure!(
        other_rows.len() == of_other.len()
            && other_rows.iter().all(|row| {
                let why = row["why"].as_str().unwrap_or_default();
                row["selected"] == false && why.starts_with("no rule matches: --pid")
            }),
        "{other_rows:#?}"
    );

    let table = String::from_utf8(ps(&control)?.stdout)?;
    let why_not = format!("no: no rule matches: {}", told.join(" "));
    ensure!(
        ["FastCGI", "yes: --pid", &why_not]
            .iter()
            .all(|part| table.contains(part)),
        "{table}"
    );

    watches(control, agent.id())?;

    agent.finish()?;
    ensure!(!Path::new(&socket).exists(), "the socket is left");
    // Without an agent: the processes that it would trace.
    let rules: Vec<&str> = ["--control=off"]
        .into_iter()
        .chain(rules.iter().map(String::as_str))
        .collect();
    let listing = self::listing(&rules)?;
    ensure!(listing["agent"].is_null());
    let (would, would_not) = (rows(&listing, &of_traced), rows(&listing, &of_other));
    ensure!(
        would.len() == of_traced.len()
            && is_selected(&would, &of_head)
            && would_not.len() == of_other.len()
            && would_not.iter().all(|row| row["selected"] == false),
        "{would:#?}\n{would_not:#?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn a_second_agent_names_the_first_and_traces_all_the_same() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let service = Service::start(Server::NginxStatic, "leaf", &[])?;
    let metrics = net::free_address();
    let spans = |name: &str| directory.path().join(name);
    let start = |name: &str, socket: &str| {
        let mut selection = service.selection()?;
        selection.push(format!("--control={}", directory.path().join(socket).display()));
        let output = format!("otlp-json={}", spans(name).display());
        Agent::start_at(metrics, Command::new(binary()?), &selection, &output, Stdio::null())
    };
    let mut first = start("first", "one.sock")?;
    // Another control socket: the agents know each other nevertheless. The first one has the port.
    let second = start("second", "two.sock")?;
    let rule = service.selection()?.join(" ").replace('=', " ");
    let names_first = format!(
        "another spoor runs on this host: process {}, which traces {rule}",
        first.id()
    );
    for _ in 0..3 {
        ensure!(net::get(service.address, "/leaf", &[])? == 200);
    }
    let said = second.finish()?;
    ensure!(said.contains(&names_first), "{said}");
    ensure!(said.contains("the port is taken"), "{said}");
    // The same control socket: the first agent answers there.
    let (first_id, third) = (first.id(), start("third", "one.sock")?);
    let control = directory.path().join("one.sock").display().to_string();
    ensure!(listing(&["--control", &control])?["agent"]["pid"] == first_id);
    let said = third.finish()?;
    ensure!(
        said.contains(&names_first) && said.contains("another spoor has the control socket"),
        "{said}"
    );
    // A killed agent leaves its socket and its entry; the next one works nevertheless.
    first.signal(Signal::SIGKILL)?;
    drop(first);
    ensure!(Path::new(&control).exists());
    let fourth = start("fourth", "one.sock")?;
    ensure!(listing(&["--control", &control])?["agent"]["pid"] == fourth.id());
    let said = fourth.finish()?;
    ensure!(!said.contains(&format!("process {first_id},")), "{said}");
    ensure!(otlp::read(&spans("second"))?.len() == 3);
    Ok(())
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn agents_that_are_not_asked_are_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let service = Service::start(Server::NginxStatic, "leaf", &[])?;
    let start = |control: &str| {
        let mut selection = service.selection()?;
        selection.push(format!("--control={control}"));
        Agent::start(&selection, &format!("otlp-json={}", path("spans")), &[], Stdio::null())
    };
    let rule = service.selection()?.join(" ").replace('=', " ");
    let (mute, socket) = (start("off")?, path("c.sock"));
    let elsewhere = start(&socket)?;
    let is_mute = format!("process {} traces {rule} without a control socket", mute.id());
    let is_elsewhere = format!(
        "process {} traces {rule} (`spoor ps --control {socket}` asks it)",
        elsewhere.id()
    );

    let output = ps(&[])?;
    let table = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && !table.contains("No agent runs"), "{table}");
    ensure!(table.contains(&is_mute) && table.contains(&is_elsewhere), "{table}");
    let own = rows_of(&table, mute.id());
    ensure!(
        own.len() == 1 && !own[0].contains("event loop"),
        "not one row, or a runtime of Spoor's own: {own:?}"
    );
    let listing = listing(&["--control", &socket])?;
    ensure!(listing["agent"]["pid"] == elsewhere.id(), "{listing:#}");
    let others = listing["others"].as_array().context("no other agents")?;
    ensure!(others.iter().any(|other| other["pid"] == mute.id()), "{listing:#}");

    // The user says where an agent listens, and none does.
    let output = ps(&["--control", &path("nobody.sock")])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{said}");
    ensure!(
        said.contains("no agent answers at") && said.contains(&is_mute) && said.contains(&is_elsewhere),
        "{said}"
    );
    mute.finish()?;
    elsewhere.finish()?;
    Ok(())
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn ignored_requests_give_no_span_at_either_end() -> Result<()> {
    const REQUESTS: usize = 4;
    let directory = tempfile::tempdir()?;
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let proxy = Server::NginxProxy {
        upstream: leaf.address,
        keepalive: false,
    };
    let proxy = Service::start(proxy, "proxy", &[])?;
    let mut selection = [leaf.selection()?, proxy.selection()?].concat();
    for rule in ["GET /healthz", "user-agent: kube-probe/*"] {
        selection.extend(["--ignore".to_owned(), rule.to_owned()]);
    }
    selection.push("--control=off".to_owned());
    let spans = directory.path().join("spans");
    let agent = Agent::start(
        &selection,
        &format!("otlp-json={}", spans.display()),
        &[],
        Stdio::null(),
    )?;
    for _ in 0..REQUESTS {
        ensure!(net::get(proxy.address, "/leaf", &[])? == 200);
        ensure!(net::get(proxy.address, "/healthz?full", &[])? == 200);
        ensure!(net::get(leaf.address, "/leaf", &[("User-Agent", "kube-probe/1.30")])? == 200);
    }
    agent.finish()?;
    let spans = otlp::read(&spans)?;
    ensure!(spans.len() == 3 * REQUESTS, "{} spans: {spans:#?}", spans.len());
    ensure!(spans.iter().all(|span| span.text("url.path") != Some("/healthz")));
    Ok(())
}
