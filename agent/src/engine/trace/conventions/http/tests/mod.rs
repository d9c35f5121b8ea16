//! Whole spans for whole exchanges: each rule of the conventions once.

mod names;
mod spans;
mod urls;
mod values;

use super::*;
use crate::{
    engine::{
        exchange::Failure,
        trace::{Attribute, Value},
    },
    record::Endpoint,
};

type HeaderList<'a> = &'a [(Header, &'a str)];

/// An exchange to change in places.
struct Case {
    kind: SpanKind,
    request: RequestHead,
    response: Option<ResponseHead>,
    request_body_bytes: Option<u64>,
    response_body_bytes: Option<u64>,
    failure: Option<Failure>,
    local: Endpoint,
    remote: Endpoint,
    config: HttpConfig,
}

fn ip(address: &str, port: u16) -> Endpoint {
    Endpoint::Ip(address.parse().unwrap(), port)
}

fn unix(path: Option<&str>) -> Endpoint {
    Endpoint::Unix(path.map(Into::into))
}

fn request(method: &[u8], target: &[u8], list: HeaderList<'_>) -> RequestHead {
    let headers = list.iter().map(|(header, value)| (*header, value.as_bytes()));
    RequestHead::new(method, target, headers)
}

impl Case {
    fn new(kind: SpanKind, method: &str, target: &str, list: &[(Header, &str)]) -> Self {
        Self {
            kind,
            request: request(method.as_bytes(), target.as_bytes(), list),
            response: None,
            request_body_bytes: Some(0),
            response_body_bytes: None,
            failure: None,
            local: ip("10.0.0.1", 8080),
            remote: ip("10.0.0.2", 9090),
            config: HttpConfig {
                body_sizes: true,
                ..HttpConfig::default()
            },
        }
        .status(200)
    }

    fn server(method: &str, target: &str, list: &[(Header, &str)]) -> Self {
        Self::new(SpanKind::Server, method, target, list)
    }

    fn client(method: &str, target: &str, list: &[(Header, &str)]) -> Self {
        Self::new(SpanKind::Client, method, target, list)
    }

    fn status(mut self, status: u16) -> Self {
        self.response = Some(ResponseHead {
            status,
            minor_version: 1,
            content_length: None,
            headers: Headers::default(),
        });
        self
    }

    fn span(&self) -> Description {
        let end = Finished {
            kind: self.kind,
            call: None,
            reply: None,
            request_body_bytes: self.request_body_bytes,
            response_body_bytes: self.response_body_bytes,
            failure: self.failure,
            local: &self.local,
            remote: &self.remote,
        };
        let exchange = HttpExchange {
            request: &self.request,
            response: self.response.as_ref(),
            end: &end,
        };
        describe(&exchange, &self.config, &mut SpanNames::default())
    }

    /// The values of some attributes, `-` for one that is not there.
    fn values(&self, keys: &[&str]) -> Vec<String> {
        let span = self.span();
        let of = |key: &&str| {
            span.attributes
                .iter()
                .find(|attribute| attribute.key == **key)
                .map(shown)
        };
        keys.iter().map(|key| of(key).unwrap_or_else(|| "-".into())).collect()
    }
}

fn shown(attribute: &Attribute) -> String {
    match &attribute.value {
        Value::Str(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Strs(list) => format!("{list:?}"),
    }
}

/// Name, status, and all attributes in order.
fn all(span: &Description) -> String {
    let mut text = format!("{} {:?}\n", span.name, span.status);
    for attribute in &span.attributes {
        text += &format!("{}={}\n", attribute.key, shown(attribute));
    }
    text
}
