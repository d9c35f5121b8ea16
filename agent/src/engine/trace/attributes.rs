//! The list of a span's attributes while it grows.

use std::{borrow::Cow, fmt::Write, net::IpAddr};

use opentelemetry_semantic_conventions::attribute as semconv;

use super::{Attribute, Text, Value, text};
use crate::record::Endpoint;

/// The attribute that lists the keys of the values that were cut.
const TRUNCATED: &str = "spoor.truncated";

pub(in crate::engine::trace) struct Attributes {
    list: Vec<Attribute>,
    truncated: Vec<String>,
    /// The address that was added last, here or to the span before.
    pub(in crate::engine::trace) last_address: Option<(IpAddr, Text)>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            // Room for all that a usual exchange has, a query and what the caller adds.
            list: Vec::with_capacity(13),
            truncated: Vec::new(),
            last_address: None,
        }
    }
}

impl Attributes {
    /// Adds an attribute of text that is a constant.
    pub(in crate::engine::trace) fn push_static(&mut self, key: &'static str, value: &'static str) {
        self.push_short(key, Text::new_static(value));
    }

    /// Adds an attribute of text that is known to be short.
    pub(in crate::engine::trace) fn push_short(&mut self, key: &'static str, value: Text) {
        self.list.push(Attribute::str(key, value));
    }

    pub(in crate::engine::trace) fn push_int(&mut self, key: &'static str, value: i64) {
        self.list.push(Attribute::int(key, value));
    }

    /// Adds an attribute of text from outside, of any length.
    pub(in crate::engine::trace) fn push_text(&mut self, key: &'static str, value: impl AsRef<str> + Into<Text>) {
        let value = match text::cut(value.as_ref()) {
            None => value.into(),
            Some(cut) => {
                self.truncated.push(key.into());
                cut.into()
            }
        };
        self.push_short(key, value);
    }

    pub(in crate::engine::trace) fn push_ip(&mut self, key: &'static str, address: IpAddr) {
        // The peer is most often the client, too, and the same as before.
        let text = match &self.last_address {
            Some((known, text)) if *known == address => text.clone(),
            _ => {
                let text = ip_text(address);
                self.last_address = Some((address, text.clone()));
                text
            }
        };
        self.push_short(key, text);
    }

    /// Adds a captured header, if it has values.
    pub(in crate::engine::trace) fn push_header<'a>(
        &mut self,
        prefix: &str,
        name: &str,
        values: impl Iterator<Item = Cow<'a, str>>,
    ) {
        let mut values: Vec<_> = values.map(Cow::into_owned).collect();
        if values.is_empty() {
            return;
        }
        let key = [prefix, ".", name].concat();
        let mut is_cut = false;
        for value in &mut values {
            if let Some(cut) = text::cut(value) {
                *value = cut;
                is_cut = true;
            }
        }
        if is_cut {
            self.truncated.push(key.clone());
        }
        self.list.push(Attribute {
            key: Cow::Owned(key),
            value: Value::Strs(values),
        });
    }

    /// Adds an address, unless it is a Unix socket's that has none.
    pub(in crate::engine::trace) fn push_address(&mut self, key: &'static str, endpoint: &Endpoint) {
        match endpoint {
            Endpoint::Ip(address, _) => self.push_ip(key, *address),
            Endpoint::Unix(Some(path)) => self.push_text(key, &**path),
            Endpoint::Unix(None) => {}
        }
    }

    /// Adds the server, where nothing but its socket names it.
    pub(in crate::engine::trace) fn push_server_socket(&mut self, server: &Endpoint) {
        self.push_address(semconv::SERVER_ADDRESS, server);
        if let Endpoint::Ip(_, port) = *server {
            self.push_int(semconv::SERVER_PORT, port.into());
        }
    }

    /// Adds the socket at the other end.
    pub(in crate::engine::trace) fn push_peer(&mut self, remote: &Endpoint) {
        self.push_address(semconv::NETWORK_PEER_ADDRESS, remote);
        match *remote {
            Endpoint::Ip(_, port) => self.push_int(semconv::NETWORK_PEER_PORT, port.into()),
            // The attribute is opt-in, and TCP is the default: it is set only for addresses that are paths.
            Endpoint::Unix(_) => self.push_static(semconv::NETWORK_TRANSPORT, "unix"),
        }
    }

    pub(in crate::engine::trace) fn finish(mut self) -> Vec<Attribute> {
        if !self.truncated.is_empty() {
            self.list.push(Attribute {
                key: Cow::Borrowed(TRUNCATED),
                value: Value::Strs(self.truncated),
            });
        }
        self.list
    }
}

/// Each octet with a dot behind it, and the length of that.
#[expect(
    clippy::indexing_slicing,
    reason = "the compiler evaluates it, and would refuse a wrong index"
)]
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < octets.len() {
        let [hundreds, tens, ones] = [octet / 100, octet / 10 % 10, octet % 10];
        let [hundreds, tens, ones] = [b'0' + hundreds as u8, b'0' + tens as u8, b'0' + ones as u8];
        octets[octet] = match octet {
            0..10 => ([ones, b'.', b'.', b'.'], 2),
            10..100 => ([tens, ones, b'.', b'.'], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        octet += 1;
    }
    octets
};

/// Formats an address. IPv4 by a table: each span has one or two, and `Display` was the most expensive part of an
/// attribute.
fn ip_text(address: IpAddr) -> Text {
    let address = match address.to_canonical() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => return Text::from(address.to_string()),
    };
    let mut text = [0; "255.255.255.255.".len()];
    let mut end = 0;
    for octet in address.octets() {
        if let Some((digits, length)) = OCTETS.get(usize::from(octet))
            && let Some(place) = text.get_mut(end..end + digits.len())
        {
            place.copy_from_slice(digits);
            end += usize::from(*length);
        }
    }
    // Without the last dot.
    let text = text
        .get(..end.saturating_sub(1))
        .and_then(|text| str::from_utf8(text).ok());
    Text::from(text.unwrap_or_default())
}

/// Returns a socket's address as the authority of a URL; the path of a Unix socket percent-encoded (RFC 3986, section
/// 3.2.2).
pub(in crate::engine::trace) fn push_authority(url: &mut String, endpoint: &Endpoint) {
    // Writing to a String cannot fail.
    let _ = match endpoint {
        Endpoint::Ip(address, port) => {
            let written = match address.to_canonical() {
                IpAddr::V4(address) => write!(url, "{address}"),
                IpAddr::V6(address) => write!(url, "[{address}]"),
            };
            match port {
                80 => written,
                port => written.and_then(|()| write!(url, ":{port}")),
            }
        }
        Endpoint::Unix(path) => path
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
