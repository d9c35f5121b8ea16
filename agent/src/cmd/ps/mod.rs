//! `spoor ps`: which workloads are traced and why, and what of them is not visible. The running agent says it; without
//! one, it is said what a selection would select.

mod listing;
mod table;

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::PsSettings,
    control::{AskError, Status, Workload, Workloads, ask},
    process::ProcRoot,
    screen::say,
    targets::rules::Rules,
};
use listing::Gather;
use table::table;

/// How often `--watch` draws.
const PERIOD: Duration = Duration::from_secs(1);
/// Columns and rows of what is not a terminal.
const PLAIN_SIZE: (usize, usize) = (120, usize::MAX);

/// What is listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The agent that was asked; `None`: none runs, and this is what would be selected.
    pub agent: Option<Status>,
    /// The workloads, those that are selected first.
    pub workloads: Vec<Row>,
    /// How many more there are.
    pub left_off: usize,
}

/// A workload, with what the process file system says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What the agent knows.
    #[serde(flatten)]
    pub workload: Workload,
    /// TCP ports that it listens on.
    pub listens: Vec<u16>,
}

/// Lists workloads, once or until nobody reads any more.
///
/// # Errors
/// If the selection cannot be, or an agent runs and cannot be asked.
pub fn ps(settings: &PsSettings) -> anyhow::Result<()> {
    let root = ProcRoot::of_host();
    let rules = Rules::new(root.clone(), &settings.selection)?;
    let mut gather = Gather::new(root, rules, settings.selection.rules());
    let mut told = false;
    loop {
        let listing = match answer(settings)? {
            Some(answer) => {
                if !settings.selection.is_empty() && !told {
                    told = true;
                    say(format_args!(
                        "an agent runs (process {}) with a selection of its own; `--control off` says what yours \
                         would select",
                        answer.agent.pid
                    ));
                }
                gather.complete(answer, settings.all)
            }
            None => {
                if !rustix::process::geteuid().is_root() && !told {
                    told = true;
                    say("without root, ports and names of other users' processes are not seen");
                }
                gather.would_be(settings.all)
            }
        };
        match print(&listing, settings) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        if !settings.watch {
            return Ok(());
        }
        thread::sleep(PERIOD);
    }
}

/// What the agent says; `None`: there is none.
fn answer(settings: &PsSettings) -> Result<Option<Workloads>, AskError> {
    let Some(path) = &settings.control else {
        return Ok(None);
    };
    match ask(path, "workloads") {
        Ok(answer) => Ok(Some(answer)),
        Err(AskError::NoAgent(_)) => Ok(None),
        Err(error) => Err(error),
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
    let mut lines = table(listing, settings.control.is_some(), columns);
    if is_screen {
        // Over what was drawn before, so that it does not flicker: each line to its end, then all that is below.
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
