//! Rules that name requests which get no span: mostly probes.

use std::{fmt, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};

use super::serde_as_text;

/// A rule that names requests: `/healthz`, `GET /static/**` or `user-agent: kube-probe/*`.
#[derive(Clone, Debug)]
pub struct IgnoreRule {
    text: Box<str>,
    subject: IgnoredRequests,
}

/// The requests that a rule names.
#[derive(Clone, Debug)]
pub(crate) enum IgnoredRequests {
    /// Requests of this path, as sent and without its query.
    Path {
        /// The method of the requests; `None`: any.
        method: Option<Box<[u8]>>,
        /// The paths. `*` does not match a slash.
        path: GlobMatcher,
    },
    /// Requests with this value of `User-Agent`. `*` matches a slash, too.
    UserAgent(GlobMatcher),
}

const USER_AGENT: &str = "user-agent";

const EXAMPLES: &str = "as '/healthz', 'GET /static/**' or 'user-agent: kube-probe/*'";

impl IgnoreRule {
    /// Returns which requests the rule names.
    pub(crate) fn requests(&self) -> &IgnoredRequests {
        &self.subject
    }
}

impl FromStr for IgnoreRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self {
            text: text.into(),
            subject: text.trim().parse()?,
        })
    }
}

impl FromStr for IgnoredRequests {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, pattern)) = text.split_once(':')
            && name.trim_end().eq_ignore_ascii_case(USER_AGENT)
        {
            return match pattern.trim() {
                "" => Err(format!("the user agent is missing, {EXAMPLES}")),
                pattern => Ok(Self::UserAgent(glob(pattern, true)?)),
            };
        }
        let (method, path) = match text.split_once(char::is_whitespace) {
            None => (None, text),
            Some((method, path)) => (Some(method), path.trim_start()),
        };
        if !path.starts_with(['/', '*']) || path.contains(char::is_whitespace) {
            return Err(format!("give a path, a method and a path, or a user agent, {EXAMPLES}"));
        }
        if path.contains(['#', '?']) {
            return Err(format!("paths are compared without query, {EXAMPLES}"));
        }
        if let Some(method) = method.filter(|method| !is_method(method)) {
            return Err(format!(
                "`{method}` is not a method: they are written in capitals, {EXAMPLES}"
            ));
        }
        Ok(Self::Path {
            method: method.map(|method| method.as_bytes().into()),
            path: glob(path, false)?,
        })
    }
}

fn is_method(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte))
}

fn glob(pattern: &str, over_slashes: bool) -> Result<GlobMatcher, String> {
    match GlobBuilder::new(pattern).literal_separator(!over_slashes).build() {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => Err(super::with_glob_hint(&error)),
    }
}

impl PartialEq for IgnoreRule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for IgnoreRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

serde_as_text!(IgnoreRule);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_would_be_right() {
        for (rule, part) in [
            ("", "give a path"),
            ("healthz", "give a path"),
            ("GET healthz", "give a path"),
            ("GET /a /b", "give a path"),
            ("get /healthz", "`get` is not a method"),
            ("/healthz?x=1", "without query"),
            ("user-agent:", "user agent is missing"),
            ("host: shop", "give a path"),
            ("/a[b", "[[]"),
        ] {
            let error = rule.parse::<IgnoreRule>().unwrap_err();
            assert!(error.contains(part), "{rule}: {error}");
        }
    }
}
