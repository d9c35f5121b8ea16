//! OpenTelemetry's semantic conventions: from an exchange to the name, attributes and status of its span.
//!
//! With [`proto`](crate::engine::proto) the only room that names a protocol: one module for each family of conventions.

pub mod http;
pub mod redis;

use std::borrow::Cow;

use opentelemetry_semantic_conventions::attribute as semconv;

use super::{Attribute, SpanKind, Status, Text, span_name::SpanNames};
use crate::{
    config::{CoreSettings, IgnoreRule},
    engine::{
        exchange::Failure,
        proto::{Call, Reply},
        trace::attributes::Attributes,
    },
    record::Endpoint,
};
use http::{HttpConfig, HttpExchange};

/// An exchange that is over, as its conventions need it.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The end that saw it.
    pub kind: SpanKind,
    /// The request; `None`: a connect that failed, there was none.
    pub call: Option<&'a Call>,
    /// The response, if one was sent.
    pub reply: Option<&'a Reply>,
    /// Size of the request's body, if it was seen to its end.
    pub request_body_bytes: Option<u64>,
    /// Size of the response's body, if it was seen to its end.
    pub response_body_bytes: Option<u64>,
    /// The way in which it ended, if not by a whole response.
    pub failure: Option<Failure>,
    /// The socket of the process.
    pub local: &'a Endpoint,
    /// The socket it talked to.
    pub remote: &'a Endpoint,
}

/// The part of a span that its exchange decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The name.
    pub name: Text,
    /// Attributes by the conventions, then `spoor.*`.
    pub attributes: Vec<Attribute>,
    /// The status.
    pub status: Status,
}

/// The conventions, with the user's choices.
#[derive(Debug)]
pub struct Conventions {
    http: HttpConfig,
    ignore: Vec<IgnoreRule>,
}

impl Conventions {
    /// Takes the user's choices.
    pub fn new(settings: &CoreSettings) -> Self {
        Self {
            http: HttpConfig::new(settings),
            ignore: settings.ignore.clone(),
        }
    }

    /// Returns whether a rule of the user's (`--ignore`) names a call.
    pub fn is_ignored(&self, call: &Call) -> bool {
        match call {
            Call::Http1(head) => self.ignore.iter().any(|rule| rule.matches(head)),
            Call::Redis(_) => false,
        }
    }

    /// Describes an exchange. `names` are those of the process that the span belongs to.
    pub fn describe(&self, exchange: &Finished<'_>, names: &mut SpanNames) -> Description {
        let Some(call) = exchange.call else {
            return connect(exchange.remote, exchange.failure.unwrap_or(Failure::Other));
        };
        match call {
            Call::Http1(request) => {
                let http = HttpExchange {
                    request,
                    response: exchange.reply.and_then(Reply::http1),
                    end: exchange,
                };
                http::describe(&http, &self.http, names)
            }
            Call::Redis(command) => {
                let answer = exchange.reply.and_then(Reply::redis);
                redis::describe(command, answer, exchange)
            }
        }
    }
}

/// Describes a connect that failed: there was no request yet, so it says nothing of a protocol.
pub fn connect(remote: &Endpoint, failure: Failure) -> Description {
    let mut attributes = Attributes::default();
    attributes.push_server_socket(remote);
    attributes.push_peer(remote);
    attributes.push_static(semconv::ERROR_TYPE, failure.error_type());
    Description {
        name: Text::new_static("connect"),
        attributes: attributes.finish(),
        status: Status::Error(Cow::Borrowed("")),
    }
}
