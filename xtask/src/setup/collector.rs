//! The OpenTelemetry Collector of the end-to-end tests, built from the module in `tests/services/collector`.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use crate::tools::{self, Run};

/// What it is for.
pub const WHY: &str = "the OpenTelemetry Collector, built into .cache/tools with Go: end-to-end tests of the export";

const FOLDER: &str = "tests/services/collector";
/// Everything that decides what is built: `go.sum` has the checksums of all modules.
const SOURCES: [&str; 3] = ["main.go", "go.mod", "go.sum"];

fn program() -> PathBuf {
    tools::cache().join("bin/otel-collector")
}

/// Whether it was built from the sources as they are now.
pub fn is_there() -> bool {
    let folder = tools::root().join(FOLDER);
    let sources = SOURCES.map(|source| modified(folder.join(source)));
    modified(program()).is_ok_and(|built| {
        sources
            .iter()
            .all(|source| source.as_ref().is_ok_and(|source| *source <= built))
    })
}

/// Builds it: two minutes of CPU the first time.
pub fn build() -> Result<()> {
    println!("Building the OpenTelemetry Collector (two minutes of CPU)");
    let program = program();
    // Go leaves a program alone that it would build the same, and its time with it.
    let _ = fs::remove_file(&program);
    Run::program("go")
        .args([
            "-C",
            FOLDER,
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags=-s -w",
            "-o",
        ])
        .arg(program)
        .arg(".")
        .env("GOWORK", "off")
        .status()
        .context("cannot build the OpenTelemetry Collector; its modules come from the Go module proxy (GOPROXY)")
}

fn modified(path: PathBuf) -> io::Result<SystemTime> {
    File::open(path)?.metadata()?.modified()
}
