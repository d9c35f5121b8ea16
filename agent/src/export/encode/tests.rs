//! The bytes against opentelemetry-proto's own types, filled the plain way.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as OtlpResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status as OtlpStatus, span::Link as OtlpLink},
};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::engine::trace::{ParentMethod, SpanId, SpanKind, TraceId};

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

fn any_attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![
        ".{0,200}".prop_map(|text| Value::Str(text.into())),
        any::<i64>().prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        vec(".{0,20}", 0..4).prop_map(Value::Strs),
    ];
    ("[a-z.]{0,30}", value).prop_map(|(key, value)| Attribute { key: key.into(), value })
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
        ".{0,40}",
        any::<u64>(),
        any::<u64>(),
        option::of("[a-z=,]{0,30}"),
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
        option::of(".{0,20}"),
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn decodes_to_the_plain_request(spans in any_spans()) {
        let mut batch = Batch::default();
        for span in Encoder::default().encode(&spans) {
            let bound = batch.bytes_with(&span);
            batch.add(span);
            prop_assert!(batch.to_request(&mut bytes::BytesMut::new()).len() <= bound);
        }
        let decoded = ExportTraceServiceRequest::decode(batch.to_request(&mut bytes::BytesMut::new()));
        prop_assert_eq!(decoded, Ok(plain_request(&spans)));
    }
}

fn resource() -> Arc<Resource> {
    Arc::new(Resource::default())
}

#[test]
fn a_resource_is_encoded_once_and_forgotten_when_its_process_is() {
    let mut encoder = Encoder::default();
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
