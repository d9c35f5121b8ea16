//! Attributes of an HTTP exchange's span, by OpenTelemetry's semantic conventions for HTTP spans (1.44,
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). docs/spans.md has the tables.

mod forwarded;
pub mod ignore;
mod target;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use opentelemetry_semantic_conventions::attribute as semconv;

use self::target::{Form, Target, default_port, host_and_port};
use super::{Description, Finished};
use crate::{
    config::{CoreSettings, HeaderName, KnownMethods, SpanNames as SpanNamesSetting},
    engine::{
        proto::http1::{Header, Headers, RequestHead, ResponseHead},
        trace::{
            SpanKind, Status, Text,
            attributes::{self, Attributes},
            recent::{Recent, Texts},
            redact::{self, Holds, SecretNames},
            route::Route,
            span_name::{SpanNames, named},
            text::{lossy_text, url_text},
        },
    },
};

/// An HTTP exchange that is over.
#[derive(Clone, Copy, Debug)]
pub struct HttpExchange<'a> {
    /// The request's head.
    pub request: &'a RequestHead,
    /// The response's head, if one was sent.
    pub response: Option<&'a ResponseHead>,
    /// All that is not HTTP's own.
    pub end: &'a Finished<'a>,
}

/// Settings of the conventions for HTTP that the user can choose.
#[derive(Clone, Debug, Default)]
pub struct HttpConfig {
    /// Lower-case names of request headers to export; [`Header::Captured`] is an index into it.
    pub capture_request: Vec<String>,
    /// Lower-case names of response headers to export; [`Header::Captured`] is an index into it.
    pub capture_response: Vec<String>,
    /// Style of span names.
    pub span_names: SpanNameStyle,
    /// Rules for `http.route` at servers; the first that matches counts.
    pub routes: Vec<Route>,
    /// The query parameters whose values are not exported.
    pub secrets: SecretNames,
    /// Sizes of bodies are exported.
    pub body_sizes: bool,
    /// The methods that are known, in place of the conventions' own (`OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`).
    pub known_methods: Option<Vec<String>>,
}

/// Style of span names where no route is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanNameStyle {
    /// `{method} {template}`, the template made from the path.
    #[default]
    Template,
    /// `{method}`, the letter of the conventions.
    Method,
}

/// Describes an exchange. `names` are those of the process that the span belongs to.
pub fn describe(exchange: &HttpExchange<'_>, config: &HttpConfig, names: &mut SpanNames) -> Description {
    let request = exchange.request;
    let target = Target::parse(request.method(), request.target());
    // Without a path, `http://host` means the same as `http://host/` (RFC 9110, section 4.2.3).
    let sent_path = match target.form {
        Form::Absolute if target.path.is_empty() => b"/".as_slice(),
        _ => target.path,
    };
    // Names are made of it too.
    let shown = |sent: &[u8]| Text::from(config.secrets.path(&url_text(sent)));
    let path = names.texts.paths.of(sent_path, shown);
    let mut attributes = Attributes::default();
    attributes.last_address = names.texts.address.take();

    let known = config.known_method(request.method());
    attributes.push_short(
        semconv::HTTP_REQUEST_METHOD,
        known.clone().unwrap_or(Text::new_static("_OTHER")),
    );
    if known.is_none() && request.is_readable() {
        attributes.push_text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, lossy_text(request.method()));
    }
    let route = match exchange.end.kind {
        SpanKind::Server => {
            let route = route(config, request, sent_path);
            let texts = &mut names.texts;
            push_server(
                &mut attributes,
                exchange,
                &target,
                (&path, route),
                &config.secrets,
                texts,
            );
            route
        }
        SpanKind::Client => {
            push_client(
                &mut attributes,
                exchange,
                &target,
                &path,
                &config.secrets,
                &mut names.texts,
            );
            None
        }
    };
    attributes.push_peer(exchange.end.remote);
    if request.is_readable() {
        let version = if request.minor_version == 0 { "1.0" } else { "1.1" };
        attributes.push_static(semconv::NETWORK_PROTOCOL_VERSION, version);
    }
    if config.body_sizes {
        push_body_sizes(&mut attributes, exchange);
    }
    if !config.capture_request.is_empty() || !config.capture_response.is_empty() {
        push_captured(&mut attributes, exchange, config);
    }
    let status = push_outcome(&mut attributes, exchange);
    names.texts.address = attributes.last_address.take();

    // The conventions: `{method}` is `HTTP` in names, if the method is not known.
    let method = known.unwrap_or(Text::new_static("HTTP"));
    let name = match (route, config.span_names) {
        (Some(route), _) => named(&method, route.template()),
        (None, SpanNameStyle::Method) => method,
        (None, SpanNameStyle::Template) => {
            let not_found = exchange.response.is_some_and(|response| response.status == 404);
            names.name(method, &path, not_found)
        }
    };
    Description {
        name,
        attributes: attributes.finish(),
        status,
    }
}

