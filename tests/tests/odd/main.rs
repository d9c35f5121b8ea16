//! Real programs with sockets in odd hands, and proxies with odd habits: all spans and parents are compared with their
//! log.

mod io_uring;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::{Agent, Recorder},
    clients::{Client, Load},
    compare::{Expectation, Fault, Report, compare},
    net,
    otlp::{Kind, Span},
    process::{Gated, Process},
    services::{Server, Service, built, haproxy_config, route, sources},
    truth::{self, Event},
};
use tempfile::TempDir;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const LIMIT: Duration = Duration::from_secs(120);

/// A program that is configured here, and logs as the services do.
struct Site {
    address: SocketAddr,
    process: Process,
    directory: TempDir,
}

impl Site {
    /// Starts the command for an address and a directory, and waits until it accepts connections.
    fn start(name: &'static str, command: impl FnOnce(SocketAddr, &Path) -> Result<Command>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("spoor-odd-").tempdir()?;
        let address = net::free_address();
        let mut command = command(address, directory.path())?;
        let log = log_of(&directory);
        for (key, value) in environment(name, address, &log) {
            command.env(key, value);
        }
        let said = directory.path().join("output.log");
        // HAProxy logs to its standard output.
        let stdout = File::options().append(true).create(true).open(&log)?;
        let mut process =
            Process::start_with(name, command, Stdio::null(), stdout.into(), File::create(&said)?.into())?;
        net::wait_accepting(address, &mut process)
            .with_context(|| format!("{name} said:\n{}", fs::read_to_string(&said).unwrap_or_default()))?;
        Ok(Self {
            address,
            process,
            directory,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn selection(&self) -> Result<Vec<String>> {
        Ok(self.process.heads()?.iter().map(|id| format!("--pid={id}")).collect())
    }

    fn truth(&self) -> Result<Vec<Event>> {
        truth::read(&log_of(&self.directory))
    }
}

fn log_of(directory: &TempDir) -> PathBuf {
    directory.path().join("truth.log")
}

/// Returns the environment of the programs of tests/services.
fn environment(name: &str, address: SocketAddr, log: &Path) -> [(&'static str, String); 4] {
    [
        ("SERVICE", name.to_owned()),
        ("OTEL_SERVICE_NAME", name.to_owned()),
        ("PORT", address.port().to_string()),
        ("TRUTH_LOG", log.display().to_string()),
    ]
}

/// Returns a command of Debian's Python that gets its socket in this way and makes one call for each request.
fn handed(socket: &str, leaf: &Service) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(sources().join("handed.py"));
    command.env("SOCKET", socket).env("ROUTES", calls_leaf(leaf));
    command
}

fn calls_leaf(leaf: &Service) -> String {
    route("/call", 200, 0, &[leaf.url("/leaf")])
}

/// Returns the command of nginx with two workers. `server`: content of its `server` block.
fn nginx(name: &str, directory: &Path, more: &str, server: &str) -> Result<Command> {
    let here = directory.display();
    let config = format!(
        "daemon off; user root; worker_processes 2; pid {here}/nginx.pid; error_log stderr;
        events {{ worker_connections 1024; }}
        http {{
            client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
            uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
            log_format served 'S {name} $http_x_request_id $status';
            log_format proxied 'P {name} $http_x_request_id $status $upstream_status';
            log_format second 'C {name} $http_x_request_id.2 $upstream_status';
            log_format third 'C {name} $http_x_request_id.3 $upstream_status';
            {more}
            server {{ {server} }}
        }}"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-c"]).arg(file);
    Ok(command)
}

/// Returns nginx's directives that pass requests on, with the id of their n-th call.
fn pass(to: SocketAddr, call: u32) -> String {
    format!("proxy_pass http://{to}; proxy_set_header X-Request-Id ${{http_x_request_id}}.{call};")
}

/// Result of a run.
struct Story {
    events: Vec<Event>,
    spans: Vec<Span>,
    report: Report,
    said: String,
}

/// Runs a client, or another `run`, and compares all spans with all log entries. `ends`: number of ends that must be
/// logged.
fn story(
    sites: &[&Site],
    services: &[&Service],
    selected: Vec<String>,
    ends: usize,
    run: impl FnOnce(&Agent) -> Result<Vec<Event>>,
) -> Result<Story> {
    let mut selection = selected;
    for site in sites {
        selection.extend(site.selection()?);
    }
    for service in services {
        selection.extend(service.selection()?);
    }
    let agent = Recorder::start(&selection)?;
    let mut events = run(&agent.agent)?;
    let logged = || -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for site in sites {
            events.extend(site.truth()?);
        }
        for service in services {
            events.extend(service.truth()?);
        }
        Ok(events)
    };
    // Proxies log after they have answered, and mirror after that.
    let until = Instant::now() + Duration::from_secs(10);
    while events.len() + logged()?.len() < ends && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (spans, said) = agent.finish()?;
    events.extend(logged()?);
    ensure!(
        events.len() == ends,
        "{} of {ends} ends were logged\nthe agent said:\n{said}",
        events.len()
    );
    // nginx writes a title over its environment.
    let titled = BTreeSet::from(["front", "back", "leaf"].map(str::to_owned));
    let expectation = Expectation {
        titled,
        ..Expectation::default()
    };
    let report = compare(&events, &spans, &expectation);
    Ok(Story {
        events,
        spans,
        report,
        said,
    })
}

impl Story {
    /// Fails unless all spans and all parents are correct. Spans of `may_be_root` may lack a parent.
    fn check(&self, may_be_root: impl Fn(&Span) -> bool) -> Result<()> {
        let Self {
            events,
            spans,
            report,
            said,
        } = self;
        println!("{} spans for {} ends, {:?}", spans.len(), events.len(), report.methods);
        let forgiven = spans
            .iter()
            .filter(|span| span.parent_id.is_empty() && may_be_root(span));
        let roots = report.count(Fault::NoParent);
        let others = report.differences.len() - roots;
        ensure!(
            others == 0 && roots <= forgiven.count(),
            "{report}\nthe agent said:\n{said}"
        );
        Ok(())
    }
}

/// Tests a site that calls the leaf once for each request.
fn calling(
    name: &str,
    client: Client,
    requests: usize,
    command: impl FnOnce(SocketAddr, &Path, &Service) -> Result<Command>,
) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let front = Site::start("front", |address, directory| command(address, directory, &leaf))?;
    let url = front.url("/call");
    let load = Load {
        url: &url,
        count: requests,
        in_flight: 8,
        prefix: name,
    };
    let client = client.prepare("client", load)?;
    let selected = vec![client.selection()];
    // The client, both ends of the call, the leaf.
    story(&[&front], &[&leaf], selected, 4 * requests, |_| client.run(LIMIT))?.check(|_| false)
}

