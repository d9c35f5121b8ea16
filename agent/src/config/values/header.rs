//! Names of headers that become attributes.

use std::{fmt, str::FromStr};

use super::serde_as_text;

/// A header's name in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderName(Box<str>);

impl HeaderName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.bytes().all(agent_ebpf::classify::is_token) {
            return Err(
                "a header name has letters, digits and -, without a colon or blanks, as x-request-id".to_owned(),
            );
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(HeaderName);
