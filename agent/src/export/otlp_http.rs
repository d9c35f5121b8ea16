//! OTLP over HTTP, as protobuf (OTLP specification, section "OTLP/HTTP").

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use super::{
    CONNECT_TIMEOUT, MAX_ANSWER_BYTES, USER_AGENT_NAME,
    answer::{RpcStatus, taken},
    config::Endpoint,
    worker::{Outcome, Transport, retry_after},
};

/// Posts to one URL, over a connection that is kept.
#[derive(Debug)]
pub struct HttpTransport {
    client: Client<HttpConnector, Full<Bytes>>,
    endpoint: Endpoint,
}

impl HttpTransport {
    /// Connects at the first request.
    pub fn new(mut endpoint: Endpoint) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let headers = &mut endpoint.headers;
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT_NAME));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint,
        }
    }
}

impl Transport for HttpTransport {
    async fn send(&mut self, body: Bytes) -> Outcome {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.url.clone();
        *request.headers_mut() = self.endpoint.headers.clone();
        match self.client.request(request).await {
            Ok(response) => outcome(response).await,
            Err(error) => Outcome::Again {
                after: None,
                reason: with_causes(&error),
            },
        }
    }
}

async fn outcome(response: Response<Incoming>) -> Outcome {
    let status = response.status();
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    judge(status, after, &body)
}

/// The codes that may be retried are those of the OTLP specification, section "Retryable Response Codes".
fn judge(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Outcome {
    if status.is_success() {
        return taken(ExportTraceServiceResponse::decode(body).unwrap_or_default());
    }
    let said = RpcStatus::decode(body).map(|status| status.message).unwrap_or_default();
    let reason = match said.as_str() {
        "" => format!("HTTP status {status}"),
        said => format!("HTTP status {status}: {said:?}"),
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Again { after, reason },
        _ => Outcome::Refused { reason },
    }
}

/// The error and what caused it: hyper's own text leaves the cause out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.ends_with(&error_text) {
            text = format!("{text}: {error_text}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
