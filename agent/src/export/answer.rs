//! Answers of collectors, for all protocols.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::{Body, Incoming};
use prost::Message;
use serde::Deserialize;
use serde_json::Value;

use super::worker::Outcome;

/// The longest answer that is read, in bytes, also when it is decompressed (OTLP specification 1.11, sections "OTLP/HTTP
/// Response" and "OTLP/gRPC Response": "RECOMMENDED to use 4 MiB").
pub const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Body of an answer, as far as it came.
pub enum Read {
    /// The whole body.
    Whole(Collected<Bytes>),
    /// The connection ended within the body.
    Cut(hyper::Error),
    /// The body is longer than [`MAX_ANSWER_BYTES`]. The rest is still on its way: the connection is of no more use.
    TooLong,
}

/// Reads an answer's body, up to [`MAX_ANSWER_BYTES`].
pub async fn read(body: Incoming) -> Read {
    // A body that announces more than is read is not even begun.
    if body.size_hint().lower() > MAX_ANSWER_BYTES as u64 {
        return Read::TooLong;
    }
    match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
        Ok(body) => Read::Whole(body),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Read::Cut(*error),
            // The limit's own error is the only other one.
            Err(_) => Read::TooLong,
        },
    }
}

/// Returns the outcome of an answer that is too long: "the client MUST treat the response as a non-retryable error".
pub fn too_long() -> Outcome {
    Outcome::Malformed {
        reason: format!("its answer is longer than {} MiB", MAX_ANSWER_BYTES >> 20),
    }
}

/// Returns the outcome that an `ExportTraceServiceResponse` reports.
pub fn taken(response: TraceResponse) -> Outcome {
    let partial = response.partial_success.unwrap_or_default();
    Outcome::Taken {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        message: partial.error_message,
    }
}

/// Content of an HTTP answer. A body that cannot be decoded counts as empty.
#[derive(Debug, Default)]
pub struct Answer {
    /// The response, of a success.
    pub response: TraceResponse,
    /// Text for people, of a failure.
    pub message: String,
}

impl Answer {
    /// Decodes protobuf: an `ExportTraceServiceResponse` of a success, or a `google.rpc.Status`.
    pub fn from_protobuf(body: &[u8], success: bool) -> Self {
        if success {
            return Self {
                response: TraceResponse::decode(body).unwrap_or_default(),
                ..Self::default()
            };
        }
        Self {
            message: RpcStatus::decode(body).map(|status| status.message).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Decodes JSON: either of the two.
    pub fn from_json(body: &[u8]) -> Self {
        let JsonAnswer {
            partial_success,
            message,
        } = serde_json::from_slice(body).unwrap_or_default();
        Self {
            response: TraceResponse {
                partial_success: partial_success.map(|partial| PartialSuccess {
                    rejected_spans: partial.rejected_spans(),
                    error_message: partial.error_message,
                }),
            },
            message,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct JsonAnswer {
    partial_success: Option<JsonPartialSuccess>,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct JsonPartialSuccess {
    rejected_spans: Value,
    error_message: String,
}

impl JsonPartialSuccess {
    /// Returns the number. Protobuf's JSON writes 64-bit integers as texts, and readers must take numbers too.
    fn rejected_spans(&self) -> i64 {
        let number = &self.rejected_spans;
        number
            .as_i64()
            .or_else(|| number.as_str()?.parse().ok())
            .unwrap_or_default()
    }
}

/// `ExportTraceServiceResponse` (opentelemetry-proto: `collector/trace/v1/trace_service.proto`).
#[derive(Clone, PartialEq, Message)]
pub struct TraceResponse {
    /// The spans that were not taken; none if it is not there.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    /// Number of spans that were not taken.
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    /// The reason, or a warning, for people.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// `google.rpc.Status` (googleapis `google/rpc/status.proto`): the body of a failure over HTTP, and the details of one
/// over gRPC.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// Text for people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// More, of any type.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<RpcDetail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct RpcDetail {
    /// The type's name after a slash.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo` (`google/rpc/error_details.proto`).
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    /// The pause before the request is sent again.
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RpcDuration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl RpcStatus {
    /// Returns the pause that a `RetryInfo` among the details asks for. `Some` with nothing to wait also says that the request
    /// may be sent again.
    pub fn retry_delay(&self) -> Option<Duration> {
        let info = self
            .details
            .iter()
            .find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(info.value.as_slice())
            .ok()?
            .retry_delay
            .unwrap_or_default();
        let seconds = Duration::from_secs(u64::try_from(delay.seconds).unwrap_or(0));
        Some(seconds.saturating_add(Duration::from_nanos(u64::try_from(delay.nanos).unwrap_or(0))))
    }
}
