//! The release binary: one static file.

use std::{fmt, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::tools::{self, Run};

/// Target of the release binary. musl is linked in, so the binary runs on any distribution.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Target of the release binary for 64-bit ARM.
pub const ARM_TARGET: &str = "aarch64-unknown-linux-musl";

/// Upper bound of the binary's size, in bytes.
const SIZE_LIMIT: u64 = 20 * 1024 * 1024;

/// A release binary that was checked.
pub struct Release {
    /// Path of the binary.
    pub path: PathBuf,
    size_bytes: u64,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.size_bytes as f64 / (1024.0 * 1024.0);
        write!(
            f,
            "{}: static, {mib:.1} MiB (limit {} MiB)",
            self.path.display(),
            SIZE_LIMIT / (1024 * 1024)
        )
    }
}

/// Builds the release binary, and checks that it is static and not too large.
pub fn build() -> Result<Release> {
    build_for(TARGET)
}

/// Returns the variables that cargo needs to build for another target than this machine's.
pub fn cross_environment(target: &str) -> &'static [(&'static str, &'static str)] {
    match target {
        ARM_TARGET => &[
            (
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER",
                "aarch64-linux-gnu-gcc",
            ),
            ("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc"),
            ("AR_aarch64_unknown_linux_musl", "aarch64-linux-gnu-ar"),
            // The headers are those of glibc: no function that musl lacks may be used.
            (
                "CFLAGS_aarch64_unknown_linux_musl",
                "-U_FORTIFY_SOURCE -mno-outline-atomics",
            ),
        ],
        _ => &[],
    }
}

/// Builds the release binary for one of the targets.
pub fn build_for(target: &str) -> Result<Release> {
    let mut build = Run::cargo([
        "build",
        "--profile",
        "dist",
        "--package",
        "spoor",
        "--bin",
        "spoor",
        "--target",
        target,
    ]);
    for (name, value) in cross_environment(target) {
        build = build.env(name, value);
    }
    build.status()?;
    let path = tools::target_dir()?.join(target).join("dist/spoor");
    let bytes = fs::read(&path).with_context(|| format!("cannot read the binary just built, {}", path.display()))?;
    let size_bytes = bytes.len() as u64;
    match wants_loader(&bytes) {
        Some(false) => {}
        Some(true) => bail!(
            "{} is not static: it asks for a dynamic loader (PT_INTERP)",
            path.display()
        ),
        None => bail!("{} is not a complete 64-bit ELF file", path.display()),
    }
    ensure!(
        size_bytes <= SIZE_LIMIT,
        "{} has {size_bytes} bytes, more than the {SIZE_LIMIT} that are allowed: see what grew with cargo-bloat",
        path.display()
    );
    Ok(Release { path, size_bytes })
}

/// Name of the program that measures Core.
pub const CORE_COST: &str = "corecost";

/// Builds programs of the tests for one of the targets, like the release binary. Returns their folder.
pub fn test_binaries(target: &str, names: &[&str]) -> Result<PathBuf> {
    let mut build = Run::cargo([
        "build",
        "--profile",
        "dist",
        "--package",
        "spoor-tests",
        // With more features, the crates that the release binary shares would be built once more.
        "--no-default-features",
        "--features",
        "agent",
        "--target",
        target,
    ]);
    for name in names {
        build = build.args(["--bin", name]);
    }
    for (name, value) in cross_environment(target) {
        build = build.env(name, value);
    }
    build.giving_way().status()?;
    Ok(tools::target_dir()?.join(target).join("dist"))
}

/// Builds the program that measures Core.
pub fn core_cost() -> Result<PathBuf> {
    Ok(test_binaries(TARGET, &[CORE_COST])?.join(CORE_COST))
}

/// Builds a file of integration tests, and returns the path of its program.
pub fn test_program(name: &str) -> Result<PathBuf> {
    let mut path = None;
    let kind = r#""kind":["test"]"#;
    Run::cargo(["test", "--no-run", "--message-format", "json-render-diagnostics"])
        .args(["--workspace", "--test", name])
        .quiet_lines(|line| {
            if line.contains(kind) {
                path = executable(line).or(path.take());
            }
        })?;
    path.with_context(|| format!("cargo did not say where it put the test {name}"))
}

/// Returns the executable that a message of cargo names. Our paths have no characters that JSON escapes.
fn executable(message: &str) -> Option<PathBuf> {
    let (_, path) = message.split_once(r#""executable":""#)?;
    Some(path.split('"').next()?.into())
}

/// Returns whether an ELF file (64 bits, little-endian) names an interpreter, as every dynamically linked file does;
/// `None` for other files. See elf(5).
fn wants_loader(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (entry_bytes, entries) = (half(54)?, half(56)?);
    for entry in 0..entries {
        let at = table.checked_add(entry * entry_bytes)?;
        let kind = u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an ELF header and one program header of the given type.
    fn elf(kind: u32) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64 + 56, 0);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn tells_static_from_dynamic() {
        assert_eq!(wants_loader(&elf(1)), Some(false));
        assert_eq!(wants_loader(&elf(3)), Some(true));
    }

    #[test]
    fn executables_in_messages() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/dist/deps/core-1","fresh":true}"#;
        assert_eq!(executable(message), Some("/t/dist/deps/core-1".into()));
        let library = r#"{"reason":"compiler-artifact","executable":null,"fresh":true}"#;
        assert_eq!(executable(library), None);
    }

    #[test]
    fn refuses_what_is_no_elf_or_cut_off() {
        assert_eq!(wants_loader(b"#!/bin/sh"), None);
        assert_eq!(wants_loader(&elf(3)[..66]), None);
        let mut far = elf(3);
        far[32..40].fill(0xff);
        assert_eq!(wants_loader(&far), None);
    }
}
