//! Components and targets of the Rust toolchain.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, Run};

/// Returns whether the toolchain has a file.
pub fn has(file: &str) -> bool {
    sysroot().is_some_and(|sysroot| sysroot.join(file).exists())
}

/// Returns whether the toolchain can build for a target.
pub fn has_target(target: &str) -> bool {
    sysroot().is_some_and(|sysroot| sysroot.join("lib/rustlib").join(target).join("lib").is_dir())
}

fn sysroot() -> Option<PathBuf> {
    tools::output("rustc", &["--print", "sysroot"]).map(|path| PathBuf::from(path.trim()))
}

/// Adds a `component` or a `target`.
pub fn add(kind: &str, name: &str, log: &Path) -> Result<()> {
    if !tools::exists("rustup") {
        bail!(
            "your Rust was not installed by rustup, so xtask cannot add the {kind} {name} to it. Add it by your \
             distribution's means, or install rustup: https://rustup.rs"
        );
    }
    Run::program("rustup")
        .args([kind, "add", name])
        .logged(log)
        .with_context(|| format!("rustup cannot add the {kind} {name}: is its server reachable?"))
}
