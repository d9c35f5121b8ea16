//! Services: real servers without instrumentation, each in its own directory on a loopback port of its own.

pub mod built;
mod proxies;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use built::Java;
use proxies::Apache;
use tempfile::TempDir;

use crate::{
    net,
    process::Process,
    truth::{self, Event},
};

/// A server with its way of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// nginx, two workers, one file for every path.
    NginxStatic,
    /// nginx as a proxy of `upstream`, with a new connection for each call or with kept ones.
    NginxProxy {
        /// Address that gets all requests.
        upstream: SocketAddr,
        /// Whether connections are kept.
        keepalive: bool,
    },
    /// HAProxy in front of an upstream.
    HaProxy {
        /// Address that gets all requests.
        upstream: SocketAddr,
    },
    /// gunicorn, four processes with a request at a time each; calls with `requests`.
    GunicornSync,
    /// gunicorn, two processes with 16 threads each; calls with kept `http.client` connections.
    GunicornGthread,
    /// gunicorn, one process; passes `traceparent` on unchanged.
    GunicornForwarding,
    /// Puma, one process with 16 threads.
    Puma {
        /// Whether a separate thread reads requests that are not there at once, as in Puma's default: one or two of a
        /// hundred, which another thread than their reader answers.
        reactor: bool,
    },
    /// The server of the JDK with 32 threads.
    Jdk,
    /// Node's http.
    Node,
    /// Go's net/http.
    Go,
    /// PHP's built-in server with four processes.
    Php,
    /// Python's http.server: files only, and no log.
    PythonHttp,
    /// Eight Perl processes.
    Perl,
    /// Apache with processes and PHP in them; calls with curl.
    ApachePrefork,
    /// Apache with threads and Python in them; calls with `requests`.
    ApacheWorker,
    /// Apache with threads behind a loop, in front of an upstream.
    ApacheEvent {
        /// Address that gets all requests.
        upstream: SocketAddr,
    },
    /// Caddy in front of an upstream.
    Caddy {
        /// Address that gets all requests.
        upstream: SocketAddr,
    },
    /// lighttpd in front of an upstream.
    Lighttpd {
        /// Address that gets all requests.
        upstream: SocketAddr,
    },
    /// Varnish in front of an upstream; nothing is cached.
    Varnish {
        /// Address that gets all requests.
        upstream: SocketAddr,
    },
    /// Envoy in front of an upstream.
    Envoy {
        /// Address that gets all requests.
        upstream: SocketAddr,
    },
    /// uvicorn, one process; calls with aiohttp.
    Uvicorn,
    /// PHP-FPM with 16 processes behind nginx; calls with curl.
    PhpFpm,
    /// Tomcat with a blocking servlet on 32 threads.
    Tomcat,
    /// Jetty with a blocking servlet.
    Jetty,
    /// hyper on two threads of tokio.
    Hyper,
    /// The server of Erlang's inets.
    Inets,
    /// Redis, which keeps nothing on disk and logs no commands.
    Redis,
}

impl Server {
    /// Returns whether it passes each request on to an upstream.
    pub fn is_proxy(self) -> bool {
        matches!(
            self,
            Self::NginxProxy { .. }
                | Self::HaProxy { .. }
                | Self::ApacheEvent { .. }
                | Self::Caddy { .. }
                | Self::Lighttpd { .. }
                | Self::Varnish { .. }
                | Self::Envoy { .. }
        )
    }
}

/// Returns a route of a service (`services/README.md`).
pub fn route(segment: &str, status: u16, delay_ms: u32, urls: &[String]) -> String {
    format!("{segment} {status} {delay_ms} {}", urls.join(" "))
}

/// A running service, which ends on drop.
pub struct Service {
    /// Name in its log, and its `OTEL_SERVICE_NAME`.
    pub name: String,
    /// Address at which it listens.
    pub address: SocketAddr,
    /// Whether it writes a title over its environment.
    pub titled: bool,
    server: Server,
    process: Process,
    directory: TempDir,
}

