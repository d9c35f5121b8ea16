//! What `cargo xtask kernels` needs beyond a build: emulators, what unpacks kernels, and a compiler for 64-bit ARM.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Package, Probe, apt, package, rustup};
use crate::{release, tools};

const PACKAGES: [Package; 7] = [
    package(
        "qemu-system-x86",
        Probe::Command("qemu-system-x86_64"),
        "virtual machines",
    ),
    package(
        "qemu-system-arm",
        Probe::Command("qemu-system-aarch64"),
        "virtual machines of 64-bit ARM",
    ),
    package("cpio", Probe::Command("cpio"), "packs a virtual machine's files"),
    package("kmod", Probe::Command("depmod"), "finds kernel modules"),
    package("xz-utils", Probe::Command("xz"), "unpacks kernel modules"),
    package(
        "gcc-aarch64-linux-gnu",
        Probe::Command("aarch64-linux-gnu-gcc"),
        "C compiler and linker for the agent on 64-bit ARM",
    ),
    package(
        "libc6-dev-arm64-cross",
        Probe::File("/usr/aarch64-linux-gnu/include/stdlib.h"),
        "headers for that compiler",
    ),
];

/// A line for each thing that is missing.
pub fn missing() -> Vec<String> {
    let mut lines: Vec<String> = absent()
        .map(|package| format!("package {}: {}", package.name, package.why))
        .collect();
    if !has_target() {
        lines.push(format!("Rust target {}: the agent on 64-bit ARM", release::ARM_TARGET));
    }
    lines
}

/// Installs what is missing, and says before what and why.
pub fn install() -> Result<()> {
    let lines = missing();
    if lines.is_empty() {
        return Ok(());
    }
    println!("Missing:\n  {}", lines.join("\n  "));
    let names: Vec<&str> = absent().map(|package| package.name).collect();
    if !names.is_empty() {
        apt::can_install(&names, false)?;
        apt::update()?;
        apt::install(&names)?;
    }
    if !has_target() {
        rustup("target", &[release::ARM_TARGET])?;
    }
    let left = missing();
    if !left.is_empty() {
        bail!(
            "this is still not found after it was installed; install it by hand:\n  {}",
            left.join("\n  ")
        );
    }
    Ok(())
}

fn absent() -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(|package| !package.is_there())
}

fn has_target() -> bool {
    tools::output("rustc", &["--print", "sysroot"]).is_some_and(|sysroot| {
        let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(release::ARM_TARGET);
        libraries.join("lib").is_dir()
    })
}
