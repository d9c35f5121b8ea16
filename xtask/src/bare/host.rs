//! Configuration that a bare system copies from the host, so that its package managers reach the same servers: name
//! servers, certificates, proxies, mirrors. Only files and variables that those programs read themselves; nothing here
//! belongs to one site.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::tools;

/// Files and folders at the same place in the bare system. A leading `~` stands for the home folder.
const FILES: [&str; 16] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/ca-certificates",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/pip.conf",
    "~/.pip/pip.conf",
    "~/.config/pip/pip.conf",
    "/etc/npmrc",
    "~/.npmrc",
    "~/.cargo/config.toml",
    "~/.cargo/config",
    "~/.cargo/credentials.toml",
    "~/.config/go/env",
    "~/.netrc",
];

/// Names or prefixes of variables, compared without case.
const VARIABLES: [&str; 18] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "pip_",
    "cargo_http_",
    "cargo_net_",
    "cargo_registr",
    "cargo_source_",
    "rustup_",
    "goproxy",
    "gosumdb",
    "gonosumdb",
    "goprivate",
    "npm_config_",
    "ssl_cert_",
    "requests_ca_bundle",
    "curl_ca_bundle",
];

/// Copies the files into a bare system.
///
/// # Errors
/// A file cannot be copied.
pub fn copy_files(root: &Path) -> Result<()> {
    let home = home()?;
    for file in FILES {
        let (from, to) = match file.strip_prefix("~/") {
            Some(file) => (home.join(file), root.join("root").join(file)),
            None => (PathBuf::from(file), root.join(file.trim_start_matches('/'))),
        };
        if from.exists() {
            copy(&from, &to)?;
        }
    }
    fs::write(root.join("etc/apt/apt.conf.d/99host"), apt_options())
        .context("cannot write apt's configuration of the bare system")
}

/// Copies a file, the target of a link, or the content of a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    if from.is_dir() {
        for entry in fs::read_dir(from).with_context(context)? {
            let entry = entry.with_context(context)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(context)?;
    }
    // A link in the bare system may point at a file of this machine.
    if fs::symlink_metadata(to).is_ok() {
        fs::remove_file(to).with_context(context)?;
    }
    fs::copy(from, to).map(drop).with_context(context)
}

/// Returns how this machine's apt fetches, in the form of apt.conf(5).
pub fn apt_options() -> String {
    let dump = tools::output("apt-config", &["dump", "Acquire"]).unwrap_or_default();
    fetching(&dump)
}

/// Keeps the lines of `apt-config dump` that say how to fetch, not what.
fn fetching(dump: &str) -> String {
    const WHAT: [&str; 5] = ["", "IndexTargets", "Languages", "GzipIndexes", "CompressionTypes"];
    let says_how = |line: &&str| {
        let Some(name) = line.strip_prefix("Acquire") else {
            return false;
        };
        let first = name
            .trim_start_matches("::")
            .split([':', ' '])
            .next()
            .unwrap_or_default();
        !WHAT.contains(&first) && !line.ends_with(" \"\";")
    };
    dump.lines().filter(says_how).map(|line| format!("{line}\n")).collect()
}

/// Returns a shell script that sets the variables.
pub fn environment() -> String {
    let variables =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut lines: Vec<String> = variables
        .filter(|(name, _)| is_for_package_managers(name))
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
        .collect();
    lines.sort();
    lines.concat()
}

fn is_for_package_managers(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // The bare system has its toolchains at another place.
    is_name && name != "rustup_home" && VARIABLES.iter().any(|start| name.starts_with(start))
}

/// Returns this user's home folder.
///
/// # Errors
/// `HOME` is not set.
pub fn home() -> Result<PathBuf> {
    env::var_os("HOME").map(PathBuf::from).context("HOME is not set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_package_managers_and_no_others() {
        for name in [
            "HTTPS_PROXY",
            "no_proxy",
            "PIP_INDEX_URL",
            "CARGO_REGISTRIES_X_TOKEN",
            "GOPROXY",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(is_for_package_managers(name), "{name}");
        }
        for name in [
            "PATH",
            "CARGO",
            "CARGO_TARGET_DIR",
            "RUSTFLAGS",
            "RUSTUP_HOME",
            "GOPATH",
            "PIP_X=$(id)",
        ] {
            assert!(!is_for_package_managers(name), "{name}");
        }
    }

    #[test]
    fn apt_options_are_those_of_fetching() {
        let dump = "Acquire \"\";\nAcquire::Retries \"3\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://p:1\";\n\
                    Acquire::Languages:: \"none\";\nAcquire::IndexTargets::deb::Packages::MetaKey \"x\";\n";
        assert_eq!(
            fetching(dump),
            "Acquire::Retries \"3\";\nAcquire::http::Proxy \"http://p:1\";\n"
        );
    }
}