impl Service {
    /// Starts a service and waits until it accepts connections. Proxies and static servers need no routes.
    pub fn start(server: Server, name: &str, routes: &[String]) -> Result<Self> {
        let directory = directory(name)?;
        let address = net::free_address();
        let mut command = command(server, name, address, directory.path())?;
        command
            .current_dir(directory.path())
            .env("PORT", address.port().to_string())
            .env("SERVICE", name)
            .env("OTEL_SERVICE_NAME", name)
            .env("TRUTH_LOG", truth_log(directory.path()))
            .env("ROUTES", routes.join(";"));
        let output = directory.path().join("output.log");
        let mut process = match server {
            // HAProxy can log to its standard output, but to no file.
            Server::HaProxy { .. } => {
                let stdout = std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(truth_log(directory.path()))?;
                Process::start_with(
                    name,
                    command,
                    Stdio::null(),
                    stdout.into(),
                    std::fs::File::create(&output)?.into(),
                )?
            }
            _ => Process::start(name, command, &output)?,
        };
        net::wait_accepting(address, &mut process).with_context(|| {
            let said = std::fs::read_to_string(&output).unwrap_or_default();
            format!("{name} ({server:?}) did not start; it said:\n{said}")
        })?;
        Ok(Self {
            name: name.to_owned(),
            address,
            titled: matches!(
                server,
                Server::NginxStatic | Server::NginxProxy { .. } | Server::Puma { .. } | Server::PhpFpm | Server::Redis
            ),
            server,
            process,
            directory,
        })
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the arguments that select its processes for tracing.
    pub fn selection(&self) -> Result<Vec<String>> {
        Ok(self.process.heads()?.iter().map(|id| format!("--pid={id}")).collect())
    }

    /// Returns all its processes that run now.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.process.group()
    }

    /// Returns its output, for the messages of failures.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("output.log")).unwrap_or_default()
    }

    /// Returns its log so far.
    pub fn truth(&self) -> Result<Vec<Event>> {
        let directory = self.directory.path();
        match self.server {
            Server::Caddy { .. } => proxies::caddy_truth(&self.name, directory),
            Server::Varnish { .. } => proxies::varnish_truth(&self.name, directory),
            _ => truth::read(&truth_log(directory)),
        }
    }
}

fn command(server: Server, name: &str, address: SocketAddr, directory: &Path) -> Result<Command> {
    Ok(match server {
        Server::NginxStatic => nginx_static(name, address, directory)?,
        Server::NginxProxy { upstream, keepalive } => nginx_proxy(name, address, upstream, keepalive, directory)?,
        Server::HaProxy { upstream } => {
            let config = directory.join("haproxy.cfg");
            std::fs::write(
                &config,
                haproxy_config(directory, name, address, &upstream.to_string(), ""),
            )?;
            with_arguments("haproxy", ["-db".into(), "-f".into(), config])
        }
        Server::GunicornSync => gunicorn(address, &["--workers", "4"], &[]),
        Server::GunicornGthread => gunicorn(
            address,
            &["--worker-class", "gthread", "--workers", "2", "--threads", "16"],
            &[("HTTP_CLIENT", "http.client")],
        ),
        Server::GunicornForwarding => gunicorn(address, &[], &[("FORWARD_TRACEPARENT", "1")]),
        Server::Puma { reactor } => puma(address, reactor, directory)?,
        Server::PythonHttp => {
            std::fs::write(directory.join("a"), "leaf\n")?;
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-m", "http.server", "--protocol", "HTTP/1.1", "--bind"]);
            command.args([&address.ip().to_string(), &address.port().to_string()]);
            command
        }
        Server::Jdk => {
            let mut command = java(Java::Plain, "Service")?;
            // Else head and body in two writes wait for each other's acknowledgement.
            command.env("JAVA_TOOL_OPTIONS", "-Dsun.net.httpserver.nodelay=true");
            command
        }
        Server::Tomcat => java(Java::Servlets, "TomcatService")?,
        Server::Jetty => java(Java::Servlets, "JettyService")?,
        Server::Node => with_arguments("node", [sources().join("service.js")]),
        Server::Go => Command::new(built::go()?),
        Server::Hyper => Command::new(built::hyper()?),
        Server::Inets => inets()?,
        Server::Redis => redis(address),
        Server::Uvicorn => uvicorn(address),
        Server::ApachePrefork => proxies::apache(Apache::Prefork, name, address, directory)?,
        Server::ApacheWorker => proxies::apache(Apache::Worker, name, address, directory)?,
        Server::ApacheEvent { upstream } => proxies::apache(Apache::Event(upstream), name, address, directory)?,
        Server::Caddy { upstream } => proxies::caddy(address, upstream, directory)?,
        Server::Lighttpd { upstream } => proxies::lighttpd(name, address, upstream, directory)?,
        Server::Varnish { upstream } => proxies::varnish(address, upstream, directory)?,
        Server::Envoy { upstream } => proxies::envoy(name, address, upstream, directory)?,
        Server::PhpFpm => proxies::php_fpm(name, address, directory)?,
        Server::Php => {
            let mut command = with_arguments(
                "php",
                ["-S".into(), address.to_string().into(), sources().join("router.php")],
            );
            command.env("PHP_CLI_SERVER_WORKERS", "4");
            command
        }
        Server::Perl => with_arguments("perl", [sources().join("service.pl")]),
    })
}

