//! Kernels that lack something, see `tests/src/bin/kernels/withheld.rs`.

use std::process::Command;

use anyhow::{Result, ensure};

#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn each_program_and_field_withheld_in_turn() -> Result<()> {
    let status = Command::new(env!("CARGO_BIN_EXE_kernels")).arg("withheld").status()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}
