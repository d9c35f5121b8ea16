//! Spans of a file of OTLP JSON lines, one `ExportTraceServiceRequest` a line.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

/// Attribute of the header that carries the ids of requests.
pub const ID_ATTRIBUTE: &str = "http.request.header.x-request-id";

/// End of an exchange that a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The serving end.
    Server,
    /// The calling end.
    Client,
}

/// A span. Ids are in hex.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// `service.name` of the resource.
    pub service: String,
    /// End of the exchange.
    pub kind: Kind,
    /// Name of the span.
    pub name: String,
    /// Trace id.
    pub trace_id: String,
    /// Span id.
    pub span_id: String,
    /// The parent's span id; empty for a root.
    pub parent_id: String,
    /// Whether the parent is of another process; `None` if the flags do not tell.
    pub parent_is_remote: Option<bool>,
    /// Start, in nanoseconds of wall-clock time.
    pub start_ns: u64,
    /// End, in nanoseconds of wall-clock time.
    pub end_ns: u64,
    /// Attributes of the span.
    pub attributes: BTreeMap<String, Value>,
}

impl Span {
    /// Returns the captured request id, if there is exactly one.
    pub fn request_id(&self) -> Option<&str> {
        match self.attributes.get(ID_ATTRIBUTE)?.as_array()?.as_slice() {
            [id] => id.as_str(),
            _ => None,
        }
    }

    /// Returns `http.response.status_code`.
    pub fn status(&self) -> Option<u16> {
        self.attributes
            .get("http.response.status_code")?
            .as_u64()?
            .try_into()
            .ok()
    }

    /// Returns a text attribute.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.as_str()
    }

    /// Returns the duration in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// Reads all spans of a file.
pub fn read(path: &Path) -> Result<Vec<Span>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the spans in {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Parses all spans of such lines.
pub fn parse(text: &str) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = || format!("line {}", number + 1);
        let request: Value = serde_json::from_str(line).with_context(|| format!("{}: no JSON", place()))?;
        parse_request(&request, &mut spans).with_context(|| format!("{}: no ExportTraceServiceRequest", place()))?;
    }
    Ok(spans)
}

fn parse_request(request: &Value, spans: &mut Vec<Span>) -> Option<()> {
    for resource_spans in request["resourceSpans"].as_array()? {
        let resource = attributes(&resource_spans["resource"]["attributes"])?;
        let service = resource.get("service.name")?.as_str()?;
        for span in resource_spans["scopeSpans"]
            .as_array()?
            .iter()
            .filter_map(|scope| scope["spans"].as_array())
            .flatten()
        {
            spans.push(parse_span(span, service)?);
        }
    }
    Some(())
}

fn parse_span(span: &Value, service: &str) -> Option<Span> {
    Some(Span {
        service: service.to_owned(),
        kind: match span["kind"].as_u64()? {
            2 => Kind::Server,
            3 => Kind::Client,
            _ => return None,
        },
        name: span["name"].as_str()?.to_owned(),
        trace_id: hex(&span["traceId"], 32)?,
        span_id: hex(&span["spanId"], 16)?,
        parent_id: match &span["parentSpanId"] {
            Value::Null => String::new(),
            id if id.as_str() == Some("") => String::new(),
            id => hex(id, 16)?,
        },
        parent_is_remote: is_remote(span["flags"].as_u64().unwrap_or_default()),
        start_ns: integer(&span["startTimeUnixNano"])?,
        end_ns: integer(&span["endTimeUnixNano"])?,
        attributes: attributes(&span["attributes"])?,
    })
}

/// Decodes bits 8 and 9 of `Span.flags`: whether it is known that the parent is remote, and whether it is.
fn is_remote(flags: u64) -> Option<bool> {
    (flags & 0x100 != 0).then_some(flags & 0x200 != 0)
}

fn attributes(list: &Value) -> Option<BTreeMap<String, Value>> {
    // Protobuf's JSON leaves empty lists out.
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|pair| Some((pair["key"].as_str()?.to_owned(), plain(&pair["value"])?)))
        .collect()
}

/// Returns the JSON value that an `AnyValue` stands for.
fn plain(value: &Value) -> Option<Value> {
    let (form, inner) = value.as_object()?.iter().next()?;
    match form.as_str() {
        "intValue" => inner.as_i64().or_else(|| inner.as_str()?.parse().ok()).map(Value::from),
        "arrayValue" => {
            let values = inner["values"].as_array().map(Vec::as_slice).unwrap_or_default();
            values.iter().map(plain).collect::<Option<Vec<_>>>().map(Value::from)
        }
        _ => Some(inner.clone()),
    }
}

/// Parses a 64-bit integer. Protobuf's JSON writes it as a string; a plain number is accepted too.
fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn hex(value: &Value, digits: usize) -> Option<String> {
    let text = value.as_str()?;
    let good = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_span() {
        let request = serde_json::json!({"resourceSpans": [{
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
            "scopeSpans": [{"spans": [{
                "traceId": "0123456789abcdef0123456789abcdef", "spanId": "0123456789abcdef", "name": "GET /a", "kind": 3,
                "startTimeUnixNano": "1700000000000000001", "endTimeUnixNano": "1700000000000000003",
                "attributes": [
                    {"key": "http.response.status_code", "value": {"intValue": "204"}},
                    {"key": ID_ATTRIBUTE, "value": {"arrayValue": {"values": [{"stringValue": "a-1.1"}]}}},
                ],
            }]}],
        }]});
        let mut spans = Vec::new();
        parse_request(&request, &mut spans).unwrap();
        let [span] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!(
            (span.kind, span.request_id(), span.status()),
            (Kind::Client, Some("a-1.1"), Some(204))
        );
        assert_eq!((span.parent_id.as_str(), span.duration_ns()), ("", 2));
    }

    #[test]
    fn a_span_with_a_bad_id_is_an_error() {
        let span = serde_json::json!({"traceId": "12", "spanId": "0123456789abcdef", "name": "", "kind": 2});
        assert_eq!(parse_span(&span, "shop"), None);
    }
}
