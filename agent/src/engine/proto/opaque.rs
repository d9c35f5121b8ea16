//! Names what a connection that is given up carries, by its first bytes. The name is shown to people; the bytes are not
//! parsed.
//!
//! Only openings that can hardly be anything else are named. Integers are big-endian unless said otherwise.

/// Became something else: a WebSocket, a tunnel by CONNECT.
pub const UPGRADED: &str = "upgraded (WebSocket, CONNECT)";
/// Name for a connection that is older than the agent, or of which bytes were lost, and on which no message was found to begin.
pub const NONE_FOUND: &str = "no message boundary found";
/// Name for Redis, whose client has subscribed to channels.
pub const REDIS_SUBSCRIBED: &str = "Redis publish/subscribe";
/// Name for Redis, whose client sees the commands of all.
pub const REDIS_MONITOR: &str = "Redis MONITOR";
/// Name for Redis between two servers.
pub const REDIS_REPLICATION: &str = "Redis replication";
/// Name for Redis, whose client wants no replies.
pub const REDIS_SILENT: &str = "Redis without replies";
/// RFC 8446.
pub const TLS: &str = "TLS";
/// None of the protocols that are named here.
pub const OTHER: &str = "another protocol";

/// Longest name of the variable that gateways send first.
const LONGEST_VARIABLE: usize = 64;

