//! Captured headers: the URLs in their values are redacted like `url.full`.

use std::borrow::Cow;

use super::{SecretNames, authority};

/// Headers whose value is one URL, or is followed by one (`Refresh`). RFC 9110, RFC 6454, RFC 4918, and the WHATWG's HTML.
const URLS: [&str; 6] = [
    "referer",
    "location",
    "content-location",
    "origin",
    "destination",
    "refresh",
];

/// Endings of other headers' names whose value is a URL: `X-Original-URL`, `X-Rewrite-URL`, `X-Forwarded-Uri`, `HX-Current-URL`.
const URL_ENDINGS: [&str; 2] = ["-url", "-uri"];

/// Kind of text in a header's value, by the header's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A single URL.
    Url,
    /// An authority, as in `Host`.
    Authority,
    /// Text whose words may be URLs, as in `Link` and in unknown headers.
    Text,
}

impl Holds {
    /// Returns the kind for a header's name in lower case.
    pub fn of(name: &str) -> Self {
        if URLS.contains(&name) || URL_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            Self::Url
        } else if matches!(name, "host" | "x-forwarded-host") {
            Self::Authority
        } else {
            Self::Text
        }
    }
}

impl SecretNames {
    /// Redacts a header's value.
    pub fn header<'t>(&self, holds: Holds, value: Cow<'t, str>) -> Cow<'t, str> {
        let redacted = match holds {
            Holds::Url => self.url(&value),
            Holds::Authority => authority(&value),
            Holds::Text => self.words(&value),
        };
        match redacted {
            Cow::Owned(redacted) => Cow::Owned(redacted),
            Cow::Borrowed(_) => value,
        }
    }

    /// Redacts the words of a text that are URLs, by a scheme (`https://…`) or a path (`/…?`).
    ///
    /// Other words stay: a user who captures `X-Error: code=42` needs to see the code.
    fn words<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let is_url = |word: &str| word.contains("://") || word.starts_with('/');
        let is_between = |c: char| c.is_ascii_whitespace() || matches!(c, '<' | '>' | '"' | '\'');
        if !text.split(is_between).any(is_url) {
            return Cow::Borrowed(text);
        }
        let mut redacted = String::with_capacity(text.len());
        for word in text.split_inclusive(is_between) {
            let (word, between) = match word.char_indices().next_back() {
                Some((at, last)) if is_between(last) => word.split_at(at),
                _ => (word, ""),
            };
            redacted.push_str(&if is_url(word) {
                self.url(word)
            } else {
                Cow::Borrowed(word)
            });
            redacted.push_str(between);
        }
        Cow::Owned(redacted)
    }
}