#[test]
#[ignore = "needs root, the agent, nginx, gunicorn and systemd-socket-activate"]
fn socket_activation_passes_the_listener() -> Result<()> {
    calling("activated", Client::PythonRequests, 200, |address, _, leaf| {
        let mut command = Command::new("systemd-socket-activate");
        command.args(["--listen", &address.to_string()]);
        for key in [
            "SERVICE",
            "OTEL_SERVICE_NAME",
            "TRUTH_LOG",
            "ROUTES",
            "PYTHONDONTWRITEBYTECODE=1",
        ] {
            command.args(["--setenv", key]);
        }
        command.env("ROUTES", calls_leaf(leaf));
        command
            .args(["gunicorn", "--workers", "2", "--pythonpath"])
            .arg(sources())
            .arg("app:app");
        Ok(command)
    })
}

#[test]
#[ignore = "needs root, the agent, nginx and systemd-socket-activate"]
fn socket_activation_passes_connections() -> Result<()> {
    calling("accepted", Client::PythonConnections, 60, |address, _, leaf| {
        let mut command = Command::new("systemd-socket-activate");
        command.args(["--accept", "--inetd", "--listen", &address.to_string()]);
        for key in ["SERVICE", "OTEL_SERVICE_NAME", "TRUTH_LOG", "ROUTES", "SOCKET"] {
            command.args(["--setenv", key]);
        }
        let handed = handed("connection", leaf);
        for (key, value) in handed.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        command.arg(handed.get_program()).args(handed.get_args());
        Ok(command)
    })
}

