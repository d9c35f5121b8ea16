//! `spoor completions`: prints a shell's completions of the command line.

use std::io::{self, Write};

use anyhow::Context;
use clap_complete::Shell;

use crate::config;

/// Prints the script that completes the command line in this shell.
///
/// # Errors
/// If standard output cannot be written to.
pub(super) fn print(shell: Shell) -> anyhow::Result<()> {
    io::stdout()
        .write_all(&config::completions(shell))
        .context("cannot write to standard output")
}
