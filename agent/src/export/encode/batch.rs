//! The spans of one request.

use std::{mem, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{EncodedResource, EncodedSpan, Payload, json, protobuf};
use crate::{export::config::Encoding, hash::FastMap};

/// The spans of one request.
#[derive(Debug, Default)]
pub struct Batch {
    spans: Vec<EncodedSpan>,
    /// One for each resource, in the order in which they came.
    groups: Vec<Group>,
    /// Resource (address) → index of its group.
    by_resource: FastMap<usize, usize>,
    /// The group of the span that came last.
    last_group: usize,
    /// Upper bound of the request's length.
    bytes: usize,
}

#[derive(Debug)]
struct Group {
    resource: Arc<EncodedResource>,
    /// The spans, as indices.
    spans: Vec<usize>,
    span_bytes: usize,
}

impl Batch {
    /// Returns the number of spans.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns whether there is no span.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Returns an upper bound of the request's length if `span` were added, in bytes.
    pub fn bytes_with(&self, span: &EncodedSpan) -> usize {
        match self.group_of(span) {
            Some(_) => self.bytes + span.len(),
            None => self.bytes + span.request_bytes(),
        }
    }

    fn group_of(&self, span: &EncodedSpan) -> Option<usize> {
        // Spans of one process often come one after the other.
        match self.groups.get(self.last_group) {
            Some(group) if Arc::ptr_eq(&group.resource, &span.resource) => Some(self.last_group),
            _ => self.by_resource.get(&Arc::as_ptr(&span.resource).addr()).copied(),
        }
    }

    /// Adds a span.
    pub fn add(&mut self, span: EncodedSpan) {
        self.bytes += span.len();
        self.last_group = self.group_of(&span).unwrap_or_else(|| {
            self.bytes += span.resource.overhead();
            self.by_resource
                .insert(Arc::as_ptr(&span.resource).addr(), self.groups.len());
            self.groups.push(Group {
                resource: span.resource.clone(),
                spans: Vec::new(),
                span_bytes: 0,
            });
            self.groups.len() - 1
        });
        if let Some(group) = self.groups.get_mut(self.last_group) {
            group.spans.push(self.spans.len());
            group.span_bytes += span.len();
        }
        self.spans.push(span);
    }

    /// Puts the `ExportTraceServiceRequest` together: grouped by resource, otherwise in the order of the spans. What stands
    /// between the spans is written to `buf`, whose memory is used again once the request before is gone.
    pub fn to_request(&self, buf: &mut BytesMut) -> Payload {
        let mut payload = Payload::default();
        let overhead = self.groups.iter().map(|group| group.resource.overhead()).sum();
        buf.reserve(overhead);
        for (index, group) in self.groups.iter().enumerate() {
            let (is_first, is_last) = (index == 0, index + 1 == self.groups.len());
            let resource = &group.resource.bytes;
            match group.resource.encoding {
                Encoding::Protobuf => {
                    protobuf::begin_group(resource, group.span_bytes, buf);
                    self.put_spans(group, buf, &mut payload);
                    protobuf::end_group(buf);
                }
                Encoding::Json => {
                    json::begin_group(resource, is_first, buf);
                    self.put_spans(group, buf, &mut payload);
                    json::end_group(is_last, buf);
                }
            }
        }
        payload.push(buf.split().freeze());
        payload
    }

    /// Adds what is written to `buf`, and then the spans of the group, to the request.
    fn put_spans(&self, group: &Group, buf: &mut BytesMut, payload: &mut Payload) {
        payload.push(buf.split().freeze());
        // The first span has no comma before it.
        let mut skipped = match group.resource.encoding {
            Encoding::Protobuf => 0,
            Encoding::Json => json::SEPARATOR_BYTES,
        };
        let mut spans = group.spans.iter().filter_map(|&index| self.spans.get(index)).peekable();
        while let Some(EncodedSpan { chunk, range, .. }) = spans.next() {
            let Range { start, mut end } = *range;
            while let Some(next) = spans.next_if(|next| next.range.start == end && is_same(&next.chunk, chunk)) {
                end = next.range.end;
            }
            payload.push(chunk.slice(start + mem::take(&mut skipped)..end));
        }
    }

    /// Splits into two batches of about half of the bytes each, in order.
    ///
    /// # Errors
    /// If there is a single span, or none: the batch itself.
    pub fn split(self) -> Result<[Self; 2], Self> {
        if self.spans.len() < 2 {
            return Err(self);
        }
        let half = self.spans.iter().map(EncodedSpan::len).sum::<usize>() / 2;
        let last = self.spans.len() - 1;
        let mut halves = [Self::default(), Self::default()];
        let [first, second] = &mut halves;
        let mut bytes = 0;
        for (index, span) in self.spans.into_iter().enumerate() {
            bytes += span.len();
            if index == 0 || index < last && bytes <= half {
                first.add(span);
            } else {
                second.add(span);
            }
        }
        Ok(halves)
    }

    /// Returns the spans in the order in which they were added.
    pub fn into_spans(self) -> Vec<EncodedSpan> {
        self.spans
    }
}

/// Returns whether both are the same chunk. A chunk is no part of another one, and it is not empty.
fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr()
}
