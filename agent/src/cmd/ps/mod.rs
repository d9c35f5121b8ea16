//! `spoor ps`: lists which workloads are traced and why, and what of them is not visible. The running agent is asked;
//! without one, the list shows what an agent with the same rules would trace.

mod listing;
mod table;

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Asked, CONTROL_SOCKET, PsSettings},
    console::printable,
    control::{AskError, Status, Workload, Workloads, ask},
    process::ProcRoot,
    screen::say,
    targets::rules::Rules,
};
use listing::Gather;
use table::table;

/// Period of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);
/// Columns and rows of an output that is not a terminal: nothing is cut.
const PLAIN_SIZE: (usize, usize) = (usize::MAX, usize::MAX);

/// List of workloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The agent that answered; `None`: none did, and the list shows what would be selected.
    pub agent: Option<Status>,
    /// Agents that run on this host and were not asked.
    pub others: Vec<Status>,
    /// The workloads, those that are selected first.
    pub workloads: Vec<Row>,
    /// Workloads that are left off.
    pub left_off: usize,
}

/// Workload, completed from the process file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The workload, as the agent knows it.
    #[serde(flatten)]
    pub workload: Workload,
    /// TCP ports that the process listens on.
    pub listens: Vec<u16>,
}

/// Lists workloads, once or until the output is closed.
///
/// # Errors
/// If a rule can name no process, no agent answers where the user says that one does, or an agent cannot be asked.
pub fn ps(settings: &PsSettings) -> anyhow::Result<()> {
    let root = ProcRoot::of_host();
    let rules = Rules::new(root.clone(), &settings.selection)?;
    let mut gather = Gather::new(root, rules, settings.selection.rules());
    let mut told = false;
    loop {
        let listing = match answer(&settings.asked, &gather)? {
            Some(answer) => {
                if !settings.selection.is_empty() && !told {
                    told = true;
                    say(format_args!(
                        "an agent runs (process {}) with rules of its own; add `--control off` to see what your \
                         rules would select",
                        answer.agent.pid
                    ));
                }
                gather.complete(answer, settings.all)
            }
            None => {
                if !rustix::process::geteuid().is_root() && !told {
                    told = true;
                    say("without root, ports and names of other users' processes are not visible");
                }
                gather.would_be(settings.all)
            }
        };
        match print(&listing, settings) {
            // The reader, a pager for example, has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        if !settings.watch {
            return Ok(());
        }
        thread::sleep(PERIOD);
    }
}

/// Asks the running agent; `None`: none is to be asked, or none answers at the default control socket.
fn answer(asked: &Asked, gather: &Gather) -> anyhow::Result<Option<Workloads>> {
    let path = match asked {
        Asked::Nobody => return Ok(None),
        Asked::Usual => Path::new(CONTROL_SOCKET),
        Asked::At(path) => path,
    };
    match ask(path, "workloads") {
        Ok(answer) => Ok(Some(answer)),
        Err(AskError::NoAgent(_)) if *asked == Asked::Usual => Ok(None),
        Err(error @ AskError::NoAgent(_)) => {
            let agents: Vec<String> = gather.agents().iter().map(agent_elsewhere).collect();
            if agents.is_empty() {
                bail!("{error}, and none runs; leave out --control to see what would be selected");
            }
            bail!("{error}; {}", printable(&agents.join("; ")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns what an agent does that was not asked, and how to ask it.
fn agent_elsewhere(agent: &Status) -> String {
    let Status {
        pid, doing, control, ..
    } = agent;
    match control.as_deref() {
        Some(CONTROL_SOCKET) => format!("process {pid} {doing} (`spoor ps` asks it)"),
        Some(path) => format!("process {pid} {doing} (`spoor ps --control {path}` asks it)"),
        None => {
            format!("process {pid} {doing} without a control socket (as with `--control off`), so it cannot be asked")
        }
    }
}

fn print(listing: &Listing, settings: &PsSettings) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if settings.json {
        let text = if settings.watch {
            serde_json::to_string(listing)
        } else {
            serde_json::to_string_pretty(listing)
        };
        writeln!(out, "{}", text?)?;
        return out.flush();
    }
    let is_screen = settings.watch && out.is_terminal();
    let size = terminal_size::terminal_size_of(&out);
    let (columns, rows) = size.map_or(PLAIN_SIZE, |(columns, rows)| (columns.0.into(), rows.0.into()));
    let mut lines = table(listing, &settings.asked, columns);
    if is_screen {
        // Draws over the list before, so that it does not flicker: erases each line to its end, then everything below.
        let shown = rows.saturating_sub(2).max(1);
        if lines.len() > shown {
            let more = lines.len() - shown;
            lines.truncate(shown);
            lines.push(format!("… {more} lines more"));
        }
        let text: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
        write!(out, "\x1b[H{text}\x1b[J")?;
    } else {
        for line in &lines {
            writeln!(out, "{line}")?;
        }
        if settings.watch {
            writeln!(out)?;
        }
    }
    out.flush()
}
