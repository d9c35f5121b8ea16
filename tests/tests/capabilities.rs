//! Tests docs/capabilities.md by dropping each capability: with exactly the listed ones the agent traces, and without
//! one of them it loses what the table says, reports it, and loses no more.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use spoor_tests::{
    agent::{Agent, binary, hooks},
    net, otlp,
    process::Process,
    services::directory,
};
use tempfile::TempDir;

/// Program of a server of another user than the agent's. It runs Debian's own interpreter, because others may not be
/// readable for that user.
const SERVER: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *arguments): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;
const PYTHON: &str = "/usr/bin/python3";
/// Users without an entry in /etc/passwd.
const AGENTS_USER: u32 = 61_001;
const SERVERS_USER: u32 = 61_002;

/// Names for setpriv, and numbers for capabilities that it may be too old to know.
const LISTED: [(&str, &str); 5] = [
    ("CAP_BPF", "cap_39"),
    ("CAP_PERFMON", "cap_38"),
    ("CAP_DAC_READ_SEARCH", "dac_read_search"),
    ("CAP_SYS_PTRACE", "sys_ptrace"),
    ("CAP_SYS_NICE", "sys_nice"),
];

/// Expected effect of a missing capability.
enum Outcome {
    /// The agent does not start.
    Refused,
    /// Servers that were selected in these ways are traced. `named`: their spans have their `OTEL_SERVICE_NAME`.
    Traces { ways: &'static [&'static str], named: bool },
}

const ALL: &[&str] = &["exe", "pid", "port"];

#[test]
#[ignore = "needs root, the agent and Debian's python3"]
fn each_capability_is_worth_what_is_said() -> Result<()> {
    use Outcome::{Refused, Traces};
    let world = World::new()?;
    let whole = || Traces { ways: ALL, named: true };
    for (user, dropped, outcome) in [
        (AGENTS_USER, None, whole()),
        (AGENTS_USER, Some("CAP_BPF"), Refused),
        (AGENTS_USER, Some("CAP_PERFMON"), Refused),
        (AGENTS_USER, Some("CAP_DAC_READ_SEARCH"), Refused),
        // The kernel decides whether the environment can be read: see the table.
        (
            AGENTS_USER,
            Some("CAP_SYS_PTRACE"),
            Traces {
                ways: &["pid"],
                named: false,
            },
        ),
        (AGENTS_USER, Some("CAP_SYS_NICE"), whole()),
        (0, None, whole()),
        (0, Some("CAP_BPF"), Refused),
        (0, Some("CAP_PERFMON"), Refused),
        (
            0,
            Some("CAP_DAC_READ_SEARCH"),
            Traces {
                ways: &["exe", "pid"],
                named: false,
            },
        ),
        (
            0,
            Some("CAP_SYS_PTRACE"),
            Traces {
                ways: &["pid"],
                named: false,
            },
        ),
        (0, Some("CAP_SYS_NICE"), whole()),
    ] {
        let what = format!("user {user} without {}", dropped.unwrap_or("any less"));
        world.check(user, dropped, &outcome).with_context(|| what.clone())?;
        world
            .check_doctor(user, dropped, &outcome)
            .with_context(|| format!("doctor, {what}"))?;
    }
    Ok(())
}

struct World {
    directory: TempDir,
    servers: Vec<Server>,
}

struct Server {
    way: &'static str,
    address: std::net::SocketAddr,
    script: PathBuf,
    process: Process,
}

impl World {
    fn new() -> Result<Self> {
        let directory = directory("capabilities")?;
        // All users must be able to enter it.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let agent = directory.path().join("spoor");
        fs::copy(binary()?, &agent)?;
        fs::set_permissions(&agent, Permissions::from_mode(0o755))?;
        let servers = ALL
            .iter()
            .map(|way| Server::start(way, directory.path()))
            .collect::<Result<_>>()?;
        Ok(Self { directory, servers })
    }

    fn selection(&self) -> Vec<String> {
        let rule = |server: &Server| match server.way {
            "exe" => format!("--exe={}", server.script.display()),
            "port" => format!("--port={}", server.address.port()),
            _ => format!("--pid={}", server.process.id()),
        };
        self.servers.iter().map(rule).collect()
    }

