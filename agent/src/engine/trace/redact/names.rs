//! Names of query parameters, as they stand in a URL, compared with those of secrets.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::config::SecretNames;

impl SecretNames {
    /// Returns whether a parameter's value is a secret. `name` is as it stands in the URL: percent-encoded, with `+` for a
    /// space, perhaps of the nested form `user[password]` or `user.password`, which frameworks take apart.
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
        // PHP skips leading spaces.
        let name = decoded.trim_ascii();
        let is_bracket = |byte: &u8| matches!(byte, b'[' | b']' | b'.');
        self.contains(name) || name.iter().any(is_bracket) && name.split(is_bracket).any(|part| self.contains(part))
    }
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
        let mut only = SecretNames::only(" hash ,, Key");
        assert!(only.matches(b"hash") && only.matches(b"Key") && !only.matches(b"key") && !only.matches(b"sig"));
        only.add(["PIN".parse().unwrap()]);
        assert!(only.matches(b"pin") && only.matches(b"hash"));
    }
}
