//! Common parts of all benchmarks: a folder, the servers in it, and the sink.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
};

use anyhow::{Context as _, Result};
use spoor::probe::Family;
use spoor_tests::{
    agent::binary,
    http,
    net::{free_address, wait_accepting},
    process::Process,
    services::{built, route, sources},
};
use tempfile::TempDir;

use super::{
    agent::{Agent, Hooks, Launch, Output, SELECTION_TIME},
    proc::{self, Usage},
    role::Role,
    sink::Sink,
};

/// Folders with copies of the servers' binaries. Programs of the first folder are selected for tracing by their path,
/// programs of the second are not. So traced and untraced servers run side by side under one agent, and no other nginx
/// of the host is traced.
pub struct Rig {
    directory: TempDir,
    /// Collector of the spans.
    pub sink: Sink,
    /// Family of hooks that agents are told to take.
    hooks: Option<Hooks>,
}

/// Whether the agent traces a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server is traced.
    Traced,
    /// The server is not traced.
    Plain,
}

impl Rig {
    /// Creates a folder with a file of 1 KiB to serve.
    pub fn new(hooks: Option<Hooks>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("spoor-bench-").tempdir()?;
        for folder in ["traced", "plain", "www"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        fs::write(directory.path().join("www/index.html"), [b'x'; 1024])?;
        Ok(Self {
            directory,
            sink: Sink::start()?,
            hooks,
        })
    }

    /// Returns the folder of the logs.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Copies a program into the folder of a side.
    pub fn program(&self, side: Side, name: &str, program: &Path) -> Result<PathBuf> {
        let copy = self.folder(side).join(name);
        if !copy.exists() {
            fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
        }
        Ok(copy)
    }

    /// Starts nginx with a file of 1 KiB.
    pub fn nginx(&self, side: Side) -> Result<Service> {
        let location = format!("location / {{ root {}/www; }}", self.path().display());
        self.nginx_with(side, "", &location)
    }

    /// Starts the same nginx with a Unix socket beside its TCP socket.
    pub fn unix_nginx(&self, side: Side) -> Result<Service> {
        let listen = format!("listen unix:{}/nginx.sock;", self.path().display());
        let location = format!("{listen} location / {{ root {}/www; }}", self.path().display());
        self.nginx_with(side, "", &location)
    }

    /// Starts Node's server with a response of some bytes.
    pub fn node(&self, side: Side) -> Result<Service> {
        let mut command = Command::new(self.program(side, "node", &installed("node")?)?);
        command.arg(sources().join("service.js"));
        self.test_service("node", command)
    }

    /// Starts Go's server with a response of some bytes.
    pub fn go(&self, side: Side) -> Result<Service> {
        let program = self.program(side, "service-go", &built::go()?)?;
        self.test_service("go", Command::new(program))
    }

    /// Starts a service of the end-to-end tests. For each request it writes a line of its log, as many services do, here
    /// to /dev/null.
    fn test_service(&self, name: &str, mut command: Command) -> Result<Service> {
        let address = free_address();
        command
            .env("PORT", address.port().to_string())
            .env("SERVICE", name)
            .env("TRUTH_LOG", "/dev/null")
            .env("ROUTES", route("/", 200, 0, &[]));
        self.start(name, command, address)
    }

    /// Starts an nginx that passes everything to another one, over connections that stay open.
    pub fn proxy(&self, side: Side, upstream: SocketAddr) -> Result<Service> {
        let upstreams =
            format!("upstream static {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}");
        let location =
            "location / { proxy_pass http://static; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
        self.nginx_with(side, &upstreams, location)
    }

    fn nginx_with(&self, side: Side, upstreams: &str, location: &str) -> Result<Service> {
        let program = self.program(side, "nginx", &nginx_binary()?)?;
        let address = free_address();
        let home = self.path().join(format!("nginx-{}", address.port()));
        fs::create_dir(&home)?;
        let configuration = home.join("nginx.conf");
        fs::write(&configuration, nginx_conf(address, upstreams, location))?;
        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(&home)
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "stderr"]);
        self.start("nginx", command, address)
    }

    fn start(&self, name: &str, command: Command, address: SocketAddr) -> Result<Service> {
        let log = self.path().join(format!("{name}-{}.log", address.port()));
        let mut process = Process::start(name, command, &log)?;
        wait_accepting(address, &mut process).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Service { process, address })
    }

    /// Returns how this project's agent is started with the traced side selected. Its spans go by gRPC to the sink.
    pub fn launch(&self) -> Result<Launch> {
        Ok(Launch {
            options: self.hooks.map(Hooks::option).into_iter().collect(),
            ..self.launch_other(binary()?)
        })
    }

    /// Returns how another agent is started for the same. It may not know the option `--hooks`.
    pub fn launch_other(&self, program: PathBuf) -> Launch {
        Launch {
            program,
            select: self.traced(),
            options: Vec::new(),
            output: Output::Grpc(self.sink.grpc),
            environment: Vec::new(),
        }
    }

    /// Starts the agent with the traced side selected.
    pub fn agent(&self) -> Result<Agent> {
        Agent::start(&self.launch()?)
    }

    /// Returns the family of hooks that the agent takes. An agent is started for it.
    pub fn family(&self) -> Result<Family> {
        let agent = self.agent()?;
        // The agent shows its state once a second.
        sleep(SELECTION_TIME);
        let metrics = agent.metrics()?;
        agent.finish()?;
        let told = metrics
            .state("spoor_hooks", "family")
            .context("the agent tells no family of hooks")?;
        let mut families = Family::ALL.into_iter();
        families
            .find(|family| family.name() == told)
            .with_context(|| format!("the agent tells the unknown family of hooks {told}"))
    }

    /// Returns the arguments that select the traced side.
    fn traced(&self) -> Vec<OsString> {
        let mut programs = self.folder(Side::Traced).into_os_string();
        programs.push("/*");
        vec!["--exe".into(), programs]
    }

    /// Starts this program on a side, in another role.
    pub fn role(&self, side: Side, args: &[&str]) -> Result<Role> {
        let this = std::env::current_exe().context("cannot tell where this program is")?;
        let name = args.first().context("a role has a name")?;
        let mut command = Command::new(self.program(side, name, &this)?);
        command.args(args);
        Role::start(name, command)
    }

    fn folder(&self, side: Side) -> PathBuf {
        self.path().join(match side {
            Side::Traced => "traced",
            Side::Plain => "plain",
        })
    }
}