/// A protocol's name, and whether a connection that begins like this carries it.
type Named = (&'static str, fn(&[u8]) -> bool);

const PROTOCOLS: [Named; 26] = [
    // RFC 8446 section 5.1: handshake record, its legacy version, its length, then ClientHello or ServerHello.
    (
        TLS,
        // OpenSSL reads a record's header by itself.
        |bytes| matches!(bytes, [0x16, 3, 0..=4, high, _] | [0x16, 3, 0..=4, high, _, 1 | 2, ..] if *high < 0x42),
    ),
    // RFC 9113 section 3.4: the client's preface; the server's is a SETTINGS frame, multiples of 6 bytes.
    ("HTTP/2", |bytes| bytes.starts_with(b"PRI * HTTP/2")),
    (
        "HTTP/2",
        |bytes| matches!(bytes, [0, 0, length, 4, 0, 0, 0, 0, 0, ..] if length.is_multiple_of(6) && *length < 60),
    ),
    // FastCGI section 3.3: version 1, BEGIN_REQUEST with a body of 8 bytes, whose first two are the role.
    // PHP-FPM reads a record's header by itself.
    ("FastCGI", |bytes| {
        matches!(bytes, [1, 1, _, _, 0, 8, _, 0] | [1, 1, _, _, 0, 8, _, 0, 0, 1..=3, ..])
    }),
    // GET_VALUES, of the null request.
    ("FastCGI", |bytes| {
        matches!(bytes, [1, 9, 0, 0, _, _, _, 0, ..]) && contains(bytes, b"FCGI_")
    }),
    ("uwsgi", is_uwsgi),
    // SCGI: a netstring that begins with this header.
    ("SCGI", |bytes| {
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0
            && bytes
                .get(digits..)
                .is_some_and(|rest| rest.starts_with(b":CONTENT_LENGTH\0"))
    }),
    // AJP/1.3: 0x1234, a length, and forward request, ping or CPing.
    ("AJP", |bytes| matches!(bytes, [0x12, 0x34, _, _, 2 | 8 | 10, ..])),
    // RESP: an array of bulk strings, which is what clients send.
    ("Redis", |bytes| {
        let Some(rest) = bytes.strip_prefix(b"*") else {
            return false;
        };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (1..=7).contains(&digits) && rest.get(digits..).is_some_and(|rest| rest.starts_with(b"\r\n$"))
    }),
    // PostgreSQL, section 54.7: a length, then the version 3.x, or the codes 1234.5678 to 1234.5680.
    ("PostgreSQL", |bytes| {
        matches!(
            bytes,
            [0, 0, _, _, 0, 3, 0, 0..=9, b'a'..=b'z' | b'_', ..] | [0, 0, 0, 8 | 16, 4, 0xd2, 0x16, 0x2e..=0x30, ..]
        )
    }),
    // MySQL: the server's greeting is packet 0 of protocol version 10, with its version as text.
    ("MySQL", |bytes| {
        matches!(bytes, [_, 0..=1, 0, 0, 10, b'0'..=b'9', b'0'..=b'9' | b'.', ..])
    }),
    // MongoDB, little-endian: length, request id, no response to, opcode MSG or QUERY.
    ("MongoDB", |bytes| {
        matches!(bytes, [_, _, _, 0, _, _, _, _, 0, 0, 0, 0, 0xdd | 0xd4, 7, 0, 0, ..])
    }),
    ("AMQP", |bytes| {
        matches!(bytes, [b'A', b'M', b'Q', b'P', 0 | 2 | 3, 0 | 1, 0 | 9, 0 | 1, ..])
    }),
    ("Kafka", is_kafka),
    // Cassandra's native protocol: version, flags, stream, OPTIONS without a body; or STARTUP.
    ("Cassandra", |bytes| {
        matches!(bytes, [3..=6, 0 | 16, _, _, 5, 0, 0, 0, 0])
            || matches!(bytes, [3..=6, _, _, _, 1, 0, 0, _, _, ..]) && contains(bytes, b"CQL_VERSION")
    }),
    ("NATS", |bytes| bytes.starts_with(b"INFO {\"")),
    // MQTT: CONNECT with the protocol's name.
    ("MQTT", |bytes| {
        matches!(bytes, [0x10, ..])
            && (bytes.get(2..8) == Some(b"\0\x04MQTT") || bytes.get(3..9) == Some(b"\0\x04MQTT"))
    }),
    // RFC 4253 section 4.2.
    ("SSH", |bytes| {
        bytes.starts_with(b"SSH-2.0-") || bytes.starts_with(b"SSH-1.")
    }),
    // RFC 7766: a length, an id, a query with recursion desired and one question.
    ("DNS", |bytes| {
        matches!(bytes, [0..=1, _, _, _, 1, 0 | 0x20, 0, 1, 0, 0, 0, 0, 0, 0 | 1, ..])
    }),
    // LDAP: a sequence with message 1, a bind.
    ("LDAP", |bytes| matches!(bytes, [0x30, 7..=0x7f, 2, 1, 1, 0x60, ..])),
    // SQL Server's PRELOGIN: the whole message in packet 1, options from a table that begins with the version.
    ("TDS (SQL Server)", |bytes| {
        matches!(bytes, [0x12, 1, 0, _, 0, 0, 0 | 1, 0, 0, 0, ..])
    }),
    // Thrift's strict binary protocol: version 1, a call.
    ("Thrift", |bytes| {
        matches!(bytes, [0x80, 1, 0, 1, 0, 0, ..] | [0, 0, _, _, 0x80, 1, 0, 1, 0, 0, ..])
    }),
    ("Dubbo", |bytes| matches!(bytes, [0xda, 0xbb, 0xc0..=0xff, 0, ..])),
    // D-Bus: a NUL, then SASL.
    ("D-Bus", |bytes| bytes.starts_with(b"\0AUTH ")),
    ("PROXY protocol v2", |bytes| bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n")),
    ("BitTorrent", |bytes| bytes.starts_with(b"\x13BitTorrent protocol")),
];

/// Returns a name for the protocol of a connection whose first bytes, of either end, are these.
pub fn protocol(opening: &[u8]) -> &'static str {
    let found = PROTOCOLS.iter().find(|(_, fits)| fits(opening));
    found.map_or(OTHER, |&(name, _)| name)
}

/// Recognises a packet of variables: modifier 0, the size (little-endian), modifier 0, then the first name.
fn is_uwsgi(bytes: &[u8]) -> bool {
    let &[0, low, high, 0, name_low, name_high, ref rest @ ..] = bytes else {
        return false;
    };
    let name_bytes = usize::from(u16::from_le_bytes([name_low, name_high]));
    let is_name = |name: &[u8]| name.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_');
    (1..=LONGEST_VARIABLE).contains(&name_bytes)
        && name_bytes < usize::from(u16::from_le_bytes([low, high]))
        && rest.get(..name_bytes.min(rest.len())).is_some_and(is_name)
        && rest.len() >= name_bytes.min(4)
}

/// Recognises the first request of clients, ApiVersions: length, key 18, version, id of the request, the client's name.
fn is_kafka(bytes: &[u8]) -> bool {
    let &[0, 0, high, low, 0, 18, 0, 0..=4, _, _, _, _, name_high, name_low, ..] = bytes else {
        return false;
    };
    let length = u16::from_be_bytes([high, low]);
    let name = i16::from_be_bytes([name_high, name_low]);
    // Behind the length are 10 bytes before the name.
    name >= -1 && (10..=512).contains(&length) && name.max(0).unsigned_abs() + 10 <= length
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_named() {
        let table: &[(&[u8], &str)] = &[
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
            (b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", "TLS"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", "HTTP/2"),
            // nginx to PHP-FPM.
            (
                b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01\x04",
                "FastCGI",
            ),
            (b"\x01\x01\x00\x01\x00\x08\x00\x00", "FastCGI"),
            (b"\x16\x03\x01\x02\x00", "TLS"),
            (b"\x01\x09\x00\x00\x00\x11\x07\x00\x0f\x00FCGI_MPXS_CONNS", "FastCGI"),
            (b"\x00\x6d\x01\x00\x0c\x00QUERY_STRING\x00\x00", "uwsgi"),
            (b"70:CONTENT_LENGTH\x0027\0SCGI\x001\0", "SCGI"),
            (b"\x12\x34\x00\x9c\x02\x02\x00\x08HTTP/1.1", "AJP"),
            (b"*1\r\n$4\r\nPING\r\n", "Redis"),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "PostgreSQL"),
            (b"\x00\x00\x00\x21\x00\x03\x00\x00user\0shop\0", "PostgreSQL"),
            (b"\x4a\x00\x00\x00\x0a8.0.36\x00\x0b", "MySQL"),
            (b"\x5b\x00\x00\x00\x0a5.5.5-10.11.6-MariaDB\x00", "MySQL"),
            (b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0", "MongoDB"),
            (b"AMQP\x00\x00\x09\x01", "AMQP"),
            (b"\0\0\0\x1f\0\x12\0\x03\0\0\0\0\0\x08producer", "Kafka"),
            (b"\x04\0\0\0\x05\0\0\0\0", "Cassandra"),
            (
                b"\x04\0\0\x01\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0",
                "Cassandra",
            ),
            (b"INFO {\"server_id\":\"N\"", "NATS"),
            (b"\x10\x10\0\x04MQTT\x04\x02", "MQTT"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
            (b"\0\x1d\xab\xcd\x01\x20\0\x01\0\0\0\0\0\x01\x04shop", "DNS"),
            (b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03", "LDAP"),
            (b"\x12\x01\x00\x2f\0\0\x01\0\0\0\x1a\0\x06", "TDS (SQL Server)"),
            (b"\x80\x01\0\x01\0\0\0\x04ping", "Thrift"),
            (b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01", "Dubbo"),
            (b"\0AUTH EXTERNAL 30\r\n", "D-Bus"),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "PROXY protocol v2"),
        ];
        for (opening, name) in table {
            assert_eq!(protocol(opening), *name, "{}", opening.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_sure_has_no_name() {
        let table: [&[u8]; 10] = [
            b"",
            b"\x16",
            b"\x16\x03",
            b"\0\0\0\0\0\0\0\0",
            b"220 mail.example ESMTP\r\n",
            b"PING\r\n",
            b"\x01\x01\x00\x01",
            b"*x\r\n",
            b"\x00\x05\x00\x00\x03\x00abc",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for opening in table {
            assert_eq!(protocol(opening), OTHER, "{}", opening.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(
            opening in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
            known in 0..PROTOCOLS.len(),
        ) {
            let name = protocol(&opening);
            proptest::prop_assert!(name == OTHER || PROTOCOLS.iter().any(|&(protocol, _)| protocol == name));
            let (_, fits) = PROTOCOLS[known];
            fits(&opening);
        }
    }

    #[test]
    fn a_cut_opening_is_named_as_the_whole_or_not_at_all() {
        let whole = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        for length in 0..whole.len() {
            let name = protocol(&whole[..length]);
            assert!([OTHER, "FastCGI"].contains(&name), "{length}: {name}");
        }
    }
}
