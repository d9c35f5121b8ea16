//! Whole spans, and their outcomes.

use super::{Case, all, ip, unix};
use crate::engine::{
    exchange::Failure,
    trace::{
        SpanKind, Status,
        conventions::{
            connect,
            http::{Header, HttpConfig},
        },
    },
};

#[test]
fn a_server_span() {
    let mut case = Case::server(
        "POST",
        "/webshop/articles/4?s=1&sig=2",
        &[(Header::Host, "example.com:8080"), (Header::UserAgent, "curl/8.5.0")],
    );
    case.request.content_length = Some(12);
    case.request_body_bytes = Some(12);
    case.response_body_bytes = Some(1024);
    assert_eq!(
        all(&case.span()),
        "POST /webshop/articles/{id} Unset
http.request.method=POST
url.scheme=http
url.path=/webshop/articles/4
url.query=s=1&sig=REDACTED
server.address=example.com
server.port=8080
client.address=10.0.0.2
user_agent.original=curl/8.5.0
network.peer.address=10.0.0.2
network.peer.port=9090
network.protocol.version=1.1
http.request.body.size=12
http.response.body.size=1024
http.response.status_code=200
"
    );
}

#[test]
fn a_client_span() {
    let mut case = Case::client(
        "GET",
        "/a?b=c",
        &[(Header::Host, "example.com"), (Header::UserAgent, "curl/8.5.0")],
    );
    case.response_body_bytes = Some(0);
    assert_eq!(
        all(&case.span()),
        "GET /a Unset
http.request.method=GET
url.full=http://example.com/a?b=c
server.address=example.com
server.port=80
network.peer.address=10.0.0.2
network.peer.port=9090
network.protocol.version=1.1
http.response.body.size=0
http.response.status_code=200
"
    );
}

#[test]
fn unix_sockets_at_servers() {
    let mut case = Case::server("GET", "/", &[]);
    (case.local, case.remote) = (unix(Some("@app")), unix(None));
    case.request.minor_version = 0;
    assert_eq!(
        all(&case.span()),
        "GET / Unset
http.request.method=GET
url.scheme=http
url.path=/
server.address=@app
network.transport=unix
network.protocol.version=1.0
http.response.status_code=200
"
    );
}

#[test]
fn a_request_that_a_server_refused_unread() {
    let mut case = Case::server("", "", &[]).status(400);
    case.config.routes = vec!["/*".parse().unwrap()];
    case.response_body_bytes = Some(7);
    assert_eq!(
        all(&case.span()),
        "HTTP Unset\nhttp.request.method=_OTHER\nurl.scheme=http\nserver.address=10.0.0.1\nserver.port=8080\n\
         client.address=10.0.0.2\nnetwork.peer.address=10.0.0.2\nnetwork.peer.port=9090\n\
         http.response.body.size=7\nhttp.response.status_code=400\n"
    );
}

#[test]
fn a_failed_connect() {
    assert_eq!(
        all(&connect(
            &ip("::ffff:10.0.0.9", 81),
            Failure::from_errno(libc::ECONNREFUSED)
        )),
        "connect Error(\"\")
server.address=10.0.0.9
server.port=81
network.peer.address=10.0.0.9
network.peer.port=81
error.type=connection_refused
"
    );
    assert_eq!(
        all(&connect(&unix(Some("/run/a.sock")), Failure::SocketNotFound)),
        "connect Error(\"\")
server.address=/run/a.sock
network.peer.address=/run/a.sock
network.transport=unix
error.type=socket_not_found
"
    );
}

#[test]
fn outcomes() {
    let error = || Status::Error("".into());
    let keys = ["http.response.status_code", "error.type"];
    let cut = Some(Failure::ConnectionClosed);
    for (kind, status, failure, expected, values) in [
        (SpanKind::Server, Some(101), None, Status::Unset, ["101", "-"]),
        (SpanKind::Server, Some(302), None, Status::Unset, ["302", "-"]),
        (SpanKind::Server, Some(404), None, Status::Unset, ["404", "-"]),
        (SpanKind::Client, Some(399), None, Status::Unset, ["399", "-"]),
        (SpanKind::Client, Some(404), None, error(), ["404", "404"]),
        (SpanKind::Server, Some(503), None, error(), ["503", "503"]),
        (SpanKind::Client, Some(503), None, error(), ["503", "503"]),
        (SpanKind::Client, Some(999), None, error(), ["999", "999"]),
        (SpanKind::Server, Some(200), cut, error(), ["200", "connection_closed"]),
        (SpanKind::Client, Some(500), cut, error(), ["500", "connection_closed"]),
        (
            SpanKind::Client,
            None,
            Some(Failure::Cancelled),
            error(),
            ["-", "cancelled"],
        ),
        (
            SpanKind::Server,
            None,
            Some(Failure::ProcessExit),
            error(),
            ["-", "process_exit"],
        ),
        (SpanKind::Server, None, None, Status::Unset, ["-", "-"]),
    ] {
        let mut case = Case::new(kind, "GET", "/", &[]);
        case.response = None;
        if let Some(status) = status {
            case = case.status(status);
        }
        case.failure = failure;
        assert_eq!(case.span().status, expected, "{kind:?} {status:?} {failure:?}");
        assert_eq!(case.values(&keys), values, "{kind:?} {status:?} {failure:?}");
    }
}

#[test]
fn body_sizes() {
    let keys = ["http.request.body.size", "http.response.body.size"];
    for (length, request, response, expected) in [
        (None, Some(0), Some(0), ["-", "0"]),
        (Some(0), Some(0), Some(7), ["0", "7"]),
        (None, Some(5), None, ["5", "-"]),
        (Some(5), None, None, ["-", "-"]),
    ] {
        let mut case = Case::server("POST", "/", &[]);
        case.request.content_length = length;
        (case.request_body_bytes, case.response_body_bytes) = (request, response);
        assert_eq!(case.values(&keys), expected);
        // Opt-in in the conventions, and here.
        case.config = HttpConfig::default();
        assert_eq!(case.values(&keys), ["-", "-"]);
    }
}