/// Returns the command of inetd with one service.
fn inetd(address: SocketAddr, directory: &Path, wait: &str, service: &Command) -> Result<Command> {
    let file = directory.join("inetd.conf");
    let words: Vec<_> = service.get_args().map(|word| word.to_string_lossy()).collect();
    fs::write(
        &file,
        format!(
            "{}:{} stream tcp {wait} root {} python3 {}\n",
            address.ip(),
            address.port(),
            service.get_program().to_string_lossy(),
            words.join(" ")
        ),
    )?;
    let mut command = Command::new("inetd");
    // In the foreground, with the environment unchanged, and with a high rate limit.
    command.args(["-i", "-E", "-R", "100000"]).arg(file);
    for (key, value) in service.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    Ok(command)
}

#[test]
#[ignore = "needs root, the agent, nginx and inetd"]
fn inetd_accepts() -> Result<()> {
    calling("nowait", Client::PythonConnections, 60, |address, directory, leaf| {
        inetd(address, directory, "nowait", &handed("connection", leaf))
    })
}

#[test]
#[ignore = "needs root, the agent, nginx and inetd"]
fn inetd_waits() -> Result<()> {
    calling("wait", Client::PythonConnections, 100, |address, directory, leaf| {
        inetd(address, directory, "wait", &handed("listener", leaf))
    })
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn a_parent_accepts_and_children_serve() -> Result<()> {
    calling("fork", Client::PythonConnections, 100, |_, _, leaf| {
        Ok(handed("fork", leaf))
    })
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn workers_with_a_listener_each() -> Result<()> {
    calling("workers", Client::PythonConnections, 200, |_, _, leaf| {
        Ok(handed("workers", leaf))
    })
}

#[test]
#[ignore = "needs root, the agent and nginx"]
fn nginx_workers_with_a_listener_each() -> Result<()> {
    calling("reuseport", Client::Curl, 400, |address, directory, leaf| {
        let log = directory.join("truth.log");
        let server = format!(
            "listen {address} reuseport; access_log {} proxied; location / {{ {} }}",
            log.display(),
            pass(leaf.address, 1)
        );
        nginx("front", directory, "", &server)
    })
}

/// Delays requests in nginx: its timers continue them after the reads of others.
#[test]
#[ignore = "needs root, the agent and nginx"]
fn nginx_delays_requests() -> Result<()> {
    calling("delayed", Client::Curl, 300, |address, directory, leaf| {
        let log = directory.join("truth.log");
        let server = format!(
            "listen {address}; limit_req zone=all burst=1000; access_log {} proxied; location / {{ {} }}",
            log.display(),
            pass(leaf.address, 1)
        );
        nginx(
            "front",
            directory,
            "limit_req_zone $server_name zone=all:1m rate=150r/s;",
            &server,
        )
    })
}

/// Lets nginx ask for permission and send a copy for each request: two more calls.
#[test]
#[ignore = "needs root, the agent and nginx"]
fn nginx_asks_and_mirrors() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    const REQUESTS: usize = 200;
    // Each answer in one write: nginx closes once it has read what it needs.
    let back = Site::start("back", |address, directory| {
        let log = directory.join("truth.log");
        let server = format!(
            "listen {address}; access_log {} served; location / {{ return 200 answer; }}",
            log.display()
        );
        nginx("back", directory, "", &server)
    })?;
    let front = Site::start("front", |address, directory| {
        let log = directory.join("truth.log");
        let log = log.display();
        let server = format!(
            "listen {address}; log_subrequest on;
            location / {{ auth_request /ask; mirror /copy; access_log {log} proxied; {} }}
            location = /ask {{ internal; access_log {log} second; {} }}
            location = /copy {{ internal; access_log {log} third; {} }}",
            pass(back.address, 1),
            pass(back.address, 2),
            pass(back.address, 3)
        );
        nginx("front", directory, "", &server)
    })?;
    let url = front.url("/call");
    let load = Load {
        url: &url,
        count: REQUESTS,
        in_flight: 16,
        prefix: "asked",
    };
    let client = Client::Curl.prepare("client", load)?;
    let selected = vec![client.selection()];
    let story = story(&[&front, &back], &[], selected, 8 * REQUESTS, |_| client.run(LIMIT))?;
    // No rule covers nginx here: the targets of its own calls differ from the request's.
    story.check(|span| span.kind == Kind::Client && span.service != "client")
}

fn haproxy(directory: &Path, name: &str, address: SocketAddr, more: &str, server: &str) -> Result<Command> {
    let file = directory.join("haproxy.cfg");
    fs::write(&file, haproxy_config(directory, name, address, server, more))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// Lets HAProxy tell nginx the client's address before the first request on each connection.
fn proxy_protocol(option: &str) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    const REQUESTS: usize = 40;
    const FROM: &str = "127.0.0.9";
    let back = Site::start("back", |address, directory| {
        fs::write(directory.join("leaf"), "leaf\n")?;
        let (here, log) = (directory.display(), directory.join("truth.log"));
        let server = format!(
            "listen {address} proxy_protocol; access_log {} served; root {here}; try_files /leaf =404;",
            log.display()
        );
        nginx("back", directory, "", &server)
    })?;
    let front = Site::start("front", |address, directory| {
        haproxy(directory, "front", address, "", &format!("{} {option}", back.address))
    })?;
    let story = story(&[&front, &back], &[], vec![], 3 * REQUESTS, |_| {
        for number in 0..REQUESTS {
            let id = format!("x-request-id: {option}-{number}");
            let url = front.url("/a");
            let curl = [
                "--silent",
                "--fail",
                "--output",
                "/dev/null",
                "--interface",
                FROM,
                "--header",
            ];
            let status = Command::new("curl").args(curl).args([&id, &url]).status()?;
            ensure!(status.success(), "curl ended with {status}");
        }
        Ok(Vec::new())
    })?;
    for span in story.spans.iter().filter(|span| span.kind == Kind::Server) {
        let client = span.text("client.address");
        ensure!(client == Some(FROM), "the client is {client:?} in {span:?}");
    }
    // No rule is certain for HAProxy's calls.
    story.check(|span| span.kind == Kind::Client)
}

#[test]
#[ignore = "needs root, the agent, nginx and HAProxy"]
fn proxy_protocol_1() -> Result<()> {
    proxy_protocol("send-proxy")
}

#[test]
#[ignore = "needs root, the agent, nginx and HAProxy"]
fn proxy_protocol_2() -> Result<()> {
    proxy_protocol("send-proxy-v2")
}

/// Lets HAProxy read heads, and the kernel move bodies between sockets.
#[test]
#[ignore = "needs root, the agent, nginx and HAProxy"]
fn haproxy_splices() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    const REQUESTS: usize = 100;
    let back = Site::start("back", |address, directory| {
        fs::write(directory.join("large"), vec![b'l'; 3 << 20])?;
        let (here, log) = (directory.display(), directory.join("truth.log"));
        let server = format!(
            "listen {address}; access_log {} served; root {here}; try_files /large =404;
            location = /first {{ keepalive_timeout 0; try_files /large =404; }}",
            log.display()
        );
        nginx("back", directory, "sendfile on;", &server)
    })?;
    let front = Site::start("front", |address, directory| {
        let more = "option splice-request\n    option splice-response";
        haproxy(directory, "front", address, more, &back.address.to_string())
    })?;
    let url = front.url("/large");
    let load = Load {
        url: &url,
        count: REQUESTS,
        in_flight: 4,
        prefix: "spliced",
    };
    let client = Client::Curl.prepare("client", load)?;
    let selected = vec![client.selection(), "--log-level=debug".to_owned()];
    let story = story(&[&front, &back], &[], selected, 4 * REQUESTS + 3, |agent| {
        // At the socket events, the hook for spliced bodies is attached once a target sends one. The end of this first body
        // is seen when its connection closes.
        let first = front.url("/first");
        let curl = [
            "--silent",
            "--fail",
            "--output",
            "/dev/null",
            "--header",
            "x-request-id: first",
        ];
        let status = Command::new("curl").args(curl).arg(first).status()?;
        ensure!(status.success(), "curl ended with {status}");
        if agent.said().contains("hooks=\"sock\"") {
            agent.wait_until_said("received by splice(2) are seen from now on", LIMIT)?;
        }
        client.run(LIMIT)
    })?;
    let mut stats = UnixStream::connect(front.directory.path().join("stats.sock"))?;
    stats.write_all(b"show info\n")?;
    let mut info = String::new();
    stats.read_to_string(&mut info)?;
    let pipes = info.lines().find_map(|line| line.strip_prefix("PipesFree: "));
    ensure!(
        pipes.is_some_and(|pipes| pipes != "0"),
        "HAProxy used no pipe: {pipes:?}"
    );
    story.check(|span| span.kind == Kind::Client && span.service == "front")
}

