//! Memory that spans take.

use std::{collections::HashMap, sync::Arc};

use crate::engine::trace::{Attribute, Link, Resource, Span, Status, Value};

/// Bytes that a set of spans takes. A resource that several of them share counts once.
#[derive(Debug, Default)]
pub struct Footprint {
    bytes: usize,
    /// Address of a resource → how many spans share it. The address is not used again while one of them holds it.
    resources: HashMap<usize, usize>,
}

impl Footprint {
    /// Returns the memory of all spans that were added and not removed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a span.
    pub fn add(&mut self, span: &Span) {
        self.bytes += span_bytes(span);
        let sharers = self.resources.entry(address(span)).or_default();
        *sharers += 1;
        if *sharers == 1 {
            self.bytes += resource_bytes(&span.resource);
        }
    }

    /// Removes a span that was added.
    pub fn remove(&mut self, span: &Span) {
        self.bytes -= span_bytes(span);
        if let Some(sharers) = self.resources.get_mut(&address(span)) {
            *sharers -= 1;
            if *sharers == 0 {
                self.resources.remove(&address(span));
                self.bytes -= resource_bytes(&span.resource);
            }
        }
    }
}

fn address(span: &Span) -> usize {
    Arc::as_ptr(&span.resource).addr()
}

/// Returns the memory of a span without its resource. Constant texts count as if they were owned.
fn span_bytes(span: &Span) -> usize {
    let Span {
        trace_state,
        name,
        attributes,
        status,
        links,
        ..
    } = span;
    let description = match status {
        Status::Unset => 0,
        Status::Error(description) => description.len(),
    };
    size_of::<Span>()
        + trace_state.as_deref().map_or(0, str::len)
        + name.len()
        + attributes_bytes(attributes)
        + description
        + links.capacity() * size_of::<Link>()
        + links
            .iter()
            .map(|link| attributes_bytes(&link.attributes))
            .sum::<usize>()
}

fn resource_bytes(resource: &Resource) -> usize {
    let Resource {
        service_name,
        attributes,
    } = resource;
    size_of::<Resource>() + service_name.capacity() + attributes_bytes(attributes)
}

fn attributes_bytes(attributes: &Vec<Attribute>) -> usize {
    let on_heap = |Attribute { key, value }: &Attribute| {
        key.len()
            + match value {
                Value::Str(text) => text.len(),
                Value::Int(_) | Value::Bool(_) => 0,
                Value::Strs(texts) => {
                    texts.capacity() * size_of::<String>() + texts.iter().map(String::capacity).sum::<usize>()
                }
            }
    };
    attributes.capacity() * size_of::<Attribute>() + attributes.iter().map(on_heap).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::tests::span;

    #[test]
    fn shared_resources_count_once() {
        let resource = Arc::new(Resource {
            service_name: "shop".to_owned(),
            attributes: vec![Attribute::str("service.name", "shop".to_owned())],
        });
        let [first, second] = [1, 2].map(|id| Span {
            resource: resource.clone(),
            ..span(id)
        });
        let other = span(3);
        let mut footprint = Footprint::default();
        footprint.add(&first);
        let one = footprint.bytes();
        footprint.add(&second);
        assert_eq!(footprint.bytes(), one + span_bytes(&second));
        footprint.remove(&first);
        assert_eq!(footprint.bytes(), one);
        footprint.add(&other);
        assert_eq!(
            footprint.bytes(),
            one + span_bytes(&other) + resource_bytes(&other.resource)
        );
        footprint.remove(&second);
        footprint.remove(&other);
        assert_eq!((footprint.bytes(), footprint.resources.len()), (0, 0));
    }

    #[test]
    fn all_that_has_no_bound_of_its_own_counts() {
        let text = || "x".repeat(1000);
        let plain = span(1);
        let mut large = plain.clone();
        large.name = text().into();
        large.trace_state = Some(text().into());
        large.status = Status::Error(text().into());
        large.attributes.push(Attribute::str("a", text()));
        large.attributes.push(Attribute {
            key: text().into(),
            value: Value::Strs(vec![text(), text()]),
        });
        large.links.push(Link {
            trace_id: plain.trace_id,
            span_id: plain.span_id,
            is_remote: true,
            attributes: vec![Attribute::str("a", text())],
        });
        assert!(span_bytes(&large) >= span_bytes(&plain) + 8 * 1000);
    }
}
