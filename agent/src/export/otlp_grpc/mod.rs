//! OTLP over gRPC (OTLP specification, section "OTLP/gRPC"): one unary call, on hyper's HTTP/2.
//!
//! ```text
//! POST /opentelemetry.proto.collector.trace.v1.TraceService/Export   content-type: application/grpc
//!   compressed (1 byte, 1 with grpc-encoding: gzip) · length (4 bytes, big endian) · message
//! ```
//! Not by a gRPC library, because those copy each message into a buffer of their own, new for each call: with requests
//! of more than a megabyte the page faults of that are half of what the export costs.

use std::{borrow::Cow, error::Error, io};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{Buf, Bytes};
use http_body_util::{Collected, Full};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http2::{self, SendRequest},
    header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT},
    http::uri,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::io::BufWriter;

use super::{
    StartError, USER_AGENT_NAME,
    answer::{self, MAX_ANSWER_BYTES, Read, RpcStatus, TraceResponse, taken},
    config::{Compression, Endpoint},
    connect::Connector,
    encode::Payload,
    gzip,
    otlp_http::with_causes,
    worker::{Outcome, Transport},
};

/// ALPN name that both sides must agree on, with TLS (RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// Length of the prefix of a message: the flag for compression, and the length.
const PREFIX_BYTES: usize = 5;
/// Bytes that are written at once. HTTP/2's frames have 16 KiB unless the collector asks for more, and each would be a system
/// call of its own.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

type Body = Full<Payload>;
type AnyError = Box<dyn Error + Send + Sync>;

/// Calls one server, over a connection that is kept.
#[derive(Debug)]
pub struct GrpcTransport {
    connector: Connector,
    export: Uri,
    headers: HeaderMap,
    compression: Compression,
    /// `None` during a call too: one that is given up takes its connection with it.
    connection: Option<SendRequest<Body>>,
}

impl GrpcTransport {
    /// Prepares calls. The connection is made at the first one.
    ///
    /// # Errors
    /// If the URL has no server, or certificates cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, StartError> {
        let connector = Connector::new(&endpoint, ALPN)?;
        let url = endpoint.url.to_string();
        let mut parts = uri::Parts::from(endpoint.url);
        parts.path_and_query = Some(uri::PathAndQuery::from_static(EXPORT));
        let mut headers = endpoint.headers;
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT_NAME));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(gzip::GZIP));
        if endpoint.compression == Compression::Gzip {
            headers.insert(GRPC_ENCODING, HeaderValue::from_static(gzip::GZIP));
        }
        let export = Uri::from_parts(parts).map_err(|error| StartError::Grpc {
            url,
            source: error.into(),
        })?;
        Ok(Self {
            connector,
            export,
            headers,
            compression: endpoint.compression,
            connection: None,
        })
    }

    async fn call(&mut self, message: Payload) -> Result<Outcome, AnyError> {
        let kept = self.connection.take().filter(|connection| !connection.is_closed());
        let fresh = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut prefix = [0; PREFIX_BYTES];
        let mut message = match self.compression {
            Compression::None => message,
            Compression::Gzip => {
                prefix[0] = 1;
                gzip::compress(message).into()
            }
        };
        prefix[1..].copy_from_slice(&u32::try_from(message.remaining())?.to_be_bytes());
        message.push_front(Bytes::copy_from_slice(&prefix));
        let mut request = Request::post(self.export.clone()).body(Full::new(message))?;
        *request.headers_mut() = self.headers.clone();
        let answer = async {
            connection.ready().await?;
            connection.send_request(request).await
        };
        let (head, body) = match answer.await {
            Ok(response) => response.into_parts(),
            Err(error) if fresh => return Err(self.connector.explain(error)),
            Err(error) => return Err(error.into()),
        };
        let body = match answer::read(body).await {
            Read::Whole(body) => body,
            Read::Cut(error) => return Err(error.into()),
            Read::TooLong => return Ok(answer::too_long()),
        };
        self.connection = Some(connection);
        Ok(judge(head.status, &head.headers, body))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, AnyError> {
        let stream = self.connector.connect().await?;
        let stream = TokioIo::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream));
        let (connection, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
        // The next call finds a connection that has ended.
        tokio::spawn(async move { drop(driver.await) });
        Ok(connection)
    }
}

impl Transport for GrpcTransport {
    async fn send(&mut self, message: Payload) -> Outcome {
        // An error here is one of the connection: what the collector says is an outcome.
        self.call(message).await.unwrap_or_else(|error| Outcome::Again {
            after: None,
            reason: with_causes(error.as_ref()),
        })
    }
}

/// Judges an answer. Codes that may be retried: OTLP specification, section "OTLP/gRPC Response", "Failures".
fn judge(http: StatusCode, headers: &HeaderMap, body: Collected<Bytes>) -> Outcome {
    // A failure can come without a body; then the head has what else the trailers have.
    let trailers = match body.trailers() {
        Some(trailers) if trailers.contains_key("grpc-status") => trailers.clone(),
        _ => headers.clone(),
    };
    let field = |name| trailers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(code) = field("grpc-status").and_then(|code| code.parse::<usize>().ok()) else {
        return judge_http(http);
    };
    if code == 0 {
        return match message(&body.to_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => answer::too_long(),
            // The request was taken; an answer that cannot be read does not change that.
            Err(_) => taken(TraceResponse::default()),
            Ok(message) => taken(TraceResponse::decode(&*message).unwrap_or_default()),
        };
    }
    let after = field("grpc-status-details-bin").and_then(|details| {
        let details = STANDARD_NO_PAD.decode(details.trim_end_matches('=')).ok()?;
        RpcStatus::decode(details.as_slice()).ok()?.retry_delay()
    });
    let name = CODES.get(code).copied().unwrap_or("of an unknown code");
    let said = percent_decode_str(field("grpc-message").unwrap_or_default()).decode_utf8_lossy();
    let reason = format!("gRPC status {name}: {said:?}");
    match name {
        "CANCELLED" | "DEADLINE_EXCEEDED" | "ABORTED" | "OUT_OF_RANGE" | "UNAVAILABLE" | "DATA_LOSS" => {
            Outcome::Again { after, reason }
        }
        "RESOURCE_EXHAUSTED" if after.is_some() => Outcome::Again { after, reason },
        // Servers say so of a request that is too large for them.
        "RESOURCE_EXHAUSTED" => Outcome::TooLarge { reason },
        _ => Outcome::Refused { reason },
    }
}

/// Returns the message behind its prefix. Servers compress their answers as the request was.
fn message(framed: &[u8]) -> io::Result<Cow<'_, [u8]>> {
    let (prefix, message) = framed
        .split_at_checked(PREFIX_BYTES)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    match prefix {
        [0, ..] => Ok(Cow::Borrowed(message)),
        _ => Ok(Cow::Owned(gzip::decompress(message, MAX_ANSWER_BYTES)?.into())),
    }
}

/// Judges an answer without a gRPC status, as of a proxy on the way (gRPC, `doc/http-grpc-status-mapping.md`).
fn judge_http(status: StatusCode) -> Outcome {
    let reason = format!("HTTP status {status}, and no gRPC status");
    match status.as_u16() {
        // 200: the answer was cut off.
        200 | 429 | 502 | 503 | 504 => Outcome::Again { after: None, reason },
        413 => Outcome::TooLarge { reason },
        _ => Outcome::Refused { reason },
    }
}

/// The status codes by number (gRPC, `doc/statuscodes.md`).
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests;
