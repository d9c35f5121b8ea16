//! Which requests a rule of `--ignore` names.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use super::target::Target;
use crate::{
    config::{IgnoreRule, IgnoredRequests},
    engine::proto::http1::{Header, RequestHead},
};

impl IgnoreRule {
    /// Returns whether the rule names this request.
    pub fn matches(&self, head: &RequestHead) -> bool {
        match self.requests() {
            IgnoredRequests::Path { method, path } => {
                let fits = method.as_ref().is_none_or(|method| **method == *head.method());
                fits && path.is_match(as_path(Target::parse(head.method(), head.target()).path))
            }
            IgnoredRequests::UserAgent(pattern) => head
                .headers()
                .values(Header::UserAgent)
                .any(|value| pattern.is_match(as_path(value))),
        }
    }
}

/// Globs are for paths: of any bytes.
fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, target: &[u8], user_agent: &str) -> RequestHead {
        let headers = [
            (Header::Host, b"shop".as_slice()),
            (Header::UserAgent, user_agent.as_bytes()),
        ];
        RequestHead::new(method.as_bytes(), target, headers.into_iter())
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
            let parsed: IgnoreRule = rule.parse().unwrap();
            let head = head(method, target.as_bytes(), "kube-probe/1.30");
            assert_eq!(parsed.matches(&head), matches, "{rule}: {method} {target}");
        }
    }

    #[test]
    fn any_bytes_can_be_looked_at() {
        let rule: IgnoreRule = "/a/*".parse().unwrap();
        let bytes = head("GET", b"/a/\xff\xfe", "x");
        assert!(rule.matches(&bytes));
        let bare = RequestHead::new(b"GET", b"/", [].into_iter());
        assert!(!"user-agent: *".parse::<IgnoreRule>().unwrap().matches(&bare));
    }
}
