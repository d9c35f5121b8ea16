//! bpf-linker, built with the LLVM of the compiler of the eBPF programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::tools::{self, LLVM, Run};

/// Variable by which llvm-sys finds LLVM 22.1.
const LLVM_SYS_PREFIX: &str = "LLVM_SYS_221_PREFIX";
const VERSION: &str = "0.13.0";

/// Returns name and purpose.
pub fn what() -> String {
    format!("bpf-linker {VERSION} with LLVM {LLVM}, built into .cache/tools: links the eBPF programs")
}

/// Finds a bpf-linker of the right version that runs here (its LLVM library is there).
pub fn find() -> Option<PathBuf> {
    // The agent's build script takes the first one on the path.
    let linker = tools::find_all("bpf-linker").next()?;
    let version = tools::output(&linker, &["--version"])?;
    version.split_whitespace().any(|word| word == VERSION).then_some(linker)
}

/// Builds bpf-linker without optimisation: LLVM's library does its work, and an optimised build takes longer than all
/// links.
pub fn build(log: &Path) -> Result<()> {
    let llvm = format!("/usr/lib/llvm-{LLVM}");
    Run::cargo([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--force",
        "--no-default-features",
        "--debug",
        "--config",
        "profile.dev.debug=false",
    ])
    .args(["--features", &format!("llvm-{LLVM}"), "--root"])
    .arg(tools::cache())
    .env("LLVM_PREFIX", &llvm)
    .env(LLVM_SYS_PREFIX, &llvm)
    // Else cargo would build it among our own crates, with their flags.
    .without("CARGO_TARGET_DIR")
    .without("RUSTFLAGS")
    .logged(log)
    .context(
        "cannot build bpf-linker; its crates come from crates.io, or from what your cargo configuration names instead. \
         Its own instructions: https://github.com/aya-rs/bpf-linker; one on PATH of this version is taken as well",
    )
}
