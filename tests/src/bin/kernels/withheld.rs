//! Kernels that lack something: each program is refused in turn, and each field is left out. The agent continues and
//! names the loss; without an essential part it says so and ends.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use spoor::{
    cmd,
    config::{self, Invocation, LogLevel},
    probe::{self, Family, Settings, Withheld, plan},
};
use spoor_tests::{
    agent::{Agent, wanted_hooks},
    otlp,
};

use crate::{lossy::nothing_wrong, own_path, threads::Service};

/// A program or field that is withheld.
struct Item {
    /// Value of `--hooks`.
    hooks: &'static str,
    kind: &'static str,
    name: String,
    /// Whether nothing works without it.
    essential: bool,
}

/// Returns all programs and fields of each family of hooks that this kernel takes.
fn all() -> Result<Vec<Item>> {
    let wanted = wanted_hooks();
    let mut items = Vec::new();
    for family in Family::ALL {
        let is_wanted = wanted.as_deref().is_none_or(|name| name == family.name());
        if is_wanted && (family == Family::Syscall || has_socket_events()) {
            items.extend(of_family(family)?);
        }
    }
    if wanted.is_none() && has_socket_events() {
        // An agent that chooses by itself goes on at the system calls.
        items.extend(
            [("program", "sock_send"), ("field", "socket.file")].map(|(kind, name)| Item {
                hooks: "auto",
                kind,
                name: name.to_owned(),
                essential: false,
            }),
        );
    }
    Ok(items)
}

fn of_family(family: Family) -> Result<Vec<Item>> {
    let hooks = family.name();
    let programs = plan(family).map(|attachment| Item {
        hooks,
        kind: "program",
        name: attachment.program.to_owned(),
        essential: attachment.feature.is_none(),
    });
    let reporter = Item {
        hooks,
        kind: "program",
        name: family.reporter().to_owned(),
        essential: true,
    };
    let fields = probe::fields(family)?.into_iter().map(|(name, feature)| Item {
        hooks,
        kind: "field",
        name,
        essential: feature.is_none(),
    });
    Ok(programs.chain([reporter]).chain(fields).collect())
}

/// Returns whether an agent can use the socket events of this kernel.
fn has_socket_events() -> bool {
    let settings = Settings {
        hooks: Some(Family::Sock),
        ..Settings::default()
    };
    probe::survey(&settings).socket_events.is_ok()
}

/// Tries all items. Returns their number.
pub fn each_in_turn() -> Result<usize> {
    let mut service = Service::start()?;
    let folder = tempfile::tempdir()?;
    let all = all()?;
    let mut faults = Vec::new();
    for item in &all {
        let Item { hooks, kind, name, .. } = item;
        let file = folder.path().join(format!("{hooks}-{kind}-{name}"));
        if let Err(error) = without(&mut service, item, &file) {
            faults.push(format!("--hooks={hooks} without the {kind} {name}: {error:#}"));
        }
    }
    service.end()?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(all.len())
}

fn without(service: &mut Service, item: &Item, file: &Path) -> Result<()> {
    let Item {
        hooks,
        kind,
        name,
        essential,
    } = item;
    let mut command = Command::new(own_path()?);
    command
        .args(["agent", hooks, kind, name])
        .arg(file)
        .args(service.selection());
    service.expected.clear();
    let agent = match Agent::attach(command, Stdio::null(), None) {
        Ok(agent) => agent,
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                *essential && said.contains(name),
                "the agent ended, and does not say why: {said}"
            );
            return Ok(());
        }
    };
    ensure!(!essential, "the agent goes on without what all depends on");
    service.requests("withheld", 2, 4)?;
    let said = agent.finish()?;
    let named = said
        .lines()
        .any(|line| line.contains("not available") && line.contains(name));
    ensure!(named, "the loss is not named: {said}");
    let spans = otlp::read(file).with_context(|| said.clone())?;
    let missing = nothing_wrong(&service.expected, &spans).with_context(|| said.clone())?;
    ensure!(missing == 0, "{missing} spans are missing; the agent said: {said}");
    Ok(())
}

/// Runs the agent with this value of `--hooks`, without an item.
pub fn agent(hooks: &str, kind: &str, name: &str, file: &str, selection: &[&str]) -> Result<()> {
    cmd::log_to_stderr(LogLevel::default())?;
    let withheld = match kind {
        "program" => Withheld {
            programs: vec![name.to_owned()],
            ..Withheld::default()
        },
        "field" => Withheld {
            fields: vec![name.to_owned()],
            ..Withheld::default()
        },
        _ => bail!("no such kind: {kind}"),
    };
    let output = format!("otlp-json={file}");
    let words = [
        "spoor",
        "run",
        "--hooks",
        hooks,
        "--capture-body-sizes",
        "--metrics-listen",
        "off",
        "--output",
        &output,
    ];
    let words = words.iter().chain(selection).map(OsString::from);
    let invocation = Invocation::new(words, |name| std::env::var_os(name))?;
    let config::Command::Run(settings) = invocation.command else {
        bail!("the command is not `run`");
    };
    cmd::run_without(&settings, withheld).map(drop)
}