    fn agent(&self, user: u32, dropped: Option<&str>) -> Command {
        let kept = LISTED.iter().filter(|(name, _)| Some(*name) != dropped);
        let kept: String = kept.map(|(_, number)| format!(",+{number}")).collect();
        let kept = format!("-all{kept}");
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &kept, "--inh-caps", &kept]);
        if user != 0 {
            let user = user.to_string();
            command.args([
                "--ambient-caps",
                &kept,
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ]);
        }
        command.arg(self.directory.path().join("spoor"));
        command
    }

    fn check(&self, user: u32, dropped: Option<&str>, outcome: &Outcome) -> Result<()> {
        let spans = self.directory.path().join("spans");
        let command = self.agent(user, dropped);
        let started = Agent::start_as(command, &self.selection(), "otlp-json", File::create(&spans)?.into());
        let (agent, ways, named) = match (started, outcome) {
            (Err(error), Outcome::Refused) => {
                let said = format!("{error:#}");
                let lacks = format!("spoor lacks {}: ", dropped.unwrap_or_default());
                ensure!(said.contains(&lacks), "it does not say {lacks:?}, but {said}");
                return Ok(());
            }
            (Ok(_), Outcome::Refused) => anyhow::bail!("the agent started"),
            (started, Outcome::Traces { ways, named }) => (started?, ways, named),
        };
        for server in &self.servers {
            let status = net::get(server.address, &format!("/by-{}", server.way), &[])?;
            ensure!(status == 204, "{} answered {status}", server.way);
        }
        let said = agent.finish()?;
        let told: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("spoor runs without"))
            .collect();
        match dropped {
            None => ensure!(told.is_empty(), "it misses what it has: {told:?}"),
            Some(name) => ensure!(
                told.len() == 1 && told[0].contains(&format!("without {name}: ")),
                "{name} is not told, or more than that: {told:?}"
            ),
        }
        let spans = otlp::read(&spans)?;
        let paths: BTreeSet<&str> = spans.iter().filter_map(|span| span.text("url.path")).collect();
        let expected: BTreeSet<String> = ways.iter().map(|way| format!("/by-{way}")).collect();
        ensure!(
            paths.len() == spans.len() && paths.iter().eq(expected.iter()),
            "traced were {paths:?} by {} spans, not {expected:?}; it said:\n{said}",
            spans.len()
        );
        let names: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        let given: BTreeSet<String> = ways.iter().map(|way| format!("service-{way}")).collect();
        ensure!(
            !named || names.iter().eq(given.iter()),
            "the services are called {names:?}, not {given:?}"
        );
        Ok(())
    }

    fn check_doctor(&self, user: u32, dropped: Option<&str>, outcome: &Outcome) -> Result<()> {
        let output = self
            .agent(user, dropped)
            .args(["doctor", "--json"])
            .args(hooks())
            .stderr(Stdio::inherit())
            .output()?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let works = matches!(outcome, Outcome::Traces { .. });
        ensure!(report["works"] == works, "{report:#}");
        ensure!(
            output.status.code() == Some(i32::from(!works)),
            "it ended with {}",
            output.status
        );
        let checks = report["checks"].as_array().context("there are no checks")?;
        let of_capabilities = checks.iter().filter(|check| check["group"] == "capabilities");
        let missing: Vec<&str> = of_capabilities
            .filter(|check| check["state"] != "works")
            .filter_map(|check| check["name"].as_str())
            .collect();
        let expected: Vec<&str> = dropped.into_iter().collect();
        ensure!(missing == expected, "it misses {missing:?}, not {expected:?}");
        Ok(())
    }
}

impl Server {
    fn start(way: &'static str, directory: &Path) -> Result<Self> {
        let script = directory.join(format!("{way}.py"));
        fs::write(&script, SERVER)?;
        fs::set_permissions(&script, Permissions::from_mode(0o644))?;
        let address = net::free_address();
        let user = SERVERS_USER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", PYTHON]);
        command.arg(&script).arg(address.port().to_string());
        command
            .env("OTEL_SERVICE_NAME", format!("service-{way}"))
            .current_dir("/");
        let mut process = Process::start(way, command, &directory.join("log"))?;
        net::wait_accepting(address, &mut process)?;
        Ok(Self {
            way,
            address,
            script,
            process,
        })
    }
}
