//! Names of query parameters whose values are secrets.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Names that the semantic conventions 1.44 list for `url.query` and `url.full`. They are matched as they are: "SHOULD be
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

/// Names that the conventions leave to the instrumentation: they give access to whoever reads them. docs/spans.md has the
/// reasons. By their letters and digits in lower case, as [`letters`] gives them.
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

/// Endings of such names: `access_token` and `resetPasswordToken`, `client_secret`, `x-api-key`, `JSESSIONID`.
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
    /// These names, in this case.
    exact: Vec<String>,
    /// Names with these letters and digits, in any case.
    words: Vec<String>,
    /// Names whose letters and digits end so, in any case.
    endings: Vec<String>,
}

impl Default for SecretNames {
    /// The conventions' names, and Spoor's own.
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
    /// Only the names of a comma-separated list, matched as they are: what
    /// `OTEL_INSTRUMENTATION_SANITIZATION_URL_EXPERIMENTAL_SENSITIVE_QUERY_PARAMETERS` says in place of the default list.
    pub fn only(list: &str) -> Self {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self {
            exact: names.map(str::to_owned).collect(),
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

    /// Whether a parameter's value is a secret. `name` is as it stands in the URL: percent-encoded, with `+` for a space,
    /// perhaps of the nested form `user[password]` or `user.password`, which frameworks take apart.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let decoded: Cow<'_, [u8]> = if name.iter().any(|byte| matches!(byte, b'%' | b'+')) {
            let spaced: Vec<u8> = name
                .iter()
                .map(|&byte| if byte == b'+' { b' ' } else { byte })
                .collect();
            Cow::Owned(percent_decode(&spaced).collect())
        } else {
            Cow::Borrowed(name)
        };
        // PHP passes over spaces that come first.
        let name = decoded.trim_ascii();
        let is_bracket = |byte: &u8| matches!(byte, b'[' | b']' | b'.');
        self.matches_part(name)
            || name.iter().any(is_bracket) && name.split(is_bracket).any(|part| self.matches_part(part))
    }

    fn matches_part(&self, name: &[u8]) -> bool {
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

impl std::str::FromStr for SecretName {
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

/// The letters and digits of a name in lower case, so that `api_key`, `api-key`, `apiKey` and `API_KEY` are one name.
/// What is not ASCII counts as letters.
fn letters(name: &[u8]) -> SmallVec<[u8; 32]> {
    let is_letter = |byte: &&u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    name.iter().filter(is_letter).map(u8::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> SecretNames {
        let mut names = SecretNames::default();
        names.add(list.iter().map(|name| name.parse().unwrap()));
        names
    }

    #[test]
    fn what_the_conventions_list_is_matched_by_case_and_the_rest_is_not() {
        let default = SecretNames::default();
        for name in [
            "sig",
            "Signature",
            "X-Amz-Signature",
            "AWSAccessKeyId",
            "X-Goog-Signature",
            "X-Amz-Security-Token",
            "code",
            "CODE",
            "access_token",
            "accessToken",
            "ACCESS-TOKEN",
            "refresh_token",
            "id_token",
            "id_token_hint",
            "client_secret",
            "reset_password_token",
            "token",
            "t%6Fken",
            "%73ig",
            "+sig",
            "api_key",
            "apikey",
            "x-api-key",
            "password",
            "passwd",
            "pwd",
            "user[password]",
            "user%5Bpassword%5D",
            "user.password",
            "token[]",
            "PHPSESSID",
            "JSESSIONID",
            "SAMLResponse",
            "jwt",
            "private+token",
        ] {
            assert!(default.matches(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "q",
            "Sig",
            "SIG",
            "signature",
            "xsig",
            "si%2567",
            "awsaccesskeyid",
            "codes",
            "zipcode",
            "country_code",
            "key",
            "tokens",
            "state",
            "author",
            "page",
            "side",
            "passenger",
            "%",
            "%7",
        ] {
            assert!(!default.matches(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_are_added_or_replace_all() {
        let added = names(&["Session-Key", "Session-Key", "пароль"]);
        for name in [
            "session_key",
            "SESSIONKEY",
            "sig",
            "%D0%BF%D0%B0%D1%80%D0%BE%D0%BB%D1%8C",
        ] {
            assert!(added.matches(name.as_bytes()), "{name}");
        }
        assert_eq!(added.words.len(), WORDS.len() + 2);
        let mut only = SecretNames::only(" hash ,, Key");
        assert!(only.matches(b"hash") && only.matches(b"Key") && !only.matches(b"key") && !only.matches(b"sig"));
        only.add(["PIN".parse().unwrap()]);
        assert!(only.matches(b"pin") && only.matches(b"hash"));
        for wrong in ["", "__", "a=b", "a%62", "a&b", &"x".repeat(65)] {
            assert!(wrong.parse::<SecretName>().is_err(), "{wrong}");
        }
    }
}
