//! Names of query parameters whose values are secrets.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Names that the semantic conventions 1.44 list for `url.query` and `url.full`. They are compared as they are: "SHOULD be
/// case-sensitive".
const OF_THE_CONVENTIONS: [&str; 7] = [
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "AWSAccessKeyId",
    "Signature",
    "sig",
    "X-Goog-Signature",
];

/// Names of query parameters whose values give access to anybody who reads them; the conventions leave the list to the
/// instrumentation.
///
/// docs/spans.md has the reasons. Written as [`letters`] returns them: letters and digits, in lower case.
const WORDS: [&str; 12] = [
    // OAuth 2.0 (RFC 6749, RFC 7521, RFC 7636) and SAML.
    "code",
    "codeverifier",
    "assertion",
    "clientassertion",
    "idtokenhint",
    "samlresponse",
    // Passwords and keys.
    "pass",
    "auth",
    "authorization",
    "jwt",
    "otp",
    // A session in a URL.
    "sid",
];

/// Endings of such names, written likewise: `access_token` and `resetPasswordToken`, `client_secret`, `x-api-key`, `JSESSIONID`.
const ENDINGS: [&str; 11] = [
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "apikey",
    "credential",
    "credentials",
    "sessionid",
    "sessid",
];

/// Longest name that a user may add, in letters and digits.
const MAX_LETTERS: usize = 64;

/// Names of parameters whose values must not be exported. Part of each tape, whole: a later version with another default
/// list redacts a tape's spans as the version that recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretNames {
    /// Names that are compared as they are.
    exact: Vec<String>,
    /// Names that are compared by their letters and digits, in any case.
    words: Vec<String>,
    /// Endings that are compared by their letters and digits, in any case.
    endings: Vec<String>,
}

impl Default for SecretNames {
    /// Returns the conventions' names and Spoor's own.
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            exact: owned(&OF_THE_CONVENTIONS),
            words: owned(&WORDS),
            endings: owned(&ENDINGS),
        }
    }
}

impl SecretNames {
    /// Returns only the names of a comma-separated list, to be compared as they are. This is the meaning of
    /// `OTEL_INSTRUMENTATION_SANITIZATION_URL_EXPERIMENTAL_SENSITIVE_QUERY_PARAMETERS`, which replaces the default list.
    pub fn only(list: &str) -> Self {
        Self {
            exact: super::comma_separated(list).map(str::to_owned).collect(),
            words: Vec::new(),
            endings: Vec::new(),
        }
    }

    /// Adds names.
    pub fn add(&mut self, names: impl IntoIterator<Item = SecretName>) {
        for SecretName(word) in names {
            if !self.words.contains(&word) {
                self.words.push(word);
            }
        }
    }

    /// Returns whether this is the name of a secret. `name` is decoded, and has no brackets.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        if self.exact.iter().any(|exact| exact.as_bytes() == name) {
            return true;
        }
        let letters = letters(name);
        self.words.iter().any(|word| word.as_bytes() == &*letters)
            || self.endings.iter().any(|ending| letters.ends_with(ending.as_bytes()))
    }
}

/// A name that the user adds: its letters and digits in lower case, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName(String);

impl FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = String::from_utf8(letters(text.as_bytes()).into_vec()).unwrap_or_default();
        if word.is_empty() || word.len() > MAX_LETTERS || text.contains(['=', '&', '%']) {
            return Err(format!(
                "give the name of a query parameter, as session_id, with 1 to {MAX_LETTERS} letters and digits, not encoded"
            ));
        }
        Ok(Self(word))
    }
}

/// Returns the letters and digits of a name in lower case, so that `api_key`, `api-key`, `apiKey` and `API_KEY` are one
/// name. Bytes that are not ASCII count as letters.
fn letters(name: &[u8]) -> SmallVec<[u8; 32]> {
    let is_letter = |byte: &&u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    name.iter().filter(is_letter).map(u8::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_once() {
        let mut names = SecretNames::default();
        names.add(["Session-Key", "session_key", "пароль"].map(|name| name.parse().unwrap()));
        assert_eq!(names.words.len(), WORDS.len() + 2);
    }

    #[test]
    fn wrong_names_are_refused() {
        for wrong in ["", "__", "a=b", "a%62", "a&b", &"x".repeat(65)] {
            assert!(wrong.parse::<SecretName>().is_err(), "{wrong}");
        }
    }
}
