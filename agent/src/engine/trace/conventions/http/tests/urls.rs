//! URLs and addresses of both ends.

use super::{Case, HeaderList, ip, unix};
use crate::{engine::trace::conventions::http::Header, record::Endpoint};

#[test]
fn urls_at_servers() {
    use Header::{Forwarded, Host, XForwardedFor, XForwardedHost, XForwardedProto};
    let keys = [
        "url.scheme",
        "url.path",
        "url.query",
        "server.address",
        "server.port",
        "client.address",
    ];
    let cases: &[(&str, &str, HeaderList<'_>, [&str; 6])] = &[
        ("GET", "/", &[], ["http", "/", "-", "10.0.0.1", "8080", "10.0.0.2"]),
        ("GET", "/?", &[(Host, "h")], ["http", "/", "", "h", "80", "10.0.0.2"]),
        (
            "GET",
            "/",
            &[(Host, "")],
            ["http", "/", "-", "10.0.0.1", "8080", "10.0.0.2"],
        ),
        (
            "GET",
            "/",
            &[(Host, "[::1]:81")],
            ["http", "/", "-", "::1", "81", "10.0.0.2"],
        ),
        (
            "GET",
            "http://u:p@t:82/a?b",
            &[(Host, "h")],
            ["http", "/a", "b", "t", "82", "10.0.0.2"],
        ),
        (
            "GET",
            "https://t",
            &[(Host, "h")],
            ["https", "/", "-", "t", "443", "10.0.0.2"],
        ),
        (
            "OPTIONS",
            "*",
            &[(Host, "h:1")],
            ["http", "*", "-", "h", "1", "10.0.0.2"],
        ),
        ("CONNECT", "t:443", &[], ["http", "", "-", "t", "443", "10.0.0.2"]),
        (
            "GET",
            "/",
            &[
                (Host, "h:1"),
                (XForwardedHost, "x"),
                (XForwardedProto, "https"),
                (XForwardedFor, "192.0.2.1, 1.1.1.1"),
            ],
            ["https", "/", "-", "x", "443", "192.0.2.1"],
        ),
        (
            "GET",
            "/",
            &[
                (Forwarded, "for=\"[2001:db8::1]:5\";host=f:444;proto=https"),
                (XForwardedHost, "x"),
                (XForwardedProto, "http"),
                (XForwardedFor, "192.0.2.1"),
            ],
            ["https", "/", "-", "f", "444", "2001:db8::1"],
        ),
    ];
    for (method, target, list, expected) in cases {
        assert_eq!(
            Case::server(method, target, list).values(&keys),
            expected,
            "{method} {target} {list:?}"
        );
    }
}

#[test]
fn urls_at_clients() {
    use Header::Host;
    let keys = ["url.full", "server.address", "server.port", "network.peer.address"];
    let peer = || ip("10.0.0.2", 9090);
    let cases: &[(&str, &str, HeaderList<'_>, Endpoint, [&str; 4])] = &[
        (
            "GET",
            "/a",
            &[],
            peer(),
            ["http://10.0.0.2:9090/a", "10.0.0.2", "9090", "10.0.0.2"],
        ),
        (
            "GET",
            "/",
            &[],
            ip("10.0.0.2", 80),
            ["http://10.0.0.2/", "10.0.0.2", "80", "10.0.0.2"],
        ),
        ("GET", "/", &[], ip("::1", 81), ["http://[::1]:81/", "::1", "81", "::1"]),
        (
            "GET",
            "/",
            &[(Host, "[::1]:82")],
            peer(),
            ["http://[::1]:82/", "::1", "82", "10.0.0.2"],
        ),
        (
            "GET",
            "/",
            &[(Host, "u@h")],
            peer(),
            ["http://REDACTED:REDACTED@h/", "h", "80", "10.0.0.2"],
        ),
        (
            "GET",
            "http://u:p@t/a?Signature=1",
            &[(Host, "h")],
            peer(),
            ["http://REDACTED:REDACTED@t/a?Signature=REDACTED", "t", "80", "10.0.0.2"],
        ),
        (
            "GET",
            "https://t/a",
            &[],
            peer(),
            ["https://t/a", "t", "443", "10.0.0.2"],
        ),
        ("GET", "ftp://t/a", &[], peer(), ["ftp://t/a", "t", "-", "10.0.0.2"]),
        (
            "CONNECT",
            "t:443",
            &[(Host, "t:443")],
            peer(),
            ["http://t:443", "t", "443", "10.0.0.2"],
        ),
        (
            "OPTIONS",
            "*",
            &[(Host, "h")],
            peer(),
            ["http://h", "h", "80", "10.0.0.2"],
        ),
        (
            "GET",
            "a",
            &[(Host, "h")],
            peer(),
            ["http://h/a", "h", "80", "10.0.0.2"],
        ),
        (
            "GET",
            "/",
            &[(Host, "localhost")],
            unix(Some("/a.sock")),
            ["http://localhost/", "localhost", "80", "/a.sock"],
        ),
        (
            "GET",
            "/",
            &[],
            unix(Some("/a.sock")),
            ["http://%2Fa.sock/", "/a.sock", "-", "/a.sock"],
        ),
    ];
    for (method, target, list, remote, expected) in cases {
        let mut case = Case::client(method, target, list);
        case.remote = remote.clone();
        assert_eq!(case.values(&keys), expected, "{method} {target} {list:?}");
    }
}

/// The query of an absolute target without a path is no part of its authority.
#[test]
fn an_absolute_target_without_a_path_has_its_query() {
    let case = Case::server("GET", "http://host?token=1&a=2", &[(Header::Host, "other")]);
    assert_eq!(
        case.values(&["server.address", "server.port", "url.path", "url.query"]),
        ["host", "80", "/", "token=REDACTED&a=2"]
    );
    let case = Case::client("GET", "http://host?token=1&a=2", &[]);
    assert_eq!(
        case.values(&["server.address", "url.full"]),
        ["host", "http://host?token=REDACTED&a=2"]
    );
}
