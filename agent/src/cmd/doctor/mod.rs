//! `spoor doctor`: checks what works on this kernel and machine, and advises what to do about the rest.
//!
//! [`facts`] reads the machine, [`mod@verdict`] judges it: a verdict is a pure function of the facts.

pub mod facts;
mod show;
pub mod verdict;

use std::io::{self, Write};

use anyhow::Context;

use crate::probe::Family;

pub use facts::Facts;
pub use show::{json, text};
pub use verdict::{Report, verdict};

/// Checks the machine and prints a report, as text or as JSON. `hooks`: the family of hooks that an agent would be asked to
/// use. Returns the exit code: 1 if nothing can be traced.
///
/// # Errors
/// If the process file system cannot be read, or the report cannot be written.
pub fn doctor(as_json: bool, hooks: Option<Family>) -> anyhow::Result<i32> {
    let report = verdict(&Facts::read(hooks)?);
    let printed = if as_json { json(&report) } else { text(&report) };
    io::stdout()
        .write_all(printed.as_bytes())
        .context("cannot write the report")?;
    Ok(if report.works() { 0 } else { 1 })
}

#[cfg(test)]
mod tests;
