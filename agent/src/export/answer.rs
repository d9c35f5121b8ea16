//! What collectors answer, whatever carries it.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use super::worker::Outcome;

/// The outcome that an `ExportTraceServiceResponse` tells.
pub fn taken(response: ExportTraceServiceResponse) -> Outcome {
    let partial = response.partial_success.unwrap_or_default();
    Outcome::Taken {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        message: partial.error_message,
    }
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
    /// How long to wait.
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
    /// The pause that a `RetryInfo` among the details asks for. `Some` with nothing to wait also says that the request
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
