//! Spans of Redis commands, by OpenTelemetry's semantic conventions for database spans (1.44,
//! <https://opentelemetry.io/docs/specs/semconv/db/redis/>). docs/spans.md has the table.

use std::borrow::Cow;

use opentelemetry_semantic_conventions::attribute as semconv;

use super::{Description, Finished};
use crate::engine::{
    proto::redis::{Answer, Command, CommandName},
    trace::{SpanKind, Status, Text, attributes::Attributes},
};

/// Number of keys that a command names. The conventions have no attribute for it.
const KEY_COUNT: &str = "spoor.db.key_count";

/// The system's name, and that of spans whose command is not known by name: names have few values.
const REDIS: &str = "redis";

/// `db.operation.name` of a command that Redis does not have, as the conventions of HTTP have it for methods.
const OTHER: &str = "_OTHER";

/// Describes a command. The names of its keys are data, so no target is in the span's name.
pub fn describe(command: &Command, answer: Option<&Answer>, end: &Finished<'_>) -> Description {
    let mut attributes = Attributes::default();
    attributes.push_static(semconv::DB_SYSTEM_NAME, REDIS);
    let (span_name, operation) = match command.name {
        Some(CommandName::Known(name)) => (name, Some(name)),
        Some(CommandName::Other) => (REDIS, Some(OTHER)),
        None => (REDIS, None),
    };
    if let Some(operation) = operation {
        attributes.push_static(semconv::DB_OPERATION_NAME, operation);
    }
    attributes.push_server_socket(match end.kind {
        SpanKind::Server => end.local,
        SpanKind::Client => end.remote,
    });
    attributes.push_peer(end.remote);
    if let Some(keys) = command.keys {
        attributes.push_int(KEY_COUNT, keys.cast_signed());
    }
    Description {
        name: Text::new_static(span_name),
        status: push_outcome(&mut attributes, answer, end),
        attributes: attributes.finish(),
    }
}

/// Adds the outcome of an exchange.
///
/// Each error of Redis is one at both ends: the conventions want all prefixes to be errors, and none shows which side
/// is at fault.
fn push_outcome(attributes: &mut Attributes, answer: Option<&Answer>, end: &Finished<'_>) -> Status {
    let prefix = match answer {
        Some(Answer::Error(prefix)) => Some(prefix.as_deref().map(Text::from)),
        Some(Answer::Reply) | None => None,
    };
    if let Some(Some(prefix)) = &prefix {
        attributes.push_short(semconv::DB_RESPONSE_STATUS_CODE, prefix.clone());
    }
    let error_type = match (end.failure, prefix) {
        (Some(failure), _) => Text::new_static(failure.error_type()),
        (None, Some(Some(prefix))) => prefix,
        (None, Some(None)) => Text::new_static(OTHER),
        (None, None) => return Status::Unset,
    };
    attributes.push_short(semconv::ERROR_TYPE, error_type);
    Status::Error(Cow::Borrowed(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{exchange::Failure, trace::Attribute},
        record::Endpoint,
    };

    fn span(kind: SpanKind, command: &Command, answer: Option<Answer>, failure: Option<Failure>) -> Description {
        let end = Finished {
            kind,
            call: None,
            reply: None,
            request_body_bytes: Some(0),
            response_body_bytes: Some(0),
            failure,
            local: &Endpoint::Ip("10.0.0.1".parse().unwrap(), 40_000),
            remote: &Endpoint::Ip("10.0.0.2".parse().unwrap(), 6379),
        };
        describe(command, answer.as_ref(), &end)
    }

    #[test]
    fn a_whole_span_at_each_end() {
        let command = Command {
            name: Some(CommandName::Known("MGET")),
            keys: Some(3),
        };
        let expected = |server: &'static str, port: i64| {
            vec![
                Attribute::str(semconv::DB_SYSTEM_NAME, "redis"),
                Attribute::str(semconv::DB_OPERATION_NAME, "MGET"),
                Attribute::str(semconv::SERVER_ADDRESS, server),
                Attribute::int(semconv::SERVER_PORT, port),
                Attribute::str(semconv::NETWORK_PEER_ADDRESS, "10.0.0.2"),
                Attribute::int(semconv::NETWORK_PEER_PORT, 6379),
                Attribute::int(KEY_COUNT, 3),
            ]
        };
        let ends = [
            (SpanKind::Client, "10.0.0.2", 6379),
            (SpanKind::Server, "10.0.0.1", 40_000),
        ];
        for (kind, server, port) in ends {
            let span = span(kind, &command, Some(Answer::Reply), None);
            assert_eq!((&*span.name, span.status), ("MGET", Status::Unset));
            assert_eq!(span.attributes, expected(server, port));
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let command = Command { name: None, keys: None };
        let span = span(SpanKind::Client, &command, Some(Answer::Reply), None);
        assert_eq!(span.name, "redis");
        let keys: Vec<_> = span.attributes.iter().map(|attribute| &*attribute.key).collect();
        assert!(!keys.contains(&semconv::DB_OPERATION_NAME) && !keys.contains(&KEY_COUNT));
    }

    #[test]
    fn a_command_that_redis_does_not_have_is_not_named() {
        let command = Command {
            name: Some(CommandName::Other),
            keys: None,
        };
        let span = span(SpanKind::Client, &command, Some(Answer::Reply), None);
        assert_eq!(span.name, "redis");
        let operation = Attribute::str(semconv::DB_OPERATION_NAME, "_OTHER");
        assert!(span.attributes.contains(&operation), "{:?}", span.attributes);
    }

    #[test]
    fn outcomes() {
        let error = |prefix: Option<&str>| Some(Answer::Error(prefix.map(Into::into)));
        let table = [
            (Some(Answer::Reply), None, [None, None]),
            (error(Some("WRONGTYPE")), None, [Some("WRONGTYPE"), Some("WRONGTYPE")]),
            (error(None), None, [None, Some("_OTHER")]),
            (None, Some(Failure::Timeout), [None, Some("timeout")]),
            (
                error(Some("ERR")),
                Some(Failure::ConnectionReset),
                [Some("ERR"), Some("connection_reset")],
            ),
        ];
        let command = Command { name: None, keys: None };
        for kind in [SpanKind::Client, SpanKind::Server] {
            for (answer, failure, expected) in &table {
                let span = span(kind, &command, answer.clone(), *failure);
                let of = |key: &str| span.attributes.iter().find(|attribute| attribute.key == key).cloned();
                let [code, error] = [semconv::DB_RESPONSE_STATUS_CODE, semconv::ERROR_TYPE];
                assert_eq!(of(code), expected[0].map(|value| Attribute::str(code, value)));
                assert_eq!(of(error), expected[1].map(|value| Attribute::str(error, value)));
                assert_eq!(span.status == Status::Unset, expected[1].is_none());
            }
        }
    }
}
