//! Debian and Ubuntu packages, installed without starting their services.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, Run};

/// Runs apt-get with its arguments while `policy-rc.d` forbids the start of services (Debian Policy 9.3.3), and removes
/// the file again, also when interrupted. Never replaces a file that somebody else put there. A file of ours that a
/// kill left behind forbids nothing: it tests whether the shell that wrote it still runs, and else removes itself.
const GUARDED: &str = r#"
guard=/usr/sbin/policy-rc.d
mark='# cargo xtask setup'
if [ ! -e "$guard" ] || grep -qxF "$mark" "$guard"; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n%s\nif kill -0 %s 2>/dev/null; then exit 101; fi\nrm -f "$0"\nexit 0\n' "$mark" $$ > "$guard"
    chmod 755 "$guard"
fi
apt-get "$@"
"#;

/// Folder of the links that start units with the machine.
const STARTED: &str = "/etc/systemd/system";
const RUNLEVELS: &str = "/etc";

/// Returns whether a package is installed.
pub fn has(package: &str) -> bool {
    tools::output("dpkg-query", &["--show", "--showformat=${db:Status-Status}\n", package])
        .is_some_and(|status| status.lines().any(|line| line == "installed"))
}

/// Fails where packages cannot be installed, with what to do by hand.
pub fn can_install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !tools::exists("apt-get") {
        bail!(
            "this is neither Debian nor Ubuntu (no apt-get), so xtask cannot install packages. Install by hand what \
             your distribution calls these Debian packages, then try again:\n  {names}"
        );
    }
    if !tools::is_root() {
        bail!(
            "packages can only be installed by root. Either run this as `sudo env PATH=\"$PATH\" cargo xtask …`, or \
             install them and try again:\n  sudo apt-get install --no-install-recommends {names}"
        );
    }
    Ok(())
}

/// Fetches the lists of packages, then these packages with all their dependencies.
pub fn fetch(packages: &[&str], log: &Path) -> Result<()> {
    let updated = Run::program("apt-get").args(["update", "--quiet"]).logged(log);
    let fetched = apt_get(&["--download-only"], packages).logged(log).with_context(|| {
        format!(
            "cannot fetch all of these packages; one that apt does not know is not in this release (rustc-web 1.96 \
                 comes with the updates of Debian 12):\n  {}",
            packages.join(" ")
        )
    });
    match (fetched, updated) {
        // Old lists may do, for example when one of many sources is broken that we do not use.
        (Ok(()), _) => Ok(()),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(update)) => Err(error.context(format!(
            "`apt-get update` failed before; see that it works (/etc/apt/sources.list, /etc/apt/sources.list.d): {update:#}"
        ))),
    }
}

/// Installs packages. None of their services runs, now or after the next boot.
pub fn install(packages: &[&str], log: &Path) -> Result<()> {
    let before = links_that_start();
    apt_get(&[], packages).logged(log).with_context(|| {
        format!(
            "apt-get cannot install all of these packages:\n  {}",
            packages.join(" ")
        )
    })?;
    // systemd's own units belong to the machine.
    let own = if packages.contains(&"systemd") {
        units_of("systemd")
    } else {
        BTreeSet::new()
    };
    for link in links_that_start().difference(&before) {
        // An instance links to its template: getty@tty1.service to getty@.service.
        let starts = fs::read_link(link).unwrap_or_default();
        if own.contains(&unit(&starts)) {
            continue;
        }
        // Does the work of `systemctl disable` and `update-rc.d disable`, which some machines lack. A package that is
        // configured again takes it for the administrator's decision.
        switch_off(link)?;
    }
    Ok(())
}

fn apt_get(options: &[&str], packages: &[&str]) -> Run {
    Run::program("sh")
        .args([
            "-c",
            GUARDED,
            "apt-get",
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
        ])
        // Another apt may hold the lock.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(options)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
}

/// Lists the links that start a service with the machine.
fn links_that_start() -> BTreeSet<PathBuf> {
    let wanted = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".wants") || name.ends_with(".requires")
    };
    let units = files(Path::new(STARTED)).into_iter().filter(|path| wanted(path));
    let units = units.flat_map(|folder| files(&folder));
    let levels = (2..=5).flat_map(|level| files(&Path::new(RUNLEVELS).join(format!("rc{level}.d"))));
    let is_start = |path: &PathBuf| unit(path).starts_with('S');
    units.chain(levels.filter(is_start)).collect()
}

/// Lists a folder's entries; none if it does not exist.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn unit(link: &Path) -> String {
    link.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the names of the units that a package ships.
fn units_of(package: &str) -> BTreeSet<String> {
    let files = tools::output("dpkg-query", &["--listfiles", package]).unwrap_or_default();
    let units = files.lines().filter(|line| line.contains("/systemd/system/"));
    units.map(|line| unit(Path::new(line))).collect()
}

/// Removes a link, or renames that of a runlevel from S01name to K01name, which means off.
fn switch_off(link: &Path) -> Result<()> {
    let context = || format!("cannot switch {} off as a service", link.display());
    match off(link) {
        Some(off) => fs::rename(link, off).with_context(context),
        None => fs::remove_file(link).with_context(context),
    }
}

fn off(link: &Path) -> Option<PathBuf> {
    let folder = link.parent()?;
    let name = unit(link);
    let is_level = folder.parent() == Some(Path::new(RUNLEVELS));
    is_level.then(|| folder.join(format!("K{}", name.strip_prefix('S').unwrap_or(&name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_switched_off_as_their_kind_is() {
        assert_eq!(
            off(Path::new("/etc/rc3.d/S01nginx")),
            Some("/etc/rc3.d/K01nginx".into())
        );
        assert_eq!(
            off(Path::new("/etc/systemd/system/multi-user.target.wants/caddy.service")),
            None
        );
    }

    #[test]
    fn a_guard_that_was_left_behind_forbids_nothing() {
        // The format of the shell's `$$`, for a process that has ended and for this one.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy-rc.d");
        let script = GUARDED
            .replace("guard=/usr/sbin/policy-rc.d", &format!("guard={}", file.display()))
            .replace(
                "apt-get \"$@\"",
                "sh \"$guard\"; echo $?; cp \"$guard\" \"$guard.left\"",
            );
        let said = tools::output("sh", &["-c", &script]).unwrap();
        assert_eq!(said.trim(), "101");
        assert!(!file.exists());
        let left = folder.path().join("policy-rc.d.left");
        assert_eq!(tools::output("sh", &[left.to_str().unwrap()]).as_deref(), Some(""));
        assert!(!left.exists());
    }
}
