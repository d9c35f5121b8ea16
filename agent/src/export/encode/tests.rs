//! The bytes against opentelemetry-proto's own types, filled the plain way: decoded as protobuf, and as serde writes them.

use bytes::{Buf, BytesMut};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as OtlpResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status as OtlpStatus, span::Link as OtlpLink},
};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::engine::trace::{Attribute, Link, ParentMethod, SpanId, SpanKind, Status, TraceId, Value};

fn plain_attribute(attribute: &Attribute) -> KeyValue {
    let value = match &attribute.value {
        Value::Str(text) => any_value::Value::StringValue(text.to_string()),
        Value::Int(number) => any_value::Value::IntValue(*number),
        Value::Bool(truth) => any_value::Value::BoolValue(*truth),
        Value::Strs(texts) => any_value::Value::ArrayValue(ArrayValue {
            values: texts
                .iter()
                .map(|text| AnyValue {
                    value: Some(any_value::Value::StringValue(text.clone())),
                })
                .collect(),
        }),
    };
    KeyValue {
        key: attribute.key.to_string(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn plain_attributes(attributes: &[Attribute]) -> Vec<KeyValue> {
    attributes.iter().map(plain_attribute).collect()
}

fn plain_span(span: &Span) -> OtlpSpan {
    let mut attributes = plain_attributes(&span.attributes);
    if let Some((_, method)) = span.parent {
        attributes.push(plain_attribute(&Attribute::str("spoor.parent.method", method.name())));
    }
    OtlpSpan {
        trace_id: span.trace_id.to_bytes().to_vec(),
        span_id: span.span_id.to_bytes().to_vec(),
        trace_state: span.trace_state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: span.parent.map_or(vec![], |(id, _)| id.to_bytes().to_vec()),
        flags: u32::from(span.trace_flags) + if span.parent_is_remote { 0x300 } else { 0x100 },
        name: span.name.to_string(),
        kind: span.kind as i32,
        start_time_unix_nano: span.start_unix_ns,
        end_time_unix_nano: span.end_unix_ns,
        attributes,
        links: span
            .links
            .iter()
            .map(|link| OtlpLink {
                trace_id: link.trace_id.to_bytes().to_vec(),
                span_id: link.span_id.to_bytes().to_vec(),
                attributes: plain_attributes(&link.attributes),
                flags: if link.is_remote { 0x300 } else { 0x100 },
                ..OtlpLink::default()
            })
            .collect(),
        status: match &span.status {
            Status::Unset => None,
            Status::Error(description) => Some(OtlpStatus {
                message: description.to_string(),
                code: 2,
            }),
        },
        ..OtlpSpan::default()
    }
}

fn plain_request(spans: &[Span]) -> ExportTraceServiceRequest {
    let mut groups: Vec<(Arc<Resource>, ResourceSpans)> = Vec::new();
    for span in spans {
        if !groups.iter().any(|(resource, _)| Arc::ptr_eq(resource, &span.resource)) {
            let group = ResourceSpans {
                resource: Some(OtlpResource {
                    attributes: plain_attributes(&span.resource.attributes),
                    ..OtlpResource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "spoor".into(),
                        version: env!("CARGO_PKG_VERSION").into(),
                        ..InstrumentationScope::default()
                    }),
                    spans: vec![],
                    schema_url: SCHEMA_URL.into(),
                }],
                schema_url: SCHEMA_URL.into(),
            };
            groups.push((span.resource.clone(), group));
        }
        for (resource, group) in &mut groups {
            if Arc::ptr_eq(resource, &span.resource) {
                group.scope_spans[0].spans.push(plain_span(span));
            }
        }
    }
    ExportTraceServiceRequest {
        resource_spans: groups.into_iter().map(|(_, group)| group).collect(),
    }
}

/// Text of all lengths, with what JSON escapes in each place.
fn any_text() -> impl Strategy<Value = String> {
    let char = prop_oneof![
        20 => any::<char>(),
        20 => proptest::char::range(' ', '~'),
        1 => proptest::char::range('\0', '\u{1f}'),
        1 => prop_oneof![Just('"'), Just('\\'), Just('/'), Just('\u{7f}'), Just('\u{2028}')],
    ];
    prop_oneof![
        "[ -~]{0,300}".prop_map(|text| text.replace(['"', '\\'], "_")),
        vec(char, 0..40).prop_map(String::from_iter),
    ]
}

fn any_attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![
        any_text().prop_map(|text| Value::Str(text.into())),
        any::<i64>().prop_map(Value::Int),
        (0..10_000i64).prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        vec(any_text(), 0..4).prop_map(Value::Strs),
    ];
    let key = prop_oneof!["[a-z.]{0,30}", "[a-z.]{120,130}", any_text()];
    (key, value).prop_map(|(key, value)| Attribute { key: key.into(), value })
}

