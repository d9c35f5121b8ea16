//! Values that peers chose: headers, secrets, odd and long text.

use super::{Case, all, shown};
use crate::engine::trace::{
    SpanKind,
    conventions::http::{Header, Headers, RequestHead},
};

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
    response.headers = Headers::from_iter([(Header::Captured(0), b"\xff1".as_slice()), (Header::Captured(9), b"no")]);
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
            response.headers = Headers::from_iter([(Header::Captured(0), b"/cb?state=1&code=S3CRET".as_slice())]);
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

#[test]
fn text_that_is_not_utf8() {
    let mut case = Case::server("GET", "", &[]);
    let headers = [(Header::Host, b"h\xff".as_slice()), (Header::UserAgent, b"\xc3\x28")];
    case.request = RequestHead::new(b"G\xff", b"/\xff?\xfe=1&sig=\xfd", headers.into_iter());
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
