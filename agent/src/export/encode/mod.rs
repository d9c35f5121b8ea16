//! Spans to OTLP's bytes, in one of its encodings.
//!
//! A span is written once, when it is handed over: `write_span` gives its fields to a `writer::SpanWriter`, `protobuf`'s or
//! `json`'s, which appends them to a chunk. What waits in the queue are parts of chunks. They take less memory than the
//! [`Span`]s, their number of bytes is exact, and a request is made of them without a copy: a [`Batch`] puts what stands
//! between them, and gives a [`Payload`] of pieces.

mod append;
mod batch;
mod json;
mod payload;
mod protobuf;
mod writer;

use std::{mem, ops::Range, sync::Arc};

use bytes::Bytes;

pub use self::{batch::Batch, payload::Payload};
use self::{json::Json, protobuf::Protobuf, writer::write_span};
use super::config::Encoding;
use crate::{
    engine::trace::{Resource, Span},
    hash::FastMap,
};

/// The instrumentation scope's name.
pub const SCOPE_NAME: &str = "spoor";
/// The instrumentation scope's version: that of the program.
pub const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The cache of encoded resources is first searched for dead ones when it has this many.
const RESOURCES_BEFORE_SWEEP: usize = 64;

/// Upper bound on the room that a chunk is made with: some thousand spans.
const MAX_ROOM_BYTES: usize = 1 << 20;
/// Number of spans after which the mean of their bytes has half forgotten those before.
const MEAN_OF_SPANS: usize = 256;

/// A span as it stands in a request.
#[derive(Clone, Debug)]
pub struct EncodedSpan {
    resource: Arc<EncodedResource>,
    chunk: Bytes,
    /// The part of the chunk that is this span.
    range: Range<usize>,
    /// Bytes that count with this span: its resource's, if it is the first of it (short-lived processes often have no other
    /// span), and what its chunk has unused, if it is the first there.
    extra_bytes: usize,
}

impl EncodedSpan {
    /// Returns the memory that it takes while it waits, in bytes.
    pub fn footprint(&self) -> usize {
        self.len() + self.extra_bytes + mem::size_of::<Self>()
    }

    /// Returns an upper bound of the length of a request of this span alone, in bytes.
    pub fn request_bytes(&self) -> usize {
        self.len() + self.resource.overhead()
    }

    fn len(&self) -> usize {
        self.range.len()
    }
}

/// A resource as it stands in a request, shared by its spans.
#[derive(Debug)]
struct EncodedResource {
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl EncodedResource {
    fn new(resource: &Resource, encoding: Encoding) -> Self {
        let mut bytes = match encoding {
            Encoding::Protobuf => protobuf::resource(resource),
            Encoding::Json => json::resource(resource),
        };
        bytes.shrink_to_fit();
        Self { encoding, bytes }
    }

    /// Returns an upper bound of the bytes of a request that has spans of this resource only, beside the spans.
    fn overhead(&self) -> usize {
        match self.encoding {
            Encoding::Protobuf => protobuf::group_overhead(&self.bytes),
            Encoding::Json => json::group_overhead(&self.bytes),
        }
    }
}

/// Encodes spans. Each resource is encoded once for as long as another owner holds it.
#[derive(Debug)]
pub struct Encoder {
    encoding: Encoding,
    /// Encoded resources by address. The `Arc` keeps the address from being used again.
    resources: FastMap<usize, (Arc<Resource>, Arc<EncodedResource>)>,
    sweep_at: usize,
    /// Bytes of a span, on average of some hundred spans: a chunk is made with room for as much.
    mean_bytes: usize,
}

impl Encoder {
    /// Creates an encoder that has seen no resource.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            resources: FastMap::default(),
            sweep_at: RESOURCES_BEFORE_SWEEP,
            mean_bytes: 0,
        }
    }

    /// Encodes the spans, and returns them in their order.
    ///
    /// Spans share one chunk, where those of one resource are neighbours: what leaves in one request is one piece of it.
    pub fn encode(&mut self, spans: &[Span]) -> Vec<EncodedSpan> {
        let addresses = spans.iter().map(|span| Arc::as_ptr(&span.resource).addr());
        let mut order: Vec<(usize, usize)> = addresses.zip(0..).collect();
        order.sort_by_key(|&(address, _)| address);
        let room = spans.len() * (self.mean_bytes + self.mean_bytes / 8);
        let mut chunk = Vec::with_capacity(room.min(MAX_ROOM_BYTES));
        let mut encoded = vec![None; spans.len()];
        for neighbours in order.chunk_by(|one, next| one.0 == next.0) {
            let indices = neighbours.iter().map(|&(_, index)| index);
            self.encode_neighbours(spans, indices, &mut chunk, &mut encoded);
        }
        self.mean_bytes = (self.mean_bytes * MEAN_OF_SPANS + chunk.len()) / (MEAN_OF_SPANS + spans.len());
        // An allocator leaves a block where it is if it shrinks by less than a half: then the rest would still be held.
        if chunk.capacity() - chunk.len() > chunk.len() / 4 {
            chunk = chunk.as_slice().to_vec();
        }
        let mut unused_bytes = chunk.capacity() - chunk.len();
        let chunk = Bytes::from(chunk);
        let encoded = encoded.into_iter().flatten();
        encoded
            .map(|span: EncodedSpan| EncodedSpan {
                chunk: chunk.clone(),
                extra_bytes: span.extra_bytes + mem::take(&mut unused_bytes),
                ..span
            })
            .collect()
    }

    /// Appends spans of one resource to the chunk. Writes each to its place in `encoded`, still without the chunk.
    fn encode_neighbours(
        &mut self,
        spans: &[Span],
        indices: impl Iterator<Item = usize>,
        chunk: &mut Vec<u8>,
        encoded: &mut [Option<EncodedSpan>],
    ) {
        let mut known: Option<Arc<EncodedResource>> = None;
        for index in indices {
            let (Some(span), Some(place)) = (spans.get(index), encoded.get_mut(index)) else {
                continue;
            };
            let mut extra_bytes = 0;
            let resource = known.get_or_insert_with(|| {
                let (resource, is_first) = self.resource(&span.resource);
                extra_bytes = if is_first { resource.bytes.len() } else { 0 };
                resource
            });
            let start = chunk.len();
            match self.encoding {
                Encoding::Protobuf => write_span(span, &mut Protobuf::new(chunk)),
                Encoding::Json => write_span(span, &mut Json::new(chunk)),
            }
            *place = Some(EncodedSpan {
                resource: resource.clone(),
                chunk: Bytes::new(),
                range: start..chunk.len(),
                extra_bytes,
            });
        }
    }

    /// Encodes the resource, unless that was done before. Returns true with it if it was not.
    fn resource(&mut self, resource: &Arc<Resource>) -> (Arc<EncodedResource>, bool) {
        let address = Arc::as_ptr(resource).addr();
        if let Some((_, encoded)) = self.resources.get(&address) {
            return (encoded.clone(), false);
        }
        if self.resources.len() >= self.sweep_at {
            self.resources
                .retain(|_, (resource, _)| Arc::strong_count(resource) > 1);
            self.sweep_at = RESOURCES_BEFORE_SWEEP.max(2 * self.resources.len());
        }
        let encoded = Arc::new(EncodedResource::new(resource, self.encoding));
        self.resources.insert(address, (resource.clone(), encoded.clone()));
        (encoded, true)
    }
}

#[cfg(test)]
mod tests;