fn with_arguments<const N: usize>(program: &str, arguments: [PathBuf; N]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn nginx_static(name: &str, address: SocketAddr, directory: &Path) -> Result<Command> {
    std::fs::write(directory.join("leaf"), "leaf\n".repeat(205))?;
    let location = format!("root {}; try_files /leaf =404;", directory.display());
    nginx(name, address, directory, ("S", ""), "", &location)
}

fn nginx_proxy(
    name: &str,
    address: SocketAddr,
    upstream: SocketAddr,
    keepalive: bool,
    directory: &Path,
) -> Result<Command> {
    let keep = if keepalive { "keepalive 32;" } else { "" };
    let upstream = format!("upstream backend {{ server {upstream}; {keep} }}");
    let mut location = "proxy_pass http://backend; proxy_set_header Host $http_host; \
        proxy_set_header X-Request-Id ${http_x_request_id}.1;"
        .to_owned();
    if keepalive {
        location += " proxy_http_version 1.1; proxy_set_header Connection \"\";";
    }
    nginx(
        name,
        address,
        directory,
        ("P", " $upstream_status"),
        &upstream,
        &location,
    )
}

fn gunicorn(address: SocketAddr, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new("gunicorn");
    command
        .args(["--bind", &address.to_string(), "--pythonpath"])
        .arg(sources())
        .args(arguments)
        .arg("app:app");
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment.iter().copied());
    command
}

fn puma(address: SocketAddr, reactor: bool, directory: &Path) -> Result<Command> {
    let config = directory.join("puma.rb");
    std::fs::write(&config, format!("queue_requests {reactor}\n"))?;
    let mut command = Command::new("puma");
    command.arg("--config").arg(config);
    command.args(["--bind", &format!("tcp://{address}"), "--threads", "16:16"]);
    command.args(["--environment", "production"]);
    command.arg(sources().join("config.ru"));
    Ok(command)
}

fn inets() -> Result<Command> {
    let mut command = Command::new("erl");
    // Else Erlang's schedulers spin while they wait for work.
    command.args(["-noinput", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]);
    command.arg("-pa").arg(built::erlang()?).args(["-s", "service", "main"]);
    Ok(command)
}

fn redis(address: SocketAddr) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--bind", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string(), "--save", ""]);
    command
}

fn uvicorn(address: SocketAddr) -> Command {
    // Debian's Python, because uvicorn is a package there.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-m", "uvicorn", "asgi:app", "--no-access-log", "--log-level", "warning"]);
    command.arg("--app-dir").arg(sources());
    command.args(["--host", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string()]);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn nginx(
    name: &str,
    address: SocketAddr,
    directory: &Path,
    (letter, log_more): (&str, &str),
    upstream: &str,
    location: &str,
) -> Result<Command> {
    let config = format!(
        "daemon off; user root; worker_processes 2; pid {directory}/nginx.pid; error_log stderr;
        events {{ worker_connections 1024; }}
        http {{
            log_format truth '{letter} {name} $http_x_request_id $status{log_more}';
            access_log {log} truth;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
            uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            sendfile on;
            {upstream}
            server {{ listen {address}; location / {{ {location} }} }}
        }}",
        directory = directory.display(),
        log = truth_log(directory).display(),
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    // nginx opens its first log before it reads the configuration.
    command.args(["-e", "stderr", "-c"]).arg(file);
    Ok(command)
}

/// Returns the configuration of an HAProxy that logs as the services do. `server`: the address that gets all requests,
/// with options; `more`: lines of the section `defaults`.
pub fn haproxy_config(directory: &Path, name: &str, address: SocketAddr, server: &str, more: &str) -> String {
    let here = directory.display();
    format!(
        "global
    # A thread that finds another one logging drops its line.
    nbthread 1
    log stdout format raw local0
    stats socket {here}/stats.sock
defaults
    mode http
    log global
    option dontlognull
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    {more}
frontend front
    bind {address}
    http-request set-var(txn.id) req.hdr(x-request-id)
    http-request set-header x-request-id %[var(txn.id)].1
    log-format \"P {name} %[var(txn.id)] %ST %ST\"
    default_backend back
backend back
    server one {server}
"
    )
}

fn java(what: Java, class: &str) -> Result<Command> {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-cp", &built::java(what)?, class]);
    Ok(command)
}

/// Returns the folder of the sources of services and clients.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services")
}

/// Creates a directory that is deleted on drop, unless `SPOOR_KEEP_LOGS` is set.
pub fn directory(name: &str) -> Result<TempDir> {
    let mut directory = tempfile::Builder::new().prefix(&format!("spoor-{name}-")).tempdir()?;
    // Logs can be kept to look into a failure.
    directory.disable_cleanup(std::env::var_os("SPOOR_KEEP_LOGS").is_some());
    Ok(directory)
}

pub(crate) fn truth_log(directory: &Path) -> PathBuf {
    directory.join("truth.log")
}