fn trace_id() -> impl Strategy<Value = TraceId> {
    any::<[u8; 16]>().prop_filter_map("not zero", TraceId::new)
}

fn span_id() -> impl Strategy<Value = SpanId> {
    any::<[u8; 8]>().prop_filter_map("not zero", SpanId::new)
}

fn any_span(resources: Vec<Arc<Resource>>) -> impl Strategy<Value = Span> {
    let method = prop_oneof![
        Just(ParentMethod::Header),
        Just(ParentMethod::SameHost),
        Just(ParentMethod::Opener),
        Just(ParentMethod::Thread),
        Just(ParentMethod::Content),
    ];
    let ids = (
        trace_id(),
        span_id(),
        option::of((span_id(), method)),
        any::<bool>(),
        any::<u8>(),
    );
    let what = (
        prop_oneof![Just(SpanKind::Server), Just(SpanKind::Client)],
        any_text(),
        any::<u64>(),
        any::<u64>(),
        option::of(any_text()),
    );
    let link = (trace_id(), span_id(), any::<bool>(), vec(any_attribute(), 0..3)).prop_map(
        |(trace_id, span_id, is_remote, attributes)| Link {
            trace_id,
            span_id,
            is_remote,
            attributes,
        },
    );
    let rest = (
        vec(any_attribute(), 0..8),
        option::of(any_text()),
        vec(link, 0..3),
        0..resources.len(),
    );
    (ids, what, rest).prop_map(move |(ids, what, rest)| Span {
        trace_id: ids.0,
        span_id: ids.1,
        parent: ids.2,
        parent_is_remote: ids.3,
        trace_flags: ids.4,
        kind: what.0,
        name: what.1.into(),
        start_unix_ns: what.2,
        end_unix_ns: what.3,
        trace_state: what.4.map(Into::into),
        attributes: rest.0,
        status: rest.1.map_or(Status::Unset, |text| Status::Error(text.into())),
        links: rest.2,
        resource: resources[rest.3].clone(),
    })
}

fn any_spans() -> impl Strategy<Value = Vec<Span>> {
    vec(vec(any_attribute(), 0..6), 1..4)
        .prop_map(|resources| {
            resources
                .into_iter()
                .map(|attributes| {
                    Arc::new(Resource {
                        service_name: String::new(),
                        attributes,
                    })
                })
                .collect::<Vec<_>>()
        })
        .prop_flat_map(|resources| vec(any_span(resources), 0..12))
}

/// Encodes the spans in pushes of `push` spans.
fn encoded(spans: &[Span], push: usize, encoding: Encoding) -> Vec<EncodedSpan> {
    let mut encoder = Encoder::new(encoding);
    spans.chunks(push).flat_map(|spans| encoder.encode(spans)).collect()
}

fn batch(spans: Vec<EncodedSpan>) -> Batch {
    let mut batch = Batch::default();
    for span in spans {
        let bound = batch.bytes_with(&span);
        batch.add(span);
        assert!(batch.to_request(&mut BytesMut::new()).remaining() <= bound);
    }
    batch
}

fn request(batch: &Batch) -> Bytes {
    let mut request = batch.to_request(&mut BytesMut::new());
    request.copy_to_bytes(request.remaining())
}

fn text(batch: &Batch) -> String {
    String::from_utf8(request(batch).into()).unwrap()
}

