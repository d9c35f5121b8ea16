//! Package sources of this machine's own release, from apt's lists.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// Returns the release's name, such as `bookworm`.
///
/// # Errors
/// `/etc/os-release` does not say it.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name =
        line.context("/etc/os-release has no VERSION_CODENAME: a bare system can be built on Debian and Ubuntu")?;
    Ok(name.trim_matches('"').to_owned())
}

/// Returns lines for `sources.list` with the release's own packages. Leaves out other sources of the machine.
pub fn of_release(codename: &str) -> String {
    let folder = Path::new("/etc/apt/sources.list.d");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.push("/etc/apt/sources.list".into());
    files.sort();
    let mut lines = String::new();
    for file in files {
        // apt cannot use an unreadable file either.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => lines += &from_lines(&text, codename),
            Some("sources") => lines += &from_stanzas(&text, codename),
            _ => {}
        }
    }
    lines
}

fn is_own(suite: &str, components: &[&str], codename: &str) -> bool {
    let rest = suite.strip_prefix(codename);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/'])) && components.contains(&"main")
}

/// Reads lines `deb [options] URI suite component…`: sources.list(5).
fn from_lines(text: &str, codename: &str) -> String {
    let is_ours = |line: &&str| {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            return false;
        };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace().skip(1);
        let suite = words.next().unwrap_or_default();
        is_own(suite, &words.collect::<Vec<_>>(), codename)
    };
    let lines = text.lines().filter(is_ours);
    lines.map(|line| format!("{}\n", line.trim())).collect()
}

/// Reads stanzas of fields: the deb822 style of sources.list(5).
fn from_stanzas(text: &str, codename: &str) -> String {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let text = without_comments.join("\n");
    let mut lines = String::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let words = |name: &str| field(name).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        let is_off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if is_off || !words("Types").contains(&"deb") {
            continue;
        }
        let components = words("Components");
        // A key inside the stanza fits in no line; the release's own keys are files.
        let key = field("Signed-By").filter(|key| key.starts_with('/'));
        let options = key.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        for suite in words("Suites") {
            if is_own(suite, &components, codename) {
                for uri in words("URIs") {
                    lines += &format!("deb {options}{uri} {suite} {}\n", components.join(" "));
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_s_own_sources_in_lines() {
        let text = "# deb http://a x main\n deb [arch=amd64 signed-by=/k] http://mirror/debian trixie main contrib\n\
                    deb http://mirror/security trixie-security main\ndeb-src http://mirror/debian trixie main\n\
                    deb http://other trixie stable\ndeb http://other bookworm main\n";
        assert_eq!(
            from_lines(text, "trixie"),
            "deb [arch=amd64 signed-by=/k] http://mirror/debian trixie main contrib\n\
             deb http://mirror/security trixie-security main\n"
        );
    }

    #[test]
    fn the_release_s_own_sources_in_stanzas() {
        let text = "Types: deb deb-src\n# a comment\nURIs: http://mirror/debian\nSuites: trixie trixie-updates\n\
                    Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
                    Types: deb\nURIs: http://other\nSuites: nodistro\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off\nSuites: trixie\nComponents: main\n";
        assert_eq!(
            from_stanzas(text, "trixie"),
            "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian trixie main\n\
             deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian trixie-updates main\n"
        );
    }
}
