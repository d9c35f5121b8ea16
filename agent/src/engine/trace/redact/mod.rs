//! Secrets in URLs are not exported: users and passwords, and the values of the parameters that [`SecretNames`] names.
//!
//! Every attribute that holds (a part of) a URL passes through here: `url.path`, `url.query`, `url.full`, captured headers,
//! and what span names are made of. Servers read URLs in different ways, so a parameter is looked for wherever one of them
//! would find it: behind `&`, `;`, `?`, `#` and `=`, percent-encoded or not. So a URL within a URL (`?next=https%3A%2F%2F…`)
//! is redacted, too. A secret ends where every server agrees that it does: at the next `&` of a query, at the next `/` of a
//! path.

mod header;
mod names;
mod scan;

use std::borrow::Cow;

use memchr::{memchr, memchr3};

pub use crate::config::SecretNames;
pub use header::Holds;
use scan::{Begin, scan};

/// Replacement of a secret.
const REDACTED: &str = "REDACTED";

/// Replacement of a URL's user and password, whichever of them is there.
const REDACTED_USERINFO: &str = "REDACTED:REDACTED";

impl SecretNames {
    /// Redacts a query, which comes without its `?`. Names of parameters stay.
    pub fn query<'t>(&self, query: &'t str) -> Cow<'t, str> {
        let parameters = query.as_bytes().split(|&byte| byte == b'&');
        if parameters.into_iter().all(|parameter| self.is_plain(parameter)) {
            return Cow::Borrowed(query);
        }
        scan(query, Begin::Query, self)
    }

    /// Redacts a path as a request sends it, with the parts that a client left behind it by mistake: `;jsessionid=…`,
    /// `#access_token=…`.
    pub fn path<'t>(&self, path: &'t str) -> Cow<'t, str> {
        // All bytes, without an early end: the compiler looks at many at once.
        let is_mark = |byte: u8| matches!(byte, b'=' | b'@' | b'%');
        if !path.bytes().fold(false, |found, byte| found | is_mark(byte)) {
            return Cow::Borrowed(path);
        }
        scan(path, Begin::Path, self)
    }

    /// Redacts a URL or a reference to one (RFC 3986, section 4.1), fragment included: OAuth's implicit flow has its token
    /// there.
    pub fn url<'t>(&self, url: &'t str) -> Cow<'t, str> {
        scan(url, Begin::Url, self)
    }

    /// Returns whether a parameter certainly has no secret. Most have none, and this is much cheaper than the scan.
    fn is_plain(&self, parameter: &[u8]) -> bool {
        let name_len = memchr(b'=', parameter).unwrap_or(parameter.len());
        let Some((name, value)) = parameter.split_at_checked(name_len) else {
            return false;
        };
        let value = value.strip_prefix(b"=").unwrap_or(value);
        name.iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
            && memchr3(b'=', b'@', b'%', value).is_none()
            && (name_len == parameter.len() || !self.matches(name))
    }
}

/// Redacts user and password of an authority (`user:password@host:port`).
pub fn authority(authority: &str) -> Cow<'_, str> {
    match authority.rsplit_once('@') {
        Some((_, host)) => Cow::Owned([REDACTED_USERINFO, "@", host].concat()),
        None => Cow::Borrowed(authority),
    }
}

#[cfg(test)]
mod tests;
