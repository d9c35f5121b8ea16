//! The services: real servers that nobody instrumented, each in its own directory on a loopback port of its own.

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

/// A server, and how it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// nginx, two workers, one file for every path.
    NginxStatic,
    /// nginx as a proxy of `upstream`, with a connection a call or with kept ones.
    NginxProxy {
        /// Where it sends everything.
        upstream: SocketAddr,
        /// Whether connections are kept.
        keepalive: bool,
    },
    /// HAProxy in front of an upstream.
    HaProxy {
        /// Where it sends everything.
        upstream: SocketAddr,
    },
    /// gunicorn, four processes with a request at a time each; calls with `requests`.
    GunicornSync,
    /// gunicorn, two processes with 16 threads each; calls with kept `http.client` connections.
    GunicornGthread,
    /// gunicorn, one process; hands `traceparent` on unchanged.
    GunicornForwarding,
    /// Puma, one process with 16 threads.
    Puma {
        /// Whether a thread of its own reads what is not there at once, as is Puma's default: of each hundred requests that is one
        /// or two, and another thread than their reader answers them.
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
        /// Where it sends everything.
        upstream: SocketAddr,
    },
    /// Caddy in front of an upstream.
    Caddy {
        /// Where it sends everything.
        upstream: SocketAddr,
    },
    /// lighttpd in front of an upstream.
    Lighttpd {
        /// Where it sends everything.
        upstream: SocketAddr,
    },
    /// Varnish in front of an upstream; nothing is cached.
    Varnish {
        /// Where it sends everything.
        upstream: SocketAddr,
    },
    /// Envoy in front of an upstream.
    Envoy {
        /// Where it sends everything.
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
    /// Whether it passes each request on to an upstream.
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

/// A route of a service (`services/README.md`).
pub fn route(segment: &str, status: u16, delay_ms: u32, urls: &[String]) -> String {
    format!("{segment} {status} {delay_ms} {}", urls.join(" "))
}

/// A running service, which ends when this is dropped.
pub struct Service {
    /// What it logs itself as, and its `OTEL_SERVICE_NAME`.
    pub name: String,
    /// Where it listens.
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
            // It can log to its standard output, but to no file.
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

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Arguments that make the agent trace its processes.
    pub fn selection(&self) -> Result<Vec<String>> {
        Ok(self.process.heads()?.iter().map(|id| format!("--pid={id}")).collect())
    }

    /// All its processes that run now.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.process.group()
    }

    /// What it printed, to look for the cause of a failure.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("output.log")).unwrap_or_default()
    }

    /// What it has logged so far.
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
    let source = |file: &str| sources().join(file);
    let mut command;
    match server {
        Server::NginxStatic => {
            std::fs::write(directory.join("leaf"), "leaf\n".repeat(205))?;
            let location = format!("root {}; try_files /leaf =404;", directory.display());
            command = nginx(name, address, directory, ("S", ""), "", &location)?;
        }
        Server::NginxProxy { upstream, keepalive } => {
            let keep = if keepalive { "keepalive 32;" } else { "" };
            let upstream = format!("upstream backend {{ server {upstream}; {keep} }}");
            let mut location = "proxy_pass http://backend; proxy_set_header Host $http_host; \
                proxy_set_header X-Request-Id ${http_x_request_id}.1;"
                .to_owned();
            if keepalive {
                location += " proxy_http_version 1.1; proxy_set_header Connection \"\";";
            }
            command = nginx(
                name,
                address,
                directory,
                ("P", " $upstream_status"),
                &upstream,
                &location,
            )?;
        }
        Server::HaProxy { upstream } => {
            let config = directory.join("haproxy.cfg");
            std::fs::write(
                &config,
                haproxy_config(directory, name, address, &upstream.to_string(), ""),
            )?;
            command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(config);
        }
        Server::GunicornSync | Server::GunicornGthread | Server::GunicornForwarding => {
            command = Command::new("gunicorn");
            command
                .args(["--bind", &address.to_string(), "--pythonpath"])
                .arg(sources());
            command.env("PYTHONDONTWRITEBYTECODE", "1");
            match server {
                Server::GunicornSync => command.args(["--workers", "4"]),
                Server::GunicornGthread => {
                    command.env("HTTP_CLIENT", "http.client");
                    command.args(["--worker-class", "gthread", "--workers", "2", "--threads", "16"])
                }
                _ => command.env("FORWARD_TRACEPARENT", "1"),
            };
            command.arg("app:app");
        }
        Server::Puma { reactor } => {
            let config = directory.join("puma.rb");
            std::fs::write(&config, format!("queue_requests {reactor}\n"))?;
            command = Command::new("puma");
            command.arg("--config").arg(config);
            command.args([
                "--bind",
                &format!("tcp://{address}"),
                "--threads",
                "16:16",
                "--environment",
                "production",
            ]);
            command.arg(source("config.ru"));
        }
        Server::PythonHttp => {
            std::fs::write(directory.join("a"), "leaf\n")?;
            command = Command::new("/usr/bin/python3");
            command.args(["-m", "http.server", "--protocol", "HTTP/1.1", "--bind"]);
            command.args([&address.ip().to_string(), &address.port().to_string()]);
        }
        Server::Jdk => {
            command = java(Java::Plain, "Service")?;
            // Without it, head and body in two writes wait for each other's acknowledgement.
            command.env("JAVA_TOOL_OPTIONS", "-Dsun.net.httpserver.nodelay=true");
        }
        Server::Tomcat => command = java(Java::Servlets, "TomcatService")?,
        Server::Jetty => command = java(Java::Servlets, "JettyService")?,
        Server::Node => {
            command = Command::new("node");
            command.arg(source("service.js"));
        }
        Server::Go => command = Command::new(built::go()?),
        Server::Hyper => command = Command::new(built::hyper()?),
        Server::Inets => {
            command = Command::new("erl");
            // Its schedulers would spin for work.
            command.args([
                "-noinput",
                "+sbwt",
                "none",
                "+sbwtdcpu",
                "none",
                "+sbwtdio",
                "none",
                "-pa",
            ]);
            command.arg(built::erlang()?).args(["-s", "service", "main"]);
        }
        Server::Redis => {
            command = Command::new("redis-server");
            command.args(["--bind", &address.ip().to_string()]);
            command.args(["--port", &address.port().to_string(), "--save", ""]);
        }
        Server::Uvicorn => {
            // Debian's, for there uvicorn is a package.
            command = Command::new("/usr/bin/python3");
            command.args(["-m", "uvicorn", "asgi:app", "--no-access-log", "--log-level", "warning"]);
            command.arg("--app-dir").arg(sources());
            command.args([
                "--host",
                &address.ip().to_string(),
                "--port",
                &address.port().to_string(),
            ]);
            command.env("PYTHONDONTWRITEBYTECODE", "1");
        }
        Server::ApachePrefork => command = proxies::apache(Apache::Prefork, name, address, directory)?,
        Server::ApacheWorker => command = proxies::apache(Apache::Worker, name, address, directory)?,
        Server::ApacheEvent { upstream } => {
            command = proxies::apache(Apache::Event(upstream), name, address, directory)?;
        }
        Server::Caddy { upstream } => command = proxies::caddy(address, upstream, directory)?,
        Server::Lighttpd { upstream } => command = proxies::lighttpd(name, address, upstream, directory)?,
        Server::Varnish { upstream } => command = proxies::varnish(address, upstream, directory)?,
        Server::Envoy { upstream } => command = proxies::envoy(name, address, upstream, directory)?,
        Server::PhpFpm => command = proxies::php_fpm(name, address, directory)?,
        Server::Php => {
            command = Command::new("php");
            command
                .args(["-S", &address.to_string()])
                .arg(source("router.php"))
                .env("PHP_CLI_SERVER_WORKERS", "4");
        }
        Server::Perl => {
            command = Command::new("perl");
            command.arg(source("service.pl"));
        }
    }
    Ok(command)
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
    // The first log is opened before the configuration is read.
    command.args(["-e", "stderr", "-c"]).arg(file);
    Ok(command)
}

/// The configuration of an HAProxy that logs as the services do. `server`: where it sends everything, with options;
/// `more`: lines of the section `defaults`.
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

/// Where the sources of services and clients are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services")
}

/// A directory of its own, which goes away with it, unless `SPOOR_KEEP_LOGS` is set.
pub fn directory(name: &str) -> Result<TempDir> {
    let mut directory = tempfile::Builder::new().prefix(&format!("spoor-{name}-")).tempdir()?;
    // To look at the logs after a failure.
    directory.disable_cleanup(std::env::var_os("SPOOR_KEEP_LOGS").is_some());
    Ok(directory)
}

pub(crate) fn truth_log(directory: &Path) -> PathBuf {
    directory.join("truth.log")
}
