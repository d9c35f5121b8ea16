//! Secrets that the semantic conventions for `url.query` and `url.full` name are not exported.
//!
//! The list is that of the conventions 1.44 (it is longer than the one in the crate's 1.42), matched case-sensitively,
//! as they ask.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

use std::borrow::Cow;

/// What stands where a secret was.
const REDACTED: &str = "REDACTED";

/// What stands where a URL's user and password were, whichever of them there was.
const REDACTED_USERINFO: &str = "REDACTED:REDACTED@";

/// A query (without the `?`) in which the values of the parameters that carry signatures and credentials are replaced.
/// Keys stay.
pub fn query(query: &str) -> Cow<'_, str> {
    if !query.as_bytes().split(|&byte| byte == b'&').any(carries_secret) {
        return Cow::Borrowed(query);
    }
    let mut redacted = String::with_capacity(query.len() + REDACTED.len());
    for (index, parameter) in query.split('&').enumerate() {
        if index > 0 {
            redacted.push('&');
        }
        match parameter.split_once('=') {
            Some((key, _)) if is_secret(key.as_bytes()) => {
                redacted.push_str(key);
                redacted.push('=');
                redacted.push_str(REDACTED);
            }
            _ => redacted.push_str(parameter),
        }
    }
    Cow::Owned(redacted)
}

/// An authority (`user:password@host:port`) in which user and password are replaced.
pub fn authority(authority: &str) -> Cow<'_, str> {
    match authority.rsplit_once('@') {
        Some((_, host)) => Cow::Owned([REDACTED_USERINFO, host].concat()),
        None => Cow::Borrowed(authority),
    }
}

fn carries_secret(parameter: &[u8]) -> bool {
    let key = parameter.split(|&byte| byte == b'=').next().unwrap_or_default();
    key.len() < parameter.len() && is_secret(key)
}

fn is_secret(key: &[u8]) -> bool {
    matches!(
        key,
        b"X-Amz-Signature"
            | b"X-Amz-Credential"
            | b"X-Amz-Security-Token"
            | b"AWSAccessKeyId"
            | b"Signature"
            | b"sig"
            | b"X-Goog-Signature"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_the_conventions_name_are_replaced() {
        for (input, expected) in [
            ("", ""),
            ("q=OpenTelemetry", "q=OpenTelemetry"),
            ("q=OpenTelemetry&sig=s3cret", "q=OpenTelemetry&sig=REDACTED"),
            ("sig=a=b&x=1&sig=c", "sig=REDACTED&x=1&sig=REDACTED"),
            ("sig=", "sig=REDACTED"),
            ("sig", "sig"),
            ("Sig=1&SIG=2&signature=3&xsig=4", "Sig=1&SIG=2&signature=3&xsig=4"),
            (
                "AWSAccessKeyId=1&Signature=2&",
                "AWSAccessKeyId=REDACTED&Signature=REDACTED&",
            ),
            (
                "X-Amz-Signature=1&X-Amz-Date=2",
                "X-Amz-Signature=REDACTED&X-Amz-Date=2",
            ),
            ("X-Amz-Credential=1", "X-Amz-Credential=REDACTED"),
            ("X-Amz-Security-Token=1", "X-Amz-Security-Token=REDACTED"),
            ("X-Goog-Signature=1&&=x", "X-Goog-Signature=REDACTED&&=x"),
        ] {
            assert_eq!(query(input), expected, "{input}");
        }
    }

    #[test]
    fn users_and_passwords_are_replaced() {
        for (input, expected) in [
            ("example.com:80", "example.com:80"),
            ("user:password@example.com", "REDACTED:REDACTED@example.com"),
            ("user@example.com:8080", "REDACTED:REDACTED@example.com:8080"),
            ("user:p@ss@[::1]:80", "REDACTED:REDACTED@[::1]:80"),
        ] {
            assert_eq!(authority(input), expected, "{input}");
        }
    }
}
