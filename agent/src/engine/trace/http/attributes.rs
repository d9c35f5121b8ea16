//! The list of a span's attributes while it grows.

use std::{borrow::Cow, fmt::Write, net::IpAddr};

use super::{Endpoint, IpOrUnix};
use crate::engine::trace::{Attribute, Value, text};

/// The attribute that lists the keys of the values that were cut.
const TRUNCATED: &str = "spoor.truncated";

pub(super) struct Attributes {
    list: Vec<Attribute>,
    truncated: Vec<String>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            // Room for all that a usual exchange has and for what the caller adds, in just under the kilobyte up to
            // which allocators are fast.
            list: Vec::with_capacity(18),
            truncated: Vec::new(),
        }
    }
}

impl Attributes {
    /// Text that is known to be short.
    pub(super) fn push_str(&mut self, key: &'static str, value: impl Into<Cow<'static, str>>) {
        self.list.push(Attribute::str(key, value));
    }

    pub(super) fn push_int(&mut self, key: &'static str, value: i64) {
        self.list.push(Attribute::int(key, value));
    }

    /// Text from outside, of any length.
    pub(super) fn push_text(&mut self, key: &'static str, value: impl Into<String>) {
        let mut value = value.into();
        if text::cut(&mut value) {
            self.truncated.push(key.into());
        }
        self.list.push(Attribute::str(key, value));
    }

    pub(super) fn push_ip(&mut self, key: &'static str, address: IpAddr) {
        self.list.push(Attribute::str(key, ip_text(address)));
    }

    /// A captured header, if it has values.
    pub(super) fn push_header<'a>(&mut self, prefix: &str, name: &str, values: impl Iterator<Item = Cow<'a, str>>) {
        let mut values: Vec<_> = values.map(Cow::into_owned).collect();
        if values.is_empty() {
            return;
        }
        let key = [prefix, ".", name].concat();
        // All of them are to be looked at: no `any` here.
        if values
            .iter_mut()
            .filter_map(|value| text::cut(value).then_some(()))
            .count()
            > 0
        {
            self.truncated.push(key.clone());
        }
        self.list.push(Attribute {
            key: Cow::Owned(key),
            value: Value::Strs(values),
        });
    }

    pub(super) fn finish(mut self) -> Vec<Attribute> {
        if !self.truncated.is_empty() {
            self.list.push(Attribute {
                key: Cow::Borrowed(TRUNCATED),
                value: Value::Strs(self.truncated),
            });
        }
        self.list
    }
}

/// An address as text. IPv4 by hand: each span has one or two, and `Display` was the dearest part of an attribute.
fn ip_text(address: IpAddr) -> String {
    let address = match address.to_canonical() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => return address.to_string(),
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for (unit, least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= least {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

/// A socket's address as the authority of a URL; the path of a Unix socket percent-encoded (RFC 3986, section 3.2.2).
pub(super) fn push_authority(url: &mut String, endpoint: &Endpoint) {
    // Writing to a String cannot fail.
    let _ = match &endpoint.address {
        IpOrUnix::Ip(address) => {
            let written = match address.to_canonical() {
                IpAddr::V4(address) => write!(url, "{address}"),
                IpAddr::V6(address) => write!(url, "[{address}]"),
            };
            match endpoint.port {
                80 => written,
                port => written.and_then(|()| write!(url, ":{port}")),
            }
        }
        IpOrUnix::Unix(path) => path
            .as_deref()
            .unwrap_or_default()
            .bytes()
            .try_for_each(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    url.push(byte.into());
                    Ok(())
                }
                _ => write!(url, "%{byte:02X}"),
            }),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for octet in 0..=255 {
            let address = std::net::Ipv4Addr::new(octet, 0, 10, 255 - octet);
            assert_eq!(ip_text(address.into()), address.to_string());
            assert_eq!(ip_text(address.to_ipv6_mapped().into()), address.to_string());
        }
        assert_eq!(ip_text("2001:db8::1".parse().unwrap()), "2001:db8::1");
    }
}
