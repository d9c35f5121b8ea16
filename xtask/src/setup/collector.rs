//! The OpenTelemetry Collector of the end-to-end tests, built from the module in `tests/services/collector`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use crate::tools::{self, Run};

/// Returns name and purpose.
pub fn what() -> String {
    "the OpenTelemetry Collector, built into .cache/tools with Go: end-to-end tests of the export".to_owned()
}

const FOLDER: &str = "tests/services/collector";
/// Files that decide what is built. `go.sum` has the checksums of all modules.
const SOURCES: [&str; 3] = ["main.go", "go.mod", "go.sum"];

fn program() -> PathBuf {
    tools::cache().join("bin/otel-collector")
}

/// Returns whether the program was built from the current sources.
pub fn is_there() -> bool {
    let folder = tools::root().join(FOLDER);
    let sources = SOURCES.map(|source| modified(folder.join(source)));
    modified(program()).is_ok_and(|built| {
        sources
            .iter()
            .all(|source| source.as_ref().is_ok_and(|source| *source <= built))
    })
}

/// Builds the collector: two minutes of CPU the first time.
pub fn build(log: &Path) -> Result<()> {
    let program = program();
    // Go does not touch a program that would come out the same, so its time would stay old.
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
        .logged(log)
        .context(
            "cannot build the OpenTelemetry Collector; its modules come from the Go module proxy (`go env GOPROXY`)",
        )
}

fn modified(path: PathBuf) -> io::Result<SystemTime> {
    File::open(path)?.metadata()?.modified()
}
