//! Methods and headers whose names stay: those in general use.

use super::proxy::PROXY;
use crate::engine::proto::structure::Words;

/// First words of a connection that a proxy may have accepted for a client: methods, and the beginning of the proxy's
/// line.
const OPENINGS: &[&[u8]] = &[
    PROXY, b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY", b"PRI",
];

/// Methods of RFC 9110 and PATCH (RFC 5789), QUERY, and the preface of HTTP/2, by which Core knows it.
pub(super) const METHODS: Words<'_> = Words::usual(match OPENINGS.split_first() {
    Some((_, methods)) => methods,
    None => &[],
});

/// The methods, and the first word of a proxy's line.
pub(super) const METHODS_OR_PROXY: Words<'_> = Words::usual(OPENINGS);

/// Names of the versions that Core distinguishes.
pub(super) const VERSIONS: Words<'_> = Words::usual(&[b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0"]);

/// Headers, in lower case.
pub(super) const HEADERS: Words<'_> = Words::usual(&[
    b"accept",
    b"accept-charset",
    b"accept-encoding",
    b"accept-language",
    b"accept-ranges",
    b"access-control-allow-origin",
    b"age",
    b"allow",
    b"alt-svc",
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-disposition",
    b"content-encoding",
    b"content-language",
    b"content-length",
    b"content-location",
    b"content-range",
    b"content-security-policy",
    b"content-type",
    b"cookie",
    b"date",
    b"etag",
    b"expect",
    b"expires",
    b"forwarded",
    b"host",
    b"http2-settings",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"keep-alive",
    b"last-modified",
    b"location",
    b"origin",
    b"pragma",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"referer",
    b"retry-after",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
    b"te",
    b"traceparent",
    b"tracestate",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"user-agent",
    b"vary",
    b"via",
    b"www-authenticate",
    b"x-content-type-options",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-frame-options",
    b"x-powered-by",
    b"x-real-ip",
    b"x-request-id",
]);