fn json(spans: &[Span]) -> String {
    serde_json::to_string(&plain_request(spans)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn protobuf_decodes_to_the_plain_request(spans in any_spans(), push in 1..12usize) {
        let batch = batch(encoded(&spans, push, Encoding::Protobuf));
        prop_assert_eq!(ExportTraceServiceRequest::decode(request(&batch)), Ok(plain_request(&spans)));
    }

    #[test]
    fn json_is_what_serde_writes(spans in any_spans(), push in 1..12usize) {
        prop_assume!(!spans.is_empty());
        let batch = batch(encoded(&spans, push, Encoding::Json));
        prop_assert_eq!(text(&batch), json(&spans));
    }

    #[test]
    fn halves_and_spans_that_come_back_are_whole(spans in any_spans(), push in 1..12usize) {
        prop_assume!(spans.len() > 1);
        let Ok([first, second]) = batch(encoded(&spans, push, Encoding::Json)).split() else {
            panic!("there are halves");
        };
        let middle = first.len();
        prop_assert_eq!(text(&first), json(&spans[..middle]));
        prop_assert_eq!(text(&second), json(&spans[middle..]));
        // As if the oldest had been dropped.
        let mut spans_left = first.into_spans();
        spans_left.remove(0);
        spans_left.extend(second.into_spans());
        prop_assert_eq!(text(&batch(spans_left)), json(&spans[1..]));
    }
}

fn resource() -> Arc<Resource> {
    Arc::new(Resource::default())
}

fn span(resource: &Arc<Resource>, padding: usize) -> Span {
    Span {
        attributes: vec![Attribute::str("padding", "x".repeat(padding))],
        resource: resource.clone(),
        ..crate::export::tests::span(1)
    }
}

/// The length of a span has room for two bytes: it can be shorter and longer.
#[test]
fn lengths_of_one_to_four_bytes() {
    let resource = resource();
    for padding in [0, 100, 1000, 16_200, 16_384, 100_000, 3_000_000] {
        let spans = [span(&resource, padding), span(&resource, 1)];
        let request = request(&batch(encoded(&spans, 2, Encoding::Protobuf)));
        assert_eq!(request.len(), plain_request(&spans).encoded_len());
        assert_eq!(ExportTraceServiceRequest::decode(request), Ok(plain_request(&spans)));
    }
}

#[test]
fn each_byte_is_escaped_as_serde_does_it_wherever_it_stands() {
    for char in (0..=0xff).map(char::from) {
        for length in 1..20 {
            for place in 0..length {
                let text: String = (0..length).map(|at| if at == place { char } else { 'x' }).collect();
                let mut written = Vec::new();
                json::put_text(&text, &mut written);
                let expected = serde_json::to_string(&text).unwrap();
                assert_eq!(format!("\"{}\"", str::from_utf8(&written).unwrap()), expected);
            }
        }
    }
}

/// Spans of two processes that are handed over by turns are two pieces, with what stands between them.
#[test]
fn neighbours_of_a_request_are_one_piece() {
    let [one, other] = [resource(), resource()];
    let spans: Vec<Span> = (0..100)
        .map(|index| span(if index % 2 == 0 { &one } else { &other }, 10))
        .collect();
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        let payload = batch(encoded(&spans, 50, encoding)).to_request(&mut BytesMut::new());
        assert_eq!(payload.pieces(), 2 * 2 + 3);
    }
}

/// The queue counts all memory that its spans hold: the chunks, and the resources of short-lived processes.
#[test]
fn footprints_add_up_to_the_chunks_and_resources() {
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        let resources = [resource(), resource()];
        let spans: Vec<Span> = (0..10).map(|index| span(&resources[index % 2], 10 * index)).collect();
        let mut encoder = Encoder::new(encoding);
        for round in 0..3 {
            let encoded = encoder.encode(&spans);
            let counted: usize = encoded.iter().map(EncodedSpan::footprint).sum();
            let chunk = encoded[0].chunk.clone();
            let capacity = {
                drop(encoded);
                Vec::from(chunk).capacity()
            };
            let resources: usize = encoder.resources.values().map(|(_, encoded)| encoded.bytes.len()).sum();
            let resources = if round == 0 { resources } else { 0 };
            assert_eq!(counted, capacity + resources + spans.len() * size_of::<EncodedSpan>());
        }
    }
}

#[test]
fn a_resource_is_encoded_once_and_forgotten_when_its_process_is() {
    let mut encoder = Encoder::new(Encoding::Protobuf);
    let kept = resource();
    let (encoded, is_first) = encoder.resource(&kept);
    assert!(is_first);
    for _ in 0..10_000 {
        encoder.resource(&resource());
    }
    let (again, is_first) = encoder.resource(&kept);
    assert!(Arc::ptr_eq(&encoded, &again) && !is_first);
    assert!(
        encoder.resources.len() <= 2 * RESOURCES_BEFORE_SWEEP,
        "{} resources",
        encoder.resources.len()
    );
}
