//! Rules that select processes.

use std::{path::Path, str::FromStr};

use agent_ebpf::abi::PID_LIMIT;
use globset::{GlobBuilder, GlobMatcher};

/// A pattern of executables: of their whole paths, or of their file names if the pattern has no slash.
#[derive(Clone, Debug)]
pub struct ExeGlob {
    text: String,
    matcher: GlobMatcher,
}

impl ExeGlob {
    /// Returns the pattern as the user gave it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the pattern matches this executable, an absolute path.
    pub fn matches(&self, exe: &Path) -> bool {
        if self.text.contains('/') {
            return self.matcher.is_match(exe);
        }
        exe.file_name().is_some_and(|name| self.matcher.is_match(name))
    }
}

impl PartialEq for ExeGlob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for ExeGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the pattern is empty; for example nginx or /usr/bin/python3*".to_owned());
        }
        if text.contains('/') && !text.starts_with(['/', '*']) {
            return Err(format!(
                "a pattern with a slash is compared with whole paths, so begin it with / or **/, as **/{text}"
            ));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        let matcher = glob.map_err(|error| super::with_glob_hint(&error))?;
        Ok(Self {
            text: text.to_owned(),
            matcher: matcher.compile_matcher(),
        })
    }
}

/// A pattern of control groups, by their paths below the root of the hierarchy. It also matches the groups below them.
#[derive(Clone, Debug)]
pub struct CgroupGlob {
    text: String,
    matcher: GlobMatcher,
}

impl CgroupGlob {
    /// Returns the pattern as the user gave it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the pattern matches the group with this path, or one above it.
    pub fn matches(&self, path: &str) -> bool {
        let groups = Path::new(path).ancestors();
        groups
            .take_while(|group| group.parent().is_some())
            .any(|group| self.matcher.is_match(group))
    }
}

impl PartialEq for CgroupGlob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for CgroupGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example =
            "as /system.slice/nginx.service or '/kubepods.slice/**'; /proc/PID/cgroup shows that of a process";
        let path = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text);
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.starts_with(['/', '*']) {
            return Err(format!(
                "a control group is named by its path below /sys/fs/cgroup, {example}"
            ));
        }
        let glob = GlobBuilder::new(path).literal_separator(true).build();
        let matcher = glob.map_err(|error| format!("{}; {example}", error.kind()))?;
        Ok(Self {
            text: text.to_owned(),
            matcher: matcher.compile_matcher(),
        })
    }
}

/// Lower bound on the digits that name a container by its id: fewer would fit many.
pub const CONTAINER_ID_DIGITS: usize = 4;

/// Checks a container's name, or the beginning of its id.
pub fn container(text: &str) -> Result<String, String> {
    // The characters that all runtimes allow in names.
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err(format!(
            "give a container's name, or at least {CONTAINER_ID_DIGITS} digits of its id, as `docker ps` or `crictl ps` shows them"
        ));
    }
    Ok(text.to_owned())
}

/// Parses a process id.
pub fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid) if (1..=PID_LIMIT).contains(&pid) => Ok(pid),
        _ => Err(format!(
            "a process id is a number from 1 to {PID_LIMIT}; `pgrep NAME` finds them"
        )),
    }
}

/// Parses a TCP port.
pub fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("a port is a number from 1 to {}", u16::MAX)),
    }
}