/// Listens with Multipath TCP, as Go does since 1.24. `client`: whether the client uses it, too.
fn multipath(name: &'static str, client: bool) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    const REQUESTS: usize = 400;
    let leaf = Service::start(Server::NginxStatic, "leaf", &[])?;
    let server = Site::start("server", |_, _| {
        let mut command = Command::new(built::go()?);
        // Its calls are plain TCP.
        command
            .env("GODEBUG", "multipathtcp=2")
            .env("ROUTES", calls_leaf(&leaf));
        Ok(command)
    })?;
    let directory = tempfile::Builder::new().prefix("spoor-odd-").tempdir()?;
    let log = log_of(&directory);
    let mut command = Command::new(built::go()?);
    command.args([&server.url("/call"), &REQUESTS.to_string(), "8", name]);
    command.env("GODEBUG", if client { "multipathtcp=3" } else { "multipathtcp=0" });
    for (key, value) in environment("client", server.address, &log) {
        command.env(key, value);
    }
    let output = directory.path().join("output.log");
    let gated = Gated::prepare("client", command, &output, &output)?;
    let selected = vec![format!("--pid={}", gated.id())];
    let story = story(&[&server], &[&leaf], selected, 4 * REQUESTS, |_| {
        let status = gated.go()?.wait(LIMIT)?;
        ensure!(status.success(), "the client ended with {status}");
        truth::read(&log)
    })?;
    let linked = story
        .spans
        .iter()
        .filter(|span| span.service == "server" && span.kind == Kind::Server && !span.parent_id.is_empty())
        .count();
    let expected = if client { 0 } else { REQUESTS };
    ensure!(
        linked == expected,
        "{linked} requests are linked to their calls, not {expected}"
    );
    // No rule is certain for a Go program's calls.
    story.check(|span| span.service == "server" && (client || span.kind == Kind::Client))
}

#[test]
#[ignore = "needs root, the agent, nginx and Go"]
fn multipath_listener() -> Result<()> {
    multipath("listener", false)
}

#[test]
#[ignore = "needs root, the agent, nginx and Go"]
fn multipath_both() -> Result<()> {
    multipath("both", true)
}
