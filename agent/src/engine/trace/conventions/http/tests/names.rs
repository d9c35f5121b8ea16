//! Methods, and names of spans.

use super::{Case, request};
use crate::engine::trace::{SpanKind, conventions::http::SpanNameStyle, route::Route};

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
    case.request = request(b"POST", b"/", &[]);
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
