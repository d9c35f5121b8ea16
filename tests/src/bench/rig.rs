//! Common parts of all benchmarks: a folder, the servers in it, and the sink.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use spoor_tests::{
    http,
    net::{free_address, wait_accepting},
    process::Process,
};
use tempfile::TempDir;

use super::{agent::Agent, proc, role::Role, sink::Sink};

/// Folders with copies of the servers' binaries. Programs of the first folder are selected for tracing by their path,
/// programs of the second are not. So traced and untraced servers run side by side under one agent, and no other nginx
/// of the host is traced.
pub struct Rig {
    directory: TempDir,
    /// Collector of the spans.
    pub sink: Sink,
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
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("spoor-bench-").tempdir()?;
        for folder in ["traced", "plain", "www"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        fs::write(directory.path().join("www/index.html"), [b'x'; 1024])?;
        Ok(Self {
            directory,
            sink: Sink::start()?,
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
    pub fn nginx(&self, side: Side) -> Result<Nginx> {
        let location = format!("location / {{ root {}/www; }}", self.path().display());
        self.nginx_with(side, "", &location)
    }

    /// Starts an nginx that passes everything to another one, over connections that stay open.
    pub fn proxy(&self, side: Side, upstream: SocketAddr) -> Result<Nginx> {
        let upstreams =
            format!("upstream static {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}");
        let location =
            "location / { proxy_pass http://static; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
        self.nginx_with(side, &upstreams, location)
    }

    fn nginx_with(&self, side: Side, upstreams: &str, location: &str) -> Result<Nginx> {
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
        let log = home.join("log");
        let mut process = Process::start("nginx", command, &log)?;
        wait_accepting(address, &mut process).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Nginx { process, address })
    }

    /// Starts the agent with the traced side selected.
    pub fn agent(&self, environment: &[(&str, &str)]) -> Result<Agent> {
        Agent::start(&self.traced(), self.sink.address, environment)
    }

    /// Returns the arguments that select the traced side.
    pub fn traced(&self) -> Vec<OsString> {
        let mut programs = self.folder(Side::Traced).into_os_string();
        programs.push("/*");
        vec!["--exe".into(), programs]
    }

    /// Starts the agent with these arguments only.
    pub fn agent_with(&self, args: &[OsString]) -> Result<Agent> {
        Agent::start(args, self.sink.address, &[])
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

/// A running nginx.
pub struct Nginx {
    process: Process,
    /// Address at which it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Returns the number of requests that it has read since its start, this query included.
    pub fn requests(&self) -> Result<u64> {
        let text = http::get(self.address, "/requests")?;
        stub_status_requests(&text).with_context(|| format!("nginx's stub_status said {text:?}"))
    }

    /// Returns the CPU time of the master and its worker, in ns.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.process.group()?.into_iter().map(proc::cpu_ns).sum()
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
