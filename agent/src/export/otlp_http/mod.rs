//! OTLP over HTTP, as protobuf or JSON (OTLP specification, section "OTLP/HTTP").

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;

use super::{
    StartError, USER_AGENT_NAME,
    answer::{self, Answer, Read, taken},
    config::{Compression, Encoding, Endpoint},
    connect::Connector,
    encode::Payload,
    gzip,
    worker::{Outcome, Transport, retry_after},
};

/// ALPN name that both sides must agree on, with TLS.
const ALPN: &[u8] = b"http/1.1";

type AnyError = Box<dyn Error + Send + Sync>;

/// Posts to one URL, over a connection that is kept.
#[derive(Debug)]
pub struct HttpTransport {
    connector: Connector,
    /// Path and query.
    target: Uri,
    headers: HeaderMap,
    compression: Compression,
    /// `None` during a request too: one that is given up takes its connection with it.
    connection: Option<SendRequest<Full<Payload>>>,
}

impl HttpTransport {
    /// Prepares requests. The connection is made at the first one.
    ///
    /// # Errors
    /// If the URL has no server, or certificates cannot be used.
    pub fn new(endpoint: Endpoint, encoding: Encoding) -> Result<Self, StartError> {
        let connector = Connector::new(&endpoint, ALPN)?;
        let wrong = |source: hyper::http::Error| StartError::Http {
            url: endpoint.url.to_string(),
            source,
        };
        let host = endpoint.url.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(host).map_err(|error| wrong(error.into()))?;
        let target = endpoint.url.path_and_query().map_or("/", |target| target.as_str());
        let target: Uri = target
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| wrong(error.into()))?;
        let mut headers = endpoint.headers;
        headers.insert(HOST, host);
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT_NAME));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
        if endpoint.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(gzip::GZIP));
        }
        Ok(Self {
            connector,
            target,
            headers,
            compression: endpoint.compression,
            connection: None,
        })
    }

    async fn post(&mut self, body: Payload) -> Result<Outcome, AnyError> {
        let kept = match self.connection.take() {
            // The collector may have closed it meanwhile.
            Some(mut connection) => connection.ready().await.is_ok().then_some(connection),
            None => None,
        };
        let fresh = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let body = match self.compression {
            Compression::None => body,
            Compression::Gzip => gzip::compress(body).into(),
        };
        let mut request = Request::post(self.target.clone()).body(Full::new(body))?;
        *request.headers_mut() = self.headers.clone();
        let response = match connection.send_request(request).await {
            Ok(response) => response,
            Err(error) if fresh => return Err(self.connector.explain(error)),
            Err(error) => return Err(error.into()),
        };
        let (head, body) = response.into_parts();
        let body = match answer::read(body).await {
            Read::Whole(body) => body.to_bytes(),
            // The status holds, also if the body is cut off.
            Read::Cut(_) => Bytes::new(),
            Read::TooLong => return Ok(answer::too_long()),
        };
        self.connection = Some(connection);
        Ok(outcome(head.status, &head.headers, &body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Payload>>, AnyError> {
        let stream = TokioIo::new(self.connector.connect().await?);
        let (connection, driver) = http1::handshake(stream).await?;
        // The next request finds a connection that has ended.
        tokio::spawn(async move { drop(driver.await) });
        Ok(connection)
    }
}

impl Transport for HttpTransport {
    async fn send(&mut self, body: Payload) -> Outcome {
        // An error here is one of the connection: what the collector says is an outcome.
        self.post(body).await.unwrap_or_else(|error| Outcome::Again {
            after: None,
            reason: with_causes(error.as_ref()),
        })
    }
}

fn outcome(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let after = header(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
    let is_json = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with(Encoding::Json.content_type()));
    let answer = if is_json {
        Answer::from_json(body)
    } else {
        Answer::from_protobuf(body, status.is_success())
    };
    judge(status, after, answer)
}

/// Judges an answer. Codes that may be retried: OTLP specification, section "Retryable Response Codes".
fn judge(status: StatusCode, after: Option<Duration>, answer: Answer) -> Outcome {
    if status.is_success() {
        return taken(answer.response);
    }
    let reason = match answer.message.as_str() {
        "" => format!("HTTP status {status}"),
        said => format!("HTTP status {status}: {said:?}"),
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Again { after, reason },
        StatusCode::PAYLOAD_TOO_LARGE => Outcome::TooLarge { reason },
        _ => Outcome::Refused { reason },
    }
}

/// Returns the error's text with its causes: hyper's own text leaves them out.
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
