//! Requests that the user does not want to see: probes, mostly.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};

use super::target::Target;
use crate::engine::proto::http1::{Header, RequestHead};

const USER_AGENT: &str = "user-agent";

/// A rule that names requests.
#[derive(Clone, Debug)]
pub struct Ignore(Rule);

#[derive(Clone, Debug)]
enum Rule {
    /// The path as sent, without its query; `None`: any method.
    Path(Option<Box<[u8]>>, GlobMatcher),
    /// The value of `User-Agent`.
    UserAgent(GlobMatcher),
}

impl Ignore {
    /// Whether the rule names this request.
    pub fn matches(&self, head: &RequestHead) -> bool {
        match &self.0 {
            Rule::Path(method, path) => {
                let fits = method.as_ref().is_none_or(|method| *method == head.method);
                fits && path.is_match(as_path(Target::parse(&head.method, &head.target).path))
            }
            Rule::UserAgent(pattern) => head
                .headers
                .iter()
                .any(|(header, value)| *header == Header::UserAgent && pattern.is_match(as_path(value))),
        }
    }
}

/// Globs are for paths: of any bytes.
fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl FromStr for Ignore {
    type Err = String;

    /// `/healthz`, `GET /static/**` or `user-agent: kube-probe/*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "as '/healthz', 'GET /static/**' or 'user-agent: kube-probe/*'";
        let glob = |pattern: &str, over_slashes: bool| {
            let glob = GlobBuilder::new(pattern).literal_separator(!over_slashes).build();
            glob.map(|glob| glob.compile_matcher())
                .map_err(|error| format!("{}; write [*] for a literal star, [[] for a bracket", error.kind()))
        };
        let text = text.trim();
        if let Some((name, pattern)) = text.split_once(':')
            && name.trim_end().eq_ignore_ascii_case(USER_AGENT)
        {
            let pattern = pattern.trim();
            if pattern.is_empty() {
                return Err(format!("the user agent is missing, {hint}"));
            }
            return Ok(Self(Rule::UserAgent(glob(pattern, true)?)));
        }
        let (method, path) = match text.split_once(char::is_whitespace) {
            None => (None, text),
            Some((method, path)) => (Some(method), path.trim_start()),
        };
        if !path.starts_with(['/', '*']) || path.contains(char::is_whitespace) {
            return Err(format!("give a path, a method and a path, or a user agent, {hint}"));
        }
        if path.contains(['#', '?']) {
            return Err(format!("paths are compared without query, {hint}"));
        }
        let is_method = |method: &str| {
            method
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte))
        };
        if let Some(method) = method.filter(|method| !is_method(method)) {
            return Err(format!(
                "`{method}` is not a method: they are written in capitals, {hint}"
            ));
        }
        let method = method.map(|method| method.as_bytes().into());
        Ok(Self(Rule::Path(method, glob(path, false)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, target: &str, user_agent: &str) -> RequestHead {
        RequestHead {
            method: method.as_bytes().into(),
            target: target.as_bytes().into(),
            minor_version: 1,
            content_length: None,
            headers: vec![
                (Header::Host, b"shop"[..].into()),
                (Header::UserAgent, user_agent.as_bytes().into()),
            ],
        }
    }

    #[test]
    fn rules_name_methods_paths_and_user_agents() {
        for (rule, method, target, matches) in [
            ("/healthz", "GET", "/healthz", true),
            ("/healthz", "HEAD", "/healthz?verbose", true),
            ("/healthz", "GET", "http://shop/healthz?x", true),
            ("/healthz", "GET", "/healthz/", false),
            ("/healthz", "GET", "/api/healthz", false),
            ("GET /healthz", "GET", "/healthz", true),
            ("GET  /healthz", "POST", "/healthz", false),
            (" /static/* ", "GET", "/static/a.css", true),
            ("/static/*", "GET", "/static/a/b.css", false),
            ("/static/**", "GET", "/static/a/b.css", true),
            ("**/healthz", "GET", "/api/healthz", true),
            ("/{live,ready}z", "GET", "/readyz", true),
            ("OPTIONS *", "OPTIONS", "*", true),
            ("/*", "CONNECT", "shop:443", false),
            ("user-agent: kube-probe/*", "GET", "/any", true),
            ("User-Agent:kube-probe/1.30", "GET", "/any", true),
            ("user-agent: *probe*", "GET", "/any", true),
            ("user-agent: curl/*", "GET", "/any", false),
        ] {
            let parsed: Ignore = rule.parse().unwrap();
            let head = head(method, target, "kube-probe/1.30");
            assert_eq!(parsed.matches(&head), matches, "{rule}: {method} {target}");
        }
    }

    #[test]
    fn any_bytes_can_be_looked_at() {
        let rule: Ignore = "/a/*".parse().unwrap();
        let mut bytes = head("GET", "/", "x");
        bytes.target = b"/a/\xff\xfe"[..].into();
        assert!(rule.matches(&bytes));
        bytes.headers.clear();
        assert!(!"user-agent: *".parse::<Ignore>().unwrap().matches(&bytes));
    }

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
            let error = rule.parse::<Ignore>().unwrap_err();
            assert!(error.contains(part), "{rule}: {error}");
        }
    }
}
