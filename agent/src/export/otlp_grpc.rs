//! OTLP over gRPC (OTLP specification, section "OTLP/gRPC"): one unary call, on hyper's HTTP/2.
//!
//! ```text
//! POST /opentelemetry.proto.collector.trace.v1.TraceService/Export   content-type: application/grpc
//!   compressed (1 byte, 0) · length (4 bytes, big endian) · message
//! ```
//! Not by a gRPC library, because those copy each message into a buffer of their own, new for each call: with requests
//! of more than a megabyte the page faults of that are half of what the export costs.

use std::{error::Error, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{Buf, Bytes, buf::Chain};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http2::{self, SendRequest},
    header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT},
    http::uri,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::{io::BufWriter, net::TcpStream, time::timeout};

use super::{
    CONNECT_TIMEOUT, MAX_ANSWER_BYTES, USER_AGENT_NAME,
    answer::{RpcStatus, taken},
    config::Endpoint,
    otlp_http::with_causes,
    worker::{Outcome, Transport},
};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// What stands before a message.
const PREFIX_BYTES: usize = 5;
/// What is written at once. HTTP/2's frames have 16 KiB unless the collector asks for more, and each would be a system
/// call of its own.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

type Body = Full<Chain<Bytes, Bytes>>;
type AnyError = Box<dyn Error + Send + Sync>;

/// Calls one server, over a connection that is kept.
#[derive(Debug)]
pub struct GrpcTransport {
    export: Uri,
    headers: HeaderMap,
    /// `None` during a call too: one that is given up takes its connection with it.
    connection: Option<SendRequest<Body>>,
}

impl GrpcTransport {
    /// Connects at the first request.
    ///
    /// # Errors
    /// If the URL has no server.
    pub fn new(endpoint: Endpoint) -> Result<Self, hyper::http::Error> {
        let mut parts = uri::Parts::from(endpoint.url);
        parts.path_and_query = Some(uri::PathAndQuery::from_static(EXPORT));
        let mut headers = endpoint.headers;
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT_NAME));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Ok(Self {
            export: Uri::from_parts(parts)?,
            headers,
            connection: None,
        })
    }

    async fn call(&mut self, message: Bytes) -> Result<Outcome, AnyError> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => connect(&self.export).await?,
        };
        connection.ready().await?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix[1..].copy_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        let mut request =
            Request::post(self.export.clone()).body(Full::new(Bytes::copy_from_slice(&prefix).chain(message)))?;
        *request.headers_mut() = self.headers.clone();
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
        self.connection = Some(connection);
        Ok(judge(head.status, &head.headers, body))
    }
}

impl Transport for GrpcTransport {
    async fn send(&mut self, message: Bytes) -> Outcome {
        // An error here is one of the connection: what the collector says is an outcome.
        self.call(message).await.unwrap_or_else(|error| Outcome::Again {
            after: None,
            reason: with_causes(error.as_ref()),
        })
    }
}

async fn connect(url: &Uri) -> Result<SendRequest<Body>, AnyError> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = timeout(
        CONNECT_TIMEOUT,
        TcpStream::connect((host, url.port_u16().unwrap_or(80))),
    )
    .await
    .map_err(|_| format!("cannot connect within {} s", CONNECT_TIMEOUT.as_secs()))??;
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream));
    let (connection, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
    // How it ended shows at the next call.
    tokio::spawn(async move { drop(driver.await) });
    Ok(connection)
}

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
        let message = body.to_bytes();
        let message = message.get(PREFIX_BYTES..).unwrap_or_default();
        // The request was taken; an answer that cannot be read does not change that.
        return taken(ExportTraceServiceResponse::decode(message).unwrap_or_default());
    }
    let after = field("grpc-status-details-bin").and_then(|details| {
        let details = STANDARD_NO_PAD.decode(details.trim_end_matches('=')).ok()?;
        RpcStatus::decode(details.as_slice()).ok()?.retry_delay()
    });
    let name = CODES.get(code).copied().unwrap_or("of an unknown code");
    let said = percent_decode_str(field("grpc-message").unwrap_or_default()).decode_utf8_lossy();
    let reason = format!("gRPC status {name}: {said:?}");
    if may_retry(name, after) {
        Outcome::Again { after, reason }
    } else {
        Outcome::Refused { reason }
    }
}

/// OTLP specification, section "OTLP/gRPC Response", "Failures".
fn may_retry(code: &str, after: Option<Duration>) -> bool {
    match code {
        "CANCELLED" | "DEADLINE_EXCEEDED" | "ABORTED" | "OUT_OF_RANGE" | "UNAVAILABLE" | "DATA_LOSS" => true,
        "RESOURCE_EXHAUSTED" => after.is_some(),
        _ => false,
    }
}

/// Somebody answered who does not speak gRPC, as a proxy on the way (gRPC, `doc/http-grpc-status-mapping.md`).
fn judge_http(status: StatusCode) -> Outcome {
    let reason = format!("HTTP status {status}, and no gRPC status");
    match status.as_u16() {
        // 200: the answer was cut off.
        200 | 429 | 502 | 503 | 504 => Outcome::Again { after: None, reason },
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
