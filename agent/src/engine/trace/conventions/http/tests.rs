//! Whole spans for whole exchanges: each rule of the conventions once.

use super::*;
use crate::{
    engine::{
        exchange::Failure,
        trace::{Attribute, Value, conventions::connect},
    },
    record::Endpoint,
};

type HeaderList<'a> = &'a [(Header, &'a str)];

/// An exchange to change in places.
struct Case {
    kind: SpanKind,
    request: RequestHead,
    response: Option<ResponseHead>,
    request_body_bytes: Option<u64>,
    response_body_bytes: Option<u64>,
    failure: Option<Failure>,
    local: Endpoint,
    remote: Endpoint,
    config: HttpConfig,
}

fn ip(address: &str, port: u16) -> Endpoint {
    Endpoint::Ip(address.parse().unwrap(), port)
}

fn unix(path: Option<&str>) -> Endpoint {
    Endpoint::Unix(path.map(Into::into))
}

fn headers(list: &[(Header, &str)]) -> Vec<(Header, Box<[u8]>)> {
    list.iter()
        .map(|(header, value)| (*header, value.as_bytes().into()))
        .collect()
}

impl Case {
    fn new(kind: SpanKind, method: &str, target: &str, list: &[(Header, &str)]) -> Self {
        Self {
            kind,
            request: RequestHead {
                method: method.as_bytes().into(),
                target: target.as_bytes().into(),
                minor_version: 1,
                content_length: None,
                headers: headers(list),
            },
            response: None,
            request_body_bytes: Some(0),
            response_body_bytes: None,
            failure: None,
            local: ip("10.0.0.1", 8080),
            remote: ip("10.0.0.2", 9090),
            config: HttpConfig {
                body_sizes: true,
                ..HttpConfig::default()
            },
        }
        .status(200)
    }

    fn server(method: &str, target: &str, list: &[(Header, &str)]) -> Self {
        Self::new(SpanKind::Server, method, target, list)
    }

    fn client(method: &str, target: &str, list: &[(Header, &str)]) -> Self {
        Self::new(SpanKind::Client, method, target, list)
    }

    fn status(mut self, status: u16) -> Self {
        self.response = Some(ResponseHead {
            status,
            minor_version: 1,
            content_length: None,
            headers: vec![],
        });
        self
    }

    fn span(&self) -> Description {
        let end = Finished {
            kind: self.kind,
            call: None,
            reply: None,
            request_body_bytes: self.request_body_bytes,
            response_body_bytes: self.response_body_bytes,
            failure: self.failure,
            local: &self.local,
            remote: &self.remote,
        };
        let exchange = HttpExchange {
            request: &self.request,
            response: self.response.as_ref(),
            end: &end,
        };
        describe(&exchange, &self.config, &mut SpanNames::default())
    }

    /// The values of some attributes, `-` for one that is not there.
    fn values(&self, keys: &[&str]) -> Vec<String> {
        let span = self.span();
        let of = |key: &&str| {
            span.attributes
                .iter()
                .find(|attribute| attribute.key == **key)
                .map(shown)
        };
        keys.iter().map(|key| of(key).unwrap_or_else(|| "-".into())).collect()
    }
}

fn shown(attribute: &Attribute) -> String {
    match &attribute.value {
        Value::Str(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Strs(list) => format!("{list:?}"),
    }
}

/// Name, status, and all attributes in order.
fn all(span: &Description) -> String {
    let mut text = format!("{} {:?}\n", span.name, span.status);
    for attribute in &span.attributes {
        text += &format!("{}={}\n", attribute.key, shown(attribute));
    }
    text
}

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
fn methods() {
    let keys = ["http.request.method", "http.request.method_original"];
    for (method, name, attribute, original) in [
        ("GET", "GET /", "GET", "-"),
        ("QUERY", "QUERY /", "QUERY", "-"),
        ("PATCH", "PATCH /", "PATCH", "-"),
        ("TRACE", "TRACE /", "TRACE", "-"),
        ("get", "HTTP /", "_OTHER", "get"),
        ("PROPFIND", "HTTP /", "_OTHER", "PROPFIND"),
    ] {
        let case = Case::server(method, "/", &[]);
        assert_eq!(case.span().name, name);
        assert_eq!(case.values(&keys), [attribute, original], "{method}");
    }
    let mut case = Case::server("PROPFIND", "/", &[]);
    case.config.known_methods = Some(vec!["GET".to_owned(), "PROPFIND".to_owned()]);
    assert_eq!(case.span().name, "PROPFIND /");
    assert_eq!(case.values(&keys), ["PROPFIND", "-"]);
    case.request.method = (*b"POST").into();
    assert_eq!(case.values(&keys), ["_OTHER", "POST"]);
}

#[test]
fn names() {
    let users: Route = "/users/{id}".parse().unwrap();
    let (template, method) = (SpanNameStyle::Template, SpanNameStyle::Method);
    for (kind, style, target, expected, route) in [
        (
            SpanKind::Server,
            template,
            "/users/ann",
            "GET /users/{id}",
            "/users/{id}",
        ),
        (SpanKind::Server, method, "/users/ann", "GET /users/{id}", "/users/{id}"),
        (SpanKind::Server, template, "/things/7", "GET /things/{id}", "-"),
        (SpanKind::Server, method, "/things/7", "GET", "-"),
        (SpanKind::Client, template, "/users/ann", "GET /users/ann", "-"),
        (SpanKind::Client, method, "/users/ann", "GET", "-"),
    ] {
        let mut case = Case::new(kind, "GET", target, &[]);
        case.config.span_names = style;
        case.config.routes = vec![users.clone()];
        assert_eq!(case.span().name, expected);
        assert_eq!(case.values(&["http.route"]), [route], "{kind:?} {style:?} {target}");
    }
    let mut other = Case::server("BREW", "/pot", &[]);
    other.config.span_names = method;
    assert_eq!(other.span().name, "HTTP");
}

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

#[test]
fn captured_headers() {
    let mut case = Case::server(
        "GET",
        "/",
        &[
            (Header::Captured(1), "a"),
            (Header::UserAgent, "curl"),
            (Header::Captured(1), "b, c"),
        ],
    );
    case.config.capture_request = ["x-none", "x-many", "user-agent"].map(Into::into).into();
    case.config.capture_response = vec!["x-id".into()];
    let response = case.response.as_mut().unwrap();
    response.headers = vec![
        (Header::Captured(0), b"\xff1"[..].into()),
        (Header::Captured(9), b"no"[..].into()),
    ];
    let span = case.span();
    let captured = span
        .attributes
        .iter()
        .filter(|attribute| attribute.key.contains(".header."));
    let captured: Vec<_> = captured
        .map(|attribute| format!("{}={}", attribute.key, shown(attribute)))
        .collect();
    assert_eq!(
        captured,
        [
            "http.request.header.x-many=[\"a\", \"b, c\"]",
            "http.request.header.user-agent=[\"curl\"]",
            "http.response.header.x-id=[\"\u{fffd}1\"]",
        ]
    );
}

#[test]
fn secrets_are_in_no_part_of_a_span() {
    let headers = [
        (Header::Host, "u:S3CRET@h"),
        (Header::Captured(0), "https://u:S3CRET@h/?token=S3CRET#id_token=S3CRET"),
        (Header::Captured(1), "see <https://h/?%73ig=S3CRET>"),
        (Header::Captured(2), "S3CRET-is-what-was-asked-for"),
    ];
    for (target, url, in_server) in [
        (
            "/cb;jsessionid=S3CRET/x?code=S3CRET&session-key=S3CRET&n=1#access_token=S3CRET",
            "http://REDACTED:REDACTED@h/cb;jsessionid=REDACTED/x?code=REDACTED&session-key=REDACTED&n=1#access_token=REDACTED",
            "url.path=/cb;jsessionid=REDACTED/x\nurl.query=code=REDACTED&session-key=REDACTED&n=1#access_token=REDACTED\n",
        ),
        (
            "http://u:S3CRET@t/a?%74oken=S3CRET;S3CRET",
            "http://REDACTED:REDACTED@t/a?%74oken=REDACTED",
            "url.path=/a\nurl.query=%74oken=REDACTED\nserver.address=t\n",
        ),
        (
            "http://t?token=S3CRET",
            "http://t?token=REDACTED",
            "url.path=/\nurl.query=token=REDACTED\nserver.address=t\n",
        ),
        (
            "/#token=S3CRET",
            "http://REDACTED:REDACTED@h/#token=REDACTED",
            "url.path=/#token=REDACTED\nserver.address=h\n",
        ),
    ] {
        for kind in [SpanKind::Server, SpanKind::Client] {
            let mut case = Case::new(kind, "GET", target, &headers);
            case.config.secrets.add(["Session_Key".parse().unwrap()]);
            case.config.capture_request = ["referer", "x-note", "x-secret", "host"].map(Into::into).into();
            case.config.capture_response = vec!["location".into()];
            let response = case.response.as_mut().unwrap();
            response.headers = vec![(Header::Captured(0), b"/cb?state=1&code=S3CRET"[..].into())];
            let span = all(&case.span());
            assert_eq!(span.matches("S3CRET").count(), 1, "{span}");
            for line in [
                "http.request.header.referer=[\"https://REDACTED:REDACTED@h/?token=REDACTED\"]",
                "http.request.header.x-note=[\"see <https://h/?%73ig=REDACTED>\"]",
                "http.request.header.x-secret=[\"S3CRET-is-what-was-asked-for\"]",
                "http.request.header.host=[\"REDACTED:REDACTED@h\"]",
                "http.response.header.location=[\"/cb?state=1&code=REDACTED\"]",
            ] {
                assert!(span.contains(line), "{line} is not in\n{span}");
            }
            match kind {
                SpanKind::Server => assert!(span.contains(in_server), "{span}"),
                SpanKind::Client => assert!(span.contains(&format!("\nurl.full={url}\n")), "{span}"),
            }
        }
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

#[test]
fn text_that_is_not_utf8() {
    let mut case = Case::server("GET", "", &[]);
    case.request.method = (*b"G\xff").into();
    case.request.target = (*b"/\xff?\xfe=1&sig=\xfd").into();
    case.request.headers = vec![
        (Header::Host, b"h\xff"[..].into()),
        (Header::UserAgent, b"\xc3\x28"[..].into()),
    ];
    assert_eq!(
        case.values(&[
            "http.request.method_original",
            "url.path",
            "url.query",
            "server.address",
            "user_agent.original"
        ]),
        ["G\u{fffd}", "/%FF", "%FE=1&sig=REDACTED", "h\u{fffd}", "\u{fffd}("]
    );
    case.kind = SpanKind::Client;
    assert_eq!(case.values(&["url.full"]), ["http://h%FF/%FF?%FE=1&sig=REDACTED"]);
}

#[test]
fn long_values_are_cut_and_marked() {
    let long = "x".repeat(5000);
    let cut = "x".repeat(4093) + "…";
    let mut case = Case::server(
        "GET",
        &format!("/{long}?q"),
        &[(Header::UserAgent, &long), (Header::Captured(0), &long)],
    );
    case.config.capture_request = vec!["x-long".into()];
    assert_eq!(
        case.values(&[
            "url.path",
            "url.query",
            "user_agent.original",
            "http.request.header.x-long",
            "spoor.truncated"
        ]),
        [
            "/".to_owned() + &cut[1..],
            "q".into(),
            cut.clone(),
            format!("[{cut:?}]"),
            "[\"url.path\", \"user_agent.original\", \"http.request.header.x-long\"]".into(),
        ]
    );
    let padding = "x".repeat(4072);
    let client = Case::client("GET", &format!("/?a={padding}&sig=secret"), &[(Header::Host, "h")]);
    assert_eq!(
        client.values(&["url.full", "spoor.truncated"]),
        [format!("http://h/?a={padding}&sig=REDA…"), "[\"url.full\"]".into()]
    );
    assert_eq!(Case::client("GET", "/short", &[]).values(&["spoor.truncated"]), ["-"]);
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
