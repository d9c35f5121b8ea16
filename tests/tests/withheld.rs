//! Kernels that lack something, see `tests/src/bin/kernels/withheld.rs`.

use std::{env, process::Command};

use anyhow::{Result, ensure};

/// Variable with the path of the suite, built as the release binary is: the test starts some seventy agents, and each
/// reads all types of the kernel.
const KERNELS: &str = "SPOOR_KERNELS";

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn each_program_and_field_withheld_in_turn() -> Result<()> {
    let suite = env::var_os(KERNELS).unwrap_or_else(|| env!("CARGO_BIN_EXE_kernels").into());
    let status = Command::new(suite).arg("withheld").status()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}