impl HttpConfig {
    /// Takes the user's choices.
    pub(super) fn new(settings: &CoreSettings) -> Self {
        Self {
            capture_request: settings.request_headers.iter().map(HeaderName::to_string).collect(),
            capture_response: settings.response_headers.iter().map(HeaderName::to_string).collect(),
            span_names: match settings.span_names {
                SpanNamesSetting::Template => SpanNameStyle::Template,
                SpanNamesSetting::Method => SpanNameStyle::Method,
            },
            routes: settings.routes.clone(),
            secrets: settings.secrets.clone(),
            known_methods: settings
                .known_methods
                .as_ref()
                .and_then(KnownMethods::methods)
                .map(<[String]>::to_vec),
            body_sizes: settings.body_sizes,
        }
    }

    /// Returns the method as an attribute, if it is a known one. Methods are case-sensitive.
    fn known_method(&self, method: &[u8]) -> Option<Text> {
        if let Some(methods) = &self.known_methods {
            let known = methods.iter().find(|known| known.as_bytes() == method);
            return known.map(Text::from);
        }
        // RFC 9110, PATCH (RFC 5789), and QUERY.
        let known = match method {
            b"GET" => "GET",
            b"POST" => "POST",
            b"PUT" => "PUT",
            b"DELETE" => "DELETE",
            b"HEAD" => "HEAD",
            b"OPTIONS" => "OPTIONS",
            b"PATCH" => "PATCH",
            b"CONNECT" => "CONNECT",
            b"TRACE" => "TRACE",
            b"QUERY" => "QUERY",
            _ => return None,
        };
        Some(Text::new_static(known))
    }
}

/// Returns the first rule for `http.route` that a path matches.
fn route<'c>(config: &'c HttpConfig, request: &RequestHead, sent_path: &[u8]) -> Option<&'c Route> {
    if config.routes.is_empty() || !request.is_readable() {
        return None;
    }
    let path = url_text(sent_path);
    config.routes.iter().find(|route| route.matches(&path))
}

fn push_server(
    attributes: &mut Attributes,
    exchange: &HttpExchange<'_>,
    target: &Target<'_>,
    (path, route): (&Text, Option<&Route>),
    secrets: &SecretNames,
    texts: &mut Texts,
) {
    let headers = exchange.request.headers();
    // Most requests did not pass a proxy that says so.
    let forwarded = forwarded::is_any(headers).then_some(headers);
    let scheme = forwarded
        .and_then(forwarded::scheme)
        .or_else(|| target.scheme.and_then(forwarded::scheme_name))
        .unwrap_or(Text::new_static("http"));
    let implied_port = default_port(&scheme);
    attributes.push_short(semconv::URL_SCHEME, scheme);
    if exchange.request.is_readable() {
        attributes.push_text(semconv::URL_PATH, path.clone());
    }
    if let Some(query) = target.query {
        attributes.push_text(semconv::URL_QUERY, secrets.query(&url_text(query)));
    }
    if let Some(route) = route {
        attributes.push_text(semconv::HTTP_ROUTE, route.template());
    }
    let forwarded_host = forwarded.and_then(forwarded::host).map(as_text);
    match forwarded_host.or_else(|| named_host(exchange.request, target, &mut texts.host)) {
        Some((host, port)) => push_server_name(attributes, host, port.or(implied_port)),
        None => attributes.push_server_socket(exchange.end.local),
    }
    match forwarded.and_then(forwarded::client) {
        Some(address) => attributes.push_ip(semconv::CLIENT_ADDRESS, address),
        None => attributes.push_address(semconv::CLIENT_ADDRESS, exchange.end.remote),
    }
    if let Some(user_agent) = headers.first(Header::UserAgent) {
        let text = |user_agent: &[u8]| Text::from(lossy_text(user_agent));
        attributes.push_text(semconv::USER_AGENT_ORIGINAL, texts.user_agent.of(user_agent, text));
    }
}

fn push_client(
    attributes: &mut Attributes,
    exchange: &HttpExchange<'_>,
    target: &Target<'_>,
    path: &str,
    secrets: &SecretNames,
    texts: &mut Texts,
) {
    attributes.push_text(semconv::URL_FULL, full_url(exchange, target, path, secrets));
    match named_host(exchange.request, target, &mut texts.host) {
        Some((host, port)) => {
            let implied_port = target
                .scheme
                .map_or(Some(Text::new_static("http")), forwarded::scheme_name)
                .and_then(|scheme| default_port(&scheme));
            push_server_name(attributes, host, port.or(implied_port));
        }
        None => attributes.push_server_socket(exchange.end.remote),
    }
}

/// Returns the server as the request names it: by an absolute target, whose host overrides `Host` (RFC 9112, section
/// 3.2.2), by `Host`, or by the target of CONNECT.
fn named_host(
    request: &RequestHead,
    target: &Target<'_>,
    recent: &mut Recent<Option<(Text, Option<u16>)>>,
) -> Option<(Text, Option<u16>)> {
    let parse = |authority: &[u8]| host_and_port(authority).map(as_text);
    let in_target = || target.authority.and_then(parse);
    let header = request.headers().first(Header::Host);
    let mut in_header = || header.and_then(|host| recent.of(host, parse));
    match target.form {
        Form::Absolute => in_target().or_else(in_header),
        _ => in_header().or_else(in_target),
    }
}

