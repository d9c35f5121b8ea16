//! Stand-ins for the texts that describe processes, settings and Unix sockets.

use std::{borrow::Cow, sync::Arc};

use super::standin::{FILL, Key};
use crate::{
    config::Route,
    engine::{
        proto::structure::{self, Shape, Words},
        trace::{Attribute, Resource, Value},
    },
    process::ProcessFacts,
};

/// Attributes that stay: names of programs and services, numbers, and values that many hosts have in common.
const KEPT: [&str; 12] = [
    "service.name",
    "process.pid",
    "process.parent_pid",
    "process.executable.name",
    "process.runtime.name",
    "process.runtime.version",
    "telemetry.sdk.name",
    "telemetry.sdk.version",
    "telemetry.sdk.language",
    "os.type",
    "host.arch",
    "container.runtime.name",
];
/// Attributes whose names the agent gives; others come from the process's own environment.
const AGENTS: [&str; 14] = [
    "service.instance.id",
    "service.namespace",
    "service.version",
    "process.command",
    "process.executable.path",
    "process.owner",
    "host.name",
    "host.id",
    "container.id",
    "container.name",
    "container.image.name",
    "k8s.pod.uid",
    "k8s.pod.name",
    "k8s.namespace.name",
];
/// The variable of an environment that stays.
const SERVICE_NAME: &[u8] = b"OTEL_SERVICE_NAME=";

/// Returns the description of a process as it may be shown: name and runtime stay.
pub fn process(facts: &ProcessFacts, key: &Key) -> ProcessFacts {
    let text = |text: &str| standin(text, key);
    let attribute = |attribute: &Attribute| {
        if KEPT.contains(&&*attribute.key) {
            return attribute.clone();
        }
        let name = if AGENTS.contains(&&*attribute.key) {
            attribute.key.clone()
        } else {
            Cow::Owned(text(&attribute.key))
        };
        let value = match &attribute.value {
            Value::Str(value) => Value::Str(text(value).into()),
            Value::Strs(values) => Value::Strs(values.iter().map(|value| text(value)).collect()),
            Value::Int(_) => Value::Int(0),
            Value::Bool(_) => Value::Bool(false),
        };
        Attribute { key: name, value }
    };
    ProcessFacts {
        tgid: facts.tgid,
        runtime: facts.runtime,
        resource: Arc::new(Resource {
            service_name: facts.resource.service_name.clone(),
            attributes: facts.resource.attributes.iter().map(attribute).collect(),
        }),
    }
}

/// Returns the stand-in of a text. Letters and digits become others; UTF-8 stays UTF-8.
fn standin(text: &str, key: &Key) -> String {
    String::from_utf8_lossy(&key.whole(text.as_bytes(), Shape::Path, Words::NONE)).into_owned()
}

/// Returns the stand-in of a route, which matches the stand-ins of the paths that the route matches.
pub fn route(route: &Route, key: &Key) -> Route {
    route.map_literals(|literal| {
        let mut bytes = literal.as_bytes().to_vec();
        key.word().replace(&mut bytes, &structure::path_segment(literal), key);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Returns the stand-in of a Unix socket's address: a path, or NUL and a name.
pub fn unix_address(path: &[u8], key: &Key) -> Vec<u8> {
    let is_separator = |byte: &u8| matches!(byte, 0 | b'/');
    path.chunk_by(|one, other| is_separator(one) == is_separator(other))
        .flat_map(|part| match part.first() {
            Some(first) if is_separator(first) => part.to_vec(),
            _ => key.whole(part, Shape::Path, Words::NONE),
        })
        .collect()
}

/// Returns command line and environment of an exec as they may be shown: the program's base name and the service's name stay.
pub fn strings(strings: &[u8], cmdline_bytes: usize) -> Vec<u8> {
    let (cmdline, environ) = strings.split_at(cmdline_bytes.min(strings.len()));
    let mut out: Vec<u8> = strings.iter().map(|&byte| if byte == 0 { 0 } else { FILL }).collect();
    let program = cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
    let base = program
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    // A word with a space may be a title (`nginx: worker process`), which is no file name.
    if !program.contains(&b' ') {
        copy(&mut out, strings, base..program.len());
    }
    let mut at = cmdline.len();
    for variable in environ.split(|&byte| byte == 0) {
        if variable.starts_with(SERVICE_NAME) {
            copy(&mut out, strings, at..at + variable.len());
        }
        at += variable.len() + 1;
    }
    out
}

fn copy(to: &mut [u8], from: &[u8], range: std::ops::Range<usize>) {
    if let (Some(to), Some(from)) = (to.get_mut(range.clone()), from.get(range)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::proto::structure::Named,
        record::{Direction, Rest, Role},
        tape::redact::connection::{Connection, Place},
    };

    #[test]
    fn of_an_exec_the_programs_name_and_the_services_stay() {
        let text = b"/opt/secret/bin/shop\0--password=hunter2\0HOME=/home/ann\0OTEL_SERVICE_NAME=shop\0A=b\0";
        let cmdline = text.iter().position(|&byte| byte == b'H').unwrap();
        let expected = b"xxxxxxxxxxxxxxxxshop\0xxxxxxxxxxxxxxxxxx\0xxxxxxxxxxxxxx\0OTEL_SERVICE_NAME=shop\0xxx\0";
        assert_eq!(
            String::from_utf8_lossy(&strings(text, cmdline)),
            String::from_utf8_lossy(expected)
        );
        assert_eq!(strings(b"nginx: worker /x\0", 17), b"xxxxxxxxxxxxxxxx\0");
    }

    /// A path as it becomes in a request.
    fn path(path: &str, key: &Key) -> String {
        let mut bytes = format!("GET {path}").into_bytes();
        let place = Place {
            direction: Direction::Read,
            offset: 0,
            end: bytes.len() as u64,
            begins_call: true,
            rest: Rest::Gap,
        };
        Connection::new(Role::Server, key).segment(&place, &mut bytes, key, &Named::default());
        String::from_utf8(bytes).unwrap().split_off("GET ".len())
    }

    #[test]
    fn a_route_still_fits() {
        let key = Key::default();
        let routed = route(&"/users/{id}/orders/*".parse().unwrap(), &key).to_string();
        let path = path("/users/", &key);
        assert!(
            routed.starts_with(&format!("{path}{{id}}/")) && routed.ends_with("/*"),
            "{routed}"
        );
        assert!(!routed.contains("users"));
    }

    #[test]
    fn a_stand_in_of_a_route_is_a_route() {
        for _ in 0..1000 {
            let routed = route(&"/日本/한/:/{id}/:name/{*rest}".parse().unwrap(), &Key::default());
            assert_eq!(routed.to_string().parse(), Ok(routed));
        }
    }
}