/// A running service.
pub struct Service {
    process: Process,
    /// Address at which it listens.
    pub address: SocketAddr,
}

impl Service {
    /// Returns the number of requests that an nginx has read since its start, this query included.
    pub fn requests(&self) -> Result<u64> {
        let text = http::get(self.address, "/requests")?;
        stub_status_requests(&text).with_context(|| format!("nginx's stub_status said {text:?}"))
    }

    /// Returns what all its processes have used.
    pub fn usage(&self) -> Result<Usage> {
        self.process.group()?.into_iter().map(proc::usage).sum()
    }
}

/// Returns the fixed configuration: one worker, no access log, sendfile, connections that stay open.
fn nginx_conf(address: SocketAddr, upstreams: &str, location: &str) -> String {
    format!(
        "daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {upstreams}
    server {{
        listen {address};
        {location}
        location = /requests {{ stub_status; }}
    }}
}}
"
    )
}

/// Parses `Active connections: 1 \nserver accepts handled requests\n 3 3 7 \nReading: …`.
fn stub_status_requests(text: &str) -> Option<u64> {
    text.lines().nth(2)?.split_ascii_whitespace().nth(2)?.parse().ok()
}

fn nginx_binary() -> Result<PathBuf> {
    installed("nginx")
}

/// Returns the path of a program that `cargo xtask setup` installs.
pub fn installed(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("there is no {name}: run `cargo xtask setup`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stub_status() {
        let text = "Active connections: 17 \nserver accepts handled requests\n 30 31 1000042 \nReading: 0 Writing: 1 Waiting: 16 \n";
        assert_eq!(stub_status_requests(text), Some(1_000_042));
        assert_eq!(stub_status_requests("Active connections: 17 \n"), None);
    }
}