fn as_text((host, port): (&[u8], Option<u16>)) -> (Text, Option<u16>) {
    (lossy_text(host).into(), port)
}

/// Returns the target URI (RFC 9112, section 3.3), without secrets; `path` has none any more.
fn full_url(exchange: &HttpExchange<'_>, target: &Target<'_>, path: &str, secrets: &SecretNames) -> String {
    let host = exchange.request.headers().first(Header::Host).map(<[u8]>::trim_ascii);
    let authority = match target.authority {
        Some(authority) => Some(authority),
        None => host.filter(|host| !host.is_empty()),
    };
    let path = match target.form {
        // "OPTIONS *" asks about the server: its URI has no path.
        Form::Asterisk => "",
        Form::Absolute if target.path.is_empty() => "",
        _ => path,
    };
    let mut url = String::with_capacity(64 + exchange.request.target().len());
    url.push_str(&target.scheme.map_or(Cow::Borrowed("http"), url_text));
    url.push_str("://");
    match authority {
        Some(authority) => url.push_str(&redact::authority(&url_text(authority))),
        None => attributes::push_authority(&mut url, exchange.end.remote),
    }
    if !path.is_empty() && !path.starts_with('/') {
        url.push('/');
    }
    url.push_str(path);
    if let Some(query) = target.query {
        url.push('?');
        url.push_str(&secrets.query(&url_text(query)));
    }
    url
}

fn push_server_name(attributes: &mut Attributes, host: Text, port: Option<u16>) {
    attributes.push_text(semconv::SERVER_ADDRESS, host);
    if let Some(port) = port {
        attributes.push_int(semconv::SERVER_PORT, port.into());
    }
}

fn push_body_sizes(attributes: &mut Attributes, exchange: &HttpExchange<'_>) {
    // A request without Content-Length and chunks has no body, which is not the same as an empty one.
    let request = exchange
        .end
        .request_body_bytes
        .filter(|&bytes| bytes > 0 || exchange.request.content_length.is_some());
    for (key, bytes) in [
        (semconv::HTTP_REQUEST_BODY_SIZE, request),
        (semconv::HTTP_RESPONSE_BODY_SIZE, exchange.end.response_body_bytes),
    ] {
        if let Some(bytes) = bytes {
            attributes.push_int(key, bytes.try_into().unwrap_or(i64::MAX));
        }
    }
}

fn push_captured(attributes: &mut Attributes, exchange: &HttpExchange<'_>, config: &HttpConfig) {
    let mut push = |prefix, names: &[String], headers: &Headers| {
        for (index, name) in names.iter().enumerate() {
            let captured = |header: Header| matches!(header, Header::Captured(i) if usize::from(i) == index);
            // A header that spans need anyway may be there under its own name only.
            let own = own_header(name).filter(|_| !headers.iter().any(|(header, _)| captured(header)));
            let values = headers
                .iter()
                .filter(|&(header, _)| captured(header) || own == Some(header));
            let holds = Holds::of(name);
            let values = values.map(|(_, value)| config.secrets.header(holds, lossy_text(value)));
            attributes.push_header(prefix, name, values);
        }
    };
    push(
        semconv::HTTP_REQUEST_HEADER,
        &config.capture_request,
        exchange.request.headers(),
    );
    if let Some(response) = exchange.response {
        push(
            semconv::HTTP_RESPONSE_HEADER,
            &config.capture_response,
            &response.headers,
        );
    }
}

/// Status code, `error.type` and the span's status: 4xx is the client's error and not the server's; from 500 on it is
/// both's, codes that HTTP does not define included (RFC 9110, section 15: they count as 5xx).
fn push_outcome(attributes: &mut Attributes, exchange: &HttpExchange<'_>) -> Status {
    let code = exchange.response.map(|response| response.status);
    if let Some(code) = code {
        attributes.push_int(semconv::HTTP_RESPONSE_STATUS_CODE, code.into());
    }
    let first_error = match exchange.end.kind {
        SpanKind::Server => 500,
        SpanKind::Client => 400,
    };
    let error_type = match (exchange.end.failure, code) {
        (Some(failure), _) => Text::new_static(failure.error_type()),
        (None, Some(code)) if code >= first_error => Text::from(code.to_string()),
        _ => return Status::Unset,
    };
    attributes.push_short(semconv::ERROR_TYPE, error_type);
    Status::Error(Cow::Borrowed(""))
}

/// Returns the variant of a header that spans need, whether the user chose it or not.
fn own_header(name: &str) -> Option<Header> {
    match name {
        "host" => Some(Header::Host),
        "user-agent" => Some(Header::UserAgent),
        "traceparent" => Some(Header::Traceparent),
        "tracestate" => Some(Header::Tracestate),
        "forwarded" => Some(Header::Forwarded),
        "x-forwarded-for" => Some(Header::XForwardedFor),
        "x-forwarded-proto" => Some(Header::XForwardedProto),
        "x-forwarded-host" => Some(Header::XForwardedHost),
        _ => None,
    }
}
