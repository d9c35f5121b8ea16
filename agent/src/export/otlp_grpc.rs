//! OTLP over gRPC (OTLP specification, section "OTLP/gRPC").

use std::error::Error as _;

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper::http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint as TonicEndpoint, Error},
};

use super::{
    CONNECT_TIMEOUT, USER_AGENT_NAME,
    answer::{RpcStatus, taken},
    config::Endpoint,
    otlp_http::with_causes,
    worker::{Outcome, Transport},
};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Calls one server, over a connection that is kept.
#[derive(Debug)]
pub struct GrpcTransport {
    client: Grpc<Channel>,
    metadata: MetadataMap,
}

impl GrpcTransport {
    /// Connects at the first request. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If the URL is not one of a server.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let channel = TonicEndpoint::from(endpoint.url)
            .user_agent(USER_AGENT_NAME)?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            client: Grpc::new(channel),
            metadata: MetadataMap::from_headers(endpoint.headers),
        })
    }
}

impl Transport for GrpcTransport {
    async fn send(&mut self, body: Bytes) -> Outcome {
        if let Err(error) = self.client.ready().await {
            return Outcome::Again {
                after: None,
                reason: with_causes(&error),
            };
        }
        let mut request = Request::new(body);
        *request.metadata_mut() = self.metadata.clone();
        match self
            .client
            .unary(request, PathAndQuery::from_static(EXPORT), EncodedCodec)
            .await
        {
            Ok(response) => taken(response.into_inner()),
            Err(status) => judge(&status),
        }
    }
}

/// The codes that may be retried are those of the OTLP specification, section "OTLP/gRPC Response", "Failures".
fn judge(status: &Status) -> Outcome {
    let reason = match status.source() {
        Some(source) => with_causes(source),
        None => format!("gRPC status {:?}: {:?}", status.code(), status.message()),
    };
    let after = RpcStatus::decode(status.details())
        .ok()
        .and_then(|details| details.retry_delay());
    let again = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => after.is_some(),
        // A status that no server sent: the connection broke.
        _ => status.source().is_some(),
    };
    if again {
        Outcome::Again { after, reason }
    } else {
        Outcome::Refused { reason }
    }
}

/// Requests are bytes already.
#[derive(Clone, Copy, Debug, Default)]
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.len());
        buf.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        // The request was taken; an answer that cannot be read does not change that.
        Ok(Some(ExportTraceServiceResponse::decode(bytes).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
