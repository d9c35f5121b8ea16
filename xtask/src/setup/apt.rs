//! Debian and Ubuntu packages, installed without starting their services.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, Run};

/// Runs apt-get with its arguments while `policy-rc.d` forbids the start of services (Debian Policy 9.3.3), and takes
/// the file away again, also when interrupted. A file that somebody else put there stays as it is; one of ours that a
/// kill left behind is known by its second line.
const GUARDED: &str = r#"
guard=/usr/sbin/policy-rc.d
mark='# cargo xtask setup'
if [ ! -e "$guard" ] || grep -qxF "$mark" "$guard"; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$guard"
    chmod 755 "$guard"
fi
apt-get "$@"
"#;

/// Packages, and their services that would start with the machine from now on, had we not installed them for tests only.
const SERVICES: [(&str, &str); 7] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("lighttpd", "lighttpd"),
    ("varnish", "varnish"),
    ("varnish", "varnishncsa"),
    ("caddy", "caddy"),
    ("php-fpm", "php8.2-fpm"),
];

/// Whether a package is installed.
pub fn has(package: &str) -> bool {
    tools::output("dpkg-query", &["--show", "--showformat=${db:Status-Status}\n", package])
        .is_some_and(|status| status.lines().any(|line| line == "installed"))
}

/// Fails, and says what to do by hand, where packages cannot be installed.
pub fn can_install(packages: &[&str], go: bool) -> Result<()> {
    let go = if go { " golang-go" } else { "" };
    let names = format!("{}{go}", packages.join(" "));
    if !tools::exists("apt-get") {
        bail!(
            "this is neither Debian nor Ubuntu (no apt-get), so xtask cannot install packages. Install by hand what \
             your distribution calls these Debian packages, then try again:\n  {}",
            names.trim()
        );
    }
    // `id` saves a dependency for one number.
    if tools::output("id", &["-u"]).is_none_or(|id| id.trim() != "0") {
        bail!(
            "packages can only be installed by root. Either run `sudo env PATH=\"$PATH\" cargo xtask setup`, or this \
             and try again:\n  sudo apt-get install --no-install-recommends {}",
            names.trim()
        );
    }
    Ok(())
}

/// Fetches the lists of packages.
pub fn update() -> Result<()> {
    Run::program("apt-get")
        .args(["update", "--quiet"])
        .status()
        .context("cannot fetch the lists of packages")
}

/// Installs packages; no service of theirs runs, now or after the next boot.
pub fn install(packages: &[&str]) -> Result<()> {
    let fresh: Vec<_> = SERVICES
        .iter()
        .filter(|(package, _)| packages.contains(package) && !has(package))
        .collect();
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
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| {
            format!(
                "cannot install all of these packages; one that apt does not know is not in this release (rustc-web \
                 1.96 comes with the updates of Debian 12): {}",
                packages.join(" ")
            )
        })?;
    for (_, service) in fresh {
        let unit = format!("{service}.service");
        let off = if Path::new("/etc/init.d").join(service).exists() {
            Run::program("update-rc.d").args([service, "disable"])
        } else if Path::new("/lib/systemd/system").join(&unit).exists() {
            Run::program("deb-systemd-helper").args(["disable", &unit])
        } else {
            continue;
        };
        println!("Switching {service} off as a service: the tests start their own");
        off.status()?;
    }
    Ok(())
}

/// The minor version of the newest `golang-1.N-go` that apt knows.
pub fn newest_go() -> Option<u32> {
    let names = tools::output("apt-cache", &["pkgnames", "golang-1."])?;
    names
        .lines()
        .filter_map(|name| name.strip_prefix("golang-1.")?.strip_suffix("-go")?.parse().ok())
        .max()
}
